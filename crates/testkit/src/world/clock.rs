//! Virtual time: tokio's paused clock plus a base and a skew.
#![expect(clippy::disallowed_methods, reason = "this is the clock of the simulation")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use model::time::{Now, Tick, WallTime};
use model::world::Clock;
use tokio::time::Instant;

/// The wall time at which every simulation starts: 2026-11-23T12:00:00Z.
pub const START: WallTime = WallTime(1_795_435_200_000);

/// The clock of one machine; it outlives the processes on it. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct VirtualClock {
    start: Instant,
    skew_ms: Arc<AtomicI64>,
}

impl VirtualClock {
    /// A clock that starts now; inside a runtime with paused time.
    pub fn begin() -> Self {
        Self { start: Instant::now(), skew_ms: Arc::default() }
    }

    /// The clock of another machine: the same monotonic time, a wall clock of its own.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { start: self.start, skew_ms: Arc::default() }
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

impl Clock for VirtualClock {
    fn now(&self) -> Now {
        let passed = self.start.elapsed();
        let skew = self.skew_ms.load(Ordering::Relaxed);
        Now { tick: Tick(0).after(passed), wall: WallTime(START.0 + skew).after(passed) }
    }
}
