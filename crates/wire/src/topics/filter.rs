//! The filters a client may subscribe to, and a small set of those it was granted.
//!
//! Each filter has one spelling per identity, so which one was granted says also its text.

use model::feature::{Feature, FeatureSet, Subscription};
use model::id::IdentityId;

/// One of Azure's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `devices/{d}/messages/devicebound/#`
    CloudToDevice,
    /// `devices/{d}/modules/{m}/inputs/#`: Python, Node, Java.
    Inputs,
    /// `devices/{d}/modules/{m}/#`: C and .NET.
    ModuleAll,
    /// `devices/{d}/modules/{m}/messages/devicebound/#`: Java's module client.
    ModuleBound,
    /// `$iothub/methods/POST/#`
    Methods,
    /// `$iothub/twin/res/#`
    TwinAnswers,
    /// `$iothub/twin/PATCH/properties/desired/#`
    DesiredChanges,
}

impl Filter {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CloudToDevice,
        Self::Inputs,
        Self::ModuleAll,
        Self::ModuleBound,
        Self::Methods,
        Self::TwinAnswers,
        Self::DesiredChanges,
    ];

    /// The filter with exactly this text, if `identity` may have it.
    pub fn parse(identity: &IdentityId, text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|filter| filter.text(identity).as_deref() == Some(text))
    }

    /// Its text for `identity`; none if it is for the other kind of identity.
    pub fn text(self, identity: &IdentityId) -> Option<Box<str>> {
        let device = identity.device_str();
        let of_module = |rest: &str| {
            identity.module_str().map(|module| format!("devices/{device}/modules/{module}/{rest}#"))
        };
        match self {
            Self::CloudToDevice if !identity.is_module() => {
                Some(format!("devices/{device}/messages/devicebound/#"))
            }
            Self::CloudToDevice => None,
            Self::Inputs => of_module("inputs/"),
            Self::ModuleAll => of_module(""),
            Self::ModuleBound => of_module("messages/devicebound/"),
            Self::Methods => Some("$iothub/methods/POST/#".into()),
            Self::TwinAnswers => Some("$iothub/twin/res/#".into()),
            Self::DesiredChanges => Some("$iothub/twin/PATCH/properties/desired/#".into()),
        }
        .map(String::into_boxed_str)
    }

    /// What it switches on.
    pub fn feature(self) -> Feature {
        match self {
            Self::CloudToDevice => Feature::CloudToDevice,
            Self::Inputs | Self::ModuleAll | Self::ModuleBound => Feature::Inputs,
            Self::Methods => Feature::Methods,
            Self::TwinAnswers => Feature::TwinAnswers,
            Self::DesiredChanges => Feature::DesiredChanges,
        }
    }

    fn shift(self) -> u16 {
        2 * self as u16
    }
}

/// Which filters were granted and with which quality, in two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted(u16);

impl Granted {
    /// The quality granted, 0 or 1.
    pub fn qos(self, filter: Filter) -> Option<u8> {
        match self.0 >> filter.shift() & 0b11 {
            0 => None,
            1 => Some(0),
            _ => Some(1),
        }
    }

    /// Whether some filter of `feature` was granted.
    pub fn has(self, feature: Feature) -> bool {
        Filter::ALL
            .into_iter()
            .any(|filter| filter.feature() == feature && self.qos(filter).is_some())
    }

    /// Grants `filter` with quality 0 or 1.
    pub fn insert(&mut self, filter: Filter, qos: u8) {
        self.remove(filter);
        self.0 |= (1 + u16::from(qos.min(1))) << filter.shift();
    }

    /// Takes the grant back.
    pub fn remove(&mut self, filter: Filter) {
        self.0 &= !(0b11 << filter.shift());
    }

    /// Adds those of `features` that `identity` may have.
    pub fn extend(&mut self, identity: &IdentityId, features: &FeatureSet) {
        for Subscription { filter, qos, .. } in features {
            if let Some(filter) = Filter::parse(identity, filter) {
                self.insert(filter, *qos);
            }
        }
    }
}
