//! The one writer of a log.

use std::ops::Range;
use std::sync::Arc;

use super::{
    CommitError, Committed, LaneId, LogOptions, OpenLogError, Position, Reader, Record, Recovered,
    StageError,
};
use crate::disk::Disk;

/// The one writer of a log.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Opens the log on `disk`, or starts one. `instance` is fresh chance that marks a new log;
    /// an existing one keeps its own.
    ///
    /// # Errors
    /// [`OpenLogError`]. Damage is no error: it is reported in [`Recovered`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        instance: u128,
        now_ms: i64,
    ) -> Result<(Self, Recovered), OpenLogError> {
        todo!("{disk:?} {options:?} {instance} {now_ms}")
    }

    /// A reader of this log.
    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// Takes `records` into the next commit, all or none, and says which positions they get if
    /// that succeeds.
    ///
    /// # Errors
    /// [`StageError`]; nothing was taken.
    pub fn stage(&mut self, records: &[Record]) -> Result<Range<Position>, StageError> {
        todo!("{records:?}")
    }

    /// Takes a lane's cursor into the next commit.
    pub fn stage_cursor(&mut self, lane: LaneId, cursor: Position) {
        todo!("{lane} {cursor}")
    }

    /// Writes and syncs what was staged. With nothing staged it does nothing and proves the end.
    ///
    /// # Errors
    /// [`CommitError`]: nothing of the batch may be acknowledged, and it is no longer staged.
    pub fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError> {
        todo!("{now_ms}")
    }

    /// Removes whole segments that retention gives up. Returns the bytes freed.
    pub fn retain(&mut self, now_ms: i64) -> u64 {
        todo!("{now_ms}")
    }
}
