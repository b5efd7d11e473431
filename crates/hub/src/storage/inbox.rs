//! The queue in front of a worker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

/// Most jobs that wait in one inbox. A job takes some hundred bytes besides what it carries.
///
/// Doors have bounds of their own, but a caller who went away has given its place back while
/// its job still waits, and whoever opens a session has none yet.
pub(crate) const INBOX_JOBS_MAX: usize = 32_768;

/// Jobs for one worker.
#[derive(Debug)]
pub(crate) struct Inbox<J> {
    state: Mutex<State<J>>,
    wake: OnceLock<Waker>,
    refused: AtomicU64,
}

/// A job that was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken<J> {
    /// The worker is going.
    Closed(J),
    /// [`INBOX_JOBS_MAX`] wait already.
    Full(J),
}

#[derive(Debug)]
struct State<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl<J> Inbox<J> {
    /// An open, empty inbox.
    pub(crate) fn new() -> Self {
        let state = State { jobs: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), wake: OnceLock::new(), refused: AtomicU64::new(0) }
    }

    /// Jobs that found it full.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ties the worker to it, once.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.wake.get_or_init(|| waker).wake_by_ref();
    }

    /// Enqueues `job`, or gives it back if too many wait or the worker is going.
    pub(crate) fn push(&self, job: J) -> Result<(), NotTaken<J>> {
        self.push_below(job, INBOX_JOBS_MAX)
    }

    /// The same of a job for which a session holds room, which is bounded by itself.
    pub(crate) fn push_held(&self, job: J) -> Result<(), NotTaken<J>> {
        self.push_below(job, usize::MAX)
    }

    fn push_below(&self, job: J, most: usize) -> Result<(), NotTaken<J>> {
        {
            let mut state = self.lock();
            if state.closed {
                return Err(NotTaken::Closed(job));
            }
            if state.jobs.len() >= most {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(NotTaken::Full(job));
            }
            state.jobs.push_back(job);
        }
        self.wake();
        Ok(())
    }

    /// Moves up to `most` jobs into `into`; `true` if the worker shall end after them.
    pub(crate) fn drain(&self, most: usize, into: &mut Vec<J>) -> bool {
        let mut state = self.lock();
        let count = state.jobs.len().min(most);
        into.extend(state.jobs.drain(..count));
        state.closed && state.jobs.is_empty()
    }

    /// Takes nothing more; what is queued is still done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Takes nothing more and forgets what is queued, as when the power goes.
    pub(crate) fn cut(&self) {
        let forgotten = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        // Dropped outside the lock: a job's permit may wake somebody who pushes.
        drop(forgotten);
    }

    /// Whether something waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    fn wake(&self) {
        if let Some(waker) = self.wake.get() {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
