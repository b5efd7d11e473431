//! How long to wait before dialling again, and when to prove oneself afresh.

use std::time::Duration;

use model::time::{Now, Tick, WallTime};

/// First wait, at most.
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// A claim is renewed this long before its end, or at four fifths of its life if that is later.
const MARGIN_MAX: Duration = Duration::from_mins(5);
/// A claim that ends at once is not renewed more often than this.
const RENEWAL_MIN: Duration = Duration::from_secs(1);

/// Doubles with every failure; half of each wait is chance, so that a fleet does not return as
/// one.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait; `chance` is uniform.
    pub(super) fn next(&mut self, chance: u64) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + share(half, chance)
    }

    /// A connection stood.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// When a claim that holds until `end` is to be replaced.
pub(super) fn renewal(now: Now, end: WallTime, chance: u64) -> Tick {
    let life = end.since(now.wall);
    let margin = (life / 5).min(MARGIN_MAX);
    let early = share(margin / 4, chance);
    now.tick.after(life.saturating_sub(margin + early).max(RENEWAL_MIN))
}

/// A part of `span` by chance.
fn share(span: Duration, chance: u64) -> Duration {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(if millis == 0 { 0 } else { chance % millis })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_never_vanish() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [125, 250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        assert!(backoff.next(u64::MAX) < LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(125));
    }

    #[test]
    fn a_claim_is_renewed_before_it_ends() {
        let check = |life: u64, expected: u64| {
            let now = Now { tick: Tick(0), wall: WallTime(0) };
            let end = WallTime(0).after(Duration::from_secs(life));
            assert_eq!(renewal(now, end, 0), Tick(0).after(Duration::from_secs(expected)));
        };
        check(3600, 3300);
        check(100, 80);
        check(0, 1);
    }
}
