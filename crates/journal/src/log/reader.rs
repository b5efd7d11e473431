//! Reading what was committed.

use super::{Budget, LaneId, Position, ReadError, StoredRecord};

/// Reads committed records; clones are cheap and never block the writer.
#[derive(Clone, Debug)]
pub struct Reader {}

/// Where the log begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest position still kept.
    pub oldest: Position,
    /// The position the next record gets.
    pub end: Position,
}

/// The outcome of one read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBatch {
    /// The records, ascending.
    pub records: Vec<StoredRecord>,
    /// Where to read on.
    pub next: Position,
    /// The log when this was read. `from < bounds.oldest` means retention overtook the reader;
    /// `next >= bounds.end` means it is at the end.
    pub bounds: Bounds,
    /// Records of this stretch that could not be read because their bytes are damaged.
    pub damaged: usize,
}

impl Reader {
    /// The records of `lane` from `from` on, within `budget`.
    ///
    /// # Errors
    /// [`ReadError`] if the disk failed; trying again is fine.
    pub fn read(
        &self,
        lane: LaneId,
        from: Position,
        budget: Budget,
    ) -> Result<ReadBatch, ReadError> {
        todo!("{lane} {from} {budget:?}")
    }

    /// The first position of `lane` that was enqueued at or after `at_ms` (milliseconds of
    /// UTC); the end if there is none.
    ///
    /// # Errors
    /// [`ReadError`] if the disk failed.
    pub fn seek(&self, lane: LaneId, at_ms: i64) -> Result<Position, ReadError> {
        todo!("{lane} {at_ms}")
    }

    /// Where the log begins and ends now.
    pub fn bounds(&self) -> Bounds {
        todo!()
    }
}
