//! Two kinds of time, and the rule for which is used where.
//!
//! [`Tick`] is monotonic and never stored or sent: timers, back-off, lock time-outs.
//! [`WallTime`] is UTC, may jump, and is what records, tokens and certificates carry.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// A point of monotonic time, in nanoseconds since an arbitrary start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The latest representable point; a deadline that never passes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This point moved later by `span`, saturating at [`Tick::NEVER`].
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The span from `earlier` to here; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A point of civil time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// What Azure writes for "never happened": `0001-01-01T00:00:00Z`.
    pub const UNSET: Self = Self(-62_135_596_800_000);

    /// The point `seconds` after the epoch, saturating.
    #[must_use]
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds since the epoch, rounded towards the past.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This point moved later by `span`, saturating.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The span from `earlier` to here; zero if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses RFC 3339, with or without a fraction.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<Timestamp>().ok().map(|stamp| Self(stamp.as_millisecond()))
    }
}

impl fmt::Display for WallTime {
    /// RFC 3339 in UTC with milliseconds; whole seconds only for [`WallTime::UNSET`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::UNSET {
            return f.write_str("0001-01-01T00:00:00Z");
        }
        match Timestamp::from_millisecond(self.0) {
            Ok(stamp) => write!(f, "{stamp:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

/// Both times, read once per turn of a shell and handed into the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time.
    pub tick: Tick,
    /// Civil time.
    pub wall: WallTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_and_parses_rfc3339() {
        let check = |millis: i64, text: &str| {
            assert_eq!(WallTime(millis).to_string(), text);
            assert_eq!(WallTime::parse_rfc3339(text), Some(WallTime(millis)));
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(1_795_427_940_123, "2026-11-23T09:59:00.123Z");
        check(WallTime::UNSET.0, "0001-01-01T00:00:00Z");
        assert_eq!(WallTime::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn ticks_saturate_instead_of_wrapping() {
        assert_eq!(Tick(5).after(Duration::MAX), Tick::NEVER);
        assert_eq!(Tick(5).since(Tick(9)), Duration::ZERO);
    }
}
