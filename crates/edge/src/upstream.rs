//! The way to the cloud: one link per identity, each with its own session and twin copy.
//!
//! A link opens a session upstream with tokens signed here, opens it again when it ends, keeps
//! the copy of the identity's twin, pushes what was reported while the hub was away, and hands
//! desired changes and method calls to whoever owns the identity on this device.

pub(crate) mod shell;

use std::time::Duration;

/// The wait before the second try to open a session; it doubles.
pub(crate) const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest wait; short enough that a hub that is back is noticed soon.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(20);
/// How long a token holds. Source: Azure SDKs.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_hours(1);
/// How long one request upstream may take.
pub(crate) const REQUEST_WAIT: Duration = Duration::from_secs(20);
/// How long the owner of a twin waits for the hub before it gets the copy.
pub(crate) const READ_WAIT: Duration = Duration::from_secs(5);

/// 1 s, 2 s, 4 s … 20 s, of which a random part of up to a quarter is left out.
pub(crate) fn pause(failures: u32, chance: u64) -> Duration {
    let full = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSE_MAX);
    let part = u32::try_from(chance % 256).expect("below 256");
    full.saturating_sub(full * part / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_a_quarter() {
        let check = |failures, chance, millis| {
            assert_eq!(pause(failures, chance), Duration::from_millis(millis));
        };
        check(0, 0, 1000);
        check(3, 0, 8000);
        check(40, 0, 20_000);
        check(0, 128, 875);
        assert!(pause(9, 255) > PAUSE_MAX * 3 / 4);
    }
}
