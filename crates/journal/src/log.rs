//! The log: records in preallocated segments, one write and one sync per commit.
//!
//! A record belongs to one or more lanes; its body is stored once. Positions are global and
//! dense over the records of the whole log, so within one lane they ascend with gaps.
//! [`Log`] is the one writer; [`Reader`]s are cheap clones that see only what was committed.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

mod frame;
mod index;
mod reader;
mod recovery;
mod segment;
mod writer;

pub use reader::{Bounds, ReadBatch, Reader};
pub use recovery::{Damage, Recovered};
#[cfg(test)]
pub(crate) use writer::BATCH_BYTES_MAX;
pub use writer::Log;

pub(crate) use frame::record_bytes as frame_bytes;
pub(crate) use index::Totals;

/// Most bytes of one payload.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Most lanes of one record.
pub const RECORD_LANES_MAX: usize = 64;
/// Most bytes of a lane's label.
pub const LABEL_BYTES_MAX: usize = 1024;
/// Smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
/// Largest segment, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The place of a record in the log, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first record.
    pub const START: Self = Self(0);

    /// The place `count` records later, saturating.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lane: a partition of the hub, or an endpoint and priority of the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whom it concerns: 1 to [`RECORD_LANES_MAX`], each once.
    pub lanes: Box<[LaneId]>,
    /// When it was enqueued, milliseconds of UTC.
    pub enqueued_ms: i64,
    /// From when on it is not delivered any more, milliseconds of UTC.
    pub expires_ms: Option<i64>,
    /// The bytes, at most [`PAYLOAD_BYTES_MAX`]. Copied when staged.
    pub payload: Bytes,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in the log.
    pub position: Position,
    /// When it was enqueued, milliseconds of UTC.
    pub enqueued_ms: i64,
    /// From when on it is not delivered any more, milliseconds of UTC.
    pub expires_ms: Option<i64>,
    /// The bytes: a slice of the buffer of one read, so keep a copy rather than a clone if it
    /// is to live longer than its batch.
    pub payload: Bytes,
    /// Its bytes on disk, which all of its lanes share.
    pub disk_bytes: u64,
}

/// How much one read may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most records.
    pub records: usize,
    /// Most payload bytes; the first record comes even if it alone is larger.
    pub bytes: usize,
}

/// When the oldest segments go although nobody asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// A segment goes when its newest record is older than this many milliseconds.
    pub age_ms: Option<i64>,
    /// The oldest segments go while the log is larger than this many bytes.
    pub bytes: Option<u64>,
}

/// The settings of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a preallocated segment, [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u64,
    /// Hard cap of the whole log in bytes: records beyond it are refused, cursors are not.
    pub bytes_max: Option<u64>,
    /// Applied by [`Log::retain`].
    pub retention: Retention,
}

impl Default for LogOptions {
    /// 64 MiB segments, no cap, no retention.
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, bytes_max: None, retention: Retention::default() }
    }
}

/// Proof that everything before [`Committed::end`] is on disk. Only this crate can make one, and
/// only from a sync that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    end: Position,
}

impl Committed {
    /// The first position that is not covered.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Whether the record at `position` is on disk.
    pub fn covers(&self, position: Position) -> bool {
        position < self.end
    }
}

/// Why a record was not staged. Nothing of its batch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// The payload is too large; it never fits.
    #[error("a payload of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit: [`PAYLOAD_BYTES_MAX`] or what fits into a segment.
        limit: usize,
    },
    /// The record names no lane, too many, or one twice.
    #[error("a record belongs to 1 to {RECORD_LANES_MAX} different lanes")]
    Lanes,
    /// The batch is as large as one write may be: commit, then stage again.
    #[error("the batch is full; commit first")]
    CommitFirst,
    /// The log has reached its cap in bytes: try again after readers have caught up.
    #[error("the log has reached its limit of {limit} bytes")]
    Full {
        /// The cap.
        limit: u64,
    },
}

/// Why nothing of a batch may be acknowledged. Its records are not readable; after a power cut
/// they may exist or not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk has no room for another segment.
    #[error("no room for another segment")]
    NoSpace(#[source] Arc<io::Error>),
    /// Writing or syncing failed; the segment was closed.
    #[error("cannot write the journal")]
    Disk(#[source] Arc<io::Error>),
    /// Not even staged, see the source. Only [`crate::worker`] says so.
    #[error("the journal refused the records")]
    Refused(#[source] StageError),
    /// The journal was closed before the batch's turn came.
    #[error("the journal is closed")]
    Closed,
    /// What its sender sent before it was not kept. Only [`crate::worker::Chain::break_off`]
    /// says so.
    #[error("what was sent before it was not kept")]
    Behind,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The options make no sense.
    #[error("a segment of {0} bytes is outside the limits")]
    SegmentBytes(u64),
    /// A segment was written by a newer version of this program.
    #[error("segment {file} has format version {version}, this program knows up to {known}")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
        /// The newest we read.
        known: u32,
    },
    /// The disk failed.
    #[error("cannot {action} {file}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a read brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("cannot read the journal")]
    Disk(#[from] io::Error),
}
