//! Who is seated at a listener, and how they learn that it ends.
//!
//! A connection costs one waker here; there is no channel per connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// How long connections get to notice that they were cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Open,
    /// Finish what you are doing.
    Draining,
    /// End now.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Gate {
    phase: AtomicU8,
    seats: Mutex<Seats>,
    seats_max: usize,
    empty: Notify,
}

#[derive(Debug, Default)]
struct Seats {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    taken: usize,
    accepting: Option<Waker>,
}

impl Gate {
    pub(crate) fn new(seats_max: usize) -> Self {
        Self { phase: AtomicU8::new(0), seats: Mutex::default(), seats_max, empty: Notify::new() }
    }

    /// A seat, unless all are taken or the listener ends.
    pub(crate) fn seat(gate: &Arc<Self>) -> Option<Seat> {
        let mut seats = gate.lock();
        if seats.taken >= gate.seats_max || gate.phase() > Phase::Open {
            return None;
        }
        seats.taken += 1;
        let at = seats.free.pop().unwrap_or_else(|| {
            seats.wakers.push(None);
            seats.wakers.len() - 1
        });
        Some(Seat { gate: Arc::clone(gate), at, known: false })
    }

    pub(crate) fn seated(&self) -> usize {
        self.lock().taken
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Cut,
        }
    }

    /// Moves on to `phase` and wakes everybody; never moves back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        let wakers: Vec<Waker> = {
            let mut seats = self.lock();
            let accepting = seats.accepting.take();
            seats.wakers.iter().flatten().cloned().chain(accepting).collect()
        };
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// The outcome of `work`; none once the listener ends. For the accept loop.
    pub(crate) async fn while_open<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.lock().accepting = Some(cx.waker().clone());
            match self.phase() {
                Phase::Open => work.as_mut().poll(cx).map(Some),
                Phase::Draining | Phase::Cut => Poll::Ready(None),
            }
        })
        .await
    }

    /// Waits until nobody is seated.
    pub(crate) async fn emptied(&self) {
        loop {
            let left = self.empty.notified();
            if self.seated() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Ends in order: everybody is asked to finish, and who has not after `patience` is cut.
    pub(crate) async fn close(&self, patience: Duration) {
        self.enter(Phase::Draining);
        if timeout(patience, self.emptied()).await.is_err() {
            self.enter(Phase::Cut);
            if timeout(CUT_TIMEOUT, self.emptied()).await.is_err() {
                tracing::warn!(left = self.seated(), "connections do not end");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    gate: Arc<Gate>,
    at: usize,
    known: bool,
}

impl Seat {
    /// The outcome of `work`; none once the listener ends. For handshakes.
    pub(crate) async fn while_open<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.poll_phase(cx) {
            Phase::Open => work.as_mut().poll(cx).map(Some),
            Phase::Draining | Phase::Cut => Poll::Ready(None),
        })
        .await
    }

    /// How far the end has come. The task is woken at every change; a seat stays in one task.
    pub(crate) fn poll_phase(&mut self, cx: &Context<'_>) -> Phase {
        if !self.known {
            self.known = true;
            if let Some(slot) = self.gate.lock().wakers.get_mut(self.at) {
                *slot = Some(cx.waker().clone());
            }
        }
        self.gate.phase()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.gate.lock();
        if let Some(slot) = seats.wakers.get_mut(self.at) {
            *slot = None;
        }
        seats.free.push(self.at);
        seats.taken -= 1;
        if seats.taken == 0 {
            self.gate.empty.notify_waiters();
        }
    }
}
