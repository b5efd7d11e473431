//! A host: a world whose tasks and workers die together, in the middle of whatever they do.
#![expect(clippy::disallowed_methods, reason = "this is the spawner of the simulation")]

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use model::time::Now;
use model::world::{Boxed, Clock, Random, Spawner, Turn, Worker, World};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::chance::Chance;
use crate::clock::SimulatedClock;

/// One host of a simulation.
#[derive(Clone, Debug)]
pub struct Host {
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
    clock: SimulatedClock,
    chance: Chance,
}

impl Host {
    /// A host that draws from `chance`.
    pub fn new(clock: SimulatedClock, chance: Chance) -> Self {
        Self { tasks: Arc::default(), clock, chance }
    }

    /// The world of the processes on it.
    pub fn world(&self) -> World {
        let random: Arc<dyn Random> = Arc::new(self.chance.clone());
        World { clock: Arc::new(self.clock), random, spawner: Arc::new(self.clone()) }
    }

    /// Drops every task and worker where it stands.
    pub async fn kill(&self) {
        let tasks = std::mem::take(&mut *self.lock());
        for task in &tasks {
            task.abort();
        }
        // Aborted tasks are dropped when the runtime comes to them.
        while tasks.iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, task: AbortHandle) {
        let mut tasks = self.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

impl Spawner for Host {
    fn spawn(&self, task: Boxed<'static, ()>) {
        self.keep(tokio::spawn(task).abort_handle());
    }

    fn offload(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn start(&self, _: &'static str, mut worker: Box<dyn Worker>) -> Waker {
        let notify = Arc::new(Notify::new());
        let woken = Arc::clone(&notify);
        let clock = self.clock;
        self.spawn(Box::pin(async move {
            loop {
                let now: Now = clock.now();
                match worker.turn(now) {
                    Turn::Again => tokio::task::yield_now().await,
                    Turn::Idle => woken.notified().await,
                    Turn::Finished => return,
                    Turn::Until(tick) => {
                        let span = tick.since(now.tick);
                        // Over is as good as woken.
                        tokio::time::timeout(span, woken.notified()).await.ok();
                    }
                }
            }
        }));
        Waker::from(Arc::new(Woken(notify)))
    }
}

struct Woken(Arc<Notify>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}
