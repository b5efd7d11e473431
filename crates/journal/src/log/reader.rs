//! Reading what was committed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::frame::{Frame, Kind};
use super::index::{Entry, SegmentIndex, Totals};
use super::recovery::{self, Known};
use super::segment::file_name;
use super::{Budget, LaneId, Position, ReadError, StoredRecord};
use crate::disk::{Disk, DiskFile};

/// Indexes of closed segments kept in memory; a reader that follows needs one.
const INDEXES_MAX: usize = 4;
/// Closed segments kept open: a descriptor each, however many segments there are.
pub(crate) const FILES_MAX: usize = 8;
/// Most bytes that one read of the disk brings, unless one record is larger.
const RUN_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of other lanes worth reading through rather than seeking over.
const GAP_BYTES_MAX: u64 = 4 * 1024;

/// Reads committed records; clones are cheap and never block the writer.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

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

/// What writer and readers share. Held only to copy small things, never over I/O.
#[derive(Debug)]
pub(super) struct Shared {
    disk: Arc<dyn Disk>,
    view: Mutex<View>,
}

/// The committed log.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) closed: VecDeque<Arc<Closed>>,
    pub(super) active: Option<Active>,
    pub(super) end: u64,
    indexes: VecDeque<(u64, Arc<SegmentIndex>)>,
    /// Closed segments that are open, the one used last at the end.
    files: VecDeque<(u64, Arc<dyn DiskFile>)>,
}

/// A segment that is not written any more.
#[derive(Debug)]
pub(super) struct Closed {
    /// Set before its name is removed, for readers that found it before.
    pub(super) nameless: OnceLock<Arc<dyn DiskFile>>,
    pub(super) number: u64,
    pub(super) seed: u32,
    pub(super) first: u64,
    pub(super) end: u64,
    /// Where the committed frames end.
    pub(super) tail: u64,
    /// Bytes on disk.
    pub(super) bytes: u64,
    pub(super) last_ms: i64,
    pub(super) totals: BTreeMap<LaneId, Totals>,
    /// The index, if it could not be written.
    pub(super) index: Option<Arc<SegmentIndex>>,
}

impl Closed {
    /// What is known of it without reading it.
    pub(super) fn known(&self) -> Known {
        Known { seed: self.seed, first: self.first, tail: Some(self.tail), next: Some(self.end) }
    }
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) seed: u32,
    pub(super) first: u64,
    pub(super) index: SegmentIndex,
}

/// Records to fetch from one segment.
struct Found {
    file: Arc<dyn DiskFile>,
    seed: u32,
    entries: Vec<Entry>,
    /// Where the segment ends.
    end: u64,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, view: Mutex::default() }
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a closed segment, opened if it is not open.
    pub(super) fn file(&self, segment: &Closed) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = segment.nameless.get() {
            return Ok(Arc::clone(file));
        }
        if let Some(file) = self.view().open_file(segment.number) {
            return Ok(file);
        }
        match self.disk.open(&file_name(segment.number)) {
            Ok(file) => {
                self.view().keep_file(segment.number, &file);
                Ok(file)
            }
            // It may have been removed since the look above.
            Err(error) => segment.nameless.get().map(Arc::clone).ok_or(error),
        }
    }

    /// The index of a closed segment: in memory, from its index frame, or by reading it through.
    pub(super) fn index(&self, segment: &Closed) -> io::Result<Arc<SegmentIndex>> {
        if let Some(index) = &segment.index {
            return Ok(Arc::clone(index));
        }
        let kept = |view: &View| {
            let found = view.indexes.iter().find(|(number, _)| *number == segment.number);
            found.map(|(_, index)| Arc::clone(index))
        };
        if let Some(index) = kept(&self.view()) {
            return Ok(index);
        }
        let index = Arc::new(recovery::load_index(&*self.file(segment)?, segment.known())?);
        let mut view = self.view();
        if view.indexes.len() >= INDEXES_MAX {
            view.indexes.pop_front();
        }
        view.indexes.push_back((segment.number, Arc::clone(&index)));
        Ok(index)
    }
}

impl View {
    fn open_file(&mut self, number: u64) -> Option<Arc<dyn DiskFile>> {
        let at = self.files.iter().position(|(held, _)| *held == number)?;
        let held = self.files.remove(at)?;
        let file = Arc::clone(&held.1);
        self.files.push_back(held);
        Some(file)
    }

    /// Keeps the file of closed segment `number` open, unless the segment is gone.
    pub(super) fn keep_file(&mut self, number: u64, file: &Arc<dyn DiskFile>) {
        let is_there = self.closed.binary_search_by_key(&number, |closed| closed.number).is_ok();
        if !is_there || self.files.iter().any(|(held, _)| *held == number) {
            return;
        }
        if self.files.len() >= FILES_MAX {
            self.files.pop_front();
        }
        self.files.push_back((number, Arc::clone(file)));
    }

    /// Takes the oldest closed segment out.
    pub(super) fn forget_oldest(&mut self) {
        if let Some(oldest) = self.closed.pop_front() {
            self.files.retain(|(number, _)| *number != oldest.number);
        }
    }

    fn bounds(&self) -> Bounds {
        let oldest = self.closed.front().map(|segment| segment.first);
        let oldest = oldest.or_else(|| self.active.as_ref().map(|active| active.first));
        Bounds { oldest: Position(oldest.unwrap_or(self.end)), end: Position(self.end) }
    }

    /// The first closed segment that has something of `lane` at `from` or behind.
    fn closed_with(&self, lane: LaneId, from: u64) -> Option<Arc<Closed>> {
        let start = self.closed.partition_point(|segment| segment.end <= from);
        let has = |segment: &&Arc<Closed>| {
            segment.totals.get(&lane).is_some_and(|totals| totals.last >= from)
        };
        self.closed.range(start..).find(has).map(Arc::clone)
    }
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
        let bounds = self.bounds();
        let mut batch = ReadBatch { next: from, bounds, ..ReadBatch::default() };
        let mut left = Budget { records: budget.records.max(1), bytes: budget.bytes.max(1) };
        while left.records > 0 && left.bytes > 0 && batch.next < bounds.end {
            let first = batch.records.is_empty();
            let found = self.find(lane, batch.next.0, left, first, bounds.end.0)?;
            let Some(found) = found else {
                batch.next = bounds.end;
                break;
            };
            let Some(last) = found.entries.last().copied() else {
                if first {
                    // An index that contradicts its totals: nobody may read on the spot for ever.
                    batch.next = Position(found.end.max(batch.next.0 + 1));
                    continue;
                }
                // There is one, but it does not fit into what is left.
                break;
            };
            let size = found.entries.iter().map(|entry| entry.length).sum::<u64>();
            left.records -= found.entries.len().min(left.records);
            left.bytes = left.bytes.saturating_sub(usize::try_from(size).unwrap_or(usize::MAX));
            fetch(&found, &mut batch)?;
            batch.next = Position(last.position + 1);
        }
        Ok(batch)
    }

    /// The first position of `lane` that was enqueued at or after `at_ms` (milliseconds of
    /// UTC); the end if there is none.
    ///
    /// # Errors
    /// [`ReadError`] if the disk failed.
    pub fn seek(&self, lane: LaneId, at_ms: i64) -> Result<Position, ReadError> {
        let mut from = self.hint(lane, at_ms)?;
        loop {
            let batch = self.read(lane, from, Budget { records: 256, bytes: 1 << 20 })?;
            if let Some(record) = batch.records.iter().find(|record| record.enqueued_ms >= at_ms) {
                return Ok(record.position);
            }
            if batch.next >= batch.bounds.end || batch.next == from {
                return Ok(batch.bounds.end);
            }
            from = batch.next;
        }
    }

    /// Where the log begins and ends now.
    pub fn bounds(&self) -> Bounds {
        self.shared.view().bounds()
    }

    /// How many records `lane` has at `from` and behind, and their bytes on disk.
    pub(crate) fn remaining(&self, lane: LaneId, from: Position) -> io::Result<(u64, u64)> {
        let add = |sum: (u64, u64), entry: Entry| (sum.0 + 1, sum.1 + entry.length);
        let (closed, active) = {
            let view = self.shared.view();
            let index = view.active.as_ref().and_then(|active| active.index.lanes.get(&lane));
            let active = index.map_or((0, 0), |index| index.from(from.0).fold((0, 0), add));
            (view.closed.iter().map(Arc::clone).collect::<Vec<_>>(), active)
        };
        let mut sum = active;
        for segment in closed {
            let Some(totals) = segment.totals.get(&lane) else { continue };
            if totals.first >= from.0 {
                sum = (sum.0 + totals.count, sum.1 + totals.bytes);
            } else if totals.last >= from.0 {
                let index = self.shared.index(&segment)?;
                let entries = index.lanes.get(&lane).into_iter().flat_map(|i| i.from(from.0));
                sum = entries.fold(sum, add);
            }
        }
        Ok(sum)
    }

    /// The closed segments from the first on that `lane` `needs`, and their bytes on disk.
    pub(crate) fn held(&self, lane: LaneId, needs: impl Fn(&Totals) -> bool) -> (u64, u64) {
        let view = self.shared.view();
        let passed = |segment: &&Arc<Closed>| !segment.totals.get(&lane).is_some_and(&needs);
        let held = view.closed.iter().skip_while(passed);
        held.fold((0, 0), |(count, bytes), segment| (count + 1, bytes + segment.bytes))
    }

    fn hint(&self, lane: LaneId, at_ms: i64) -> Result<Position, ReadError> {
        let closed = {
            let view = self.shared.view();
            let late = |segment: &&Arc<Closed>| {
                segment.totals.get(&lane).is_some_and(|totals| totals.last_ms >= at_ms)
            };
            let Some(segment) = view.closed.iter().find(late) else {
                let index = view.active.as_ref().and_then(|active| active.index.lanes.get(&lane));
                return Ok(Position(index.map_or(view.end, |index| index.hint(at_ms))));
            };
            Arc::clone(segment)
        };
        let index = self.shared.index(&closed)?;
        Ok(Position(index.lanes.get(&lane).map_or(closed.first, |index| index.hint(at_ms))))
    }

    /// What to fetch next from one segment; `None` if the lane has nothing more.
    fn find(
        &self,
        lane: LaneId,
        from: u64,
        left: Budget,
        first: bool,
        end: u64,
    ) -> Result<Option<Found>, ReadError> {
        let closed = self.shared.view().closed_with(lane, from);
        if let Some(segment) = closed {
            let index = self.shared.index(&segment)?;
            let lane_index = index.lanes.get(&lane);
            let entries = lane_index.into_iter().flat_map(|index| index.from(from));
            let entries = within(entries, left, first, end);
            let file = self.shared.file(&segment)?;
            return Ok(Some(Found { file, seed: segment.seed, entries, end: segment.end }));
        }
        let view = self.shared.view();
        let index = view
            .active
            .as_ref()
            .and_then(|active| active.index.lanes.get(&lane).map(|index| (active, index)));
        let Some((active, index)) = index.filter(|(_, index)| index.totals.last >= from) else {
            return Ok(None);
        };
        let entries = within(index.from(from), left, first, end);
        Ok(Some(Found { file: Arc::clone(&active.file), seed: active.seed, entries, end }))
    }
}

/// The entries that fit; the first of a batch always does.
fn within(entries: impl Iterator<Item = Entry>, left: Budget, first: bool, end: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut out = Vec::new();
    for entry in entries.take(left.records).take_while(|entry| entry.position < end) {
        bytes += entry.length;
        let fits = bytes <= left.bytes as u64 || (first && out.is_empty());
        if !fits {
            break;
        }
        out.push(entry);
    }
    out
}

/// Reads `found` in runs and checks every frame.
fn fetch(found: &Found, batch: &mut ReadBatch) -> Result<(), ReadError> {
    let mut rest = found.entries.as_slice();
    while let Some(start) = rest.first() {
        let mut end = start.offset + start.length;
        let mut count = 1;
        for entry in rest.iter().skip(1) {
            let joined = entry.offset + entry.length;
            if entry.offset > end + GAP_BYTES_MAX || joined - start.offset > RUN_BYTES_MAX {
                break;
            }
            (end, count) = (joined, count + 1);
        }
        let (run, behind) = rest.split_at(count);
        let mut bytes = vec![0; usize::try_from(end - start.offset).unwrap_or(0)];
        let filled = found.file.read_at(start.offset, &mut bytes)?;
        bytes.truncate(filled);
        let bytes = Bytes::from(bytes);
        for entry in run {
            match record_at(found.seed, &bytes, start.offset, entry) {
                Some(record) => batch.records.push(record),
                None => batch.damaged += 1,
            }
        }
        rest = behind;
    }
    Ok(())
}

fn record_at(seed: u32, bytes: &Bytes, start: u64, entry: &Entry) -> Option<StoredRecord> {
    let at = usize::try_from(entry.offset - start).ok()?;
    let frame = Frame::parse(seed, bytes.get(at..)?)?;
    let fits = frame.kind == Kind::Record
        && frame.position == entry.position
        && frame.length == entry.length;
    let payload = at + frame.payload_at..at + usize::try_from(frame.length).ok()?;
    fits.then(|| StoredRecord {
        position: Position(frame.position),
        enqueued_ms: frame.enqueued_ms,
        expires_ms: frame.expires_ms,
        payload: bytes.slice(payload),
        disk_bytes: frame.length,
    })
}

#[cfg(test)]
mod tests;
