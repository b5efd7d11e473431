//! Descriptors as a budget: what this process may open, what its stores need of it, and the
//! seats that are left for listeners.

use std::io;

use api::health::DescriptorTotals;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::limits::SeatLimits;

/// Fewest descriptors that a listener works with, however few there are.
const SHARE_MIN: usize = 16;

/// What is left to hand out.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    reserve: usize,
    left: usize,
}

impl Budget {
    /// Raises this process's soft limit of open files to its hard one, and keeps `reserve` of
    /// them for stores and the process itself.
    ///
    /// # Errors
    /// What the system says.
    pub fn raise(reserve: usize) -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(Self::of(usize::try_from(hard).unwrap_or(usize::MAX), reserve))
    }

    /// A budget of `limit` descriptors of which `reserve` are kept.
    pub fn of(limit: usize, reserve: usize) -> Self {
        Self { limit, reserve, left: limit.saturating_sub(reserve) }
    }

    /// The seats of a listener that gets one of `parts` parts of what is left, at most `most`.
    pub fn share(&mut self, parts: usize, most: usize) -> SeatLimits {
        let part = (self.left / parts.max(1)).max(SHARE_MIN);
        let limits = SeatLimits::within(part, most);
        self.left = self.left.saturating_sub(limits.descriptors());
        limits
    }

    /// What was found and kept.
    pub fn totals(&self) -> DescriptorTotals {
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        DescriptorTotals { limit: wide(self.limit), reserve: wide(self.reserve) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listeners_may_hold_and_the_reserve_fit_into_the_limit() {
        for limit in [160, 256, 1024, 20_000, 1 << 20] {
            let mut budget = Budget::of(limit, 96);
            let (https, mqtt) = (budget.share(4, 4096), budget.share(1, 1 << 20));
            let used = https.descriptors() + mqtt.descriptors() + 96;
            assert!(used <= limit, "{limit}: {https:?} {mqtt:?}");
            assert!(https.seats <= 4096 && https.unproven <= https.seats);
            assert!(mqtt.seats >= https.seats || mqtt.seats > 4096, "{mqtt:?}");
            assert!(mqtt.unproven <= crate::limits::UNPROVEN_MAX);
        }
    }

    #[test]
    fn a_limit_below_the_reserve_leaves_a_few_seats_all_the_same() {
        let mut budget = Budget::of(64, 96);
        let few = budget.share(1, 4096);
        assert_eq!(few.descriptors(), SHARE_MIN);
        assert!(few.seats > 0 && few.unproven > 0, "{few:?}");
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let budget = Budget::raise(96).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        assert_eq!((budget.totals().limit, budget.totals().reserve), (hard, 96));
    }
}
