//! A host in virtual time: seeded chance, tasks that die together, workers without threads.
//!
//! It needs a current-thread tokio runtime with paused time (`#[tokio::test(start_paused =
//! true)]`). Time moves when every task waits, so an hour of the host takes no time at all.

mod clock;
mod shell;

pub use clock::{START, VirtualClock};
pub use shell::Host;

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
    use crate::chance::Chance;

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
    async fn killed_tasks_are_dropped_and_later_ones_never_start() {
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
        host.gone().await;
        assert_eq!(Arc::strong_count(&held), 1);
        let ran = Arc::new(AtomicU32::new(0));
        let late = Arc::clone(&ran);
        host.world().spawn(async move { late.store(1, Ordering::Relaxed) });
        Host::sleep(Duration::from_millis(1)).await;
        assert_eq!(ran.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_share_the_passing_of_time_but_not_the_wall_clock() {
        let clock = VirtualClock::begin();
        let (one, other) = (Host::on(clock.clone(), Chance::new(1)), clock.beside());
        let two = Host::on(other.clone(), Chance::new(2));
        other.set_skew_ms(-60_000);
        Host::sleep(Duration::from_secs(5)).await;
        let (one, two) = (one.world().now(), two.world().now());
        assert_eq!(one.tick, two.tick);
        assert_eq!(one.wall.0 - two.wall.0, 60_000);
    }
}
