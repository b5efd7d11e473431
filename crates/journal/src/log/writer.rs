//! The one writer of a log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::frame::{self, Kind};
use super::index::{Entry, SegmentIndex, Totals};
use super::reader::{Active, Closed, Shared};
use super::recovery::{LaneState, push_lane};
use super::segment::{HEADER_BYTES, Header, file_name};
use super::{
    CommitError, Committed, LABEL_BYTES_MAX, LaneId, LogOptions, OpenLogError, PAYLOAD_BYTES_MAX,
    Position, RECORD_LANES_MAX, Reader, Record, Recovered, StageError,
};
use crate::disk::{Disk, DiskFile};
use crate::planted;

mod open;

/// A segment while it is being made.
const FRESH: &str = "fresh";
/// The segment kept for cursors when the disk is full.
const RESERVE: &str = "reserve";
/// Most bytes of one write; readers of a segment and senders wait for no more than that.
pub(crate) const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a segment that a batch leaves free for header and lanes.
const SEGMENT_SPARE: u64 = 4 * 1024;

/// The one writer of a log.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    instance: u128,
    shared: Arc<Shared>,
    current: Option<Current>,
    reserve: Option<Arc<dyn DiskFile>>,
    next_number: u64,
    end: u64,
    /// Bytes on disk of closed segments.
    closed_bytes: u64,
    lanes: BTreeMap<LaneId, LaneState>,
    /// Lanes to write with the next commit; `true` with the label.
    dirty: BTreeMap<LaneId, bool>,
    buffer: Vec<u8>,
    staged: Vec<Staged>,
    staged_lanes: Vec<LaneId>,
}

/// The segment that is written.
#[derive(Debug)]
struct Current {
    file: Arc<dyn DiskFile>,
    header: Header,
    /// Where the first commit went.
    head: u64,
    /// Where the next commit goes.
    offset: u64,
    last_ms: i64,
}

#[derive(Debug)]
struct Staged {
    offset: u64,
    length: u64,
    lanes: Range<usize>,
    ms: i64,
    expires_ms: Option<i64>,
}

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
        open::open(disk, options, instance, now_ms)
    }

    /// A reader of this log.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    #[cfg(test)]
    pub(super) fn shared_for_tests(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes `records` into the next commit, all or none, and says which positions they get if
    /// that succeeds.
    ///
    /// # Errors
    /// [`StageError`]; nothing was taken.
    pub fn stage(&mut self, records: &[Record]) -> Result<Range<Position>, StageError> {
        self.check(records)?;
        let first = self.staged_end();
        for record in records {
            let offset = self.buffer.len() as u64;
            let position = self.staged_end().0;
            frame::push_record(&mut self.buffer, position, record);
            let lanes_from = self.staged_lanes.len();
            self.staged_lanes.extend_from_slice(&record.lanes);
            self.staged.push(Staged {
                offset,
                length: self.buffer.len() as u64 - offset,
                lanes: lanes_from..self.staged_lanes.len(),
                ms: record.enqueued_ms,
                expires_ms: record.expires_ms,
            });
        }
        Ok(first..self.staged_end())
    }

    /// Takes a lane's cursor into the next commit.
    pub fn stage_cursor(&mut self, lane: LaneId, cursor: Position) {
        self.lanes.entry(lane).or_default().cursor = cursor.0;
        self.dirty.entry(lane).or_default();
    }

    /// Takes a lane's label into the next commit; what is longer than [`LABEL_BYTES_MAX`] is cut.
    pub fn stage_label(&mut self, lane: LaneId, label: &str) {
        let end = label.floor_char_boundary(LABEL_BYTES_MAX);
        let label = label.get(..end).unwrap_or_default();
        self.lanes.entry(lane).or_default().label = Some(label.into());
        self.dirty.insert(lane, true);
    }

    /// Every lane that has a cursor or a label: `(lane, cursor, label)`.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, Position, Option<&str>)> {
        self.lanes
            .iter()
            .map(|(lane, state)| (*lane, Position(state.cursor), state.label.as_deref()))
    }

    /// Bytes on disk, staged ones included.
    pub fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |current| current.offset);
        self.closed_bytes + current + self.buffer.len() as u64
    }

    /// From now on records are refused beyond so many bytes on disk; what lies there stays.
    pub fn set_bytes_max(&mut self, bytes_max: Option<u64>) {
        self.options.bytes_max = bytes_max;
    }

    /// From now on whole segments are given up by this rule.
    pub fn set_retention(&mut self, retention: super::Retention) {
        self.options.retention = retention;
    }

    /// Writes and syncs what was staged. With nothing staged it does nothing and proves the end.
    ///
    /// # Errors
    /// [`CommitError`]: nothing of the batch may be acknowledged, and it is no longer staged.
    /// Cursors and labels stay staged.
    pub fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError> {
        if self.staged.is_empty() && self.dirty.is_empty() {
            return Ok(Committed { end: Position(self.end) });
        }
        let had_records = !self.staged.is_empty();
        let outcome = self.write(now_ms);
        self.unstage();
        let full = matches!(outcome, Err(CommitError::NoSpace(_)));
        if full && had_records && !self.dirty.is_empty() {
            // Records wait for room, and what was read makes room: it must be noted even if
            // every commit brings records. If that fails too, cursors stay staged.
            self.write(now_ms).ok();
            self.unstage();
        }
        outcome.map(|()| Committed { end: Position(self.end) })
    }

    fn unstage(&mut self) {
        self.buffer.clear();
        self.staged.clear();
        self.staged_lanes.clear();
    }

    /// Removes whole segments that retention gives up. Returns the bytes freed.
    pub fn retain(&mut self, now_ms: i64) -> u64 {
        let retention = self.options.retention;
        let total = self.bytes();
        let mut freed = 0;
        while let Some(oldest) = self.oldest() {
            let old =
                retention.age_ms.is_some_and(|age| oldest.last_ms < now_ms.saturating_sub(age));
            let large = retention.bytes.is_some_and(|bytes| total - freed > bytes);
            if !(old || large) {
                break;
            }
            match self.remove_oldest() {
                0 => break,
                bytes => freed += bytes,
            }
        }
        freed
    }

    /// The oldest closed segment, with what each lane has in it.
    pub(crate) fn oldest_totals(&self) -> Option<(Position, BTreeMap<LaneId, Totals>)> {
        self.oldest().map(|closed| (Position(closed.end), closed.totals.clone()))
    }

    fn oldest(&self) -> Option<Arc<Closed>> {
        self.shared.view().closed.front().map(Arc::clone)
    }

    /// Unlinks the oldest closed segment; 0 if there is none or the disk refuses. The last one
    /// stays until another is in use: it says where positions and cursors go on.
    pub(crate) fn remove_oldest(&mut self) -> u64 {
        let Some(oldest) = self.oldest() else { return 0 };
        if self.current.is_none() && self.shared.view().closed.len() < 2 {
            return 0;
        }
        // Whoever found it before may read it to the end.
        if let Ok(file) = self.shared.file(&oldest) {
            oldest.nameless.set(file).ok();
        }
        if self.disk.remove(&file_name(oldest.number)).is_err() {
            return 0;
        }
        self.shared.view().forget_oldest();
        self.closed_bytes -= oldest.bytes;
        oldest.bytes
    }

    fn staged_end(&self) -> Position {
        Position(self.end + self.staged.len() as u64)
    }

    fn check(&self, records: &[Record]) -> Result<(), StageError> {
        let limit = self.options.segment_bytes - SEGMENT_SPARE;
        let payload_max = PAYLOAD_BYTES_MAX.min(usize::try_from(limit).unwrap_or(usize::MAX) - 512);
        let mut bytes = 0;
        for record in records {
            if record.payload.len() > payload_max {
                let bytes = record.payload.len();
                return Err(StageError::TooLarge { bytes, limit: payload_max });
            }
            if !lanes_are_good(&record.lanes) {
                return Err(StageError::Lanes);
            }
            bytes += frame::record_bytes(record) as u64;
        }
        let batch = self.buffer.len() as u64 + bytes;
        if batch > limit.min(BATCH_BYTES_MAX) {
            if !self.buffer.is_empty() {
                return Err(StageError::CommitFirst);
            }
            return Err(StageError::TooLarge {
                bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
                limit: usize::try_from(limit.min(BATCH_BYTES_MAX)).unwrap_or(usize::MAX),
            });
        }
        match self.options.bytes_max {
            Some(limit) if self.bytes() + bytes > limit => Err(StageError::Full { limit }),
            _ => Ok(()),
        }
    }

    fn write(&mut self, now_ms: i64) -> Result<(), CommitError> {
        if !self.dirty.is_empty() {
            let mut payload = Vec::new();
            for (lane, with_label) in &self.dirty {
                if let Some(state) = self.lanes.get(lane) {
                    push_lane(&mut payload, *lane, state, *with_label);
                }
            }
            let position = self.staged_end().0;
            frame::push_other(&mut self.buffer, Kind::Lanes, position, now_ms, &payload);
        }
        let length = self.buffer.len() as u64;
        if !self.staged.is_empty() && self.reserve.is_none() {
            self.reserve = Some(self.allocate(RESERVE).map_err(commit_error)?);
        }
        let room = self.current.as_ref().is_some_and(|current| {
            current.offset + length <= self.options.segment_bytes || current.offset == current.head
        });
        if !room {
            self.rotate(now_ms)?;
        }
        let Some(current) = &mut self.current else {
            return Err(commit_error(io::Error::other("no segment is open")));
        };
        let batch = current.offset;
        frame::seal(&mut self.buffer, current.header.seed(), batch);
        if let Err(error) = write_and_sync(&*current.file, batch, &self.buffer) {
            // What a failed sync left behind is unknown, also to the kernel: never again.
            self.close_current(None);
            return Err(commit_error(error));
        }
        current.offset += length;
        self.dirty.clear();
        self.publish(batch);
        Ok(())
    }

    /// Shows readers what was committed at `batch`.
    fn publish(&mut self, batch: u64) {
        let mut view = self.shared.view();
        for staged in &self.staged {
            let (offset, length) = (batch + staged.offset, staged.length);
            let entry = Entry { position: self.end, offset, length };
            let lanes = self.staged_lanes.get(staged.lanes.clone()).unwrap_or_default();
            if let Some(active) = &mut view.active {
                for lane in lanes {
                    active.index.push(*lane, entry, staged.ms, staged.expires_ms);
                }
            }
            if let Some(current) = &mut self.current {
                current.last_ms = current.last_ms.max(staged.ms);
            }
            self.end += 1;
        }
        view.end = self.end;
    }

    /// Closes the segment in use and opens the next.
    fn rotate(&mut self, now_ms: i64) -> Result<(), CommitError> {
        // Before the new segment, so that the disk is never asked for two.
        let fresh = match self.allocate(FRESH) {
            Ok(file) => (file, FRESH),
            // Only cursors come this far without room for records.
            Err(error) if self.staged.is_empty() => {
                (self.reserve.take().ok_or_else(|| commit_error(error))?, RESERVE)
            }
            Err(error) => return Err(commit_error(error)),
        };
        let index = self.index_frame(now_ms);
        self.close_current(index);
        self.begin(fresh.0, fresh.1, now_ms).map_err(commit_error)
    }

    /// The index frame of the segment in use.
    fn index_frame(&self, now_ms: i64) -> Option<Vec<u8>> {
        let current = self.current.as_ref()?;
        let payload = self.shared.view().active.as_ref()?.index.encode();
        let mut bytes = Vec::new();
        frame::push_other(&mut bytes, Kind::Index, self.end, now_ms, &payload);
        frame::seal(&mut bytes, current.header.seed(), current.offset);
        Some(bytes)
    }

    /// Hands the segment in use to the readers as closed, with its index frame if one is given.
    fn close_current(&mut self, index_frame: Option<Vec<u8>>) {
        let Some(current) = self.current.take() else { return };
        let mut bytes = self.options.segment_bytes.max(current.offset);
        let written = index_frame.is_some_and(|frame| {
            let end = current.offset + frame.len() as u64;
            let written = write_and_sync(&*current.file, current.offset, &frame).is_ok();
            if written && current.file.truncate(end).is_ok() {
                bytes = end;
            }
            written
        });
        let mut view = self.shared.view();
        let active = view.active.take();
        let index = active.map(|active| active.index).unwrap_or_default();
        let number = current.header.number;
        view.closed.push_back(Arc::new(Closed {
            nameless: OnceLock::new(),
            number,
            seed: current.header.seed(),
            first: current.header.first,
            end: self.end,
            tail: current.offset,
            bytes,
            last_ms: current.last_ms,
            totals: index.totals(),
            index: (!written).then(|| Arc::new(index)),
        }));
        view.keep_file(number, &current.file);
        self.closed_bytes += bytes;
    }

    /// Writes header and lanes into `file`, gives it its name, and makes it the segment in use.
    fn begin(&mut self, file: Arc<dyn DiskFile>, name: &str, now_ms: i64) -> io::Result<()> {
        let (previous, previous_end) = self.last_with_records();
        let (instance, number, first) = (self.instance, self.next_number, self.end);
        let header = Header { instance, number, first, previous, previous_end, created_ms: now_ms };
        let mut payload = Vec::new();
        for (lane, state) in &self.lanes {
            push_lane(&mut payload, *lane, state, true);
        }
        let mut lanes = Vec::new();
        frame::push_other(&mut lanes, Kind::Lanes, first, now_ms, &payload);
        frame::seal(&mut lanes, header.seed(), HEADER_BYTES);
        let mut bytes = header.encode();
        bytes.extend_from_slice(&lanes);
        write_and_sync(&*file, 0, &bytes)?;
        self.disk.rename(name, &file_name(number))?;
        // The number is spent even if the sync fails: the file may be there after a power cut.
        self.next_number += 1;
        self.disk.sync_directory()?;
        let (seed, head) = (header.seed(), bytes.len() as u64);
        let index = SegmentIndex::default();
        self.shared.view().active = Some(Active { file: Arc::clone(&file), seed, first, index });
        self.current = Some(Current { file, header, head, offset: head, last_ms: i64::MIN });
        Ok(())
    }

    /// Number and tail of the last segment that has a record. Those without are removed at a
    /// start, and a segment that nobody follows is not known to be whole.
    fn last_with_records(&self) -> (u64, u64) {
        let view = self.shared.view();
        let last = view.closed.iter().rev().find(|closed| closed.first < closed.end);
        last.map_or((0, 0), |last| (last.number, last.tail))
    }

    /// A preallocated file called `name`.
    fn allocate(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(name)?;
        let ready = file.preallocate(self.options.segment_bytes).and_then(|()| file.sync());
        if let Err(error) = ready {
            // Half a file only takes room; that it cannot be removed changes nothing now.
            self.disk.remove(name).ok();
            return Err(error);
        }
        Ok(file)
    }
}

fn write_and_sync(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, bytes)?;
    // Planted: what was only written counts as committed.
    if planted::is("ack_before_sync") {
        return Ok(());
    }
    file.sync()
}

fn lanes_are_good(lanes: &[LaneId]) -> bool {
    match lanes {
        [] => false,
        [_] => true,
        many => {
            let distinct = many.iter().collect::<BTreeSet<_>>().len();
            many.len() <= RECORD_LANES_MAX && distinct == many.len()
        }
    }
}

fn commit_error(error: io::Error) -> CommitError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let error = Arc::new(error);
    if full { CommitError::NoSpace(error) } else { CommitError::Disk(error) }
}
