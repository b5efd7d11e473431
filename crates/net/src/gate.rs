//! Who is seated at a listener, and how they learn that it ends.
//!
//! A connection costs one waker here; there is no channel per connection. Whoever has proven
//! nothing yet sits in a pool of its own: when that is full, the newcomer takes the place of
//! somebody who waits there, so that silence holds a seat only while nobody else wants it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::{Counts, SeatLimits};
use crate::unproven::{Origin, Ticket, Unproven};

/// How long connections get to notice that they were cut.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that unproven peers of one listener may leave waiting, beyond what each has free.
pub(crate) const UNPROVEN_BYTES_MAX: usize = 16 * 1024 * 1024;

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
    limits: SeatLimits,
    empty: Notify,
    /// A seat that was taken back is free.
    left: Notify,
    unproven_bytes: AtomicUsize,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
struct Seats {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    taken: usize,
    unproven: Unproven,
    /// Seats that were taken back and whose tasks have not ended yet.
    leaving: usize,
    accepting: Option<Waker>,
}

impl Seats {
    /// Takes back the seat of somebody unproven; false if there is none.
    fn take_back(&mut self, from: Option<Origin>) -> bool {
        let Some(at) = self.unproven.give_way(from) else { return false };
        self.leaving += 1;
        if let Some(Some(waker)) = self.wakers.get(at) {
            waker.wake_by_ref();
        }
        true
    }
}

impl Gate {
    pub(crate) fn new(limits: SeatLimits) -> Self {
        Self {
            phase: AtomicU8::new(0),
            seats: Mutex::default(),
            limits,
            empty: Notify::new(),
            left: Notify::new(),
            unproven_bytes: AtomicUsize::new(0),
            counts: Counts::default(),
        }
    }

    /// A seat for a peer of `from` who has proven nothing yet.
    pub(crate) fn seat(gate: &Arc<Self>, from: Option<Origin>) -> Result<Seat, Full> {
        let mut seats = gate.lock();
        if gate.phase() > Phase::Open {
            return Err(Full::House);
        }
        let limits = gate.limits;
        let pool_is_full = seats.unproven.len() >= limits.unproven;
        if pool_is_full || seats.taken - seats.leaving >= limits.seats {
            if seats.leaving >= limits.leaving() {
                return Err(Full::ForNow);
            }
            if !seats.take_back(from) {
                gate.counts.refused.add();
                return Err(Full::House);
            }
            gate.counts.gave_way.add();
        }
        gate.counts.accepted.add();
        seats.taken += 1;
        let at = seats.free.pop().unwrap_or_else(|| {
            seats.wakers.push(None);
            seats.wakers.len() - 1
        });
        let ticket = Some(seats.unproven.enter(at, from));
        Ok(Seat { gate: Arc::clone(gate), at, ticket, charged: 0, known: false })
    }

    /// Waits for seats that were taken back: their tasks were woken and have only to end.
    pub(crate) async fn some_left(&self) {
        self.left.notified().await;
    }

    pub(crate) fn seated(&self) -> usize {
        self.lock().taken
    }

    pub(crate) fn unproven(&self) -> usize {
        self.lock().unproven.len()
    }

    pub(crate) fn limits(&self) -> SeatLimits {
        self.limits
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

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many as may be are on their way out.
    ForNow,
    /// All are held by others who have proven who they are, or the listener ends.
    House,
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    gate: Arc<Gate>,
    at: usize,
    /// Its place among the unproven; none once its peer has proven who it is.
    ticket: Option<Ticket>,
    /// Its bytes in the budget of the unproven.
    charged: u32,
    known: bool,
}

impl Seat {
    pub(crate) fn counts(&self) -> &Counts {
        &self.gate.counts
    }

    /// The outcome of `work`; none once the listener ends. For handshakes.
    pub(crate) async fn while_open<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.poll_phase(cx) {
            Phase::Open => work.as_mut().poll(cx).map(Some),
            Phase::Draining | Phase::Cut => Poll::Ready(None),
        })
        .await
    }

    /// How far the end has come, for this connection. The task is woken at every change; a seat
    /// stays in one task.
    pub(crate) fn poll_phase(&mut self, cx: &Context<'_>) -> Phase {
        if self.known && self.ticket.is_none() {
            return self.gate.phase();
        }
        let mut seats = self.gate.lock();
        if !self.known {
            self.known = true;
            if let Some(slot) = seats.wakers.get_mut(self.at) {
                *slot = Some(cx.waker().clone());
            }
        }
        match self.ticket {
            Some(ticket) if !seats.unproven.holds(ticket) => Phase::Cut,
            _ => self.gate.phase(),
        }
    }

    /// The peer has proven who it is: nobody takes its place any more. Comes too late for a seat
    /// that was taken back, which is [`Phase::Cut`] then.
    pub(crate) fn prove(&mut self) {
        self.charge(0);
        let Some(ticket) = self.ticket else { return };
        if self.gate.lock().unproven.leave(ticket) {
            self.ticket = None;
        }
    }

    /// Sets how many bytes wait for this peer to prove itself; false if the listener cannot
    /// afford them.
    pub(crate) fn charge(&mut self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let (before, now) = (self.charged, bytes);
        self.charged = now;
        let all = &self.gate.unproven_bytes;
        if now <= before {
            all.fetch_sub((before - now) as usize, Ordering::Relaxed);
            return true;
        }
        let more = (now - before) as usize;
        let is_affordable = all.fetch_add(more, Ordering::Relaxed) + more <= UNPROVEN_BYTES_MAX;
        if !is_affordable {
            self.gate.counts.too_large.add();
        }
        is_affordable
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.charge(0);
        let mut seats = self.gate.lock();
        if let Some(ticket) = self.ticket
            && !seats.unproven.leave(ticket)
        {
            seats.leaving -= 1;
            self.gate.left.notify_one();
        }
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

#[cfg(test)]
mod tests;
