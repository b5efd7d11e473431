//! The seams through which a process meets the outside: time, chance, and its own tasks.
//!
//! A process builds one [`World`] in `main` and hands clones of it down.
//! Production fills it with the operating system (`net::world`), the simulator with a
//! virtual clock and seeds. Two further seams live beside their only users: byte streams in
//! `net::network`, files in `journal::disk`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;

use crate::time::{Now, Tick};

/// A future behind a pointer, as the object-safe traits of the house return it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Both times, read together.
    fn now(&self) -> Now;
}

/// Draws chance: identifiers, keys, jitter.
pub trait Random: Send + Sync {
    /// Fills `bytes`; in production from the operating system, fit for keys.
    fn fill(&self, bytes: &mut [u8]);

    /// One number, uniform over all of `u64`.
    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// What a [`Worker`] wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do until the next wake-up.
    Idle,
    /// More to do at once.
    Again,
    /// Nothing to do until the next wake-up or `Tick`, whichever comes first.
    Until(Tick),
    /// The worker is finished and is dropped.
    Finished,
}

/// Blocking work that owns a resource: a thread in production, an inline call in simulation.
pub trait Worker: Send {
    /// Does what is waiting. Called again after every wake-up; wake-ups coalesce.
    fn turn(&mut self, now: Now) -> Turn;
}

/// Starts tasks and workers.
pub trait Spawner: Send + Sync {
    /// Runs `task` beside the caller until it ends or the process does.
    fn spawn(&self, task: Boxed<'static, ()>);

    /// Runs blocking `work` off the connection threads; inline in simulation.
    fn offload(&self, work: Box<dyn FnOnce() + Send>);

    /// Gives `worker` a thread named `name` (inline turns in simulation). Waking the returned
    /// waker leads to a turn. The worker also gets a first turn without being woken.
    fn start(&self, name: &'static str, worker: Box<dyn Worker>) -> Waker;
}

/// Everything a process may touch without saying so in a signature.
#[derive(Clone)]
pub struct World {
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// The only source of chance.
    pub random: Arc<dyn Random>,
    /// The only way to start tasks.
    pub spawner: Arc<dyn Spawner>,
}

impl World {
    /// Both times, read together.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Runs `task` beside the caller.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawner.spawn(Box::pin(task));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
