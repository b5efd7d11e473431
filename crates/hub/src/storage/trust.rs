//! Whether the wall clock may decide what is too old. Pure.
//!
//! A clock that is set, or wrong for a while, must not cost what is kept for a day: after a
//! start and after a jump nothing is given up by age until the clock has run evenly for
//! [`EVENLY`]. Limits in bytes hold all the time.

use std::time::Duration;

use model::planted;
use model::time::{Now, Tick};

/// How long wall time must run as monotonic time does before it is believed.
const EVENLY: Duration = Duration::from_hours(1);
/// Two looks may differ by this much, and by a thousandth of what passed: clocks are slewed.
const SLACK: Duration = Duration::from_secs(2);

/// Compares the wall clock with the monotonic one at every look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WallTrust {
    last: Option<Now>,
    even_since: Tick,
}

impl WallTrust {
    /// Looks at both clocks; whether the wall clock is believed.
    pub(crate) fn handle(&mut self, now: Now) -> bool {
        if self.last.is_none_or(|last| has_jumped(last, now)) {
            self.even_since = now.tick;
        }
        self.last = Some(now);
        // Planted: whatever the clock says is the time.
        if planted::is("any_clock_believed") {
            return true;
        }
        now.tick.since(self.even_since) >= EVENLY
    }
}

fn has_jumped(last: Now, now: Now) -> bool {
    let passed = now.tick.since(last.tick);
    let said = now.wall.0.saturating_sub(last.wall.0);
    let real = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
    let slack = i64::try_from((SLACK + passed / 1000).as_millis()).unwrap_or(i64::MAX);
    said.abs_diff(real) > slack.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use model::time::WallTime;

    use super::*;

    fn at(minutes: u64, skew_minutes: i64) -> Now {
        let passed = Duration::from_mins(minutes);
        let wall = WallTime(1_000_000_000_000 + skew_minutes * 60_000).after(passed);
        Now { tick: Tick(0).after(passed), wall }
    }

    #[test]
    fn a_clock_is_believed_after_an_even_hour_and_not_again_until_an_hour_after_a_jump() {
        let mut trust = WallTrust::default();
        let mut check = |minutes, skew, expected| {
            let believed = trust.handle(at(minutes, skew));
            assert_eq!(believed, expected, "{minutes} min, {skew} min wrong");
        };
        check(0, 0, false);
        check(59, 0, false);
        check(60, 0, true);
        // Two days forward, and back.
        check(61, 2880, false);
        check(63, 0, false);
        check(122, 0, false);
        check(123, 0, true);
        check(124, -60, false);
        check(184, -60, true);
    }

    #[test]
    fn slewing_is_no_jump() {
        let mut trust = WallTrust::default();
        let mut now = at(0, 0);
        trust.handle(now);
        for second in 1..=3600 {
            now.tick = now.tick.after(Duration::from_secs(1));
            now.wall = now.wall.after(Duration::from_millis(1000 + u64::from(second % 2 == 0)));
            trust.handle(now);
        }
        assert!(trust.handle(now));
    }
}
