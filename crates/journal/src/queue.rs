//! Store and forward: lanes with durable cursors on top of the log.
//!
//! A lane is (endpoint, priority). Per endpoint the lane of the best priority with work goes
//! first; inside a lane records are delivered in order, may be acknowledged in any order, and
//! come again after a restart unless their acknowledgement was committed.

use std::sync::Arc;

use crate::disk::Disk;
use crate::log::{
    Budget, CommitError, Committed, LaneId, LogOptions, OpenLogError, Position, ReadError, Record,
    Recovered, StageError, StoredRecord,
};

/// Most records of one lane that are delivered and not acknowledged.
pub const WINDOW_RECORDS_MAX: usize = 1_000;

/// The queue; one owner.
#[derive(Debug)]
pub struct Queue {}

/// Records of one lane, in order, handed out and to be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The lane.
    pub lane: LaneId,
    /// At least one.
    pub records: Vec<StoredRecord>,
}

/// How a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStats {
    /// The lane.
    pub lane: LaneId,
    /// Its endpoint.
    pub endpoint: Box<str>,
    /// Its priority; smaller goes first.
    pub priority: u32,
    /// Records not yet acknowledged (those that expired unseen included).
    pub depth: u64,
    /// Their bytes on disk; a body shared by several lanes counts in each.
    pub bytes: u64,
    /// Age of the oldest in milliseconds.
    pub oldest_ms: Option<i64>,
    /// Records dropped because they expired, since the queue was opened.
    pub expired: u64,
    /// Everything before this is done with.
    pub cursor: Position,
}

impl Queue {
    /// Opens the queue on `disk`, or starts one.
    ///
    /// # Errors
    /// As [`crate::log::Log::open`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        instance: u128,
        now_ms: i64,
    ) -> Result<(Self, Recovered), OpenLogError> {
        todo!("{disk:?} {options:?} {instance} {now_ms}")
    }

    /// The lane of `endpoint` and `priority`; made if new, durable with the next commit. The id
    /// stays the same over restarts.
    pub fn lane(&mut self, endpoint: &str, priority: u32) -> LaneId {
        todo!("{endpoint} {priority}")
    }

    /// The lanes of `endpoint`, best priority (smallest number) first.
    pub fn lanes(&self, endpoint: &str) -> Vec<LaneId> {
        todo!("{endpoint}")
    }

    /// Takes `records` into the next commit, all or none.
    ///
    /// # Errors
    /// [`StageError`]; `Full` is the policy "reject new".
    pub fn stage(&mut self, records: &[Record]) -> Result<(), StageError> {
        todo!("{records:?}")
    }

    /// Writes and syncs staged records and the cursors that moved.
    ///
    /// # Errors
    /// As [`crate::log::Log::commit`]; cursors that did not make it are staged again.
    pub fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError> {
        todo!("{now_ms}")
    }

    /// The next records of the first of `lanes` that has any, within `budget`. They are in
    /// flight until [`Queue::acknowledge`] or [`Queue::rewind`]. Expired ones are dropped.
    ///
    /// # Errors
    /// [`ReadError`]; trying again is fine.
    pub fn next(
        &mut self,
        lanes: &[LaneId],
        budget: Budget,
        now_ms: i64,
    ) -> Result<Option<Delivery>, ReadError> {
        todo!("{lanes:?} {budget:?} {now_ms}")
    }

    /// Marks one record in flight as done. The cursor moves with the next commit. Unknown
    /// positions are ignored: every acknowledgement may come twice.
    pub fn acknowledge(&mut self, lane: LaneId, position: Position) {
        todo!("{lane} {position}")
    }

    /// Takes everything of `lane` that is in flight back; it is delivered again, in order,
    /// without what was acknowledged meanwhile.
    pub fn rewind(&mut self, lane: LaneId) {
        todo!("{lane}")
    }

    /// Gives up everything stored for `endpoint`.
    pub fn drop_endpoint(&mut self, endpoint: &str) {
        todo!("{endpoint}")
    }

    /// How every lane stands, by lane.
    ///
    /// # Errors
    /// [`ReadError`] if the oldest record of a lane cannot be read.
    pub fn stats(&self, now_ms: i64) -> Result<Vec<LaneStats>, ReadError> {
        todo!("{now_ms}")
    }

    /// Unlinks the oldest segments that every lane has passed or whose records expired. Returns
    /// the bytes freed.
    pub fn reclaim(&mut self, now_ms: i64) -> u64 {
        todo!("{now_ms}")
    }
}
