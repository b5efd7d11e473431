//! What crosses the waist when something is not done: a kind chosen by what the caller can do
//! about it, and a reason fit for the caller's eyes.

use std::borrow::Cow;
use std::fmt;

/// What the caller can do about it. Each protocol maps this to its own codes, exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Fix the request; it will never be accepted as it is.
    InvalidRequest,
    /// Prove who you are, again or with other credentials.
    Unauthenticated,
    /// You are known and may not.
    Forbidden,
    /// The device named does not exist.
    DeviceNotFound,
    /// The module named does not exist.
    ModuleNotFound,
    /// Something else named does not exist.
    NotFound,
    /// It exists already; read it, then update.
    AlreadyExists,
    /// It changed meanwhile; read again.
    PreconditionFailed,
    /// Send less at once.
    TooLarge,
    /// A fixed number is used up.
    QuotaExceeded,
    /// Send again later.
    Throttled,
    /// The target of the method is not connected, or listens to no methods.
    TargetOffline,
    /// The target of the method did not answer in time.
    TargetTimedOut,
    /// A newer session of the same identity took over.
    TakenOver,
    /// Unknown outcome: it may have happened.
    TimedOut,
    /// Nothing was done; try again.
    Unavailable,
    /// Our fault; nothing you can do.
    Internal,
}

/// What a refusal is called on the wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Azure's number: status × 1000 + n.
    pub number: u32,
    /// Azure's name for the number.
    pub name: &'static str,
    /// The code of a CONNACK: 5 makes SDKs give up, 3 makes them try again.
    pub connack: u8,
}

impl Code {
    /// The status of an HTTP response or of a twin answer over MQTT.
    pub fn status(self) -> u16 {
        u16::try_from(self.number / 1000).unwrap_or(500)
    }
}

/// A CONNACK code for those who must change something before they come again.
const NOT_SO: u8 = 5;
/// A CONNACK code for those who may come again as they are.
const NOT_NOW: u8 = 3;

impl RefusalKind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::DeviceNotFound,
        Self::ModuleNotFound,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::QuotaExceeded,
        Self::Throttled,
        Self::TargetOffline,
        Self::TargetTimedOut,
        Self::TakenOver,
        Self::TimedOut,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The one table of codes; every protocol says these. Source: IoT Hub, error codes.
    ///
    /// Azure does not tell who lacks a right from who lacks a proof: both are 401002.
    pub fn code(self) -> Code {
        let (number, name, connack) = match self {
            Self::InvalidRequest => (400_004, "ArgumentInvalid", NOT_SO),
            Self::Unauthenticated | Self::Forbidden => {
                (401_002, "IotHubUnauthorizedAccess", NOT_SO)
            }
            Self::DeviceNotFound => (404_001, "DeviceNotFound", NOT_SO),
            Self::ModuleNotFound => (404_010, "ModuleNotFound", NOT_SO),
            Self::NotFound => (404_000, "NotFound", NOT_SO),
            Self::AlreadyExists => (409_001, "DeviceAlreadyExists", NOT_NOW),
            Self::PreconditionFailed => (412_001, "PreconditionFailed", NOT_NOW),
            Self::TooLarge => (413_001, "MessageTooLarge", NOT_NOW),
            Self::QuotaExceeded => (403_002, "IotHubQuotaExceeded", NOT_NOW),
            Self::Throttled => (429_001, "ThrottlingException", NOT_NOW),
            Self::TargetOffline => (404_103, "DeviceNotOnline", NOT_NOW),
            Self::TargetTimedOut | Self::TimedOut => (504_101, "GatewayTimeout", NOT_NOW),
            Self::TakenOver => (400_027, "ConnectionForcefullyClosedOnNewConnection", NOT_NOW),
            Self::Unavailable => (503_001, "ServiceUnavailable", NOT_NOW),
            Self::Internal => (500_001, "ServerError", NOT_NOW),
        };
        Code { number, name, connack }
    }
}

/// A refusal: kind for the program, reason for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the caller can do about it.
    pub kind: RefusalKind,
    /// One sentence for the caller; never an internal cause.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal of `kind` because of `reason`.
    pub fn new(kind: RefusalKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_error_status_and_one_name_per_number() {
        let mut names = std::collections::BTreeMap::new();
        for kind in RefusalKind::ALL {
            let code = kind.code();
            assert!((400..600).contains(&code.status()), "{kind:?}");
            assert!(matches!(code.connack, 3 | 5), "{kind:?}");
            assert_eq!(*names.entry(code.number).or_insert(code.name), code.name, "{kind:?}");
        }
        for kind in [RefusalKind::Unauthenticated, RefusalKind::Forbidden] {
            assert_eq!((kind.code().status(), kind.code().number), (401, 401_002));
        }
    }
}
