//! The world of a real process: the operating system's clocks and randomness, tokio's tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use model::time::Tick;
use model::world::{Boxed, Clock, Random, Spawner, Turn, Worker, World};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;

use crate::clock::SystemClock;

/// The world of a process whose tasks run on the tokio runtime behind `handle`.
pub fn system(handle: Handle) -> World {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let spawner = SystemSpawner { handle, clock: Arc::clone(&clock) };
    World { clock, random: Arc::new(SystemChance(SystemRandom::new())), spawner: Arc::new(spawner) }
}

#[derive(Debug)]
struct SystemChance(SystemRandom);

impl Random for SystemChance {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("a kernel without randomness cannot run us");
    }
}

struct SystemSpawner {
    handle: Handle,
    clock: Arc<dyn Clock>,
}

impl Spawner for SystemSpawner {
    fn spawn(&self, task: Boxed<'static, ()>) {
        self.handle.spawn(task);
    }

    fn offload(&self, work: Box<dyn FnOnce() + Send>) {
        self.handle.spawn_blocking(work);
    }

    fn start(&self, name: &'static str, mut worker: Box<dyn Worker>) -> Waker {
        let clock = Arc::clone(&self.clock);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let turns = AssertUnwindSafe(|| run(worker.as_mut(), clock.as_ref()));
                if catch_unwind(turns).is_err() {
                    // A worker owns a file; after a broken invariant only a restart that
                    // recovers from disk is safe.
                    tracing::error!(worker = name, "worker panicked, the process aborts");
                    std::process::abort();
                }
            })
            .expect("a process that cannot start its worker threads cannot run");
        Waker::from(Arc::new(Unpark(thread.thread().clone())))
    }
}

fn run(worker: &mut dyn Worker, clock: &dyn Clock) {
    loop {
        match worker.turn(clock.now()) {
            Turn::Again => {}
            Turn::Idle => thread::park(),
            Turn::Until(tick) => sleep_until(tick, clock),
            Turn::Finished => return,
        }
    }
}

/// Parks until `tick` or a wake-up; a wake-up that came before is not lost.
fn sleep_until(tick: Tick, clock: &dyn Clock) {
    let span = tick.since(clock.now().tick);
    if span > Duration::ZERO {
        thread::park_timeout(span);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use model::time::Now;

    use super::*;

    struct Counting {
        turns: u32,
        told: mpsc::SyncSender<u32>,
    }

    impl Worker for Counting {
        fn turn(&mut self, _: Now) -> Turn {
            self.turns += 1;
            self.told.send(self.turns).unwrap();
            if self.turns == 3 { Turn::Finished } else { Turn::Idle }
        }
    }

    #[test]
    fn a_worker_gets_a_first_turn_and_one_after_each_wake_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = system(runtime.handle().clone());
        let (told, turns) = mpsc::sync_channel(8);
        let waker = world.spawner.start("counting", Box::new(Counting { turns: 0, told }));
        for expected in 1..=3 {
            assert_eq!(turns.recv_timeout(Duration::from_secs(10)), Ok(expected));
            waker.wake_by_ref();
        }
        assert_eq!(
            turns.recv_timeout(Duration::from_secs(10)),
            Err(mpsc::RecvTimeoutError::Disconnected)
        );
    }
}
