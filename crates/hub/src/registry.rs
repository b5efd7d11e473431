//! Device and module identities: what an entry holds and how a caller may change it.
//!
//! Pure except for `http.rs`.

pub(crate) mod http;
pub(crate) mod shapes;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::id::IdentityId;
use model::names::{EDGE_AGENT, EDGE_HUB};
use model::secret::Secret;
use model::time::WallTime;
use model::world::Random;

/// Modules that every edge device has, and that do not count there.
pub(crate) const SYSTEM_MODULES: [&str; 2] = [EDGE_AGENT, EDGE_HUB];
/// Length of a key that the hub makes, in bytes.
const KEY_BYTES: usize = 32;
/// Lengths of keys that a caller may give, in bytes.
pub(crate) const KEY_BYTES_RANGE: std::ops::RangeInclusive<usize> = 16..=64;

/// Names an identity inside the hub; never used again after a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Ordinal(pub(crate) u32);

/// The etag of a registry entry or a twin: a random half, so that an etag of a deleted entry
/// never fits its successor, and a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Etag(pub(crate) u64);

impl Etag {
    /// The first etag of an entry.
    pub(crate) fn first(random: &dyn Random) -> Self {
        Self((random.number() << 32) | 1)
    }

    /// The etag after one more write.
    pub(crate) fn next(self) -> Self {
        Self(self.0 & !0xFFFF_FFFF | (self.0 + 1) & 0xFFFF_FFFF)
    }

    /// As Azure writes it: base64 of eight bytes.
    pub(crate) fn text(self) -> String {
        STANDARD.encode(self.0.to_be_bytes())
    }
}

/// What a write demands of the present state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// No header was sent.
    #[default]
    Absent,
    /// `*`: it must exist.
    Any,
    /// Exactly this etag, unquoted.
    Exactly(Box<str>),
}

impl IfMatch {
    /// Reads the header; quotes are optional.
    pub(crate) fn parse(header: Option<&str>) -> Self {
        match header.map(|text| text.trim().trim_matches('"')) {
            None => Self::Absent,
            Some("*") => Self::Any,
            Some(etag) => Self::Exactly(etag.into()),
        }
    }

    /// Whether a write may go on over `present`.
    pub(crate) fn allows(&self, present: Etag) -> bool {
        match self {
            Self::Absent | Self::Any => true,
            Self::Exactly(etag) => **etag == *present.text(),
        }
    }
}

/// How an identity proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Base64 keys.
    Sas { primary: Secret, secondary: Secret },
    /// Upper-case hex of SHA-1 or SHA-256 digests.
    SelfSigned { primary: Option<Box<str>>, secondary: Option<Box<str>> },
    /// It cannot open sessions.
    None,
}

impl Auth {
    /// Two fresh keys.
    pub(crate) fn fresh(random: &dyn Random) -> Self {
        Self::Sas { primary: fresh_key(random), secondary: fresh_key(random) }
    }
}

/// A fresh key, base64.
pub(crate) fn fresh_key(random: &dyn Random) -> Secret {
    let mut bytes = [0; KEY_BYTES];
    random.fill(&mut bytes);
    Secret::from(STANDARD.encode(bytes))
}

/// A fresh generation: decimal digits, as Azure's.
pub(crate) fn fresh_generation(random: &dyn Random) -> Box<str> {
    (random.number() >> 4).to_string().into()
}

/// One registry entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) ord: Ordinal,
    pub(crate) identity: IdentityId,
    pub(crate) generation_id: Box<str>,
    pub(crate) etag: Etag,
    pub(crate) enabled: bool,
    pub(crate) status_reason: Option<Box<str>>,
    pub(crate) status_updated: WallTime,
    pub(crate) auth: Auth,
    pub(crate) iot_edge: bool,
    pub(crate) managed_by: Box<str>,
}

impl Entry {
    /// How many of the modules called `names` count towards what this device may have. A plain
    /// device has no system modules, whatever its modules are called.
    pub(crate) fn counted_modules<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> usize {
        let counts = |name: &&str| !self.iot_edge || !SYSTEM_MODULES.contains(name);
        names.into_iter().filter(counts).count()
    }
}

/// What a caller asks an entry to be; already checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) enabled: bool,
    pub(crate) status_reason: Option<Box<str>>,
    /// `None` keeps what is there, or makes fresh keys.
    pub(crate) auth: Option<WantedAuth>,
    /// `None` keeps what is there.
    pub(crate) iot_edge: Option<bool>,
    pub(crate) managed_by: Option<Box<str>>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { enabled: true, status_reason: None, auth: None, iot_edge: None, managed_by: None }
    }
}

/// Keys or thumbprints that a caller gave; missing keys are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WantedAuth {
    Sas { primary: Option<Secret>, secondary: Option<Secret> },
    SelfSigned { primary: Option<Box<str>>, secondary: Option<Box<str>> },
    None,
}

impl WantedAuth {
    /// Fills what is missing from `present` or by chance.
    pub(crate) fn complete(self, present: Option<&Auth>, random: &dyn Random) -> Auth {
        match self {
            Self::Sas { primary, secondary } => {
                let (old_primary, old_secondary) = match present {
                    Some(Auth::Sas { primary, secondary }) => {
                        (Some(primary.clone()), Some(secondary.clone()))
                    }
                    _ => (None, None),
                };
                let fill = |given: Option<Secret>, old: Option<Secret>| {
                    given.or(old).unwrap_or_else(|| fresh_key(random))
                };
                Auth::Sas {
                    primary: fill(primary, old_primary),
                    secondary: fill(secondary, old_secondary),
                }
            }
            Self::SelfSigned { primary, secondary } => Auth::SelfSigned { primary, secondary },
            Self::None => Auth::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_ignores_quotes_and_knows_the_star() {
        let check = |header: Option<&str>, expected: IfMatch| {
            assert_eq!(IfMatch::parse(header), expected, "{header:?}");
        };
        check(None, IfMatch::Absent);
        check(Some("*"), IfMatch::Any);
        check(Some("\"*\""), IfMatch::Any);
        check(Some("\"AAAAAAAAAAE=\""), IfMatch::Exactly("AAAAAAAAAAE=".into()));
        check(Some("AAAAAAAAAAE="), IfMatch::Exactly("AAAAAAAAAAE=".into()));
    }

    #[test]
    fn an_etag_counts_within_its_random_half() {
        assert_eq!(Etag(1).text(), "AAAAAAAAAAE=");
        assert_eq!(Etag(0x7_0000_0001).next(), Etag(0x7_0000_0002));
        assert_eq!(Etag(0x7_FFFF_FFFF).next(), Etag(0x7_0000_0000));
        assert!(IfMatch::Exactly("AAAAAAAAAAE=".into()).allows(Etag(1)));
        assert!(!IfMatch::Exactly("AAAAAAAAAAE=".into()).allows(Etag(2)));
    }
}
