//! The fleet as people look at it: counts, a search over devices, one device whole.
//!
//! Nothing here owns a fact: `count`, `search` and `view` read what registry, twins and
//! connections hold. A large fleet is read in bounded slices, so that no look holds up others.

pub(crate) mod count;
pub(crate) mod rates;
pub(crate) mod search;
pub(crate) mod view;
pub(crate) mod words;

pub(crate) mod http;
pub(crate) mod shell;

use std::time::Duration;

use model::time::WallTime;

/// The silence after which an enabled device that was seen before counts as stale.
pub(crate) const STALE_AFTER: Duration = Duration::from_mins(10);

/// How a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Connected,
    /// Away, but not for long, or not meant to connect.
    Disconnected,
    Stale,
    NeverSeen,
}

/// How a device stands that is `enabled`, `connected`, and did something last at `last`.
pub(crate) fn standing(enabled: bool, connected: bool, last: WallTime, now: WallTime) -> Standing {
    if connected {
        Standing::Connected
    } else if !enabled {
        Standing::Disconnected
    } else if last == WallTime::UNSET {
        Standing::NeverSeen
    } else if now.since(last) > STALE_AFTER {
        Standing::Stale
    } else {
        Standing::Disconnected
    }
}
