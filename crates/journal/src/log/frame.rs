//! One frame of a segment, format version 1. Numbers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | length of the whole frame |
//! | 4 | 4 | CRC32C of the segment's seed and of everything but this field |
//! | 8 | 8 | position of the record; of the next record in other frames |
//! | 16 | 8 | enqueued, milliseconds of UTC |
//! | 24 | 4 | offset in the segment where the commit of this frame began |
//! | 28 | 1 | kind: 1 record, 2 lanes, 3 index |
//! | 29 | 1 | flags: 1 = expires |
//! | 30 | 2 | number of lanes |
//! | 32 | 8 | expiry, milliseconds of UTC, if flagged |
//! | … | 4 each | lanes |
//! | … | … | payload |
//!
//! The place of the commit tells a torn tail from damage: a frame whose commit began behind a
//! bad place proves that the bad place had been synced.

use super::{LaneId, Record};

/// Bytes before expiry, lanes and payload.
pub(super) const HEAD_BYTES: usize = 32;

/// Beyond every position that is ever reached, and far from where numbers end: whoever counts
/// on from a position in a file need not look out.
pub(super) const POSITION_MAX: u64 = 1 << 62;

const FLAG_EXPIRES: u8 = 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record,
    Lanes,
    Index,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Record => 1,
            Self::Lanes => 2,
            Self::Index => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Record),
            2 => Some(Self::Lanes),
            3 => Some(Self::Index),
            _ => None,
        }
    }
}

/// A frame that was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) length: u64,
    pub(super) position: u64,
    pub(super) enqueued_ms: i64,
    pub(super) batch: u64,
    pub(super) kind: Kind,
    pub(super) expires_ms: Option<i64>,
    pub(super) lanes: &'a [u8],
    /// Where the payload begins, from the start of the frame.
    pub(super) payload_at: usize,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, if its checksum holds.
    pub(super) fn parse(seed: u32, bytes: &'a [u8]) -> Option<Self> {
        let length = Fields(bytes).u32()?;
        let whole = bytes.get(..usize::try_from(length).ok()?)?;
        let mut fields = Fields(whole);
        let (length_field, crc) = (fields.take(4)?, fields.u32()?);
        let frame = Self::fields(whole.len(), &mut fields)?;
        if frame.position > POSITION_MAX {
            return None;
        }
        // Last, for it is the dearest.
        (checksum(seed, length_field, whole.get(8..)?) == crc).then_some(frame)
    }

    fn fields(length: usize, fields: &mut Fields<'a>) -> Option<Self> {
        let position = fields.u64()?;
        let enqueued_ms = fields.i64()?;
        let batch = u64::from(fields.u32()?);
        let kind = Kind::from_code(fields.u8()?)?;
        let flags = fields.u8()?;
        let lane_count = usize::from(fields.u16()?);
        let expires_ms = if flags & FLAG_EXPIRES == 0 { None } else { Some(fields.i64()?) };
        let lanes = fields.take(lane_count * 4)?;
        let payload = fields.0;
        let payload_at = length - payload.len();
        let length = length as u64;
        Some(Self {
            length,
            position,
            enqueued_ms,
            batch,
            kind,
            expires_ms,
            lanes,
            payload_at,
            payload,
        })
    }

    /// The lanes of a record.
    pub(super) fn lanes(&self) -> impl Iterator<Item = LaneId> + 'a {
        self.lanes.as_chunks::<4>().0.iter().map(|bytes| LaneId(u32::from_le_bytes(*bytes)))
    }
}

/// The size of `record` as a frame.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let expiry = if record.expires_ms.is_some() { 8 } else { 0 };
    HEAD_BYTES + expiry + record.lanes.len() * 4 + record.payload.len()
}

/// Appends `record`; [`seal`] completes it.
pub(super) fn push_record(out: &mut Vec<u8>, position: u64, record: &Record) {
    let flags = if record.expires_ms.is_some() { FLAG_EXPIRES } else { 0 };
    let length = record_bytes(record);
    push_head(out, length, position, record.enqueued_ms, Kind::Record);
    out.push(flags);
    out.extend_from_slice(&u16::try_from(record.lanes.len()).unwrap_or(0).to_le_bytes());
    if let Some(expires_ms) = record.expires_ms {
        out.extend_from_slice(&expires_ms.to_le_bytes());
    }
    for lane in &record.lanes {
        out.extend_from_slice(&lane.0.to_le_bytes());
    }
    out.extend_from_slice(&record.payload);
}

/// Appends a frame of another kind; [`seal`] completes it.
pub(super) fn push_other(out: &mut Vec<u8>, kind: Kind, position: u64, at_ms: i64, payload: &[u8]) {
    push_head(out, HEAD_BYTES + payload.len(), position, at_ms, kind);
    out.extend_from_slice(&[0, 0, 0]);
    out.extend_from_slice(payload);
}

fn push_head(out: &mut Vec<u8>, length: usize, position: u64, at_ms: i64, kind: Kind) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&at_ms.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(kind.code());
}

/// Completes all frames of one commit that begins at `batch` in the segment of `seed`.
pub(super) fn seal(frames: &mut [u8], seed: u32, batch: u64) {
    let batch = u32::try_from(batch).unwrap_or(u32::MAX).to_le_bytes();
    let mut rest = frames;
    while let Some(length) = Fields(rest).u32() {
        let Some((frame, behind)) = rest.split_at_mut_checked(length as usize) else { return };
        if let Some(place) = frame.get_mut(24..28) {
            place.copy_from_slice(&batch);
        }
        let Some((head, body)) = frame.split_at_mut_checked(8) else { return };
        let Some((length_field, place)) = head.split_at_mut_checked(4) else { return };
        place.copy_from_slice(&checksum(seed, length_field, body).to_le_bytes());
        rest = behind;
    }
}

fn checksum(seed: u32, length_field: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, length_field), body)
}

/// Takes little-endian fields off the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}
