//! The head of a segment, format version 1. Numbers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `SELVJRNL` |
//! | 8 | 4 | format version |
//! | 12 | 4 | 0 |
//! | 16 | 16 | instance of the log |
//! | 32 | 8 | number of the segment |
//! | 40 | 8 | position of its first record |
//! | 48 | 8 | number of the last segment before it that has a record; 0 if there is none |
//! | 56 | 8 | where the committed frames of that segment end |
//! | 64 | 8 | created, milliseconds of UTC |
//! | 72 | 4 | CRC32C of bytes 0–71 |
//!
//! Behind it a frame with the state of all lanes, then the commits. A segment that was closed
//! in order ends with a frame that holds its index, and is cut to size.

use super::frame::{Fields, POSITION_MAX};

/// Bytes before the first frame.
pub(super) const HEADER_BYTES: u64 = 76;
/// What this program writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"SELVJRNL";
const SUFFIX: &str = ".segment";

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) instance: u128,
    pub(super) number: u64,
    pub(super) first: u64,
    pub(super) previous: u64,
    pub(super) previous_end: u64,
    pub(super) created_ms: i64,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged,
    Version(u32),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.instance.to_le_bytes());
        for number in [self.number, self.first, self.previous, self.previous_end] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadHeader> {
        let mut fields = Fields(bytes);
        let (Some(magic), Some(version)) = (fields.take(8), fields.u32()) else {
            return Err(BadHeader::Damaged);
        };
        if magic != MAGIC {
            return Err(BadHeader::Damaged);
        }
        let covered = bytes.get(..72).ok_or(BadHeader::Damaged)?;
        let crc = bytes.get(72..).and_then(|rest| Fields(rest).u32()).ok_or(BadHeader::Damaged)?;
        if crc32c::crc32c(covered) != crc {
            return Err(BadHeader::Damaged);
        }
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let header = Self::fields(&mut fields).ok_or(BadHeader::Damaged)?;
        let is_sane = header.first <= POSITION_MAX && header.number <= POSITION_MAX;
        if is_sane { Ok(header) } else { Err(BadHeader::Damaged) }
    }

    fn fields(fields: &mut Fields<'_>) -> Option<Self> {
        fields.take(4)?;
        Some(Self {
            instance: fields.u128()?,
            number: fields.u64()?,
            first: fields.u64()?,
            previous: fields.u64()?,
            previous_end: fields.u64()?,
            created_ms: fields.i64()?,
        })
    }

    /// Mixed into every checksum of the segment, so that no frame is valid in another.
    pub(super) fn seed(&self) -> u32 {
        let seed = crc32c::crc32c(&self.instance.to_le_bytes());
        crc32c::crc32c_append(seed, &self.number.to_le_bytes())
    }
}

/// The file of segment `number`.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016}{SUFFIX}")
}

/// Whether `name` is the file of a segment.
pub(super) fn is_segment(name: &str) -> bool {
    name.ends_with(SUFFIX)
}
