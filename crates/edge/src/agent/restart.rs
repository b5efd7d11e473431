//! When a module that ended is started again, and when nobody tries any more. Pure.
//!
//! Source: Azure IoT Edge, `RestartPolicyManager` and `HealthRestartPlanner`.

use std::time::Duration;

use model::manifest::RestartPolicy;
use model::time::WallTime;

/// The wait after the first exit; it doubles with each restart.
pub const COOL_OFF: Duration = Duration::from_secs(10);
/// The longest wait.
pub const COOL_OFF_MAX: Duration = Duration::from_mins(5);
/// After so many restarts nobody tries any more.
pub const RESTARTS_MAX: u32 = 20;
/// A module that ran this long has its restarts forgotten.
pub const INTENSIVE_CARE: Duration = Duration::from_mins(10);

/// What happened to a module before; survives a restart of the runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Restarts since the last time they were forgotten.
    pub restarts: u32,
    /// When it was last restarted by us.
    pub last_restart: Option<WallTime>,
}

/// How a module ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whether it ended with anything but 0.
    pub failed: bool,
    /// When; unknown after some crashes, and then at once is the answer.
    pub at: Option<WallTime>,
    /// Whether that was before this runtime began: with it, with the machine, or unobserved.
    /// Such an end is no failure that calls for a wait.
    pub is_earlier: bool,
}

/// What is to be done with a module that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its policy leaves it as it is.
    Leave,
    /// Restart it now.
    Restart,
    /// Restart it at that time; until then it is in back-off.
    Wait(WallTime),
    /// Restarted too often; it stays failed until somebody clears the count.
    GiveUp,
}

/// The wait before restart number `restarts + 1`.
pub fn cool_off(restarts: u32) -> Duration {
    COOL_OFF.saturating_mul(2_u32.saturating_pow(restarts)).min(COOL_OFF_MAX)
}

/// Decides about a module that is desired to run and ended.
pub fn judge(policy: RestartPolicy, exit: Exit, history: History, now: WallTime) -> Verdict {
    let wants = match policy {
        RestartPolicy::Never => false,
        RestartPolicy::OnFailure | RestartPolicy::OnUnhealthy => exit.failed,
        RestartPolicy::Always => true,
    };
    if !wants {
        return Verdict::Leave;
    }
    if history.restarts >= RESTARTS_MAX {
        return Verdict::GiveUp;
    }
    if exit.is_earlier {
        return Verdict::Restart;
    }
    // A clock that moved back would make the wait last for ever.
    let Some(at) = exit.at.filter(|at| *at < now) else { return Verdict::Restart };
    let due = at.after(cool_off(history.restarts));
    if now > due { Verdict::Restart } else { Verdict::Wait(due) }
}

/// Whether a module that runs since `started` has earned a clean count.
pub fn has_recovered(started: Option<WallTime>, history: History, now: WallTime) -> bool {
    let up = started.map_or(Duration::ZERO, |started| now.since(started));
    history.restarts > 0 && up > INTENSIVE_CARE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> WallTime {
        WallTime::from_unix_seconds(1_000_000 + seconds)
    }

    #[test]
    fn the_policy_decides_whether_an_exit_calls_for_a_restart() {
        let check = |policy, failed, expected| {
            let exit = Exit { failed, at: Some(at(-11)), is_earlier: false };
            assert_eq!(judge(policy, exit, History::default(), at(0)), expected, "{policy:?}");
        };
        check(RestartPolicy::Never, true, Verdict::Leave);
        check(RestartPolicy::Never, false, Verdict::Leave);
        check(RestartPolicy::OnFailure, true, Verdict::Restart);
        check(RestartPolicy::OnFailure, false, Verdict::Leave);
        check(RestartPolicy::OnUnhealthy, true, Verdict::Restart);
        check(RestartPolicy::OnUnhealthy, false, Verdict::Leave);
        check(RestartPolicy::Always, true, Verdict::Restart);
        check(RestartPolicy::Always, false, Verdict::Restart);
    }

    #[test]
    fn the_wait_doubles_to_five_minutes_and_then_nobody_tries_any_more() {
        for (restarts, seconds) in
            [(0, 10), (1, 20), (2, 40), (3, 80), (4, 160), (5, 300), (6, 300), (19, 300)]
        {
            let history = History { restarts, last_restart: None };
            let exit = Exit { failed: true, at: Some(at(0)), is_earlier: false };
            let judge = |now| judge(RestartPolicy::Always, exit, history, now);
            assert_eq!(judge(at(seconds)), Verdict::Wait(at(seconds)), "restart {restarts}");
            assert!(u64::try_from(seconds).unwrap() <= COOL_OFF_MAX.as_secs());
            assert_eq!(judge(at(seconds + 1)), Verdict::Restart, "restart {restarts}");
        }
        assert_eq!(cool_off(RESTARTS_MAX - 1), COOL_OFF_MAX);
        let history = History { restarts: RESTARTS_MAX, last_restart: None };
        let exit = Exit { failed: true, at: Some(at(0)), is_earlier: false };
        assert_eq!(judge(RestartPolicy::Always, exit, history, at(9999)), Verdict::GiveUp);
    }

    #[test]
    fn a_clock_that_moved_back_or_is_unknown_means_at_once() {
        let history = History { restarts: 5, last_restart: None };
        for exit_at in [None, Some(at(0)), Some(at(50))] {
            let exit = Exit { failed: true, at: exit_at, is_earlier: false };
            assert_eq!(judge(RestartPolicy::Always, exit, history, at(0)), Verdict::Restart);
        }
    }

    #[test]
    fn ten_minutes_of_running_clear_the_count() {
        let check = |restarts, started, expected| {
            let history = History { restarts, last_restart: None };
            assert_eq!(has_recovered(started, history, at(0)), expected);
        };
        check(3, Some(at(-600)), false);
        check(3, Some(at(-601)), true);
        check(0, Some(at(-601)), false);
        check(3, None, false);
        check(3, Some(at(60)), false);
    }
}
