//! Where the records of each lane lie in one segment.
//!
//! Entries are runs of varints (how much position and offset grew, length of the frame), in
//! blocks that can be entered on their own. The encoded form is also what a closed segment
//! carries in its index frame:
//! `u32 lanes`, then per lane `u32 lane`, six 64-bit totals, `u32 blocks`, `u32 bytes`, the
//! blocks (`u64 position, u64 offset, i64 ms, u32 at`) and the bytes. The `ms` of a block is the
//! latest time up to its first entry, so that it ascends although a clock may have gone back.

use std::collections::BTreeMap;
use std::ops::Range;

use super::LaneId;
use super::frame::Fields;

/// Entries per block.
const BLOCK_ENTRIES: u64 = 128;

/// Where one record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What one lane has in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) last_ms: i64,
    /// When the last of them expires; `i64::MAX` if one never does.
    pub(crate) expires_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    position: u64,
    offset: u64,
    ms: i64,
    at: u32,
}

/// The entries of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneIndex {
    pub(crate) totals: Totals,
    blocks: Vec<Block>,
    encoded: Vec<u8>,
    last_offset: u64,
}

impl LaneIndex {
    pub(crate) fn push(&mut self, entry: Entry, ms: i64, expires_ms: Option<i64>) {
        if self.totals.count > 0 && entry.position <= self.totals.last {
            // Only a file that we did not write names a lane twice.
            return;
        }
        if self.totals.count.is_multiple_of(BLOCK_ENTRIES) {
            let at = u32::try_from(self.encoded.len()).unwrap_or(u32::MAX);
            let ms = if self.totals.count == 0 { ms } else { self.totals.last_ms.max(ms) };
            self.blocks.push(Block { position: entry.position, offset: entry.offset, ms, at });
            put(&mut self.encoded, 0);
            put(&mut self.encoded, 0);
        } else {
            put(&mut self.encoded, entry.position - self.totals.last);
            put(&mut self.encoded, entry.offset - self.last_offset);
        }
        put(&mut self.encoded, entry.length);
        let totals = &mut self.totals;
        if totals.count == 0 {
            (totals.first, totals.last_ms, totals.expires_ms) = (entry.position, ms, i64::MIN);
        }
        totals.count += 1;
        totals.bytes += entry.length;
        totals.last = entry.position;
        totals.last_ms = totals.last_ms.max(ms);
        totals.expires_ms = totals.expires_ms.max(expires_ms.unwrap_or(i64::MAX));
        self.last_offset = entry.offset;
    }

    /// The entries at `from` and behind.
    pub(crate) fn from(&self, from: u64) -> impl Iterator<Item = Entry> + '_ {
        let block = self.blocks.partition_point(|block| block.position <= from).saturating_sub(1);
        Entries { index: self, block, bytes: &[], position: 0, offset: 0 }
            .skip_while(move |entry| entry.position < from)
    }

    /// See [`SegmentIndex::is_sound`].
    fn is_sound(&self, positions: &Range<u64>, offsets: &Range<u64>) -> Option<()> {
        let mut totals = Totals { first: positions.end, ..self.totals };
        (totals.count, totals.bytes) = (0, 0);
        let (mut position, mut offset) = (positions.start, offsets.start);
        let blocks = self.blocks.iter().map(|block| (block.position, u64::from(block.at)));
        if !blocks.clone().is_sorted() || blocks.count() as u64 > self.totals.count {
            return None;
        }
        for entry in self.from(0) {
            let end = entry.offset.checked_add(entry.length)?;
            let fits = positions.contains(&entry.position)
                && entry.position >= position
                && entry.offset >= offset
                && end <= offsets.end;
            fits.then_some(())?;
            totals.first = totals.first.min(entry.position);
            (totals.count, totals.bytes) = (totals.count + 1, totals.bytes + entry.length);
            (totals.last, position, offset) = (entry.position, entry.position + 1, end);
        }
        (totals == self.totals && totals.count > 0).then_some(())
    }

    /// A position at or before the first record enqueued at or after `at_ms`, at most a block
    /// before it.
    pub(crate) fn hint(&self, at_ms: i64) -> u64 {
        let block = self.blocks.partition_point(|block| block.ms < at_ms).saturating_sub(1);
        self.blocks.get(block).map_or(self.totals.first, |block| block.position)
    }
}

struct Entries<'a> {
    index: &'a LaneIndex,
    block: usize,
    bytes: &'a [u8],
    position: u64,
    offset: u64,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.bytes.is_empty() {
            let block = self.index.blocks.get(self.block)?;
            let end = self.index.blocks.get(self.block + 1);
            let end = end.map_or(self.index.encoded.len(), |next| next.at as usize);
            self.bytes = self.index.encoded.get(block.at as usize..end)?;
            (self.position, self.offset) = (block.position, block.offset);
            self.block += 1;
        }
        self.position = self.position.checked_add(get(&mut self.bytes)?)?;
        self.offset = self.offset.checked_add(get(&mut self.bytes)?)?;
        let length = get(&mut self.bytes)?;
        Some(Entry { position: self.position, offset: self.offset, length })
    }
}

/// The index of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    pub(crate) lanes: BTreeMap<LaneId, LaneIndex>,
}

impl SegmentIndex {
    pub(crate) fn push(&mut self, lane: LaneId, entry: Entry, ms: i64, expires_ms: Option<i64>) {
        self.lanes.entry(lane).or_default().push(entry, ms, expires_ms);
    }

    /// Whether all entries ascend, lie within `positions` and `offsets`, and add up to the totals:
    /// whoever follows them leaves neither the segment nor the numbers.
    pub(crate) fn is_sound(&self, positions: Range<u64>, offsets: Range<u64>) -> bool {
        let sound = |index: &LaneIndex| index.is_sound(&positions, &offsets).is_some();
        self.lanes.values().all(sound)
    }

    pub(crate) fn totals(&self) -> BTreeMap<LaneId, Totals> {
        self.lanes.iter().map(|(lane, index)| (*lane, index.totals)).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u32(&mut out, self.lanes.len());
        for (lane, index) in &self.lanes {
            out.extend_from_slice(&lane.0.to_le_bytes());
            let totals = &index.totals;
            for number in [totals.count, totals.bytes, totals.first, totals.last] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for number in [totals.last_ms, totals.expires_ms] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            put_u32(&mut out, index.blocks.len());
            put_u32(&mut out, index.encoded.len());
            for block in &index.blocks {
                out.extend_from_slice(&block.position.to_le_bytes());
                out.extend_from_slice(&block.offset.to_le_bytes());
                out.extend_from_slice(&block.ms.to_le_bytes());
                out.extend_from_slice(&block.at.to_le_bytes());
            }
            out.extend_from_slice(&index.encoded);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let mut lanes = BTreeMap::new();
        for _ in 0..fields.u32()? {
            let lane = LaneId(fields.u32()?);
            lanes.insert(lane, decode_lane(&mut fields)?);
        }
        Some(Self { lanes })
    }
}

fn decode_lane(fields: &mut Fields<'_>) -> Option<LaneIndex> {
    let totals = Totals {
        count: fields.u64()?,
        bytes: fields.u64()?,
        first: fields.u64()?,
        last: fields.u64()?,
        last_ms: fields.i64()?,
        expires_ms: fields.i64()?,
    };
    let (block_count, bytes) = (fields.u32()?, fields.u32()?);
    let mut blocks = Vec::new();
    for _ in 0..block_count {
        let (position, offset) = (fields.u64()?, fields.u64()?);
        blocks.push(Block { position, offset, ms: fields.i64()?, at: fields.u32()? });
    }
    let encoded = fields.take(bytes as usize)?.to_vec();
    Some(LaneIndex { totals, blocks, encoded, last_offset: 0 })
}

fn put_u32(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
