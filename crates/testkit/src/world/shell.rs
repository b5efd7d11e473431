//! Tasks and workers of a simulated host.

use std::fmt;
use std::future::Future as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use model::world::{Boxed, Clock as _, Spawner, Turn, Worker, World};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::VirtualClock;
use crate::chance::Chance;

/// One life of a simulated machine or process: its tasks and workers end together.
#[derive(Clone)]
pub struct Host {
    world: World,
    clock: VirtualClock,
    tasks: Arc<Tasks>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

#[derive(Default)]
struct Tasks {
    handles: Mutex<Vec<AbortHandle>>,
    dead: AtomicBool,
}

impl Host {
    /// A host with a clock of its own, whose chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::on(VirtualClock::begin(), Chance::new(seed))
    }

    /// A host that reads `clock` and draws from `chance`.
    pub fn on(clock: VirtualClock, chance: Chance) -> Self {
        Self::with_workers(clock, chance, Duration::ZERO)
    }

    /// As [`Host::on`], but a worker that wants another turn at once waits up to `slow` for it:
    /// what it has begun takes time, as on a real disk, and others go on meanwhile.
    pub fn with_workers(clock: VirtualClock, chance: Chance, slow: Duration) -> Self {
        let tasks = Arc::new(Tasks::default());
        let pace = (!slow.is_zero()).then(|| (chance.fork("workers"), slow));
        let spawner = InlineSpawner { tasks: Arc::clone(&tasks), clock: clock.clone(), pace };
        let world = World {
            clock: Arc::new(clock.clone()),
            random: Arc::new(chance),
            spawner: Arc::new(spawner),
        };
        Self { world, clock, tasks }
    }

    /// The world of processes on this host.
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// Its clock, to skew it.
    pub fn clock(&self) -> &VirtualClock {
        &self.clock
    }

    /// The power goes: every task and worker is dropped where it waits, later ones never start.
    pub fn kill(&self) {
        self.tasks.dead.store(true, Ordering::Relaxed);
        self.tasks.lock().iter().for_each(AbortHandle::abort);
    }

    /// Waits until every killed task is dropped.
    pub async fn gone(&self) {
        while self.tasks.lock().iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// Waits in virtual time.
    pub async fn sleep(span: Duration) {
        tokio::time::sleep(span).await;
    }
}

impl Tasks {
    #[expect(clippy::disallowed_methods, reason = "this is the spawner of the simulation")]
    fn spawn(&self, task: Boxed<'static, ()>) {
        if self.dead.load(Ordering::Relaxed) {
            return;
        }
        let handle = tokio::spawn(task).abort_handle();
        let mut handles = self.lock();
        // Looking at all of them each time would cost more than they do.
        if handles.len() == handles.capacity() {
            handles.retain(|handle| !handle.is_finished());
        }
        handles.push(handle);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct InlineSpawner {
    tasks: Arc<Tasks>,
    clock: VirtualClock,
    pace: Option<(Chance, Duration)>,
}

impl Spawner for InlineSpawner {
    fn spawn(&self, task: Boxed<'static, ()>) {
        self.tasks.spawn(task);
    }

    fn offload(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn start(&self, name: &'static str, worker: Box<dyn Worker>) -> Waker {
        let bell = Arc::new(Bell(Notify::new()));
        let pace = self.pace.as_ref().map(|(chance, slow)| (chance.fork(name), *slow));
        let turns = turns(worker, self.clock.clone(), pace, Arc::clone(&bell));
        self.tasks.spawn(Box::pin(turns));
        Waker::from(bell)
    }
}

/// A wake-up is remembered until the worker waits, so none is lost.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

async fn turns(
    mut worker: Box<dyn Worker>,
    clock: VirtualClock,
    pace: Option<(Chance, Duration)>,
    bell: Arc<Bell>,
) {
    loop {
        let rung = bell.0.notified();
        match worker.turn(clock.now()) {
            Turn::Finished => return,
            Turn::Again => match &pace {
                Some((chance, slow)) => tokio::time::sleep(chance.span(*slow)).await,
                None => tokio::task::yield_now().await,
            },
            Turn::Idle => rung.await,
            Turn::Until(tick) => {
                // Whichever comes first; both lead to a turn.
                let mut rung = std::pin::pin!(rung);
                let ring = std::future::poll_fn(|cx| rung.as_mut().poll(cx));
                tokio::time::timeout_at(clock.instant(tick), ring).await.ok();
            }
        }
    }
}
