//! What a listener may hold, and what it counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::health::ListenerTotals;

use crate::gate::Gate;

/// Most unproven peers of one listener, whatever its seats.
pub const UNPROVEN_MAX: usize = 4096;
/// Most seats that were taken back and are not free yet.
pub(crate) const LEAVING_MAX: usize = 256;

/// How many connections a listener holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatLimits {
    /// Connections at once; more are closed as soon as they are accepted.
    pub seats: usize,
    /// Those among them whose peers have proven nothing yet.
    pub unproven: usize,
}

impl SeatLimits {
    /// So many seats, at most half of them, and at most [`UNPROVEN_MAX`], unproven.
    pub const fn of(seats: usize) -> Self {
        let half = seats.div_ceil(2);
        Self { seats, unproven: if half < UNPROVEN_MAX { half } else { UNPROVEN_MAX } }
    }

    /// What fits into so many descriptors, those of seats on their way out included; at most
    /// `most` seats.
    pub(crate) fn within(descriptors: usize, most: usize) -> Self {
        let all = Self::of(descriptors);
        Self::of(descriptors.saturating_sub(all.leaving()).clamp(1, most))
    }

    /// Most descriptors that it takes.
    pub(crate) fn descriptors(self) -> usize {
        self.seats + self.leaving()
    }

    /// Most seats that may be on their way out.
    pub(crate) fn leaving(self) -> usize {
        (self.unproven / 4).clamp(4, LEAVING_MAX)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a listener has seen since it started, and each limit that was reached.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: Count,
    /// Closed at once: no seat was free and nobody could give way.
    pub(crate) refused: Count,
    /// Unproven, and gone for a newcomer.
    pub(crate) gave_way: Count,
    /// Gone before anything was said.
    pub(crate) lost: Count,
    /// Times that accepting waited for descriptors or memory.
    pub(crate) pauses: Count,
    /// Handshakes that failed.
    pub(crate) failed: Count,
    /// Peers that took longer than they may.
    pub(crate) late: Count,
    /// Peers that sent more than they may.
    pub(crate) too_large: Count,
    /// Peers that took nothing of what waited for them.
    pub(crate) deaf: Arc<Count>,
}

impl Counts {
    /// Counts a handshake that ended in `error`.
    pub(crate) fn broken(&self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::TimedOut => self.late.add(),
            io::ErrorKind::FileTooLarge => self.too_large.add(),
            _ => self.failed.add(),
        }
    }
}

/// Reads a listener's counters; a handle that outlives it.
#[derive(Clone, Debug)]
pub struct Watch(pub(crate) Arc<Gate>);

impl Watch {
    /// The counters now, under `name`.
    pub fn totals(&self, name: &str) -> ListenerTotals {
        let (gate, counts) = (&self.0, &self.0.counts);
        let limits = gate.limits();
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        ListenerTotals {
            name: name.to_owned(),
            open: wide(gate.seated()),
            seats: wide(limits.seats),
            unproven: wide(gate.unproven()),
            unproven_seats: wide(limits.unproven),
            accepted: counts.accepted.get(),
            refused: counts.refused.get(),
            gave_way: counts.gave_way.get(),
            lost: counts.lost.get(),
            pauses: counts.pauses.get(),
            failed: counts.failed.get(),
            late: counts.late.get(),
            too_large: counts.too_large.get(),
            deaf: counts.deaf.get(),
        }
    }
}
