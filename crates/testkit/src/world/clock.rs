//! Virtual time: tokio's paused clock plus a base and a skew.

use std::sync::atomic::{AtomicI64, Ordering};

use model::time::{Now, Tick, WallTime};
use model::world::Clock;
use tokio::time::Instant;

/// The wall time at which every host starts: 2026-11-23T12:00:00Z.
pub const START: WallTime = WallTime(1_795_435_200_000);

/// The clock of one host.
#[derive(Debug)]
pub struct VirtualClock {
    start: Instant,
    skew_ms: AtomicI64,
}

impl VirtualClock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock of the simulation")]
    pub fn new() -> Self {
        Self { start: Instant::now(), skew_ms: AtomicI64::new(0) }
    }

    /// Moves the wall clock against the others; the monotonic one does not notice.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// The tokio time of `tick`.
    pub(super) fn instant(&self, tick: Tick) -> Instant {
        self.start + tick.since(Tick(0))
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock of the simulation")]
    fn now(&self) -> Now {
        let passed = Instant::now().duration_since(self.start);
        let skew = self.skew_ms.load(Ordering::Relaxed);
        Now { tick: Tick(0).after(passed), wall: WallTime(START.0 + skew).after(passed) }
    }
}
