//! What a log finds when it opens.

use std::collections::BTreeMap;
use std::io;

use super::frame::{Fields, Frame, HEAD_BYTES, Kind};
use super::index::{Entry, SegmentIndex};
use super::segment::HEADER_BYTES;
use super::{LaneId, Position};
use crate::disk::DiskFile;

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

/// What the log remembers of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LaneState {
    pub(super) cursor: u64,
    pub(super) label: Option<Box<str>>,
}

/// The label length that says "as before".
const LABEL_KEPT: u16 = u16::MAX;

/// Appends the state of `lane` to the payload of a lanes frame.
pub(super) fn push_lane(out: &mut Vec<u8>, lane: LaneId, state: &LaneState, with_label: bool) {
    out.extend_from_slice(&lane.0.to_le_bytes());
    out.extend_from_slice(&state.cursor.to_le_bytes());
    match state.label.as_deref().filter(|_| with_label) {
        None => out.extend_from_slice(&LABEL_KEPT.to_le_bytes()),
        Some(label) => {
            out.extend_from_slice(&u16::try_from(label.len()).unwrap_or(0).to_le_bytes());
            out.extend_from_slice(label.as_bytes());
        }
    }
}

fn apply_lanes(lanes: &mut BTreeMap<LaneId, LaneState>, payload: &[u8]) -> Option<()> {
    let mut fields = Fields(payload);
    while !fields.0.is_empty() {
        let state = lanes.entry(LaneId(fields.u32()?)).or_default();
        state.cursor = fields.u64()?;
        let length = fields.u16()?;
        if length != LABEL_KEPT {
            let text = std::str::from_utf8(fields.take(usize::from(length))?).ok()?;
            state.label = Some(text.into());
        }
    }
    Some(())
}

/// What reading a segment through brought.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) index: SegmentIndex,
    pub(super) lanes: BTreeMap<LaneId, LaneState>,
    pub(super) end: u64,
    pub(super) tail: u64,
    pub(super) last_ms: i64,
    /// Whether the index frame was met.
    pub(super) closed: bool,
    /// Where the last commit that was read began.
    pub(super) last_batch: u64,
    /// Whether the first frame, the state of all lanes, was readable.
    pub(super) has_lanes: bool,
    pub(super) ignored: u64,
    pub(super) damaged: Vec<(u64, u64)>,
}

/// What is known of the segment before reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) seed: u32,
    pub(super) first: u64,
    /// Where its committed frames end, if the next segment says so.
    pub(super) tail: Option<u64>,
    /// The first position of the next segment.
    pub(super) next: Option<u64>,
}

/// Reads a segment through, over damage.
pub(super) fn scan(file: &dyn DiskFile, known: Known) -> io::Result<Scan> {
    let length = file.length()?;
    let limit = known.tail.map_or(length, |tail| tail.min(length));
    let mut bytes = vec![0; usize::try_from(limit).unwrap_or(0)];
    let filled = file.read_at(0, &mut bytes)?;
    bytes.truncate(filled);
    let head = usize::try_from(HEADER_BYTES).unwrap_or(0);
    let mut scan = Scan { end: known.first, last_ms: i64::MIN, ..Scan::default() };
    let mut at = head;
    while let Some(frame) = take(&bytes, at, known, &mut scan) {
        at = frame;
    }
    scan.tail = known.tail.unwrap_or(at as u64);
    // Without its tail the next segment is not the next one: what lies between is not ours.
    if let Some(next) = known.next
        && known.tail.is_some()
        && scan.end < next
    {
        scan.damaged.push((scan.end, next));
        scan.end = next;
    }
    if !scan.has_lanes && scan.damaged.is_empty() {
        // It was synced before the segment got its name.
        scan.damaged.push((known.first, known.first));
    }
    if known.next.is_none() && !scan.closed {
        let rest = bytes.get(at..).unwrap_or_default();
        scan.ignored = last_written(rest).map_or(0, |last| last as u64 + 1);
    }
    Ok(scan)
}

/// Takes the frame at `at`, or the next that can be read if there is damage before it. Says
/// where to go on; `None` at the end.
fn take(bytes: &[u8], at: usize, known: Known, scan: &mut Scan) -> Option<usize> {
    if scan.closed || bytes.len().saturating_sub(at) < HEAD_BYTES {
        return None;
    }
    let rest = bytes.get(at..)?;
    let fits = |frame: &Frame<'_>| {
        frame.position >= scan.end
            && frame.batch <= at as u64
            && known.next.is_none_or(|next| frame.position <= next)
    };
    let frame = Frame::parse(known.seed, rest).filter(fits);
    let frame = frame.filter(|frame| frame.position == scan.end);
    let (at, frame) = if let Some(frame) = frame {
        (at, frame)
    } else {
        let found = resume(bytes, at, known, scan)?;
        if found.1.position > scan.end || found.1.kind == Kind::Record {
            scan.damaged.push((scan.end, found.1.position));
        } else {
            scan.damaged.push((scan.end, scan.end));
        }
        scan.end = found.1.position;
        found
    };
    if frame.kind != Kind::Index {
        scan.last_batch = frame.batch;
    }
    match frame.kind {
        Kind::Index => {
            scan.closed = true;
            return Some(at);
        }
        Kind::Lanes => {
            scan.has_lanes |= at as u64 == HEADER_BYTES;
            // A frame whose checksum holds was written by this code and can be read by it.
            let _: Option<()> = apply_lanes(&mut scan.lanes, frame.payload);
        }
        Kind::Record => {
            if known.next == Some(frame.position) {
                return None;
            }
            let (position, offset) = (frame.position, at as u64);
            let entry = Entry { position, offset, length: frame.length };
            for lane in frame.lanes() {
                scan.index.push(lane, entry, frame.enqueued_ms, frame.expires_ms);
            }
            scan.last_ms = scan.last_ms.max(frame.enqueued_ms);
            scan.end = frame.position + 1;
        }
    }
    Some(at + usize::try_from(frame.length).ok()?)
}

/// Where the last byte is that is not zero. What was preallocated is megabytes of zeros.
fn last_written(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let is_written = |block: &[u8]| ZEROS.get(..block.len()) != Some(block);
    let block = bytes.chunks(ZEROS.len()).rposition(is_written)?;
    let start = block * ZEROS.len();
    let last = bytes.get(start..)?.iter().take(ZEROS.len()).rposition(|byte| *byte != 0)?;
    Some(start + last)
}

/// The first frame behind the bad place at `at`, if the bad place was synced once: if the segment
/// is known to be whole up to there, or a frame of a later commit follows. Frames of the same
/// commit alone prove nothing: power may have failed in the middle of that write.
fn resume<'a>(bytes: &'a [u8], at: usize, known: Known, scan: &Scan) -> Option<(usize, Frame<'a>)> {
    let last = last_written(bytes)?;
    let mut first = None;
    let mut candidate = at + 1;
    while candidate <= last {
        let Some(frame) = plausible(bytes, candidate, known, scan) else {
            candidate += 1;
            continue;
        };
        let is_proof = known.tail.is_some() || frame.batch > at as u64;
        let length = usize::try_from(frame.length).ok()?;
        let found = first.get_or_insert((candidate, frame));
        if is_proof {
            return Some(*found);
        }
        candidate += length;
    }
    None
}

/// The frame at `candidate` if it can be one of this segment behind what was read.
fn plausible<'a>(
    bytes: &'a [u8],
    candidate: usize,
    known: Known,
    scan: &Scan,
) -> Option<Frame<'a>> {
    let rest = bytes.get(candidate..)?;
    let mut fields = Fields(rest);
    let length = u64::from(fields.u32()?);
    fields.take(4)?;
    let position = fields.u64()?;
    let position_max = scan.end.saturating_add((bytes.len() / HEAD_BYTES) as u64);
    let fits = (HEAD_BYTES as u64..=rest.len() as u64).contains(&length)
        && (scan.end..=position_max).contains(&position)
        && known.next.is_none_or(|next| position <= next);
    // Cheap questions first: a checksum is asked for only where a frame can be.
    let frame = if fits { Frame::parse(known.seed, rest)? } else { return None };
    (frame.batch <= candidate as u64).then_some(frame)
}

/// The index of a closed segment, from its index frame or by reading it through.
pub(super) fn load_index(file: &dyn DiskFile, known: Known) -> io::Result<SegmentIndex> {
    match read_index(file, known)? {
        Some(index) => Ok(index),
        None => Ok(scan(file, known)?.index),
    }
}

/// The index frame behind the committed frames, if there is one that fits the segment.
pub(super) fn read_index(file: &dyn DiskFile, known: Known) -> io::Result<Option<SegmentIndex>> {
    let (Some(tail), Some(end)) = (known.tail, known.next) else { return Ok(None) };
    let room = usize::try_from(file.length()?.saturating_sub(tail)).unwrap_or(0);
    let mut head = [0; 4];
    if file.read_at(tail, &mut head)? < head.len() {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(0);
    if length < HEAD_BYTES || length > room {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    file.read_at(tail, &mut bytes)?;
    let frame = Frame::parse(known.seed, &bytes);
    let frame = frame.filter(|frame| frame.kind == Kind::Index && frame.position == end);
    let index = frame.and_then(|frame| SegmentIndex::decode(frame.payload));
    Ok(index.filter(|index| index.is_sound(known.first..end, HEADER_BYTES..tail)))
}
