//! What a log finds when it opens.

use super::Position;

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments in use.
    pub segments: usize,
    /// Where the next record goes.
    pub end: Position,
    /// Bytes at the tail of the last segment that were never committed and are ignored.
    pub tail_bytes: u64,
    /// What was committed once and cannot be read any more.
    pub damaged: Vec<Damage>,
}

/// A stretch of the log that cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file; it ends in `.damaged` if the whole of it was put aside.
    pub file: String,
    /// The first position that may be missing.
    pub from: Position,
    /// The first position after it that is not.
    pub to: Position,
}
