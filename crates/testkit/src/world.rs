//! A host in virtual time: seeded chance, tasks that die together, workers without threads.
//!
//! It needs a current-thread tokio runtime with paused time (`#[tokio::test(start_paused =
//! true)]`). Time moves when every task waits, so an hour of the host takes no time at all.

mod clock;
mod shell;

pub use clock::{START, VirtualClock};
pub use shell::Host;

use std::sync::{Mutex, PoisonError};

use model::world::Random;

/// Chance that repeats: the same seed gives the same bytes.
#[derive(Debug)]
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    /// Chance from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    // SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    fn step(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.step().to_le_bytes();
            chunk.iter_mut().zip(drawn).for_each(|(byte, drawn)| *byte = drawn);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Poll;
    use std::time::Duration;

    use model::time::Now;
    use model::world::{Turn, Worker};

    use super::*;

    #[test]
    fn chance_repeats_with_its_seed() {
        let draw = |seed| SeededRandom::new(seed).number();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    struct Counter(Arc<AtomicU32>);

    impl Worker for Counter {
        fn turn(&mut self, now: Now) -> Turn {
            self.0.fetch_add(1, Ordering::Relaxed);
            Turn::Until(now.tick.after(Duration::from_mins(10)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn workers_turn_in_virtual_time_until_their_host_dies() {
        let host = Host::new(1);
        let turns = Arc::new(AtomicU32::new(0));
        let waker = host.world().spawner.start("counter", Box::new(Counter(Arc::clone(&turns))));
        Host::sleep(Duration::from_mins(25)).await;
        assert_eq!(turns.load(Ordering::Relaxed), 3);
        waker.wake_by_ref();
        Host::sleep(Duration::from_secs(1)).await;
        assert_eq!(turns.load(Ordering::Relaxed), 4);
        host.kill();
        Host::sleep(Duration::from_hours(1)).await;
        assert_eq!(turns.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn killed_tasks_are_dropped() {
        let host = Host::new(1);
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        host.world().spawn(async move {
            poll_fn(|_| Poll::<()>::Pending).await;
            drop(inside);
        });
        Host::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&held), 2);
        host.kill();
        Host::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
