//! Until when everything authorised holds: sessions of devices and streams of services, in one
//! order. Pure; `connections` owns it and the hub's wheel turns it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use model::time::WallTime;

use crate::registry::Ordinal;

/// Whatever holds until a time; nothing is kept of what has ended.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    sessions: BTreeSet<(WallTime, Ordinal)>,
    leases: BTreeMap<LeaseKey, Arc<Right>>,
    next: u64,
}

/// When a lease ends, and its number.
pub(crate) type LeaseKey = (WallTime, u64);

/// What ends next.
#[derive(Debug)]
pub(crate) enum Due {
    /// The session of this identity, unless it is another by now.
    Session(Ordinal),
    /// The right of a stream.
    Lease(Arc<Right>),
}

impl Expiries {
    /// The session of `ord` holds until `at`.
    pub(crate) fn add_session(&mut self, at: WallTime, ord: Ordinal) {
        self.sessions.insert((at, ord));
    }

    /// It has ended before that, or holds longer.
    pub(crate) fn remove_session(&mut self, at: WallTime, ord: Ordinal) {
        self.sessions.remove(&(at, ord));
    }

    /// A stream may go on until `at`.
    pub(crate) fn add_lease(&mut self, at: WallTime) -> (LeaseKey, Arc<Right>) {
        self.next += 1;
        let (key, right) = ((at, self.next), Arc::<Right>::default());
        self.leases.insert(key, Arc::clone(&right));
        (key, right)
    }

    /// It has ended by itself.
    pub(crate) fn remove_lease(&mut self, key: LeaseKey) {
        self.leases.remove(&key);
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<WallTime> {
        let session = self.sessions.first().map(|(at, _)| *at);
        let lease = self.leases.first_key_value().map(|((at, _), _)| *at);
        session.into_iter().chain(lease).min()
    }

    /// Takes out what has ended `now`, one at a time.
    pub(crate) fn pop(&mut self, now: WallTime) -> Option<Due> {
        if self.sessions.first().is_some_and(|(at, _)| *at <= now) {
            return self.sessions.pop_first().map(|(_, ord)| Due::Session(ord));
        }
        let entry = self.leases.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(Due::Lease(entry.remove()))
    }

    /// How many ends are awaited.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sessions.len() + self.leases.len()
    }
}

/// Whether a stream may still go on.
#[derive(Debug, Default)]
pub(crate) struct Right {
    over: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Right {
    /// It may not.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it may not.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ready once it may not. One task waits; the latest waker is woken.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_end_in_one_order_and_nothing_is_kept_of_what_ended_early() {
        let mut expiries = Expiries::default();
        expiries.add_session(WallTime(20), Ordinal(1));
        expiries.add_session(WallTime(40), Ordinal(2));
        let (first, right) = expiries.add_lease(WallTime(10));
        let (early, other) = expiries.add_lease(WallTime(30));
        assert_eq!(expiries.next(), Some(first.0));
        assert!(expiries.pop(WallTime(9)).is_none());
        let Some(Due::Lease(due)) = expiries.pop(WallTime(15)) else { panic!("a lease is due") };
        due.end();
        assert!(right.is_over() && !other.is_over());
        let due = expiries.pop(WallTime(25));
        assert!(matches!(due, Some(Due::Session(Ordinal(1)))), "{due:?}");
        assert!(expiries.pop(WallTime(25)).is_none());
        expiries.remove_lease(early);
        expiries.remove_session(WallTime(40), Ordinal(2));
        assert_eq!((expiries.next(), expiries.len()), (None, 0));
    }
}
