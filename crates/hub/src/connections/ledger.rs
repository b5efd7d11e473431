//! What the tables do not know yet of who was seen when. Pure.
//!
//! An identity is noted when it does something, and written a step later, with what is true then:
//! however much it does, its row is written once a step, and who is silent costs nothing. Rows go
//! out in slices, one at a time, so that nobody's write waits long behind them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use model::time::Tick;

use crate::registry::Ordinal;
use crate::storage::rows::Activity;

/// How late a written activity may be while the tables keep up.
pub(crate) const ACTIVITY_STEP: Duration = Duration::from_mins(1);
/// Most rows of activity in one write.
pub(crate) const ACTIVITY_SLICE_ROWS_MAX: usize = 2048;

/// Whose activity is to be written, and when.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// In the order in which they were noted.
    noted: VecDeque<(Tick, Ordinal)>,
    /// What those who left did last, until the tables know it.
    left: HashMap<Ordinal, Activity>,
    /// What is being written.
    slice: Vec<(Ordinal, Activity)>,
}

impl Ledger {
    /// The activity of `ord` is to be written, a step from now.
    pub(crate) fn note(&mut self, ord: Ordinal, now: Tick) {
        self.noted.push_back((now, ord));
    }

    /// `ord` left and did this last.
    pub(crate) fn handle_left(&mut self, ord: Ordinal, last: Activity) {
        self.left.insert(ord, last);
    }

    /// `ord` is connected again; its session knows better.
    pub(crate) fn handle_back(&mut self, ord: Ordinal) {
        self.left.remove(&ord);
    }

    /// What `ord`, who left, did last, if the tables do not know it.
    pub(crate) fn last_of(&self, ord: Ordinal) -> Option<Activity> {
        self.left.get(&ord).copied()
    }

    /// When the next one is due; none while a slice is being written, whose end is told.
    pub(crate) fn due(&self) -> Option<Tick> {
        let first = self.noted.front().filter(|_| self.slice.is_empty());
        first.map(|(noted, _)| noted.after(ACTIVITY_STEP))
    }

    /// Takes those who are due at `now`, as many as a slice holds.
    pub(crate) fn take_due(&mut self, now: Tick) -> Vec<Ordinal> {
        let mut due = Vec::new();
        while due.len() < ACTIVITY_SLICE_ROWS_MAX && self.due().is_some_and(|at| at <= now) {
            due.extend(self.noted.pop_front().map(|(_, ord)| ord));
        }
        due
    }

    /// Takes any, as many as a slice holds: the hub is going.
    pub(crate) fn take_any(&mut self) -> Vec<Ordinal> {
        let count = self.noted.len().min(ACTIVITY_SLICE_ROWS_MAX);
        self.noted.drain(..count).map(|(_, ord)| ord).collect()
    }

    /// `slice` goes to the tables now.
    pub(crate) fn handle_writing(&mut self, slice: &[(Ordinal, Activity)]) {
        self.slice = slice.to_vec();
    }

    /// The slice is in the tables.
    pub(crate) fn handle_written(&mut self) {
        for (ord, written) in std::mem::take(&mut self.slice) {
            if self.left.get(&ord) == Some(&written) {
                self.left.remove(&ord);
            }
        }
    }

    /// Nothing is being written any more; what did not get into the tables is noted again.
    pub(crate) fn handle_answered(&mut self, now: Tick) {
        let failed = std::mem::take(&mut self.slice);
        self.noted.extend(failed.into_iter().map(|(ord, _)| (now, ord)));
    }
}

#[cfg(test)]
mod tests {
    use model::time::WallTime;

    use super::*;

    /// A step after the first tick.
    fn step() -> u64 {
        Tick(0).after(ACTIVITY_STEP).0
    }

    fn at(ms: i64) -> Activity {
        Activity { connection_updated: WallTime(1), last_activity: WallTime(ms) }
    }

    #[test]
    fn whoever_is_noted_is_due_a_step_later_in_slices_one_at_a_time() {
        let mut ledger = Ledger::default();
        let all: Vec<_> = (0..3000).map(Ordinal).collect();
        for ord in &all {
            ledger.note(*ord, Tick(5));
        }
        assert_eq!(ledger.take_due(Tick(step() + 4)), []);
        assert_eq!(ledger.due(), Some(Tick(step() + 5)));
        let first = ledger.take_due(Tick(step() + 5));
        assert_eq!(first, all[..ACTIVITY_SLICE_ROWS_MAX]);
        let slice: Vec<_> = first.into_iter().map(|ord| (ord, at(7))).collect();
        ledger.handle_writing(&slice);
        assert_eq!((ledger.due(), ledger.take_due(Tick(10 * step()))), (None, vec![]));
        ledger.handle_written();
        ledger.handle_answered(Tick(9));
        assert_eq!(ledger.take_due(Tick(step() + 5)), all[ACTIVITY_SLICE_ROWS_MAX..]);
        assert_eq!(ledger.due(), None);
    }

    #[test]
    fn what_was_not_written_is_written_again_and_what_left_meanwhile_stays() {
        let mut ledger = Ledger::default();
        let ord = Ordinal(1);
        ledger.note(ord, Tick(0));
        ledger.handle_left(ord, at(7));
        assert_eq!(ledger.take_any(), [ord]);
        ledger.handle_writing(&[(ord, at(7))]);
        ledger.handle_answered(Tick(3));
        assert_eq!((ledger.last_of(ord), ledger.due()), (Some(at(7)), Some(Tick(step() + 3))));
        assert_eq!(ledger.take_any(), [ord]);
        ledger.handle_writing(&[(ord, at(7))]);
        ledger.handle_left(ord, at(8));
        ledger.handle_written();
        assert_eq!(ledger.last_of(ord), Some(at(8)), "newer than what was written");
        ledger.handle_writing(&[(ord, at(8))]);
        ledger.handle_written();
        assert_eq!(ledger.last_of(ord), None);
    }
}
