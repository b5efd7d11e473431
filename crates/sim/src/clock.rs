//! The virtual clock: tokio's paused time, and a civil time that begins at a fixed date.
#![expect(clippy::disallowed_methods, reason = "this is the clock")]

use model::time::{Now, Tick, WallTime};
use model::world::Clock;
use tokio::time::Instant;

/// When every simulation begins: 2026-01-01T00:00:00Z.
const BEGINNING: WallTime = WallTime(1_767_225_600_000);

/// The time of all hosts of one simulation.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedClock {
    start: Instant,
}

impl SimulatedClock {
    /// A clock that begins now; inside a runtime with paused time.
    pub fn begin() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Now {
        let passed = self.start.elapsed();
        Now { tick: Tick(0).after(passed), wall: BEGINNING.after(passed) }
    }
}
