//! How far two clocks may differ: one constant and one rule, for every token and certificate at
//! every door. Pure.
//!
//! Boards set their clocks from a network that may not be there yet, and a hub's own clock can
//! be fast. So what is shown holds for [`CLOCK_SKEW`] on either side of the life that is written
//! in it. Source: IoT Hub, which has always taken tokens for five minutes past their end.

use std::time::Duration;

use model::time::WallTime;
use thiserror::Error;

use crate::renewal::Lifetime;

/// How far the clock of a peer may be off, ahead or behind.
pub const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// Why something is not taken: its time, by more than clocks may differ.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Untimely {
    /// It ended so long ago.
    #[error("it ended {} s ago, which is more than the {} s allowed", .0.as_secs(), CLOCK_SKEW.as_secs())]
    Ended(Duration),
    /// It begins so much later.
    #[error("it begins in {} s, which is more than the {} s allowed", .0.as_secs(), CLOCK_SKEW.as_secs())]
    NotBegun(Duration),
}

/// The moment from which on nobody takes any more what ends at `end`.
pub fn end_of_grace(end: WallTime) -> WallTime {
    end.after(CLOCK_SKEW)
}

/// Whether what holds for `life` is taken `now`.
///
/// # Errors
/// [`Untimely`] says by how much it is not.
pub fn check(life: Lifetime, now: WallTime) -> Result<(), Untimely> {
    if now >= end_of_grace(life.until) {
        return Err(Untimely::Ended(now.since(life.until)));
    }
    if life.from > now.after(CLOCK_SKEW) {
        return Err(Untimely::NotBegun(life.from.since(now)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_five_minutes_longer_at_both_ends_and_not_a_millisecond_more() {
        let (from, until) = (WallTime(1_000_000), WallTime(9_000_000));
        let skew = i64::try_from(CLOCK_SKEW.as_millis()).unwrap();
        let check = |now: i64, expected: Result<(), Untimely>| {
            assert_eq!(check(Lifetime { from, until }, WallTime(now)), expected, "{now}");
        };
        check(from.0 - skew, Ok(()));
        check(from.0, Ok(()));
        check(until.0, Ok(()));
        check(until.0 + skew - 1, Ok(()));
        check(until.0 + skew, Err(Untimely::Ended(CLOCK_SKEW)));
        let early = CLOCK_SKEW + Duration::from_millis(1);
        check(from.0 - skew - 1, Err(Untimely::NotBegun(early)));
    }

    #[test]
    fn the_words_tell_the_difference_in_seconds() {
        let said = Untimely::Ended(Duration::from_secs(330)).to_string();
        assert!(said.contains("ended 330 s ago"), "{said}");
    }
}
