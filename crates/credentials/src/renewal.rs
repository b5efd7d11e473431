//! When to renew what expires: tokens and certificates. Pure.
//!
//! Civil time may jump, and certificates and tokens carry civil time. So nobody computes a timer
//! once and trusts it: [`renewal`] is asked again and again, with the time of the moment.

use std::time::Duration;

use model::time::WallTime;

/// The shortest wait after a renewal that failed.
pub const RETRY_MIN: Duration = Duration::from_secs(10);
/// The longest wait before the clock is looked at again: it may have jumped.
pub const LOOK_AGAIN_MAX: Duration = Duration::from_hours(1);

/// From when until when something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When it was made or begins to hold.
    pub from: WallTime,
    /// When it holds no longer.
    pub until: WallTime,
}

/// Which part of a life may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Renewed when this much of the life has passed, in percent.
    pub threshold_percent: u32,
    /// Tried again after this much of the life, in percent.
    pub retry_percent: u32,
}

/// Certificates. Source: Azure IoT Edge, `[edge_ca.auto_renew]`.
pub const CERTIFICATE: Policy = Policy { threshold_percent: 80, retry_percent: 4 };
/// Tokens: of an hour, six minutes are left for a peer that does not answer.
pub const TOKEN: Policy = Policy { threshold_percent: 90, retry_percent: 2 };

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renew.
    Due,
    /// Ask again after so long; never longer than [`LOOK_AGAIN_MAX`].
    Wait(Duration),
}

/// Whether something that holds for `life` is to be renewed `now`. `failed` is when that was
/// last tried in vain.
///
/// It is due as well when it has expired already, and when it does not hold yet, for then the
/// clock was set back and peers may refuse it.
pub fn renewal(life: Lifetime, policy: Policy, failed: Option<WallTime>, now: WallTime) -> Renewal {
    let length = life.until.since(life.from);
    let part = |percent: u32| length / 100 * percent;
    let wait = |until: WallTime| Renewal::Wait(until.since(now).min(LOOK_AGAIN_MAX));
    // A failure in the future is one from before the clock was set back.
    if let Some(failed) = failed.filter(|failed| *failed <= now) {
        let again = failed.after(part(policy.retry_percent).max(RETRY_MIN));
        if now < again {
            return wait(again);
        }
    }
    let due = life.from.after(part(policy.threshold_percent));
    if now < life.from || now >= due { Renewal::Due } else { wait(due) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn check(life: (i64, i64), failed: Option<i64>, now: i64, expected: Renewal) {
        let at = |minutes: i64| WallTime(minutes * MINUTE);
        let life = Lifetime { from: at(life.0), until: at(life.1) };
        let found = renewal(life, CERTIFICATE, failed.map(at), at(now));
        assert_eq!(found, expected, "{life:?} failed {failed:?} now {now}");
    }

    fn minutes(count: u64) -> Renewal {
        Renewal::Wait(Duration::from_mins(count))
    }

    #[test]
    fn it_is_due_after_four_fifths_of_its_life_and_stays_due() {
        check((0, 100), None, 0, minutes(60));
        check((0, 100), None, 50, minutes(30));
        check((0, 100), None, 79, minutes(1));
        check((0, 100), None, 80, Renewal::Due);
        check((0, 100), None, 99, Renewal::Due);
        check((0, 100), None, 100, Renewal::Due);
        check((0, 100), None, 100_000, Renewal::Due);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_it_due() {
        check((100, 200), None, 99, Renewal::Due);
        // And a failure of the future holds nobody back.
        check((100, 200), Some(190), 99, Renewal::Due);
        check((0, 100), Some(90), 85, Renewal::Due);
    }

    #[test]
    fn after_a_failure_it_waits_a_twenty_fifth_of_the_life_but_ten_seconds_at_least() {
        check((0, 100), Some(80), 81, minutes(3));
        check((0, 100), Some(80), 84, Renewal::Due);
        check((0, 100), Some(110), 111, minutes(3));
        check((0, 1), Some(1), 1, Renewal::Wait(RETRY_MIN));
        // A failure long ago in a long life is no reason to renew before it is due.
        check((0, 100), Some(10), 20, minutes(60));
    }

    #[test]
    fn a_life_without_length_is_due_and_a_long_one_is_looked_at_every_hour() {
        check((5, 5), None, 5, Renewal::Due);
        check((5, 1), None, 5, Renewal::Due);
        check((0, 60 * 24 * 3650), None, 1, Renewal::Wait(LOOK_AGAIN_MAX));
    }
}
