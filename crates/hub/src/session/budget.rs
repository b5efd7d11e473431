//! Bytes of requests that wait in the whole hub.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Most bytes of requests that wait for their answers in one hub.
pub(crate) const HUB_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Most bytes of answers that wait in one hub for whoever asked: who reads nothing must not take
/// the machine down, nor keep others from sending.
pub(crate) const HUB_ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A bound in bytes that many sessions share.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    inner: Mutex<Inner>,
    /// How often there was no room.
    full: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    held: usize,
    /// Sessions that stopped reading; each has one waker here at most.
    waiting: Vec<Waker>,
}

impl Budget {
    /// A budget of `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, inner: Mutex::default(), full: AtomicU64::new(0) }
    }

    /// How often there was no room.
    pub(crate) fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// Takes `bytes`; `false` if there is no room. An untouched budget takes anything.
    pub(crate) fn take(&self, bytes: u32) -> bool {
        let mut inner = self.lock();
        let sum = inner.held.saturating_add(bytes as usize);
        if sum > self.most && inner.held > 0 {
            self.full.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        inner.held = sum;
        true
    }

    /// Whether nothing is held.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().held == 0
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: u32) {
        let waiting = {
            let mut inner = self.lock();
            inner.held = inner.held.saturating_sub(bytes as usize);
            if inner.held <= self.most / 2 {
                std::mem::take(&mut inner.waiting)
            } else {
                Vec::new()
            }
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready when half of it is free.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.held <= self.most / 2 {
            return Poll::Ready(());
        }
        if !inner.waiting.iter().any(|held| held.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_refuses_until_half_of_it_is_free() {
        let budget = Budget::new(100);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(budget.take(60) && budget.take(40));
        assert!(!budget.take(1));
        assert_eq!(budget.full(), 1);
        assert!(budget.poll_ready(&mut cx).is_pending());
        budget.give(40);
        assert!(budget.poll_ready(&mut cx).is_pending());
        budget.give(60);
        assert!(budget.poll_ready(&mut cx).is_ready());
        assert!(budget.take(1000), "one batch alone always fits");
    }

    #[test]
    fn the_whole_hub_holds_so_many_bytes_and_no_more() {
        let budget = Budget::new(HUB_BYTES_MAX);
        let part = u32::try_from(HUB_BYTES_MAX / 64).unwrap();
        assert!((0..64).all(|_| budget.take(part)));
        assert!(!budget.take(1));
        (0..32).for_each(|_| budget.give(part));
        assert!(budget.take(part));
    }
}
