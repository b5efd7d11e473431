//! Opening a log: read the heads, check the tail, begin a new segment.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};

use super::{FRESH, Log, RESERVE};
use crate::disk::{Disk, DiskFile};
use crate::log::frame::{self, Kind};
use crate::log::index::SegmentIndex;
use crate::log::reader::{Closed, Shared};
use crate::log::recovery::{self, Damage, Known, LaneState, Recovered, Scan};
use crate::log::segment::{BadHeader, HEADER_BYTES, Header, VERSION, file_name, is_segment};
use crate::log::{
    LaneId, LogOptions, OpenLogError, Position, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};

/// The smallest record, for guessing how many a lost segment held at most.
const RECORD_BYTES_MIN: u64 = 36;

/// A segment whose head was read. It is not kept open: there may be more than descriptors.
struct Headed {
    header: Header,
    bytes: u64,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    instance: u128,
    now_ms: i64,
) -> Result<(Log, Recovered), OpenLogError> {
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes) {
        return Err(OpenLogError::SegmentBytes(options.segment_bytes));
    }
    let mut recovered = Recovered::default();
    let (headed, lost_last) = heads(&*disk, &mut recovered)?;
    let mut log = Log {
        instance: headed.first().map_or(instance, |segment| segment.header.instance),
        shared: Arc::new(Shared::new(Arc::clone(&disk))),
        disk,
        options,
        current: None,
        reserve: None,
        next_number: headed.last().map_or(1, |segment| segment.header.number + 1),
        end: 0,
        closed_bytes: 0,
        lanes: BTreeMap::new(),
        dirty: BTreeMap::new(),
        buffer: Vec::new(),
        staged: Vec::new(),
        staged_lanes: Vec::new(),
    };
    log.adopt(headed, &mut recovered)?;
    if let Some((number, bytes)) = lost_last {
        let from = log.end;
        log.end += bytes / RECORD_BYTES_MIN;
        log.next_number = log.next_number.max(number + 1);
        let damage =
            recovered.damaged.iter_mut().find(|damage| damage.file.contains(&file_name(number)));
        if let Some(damage) = damage {
            (damage.from, damage.to) = (Position(from), Position(log.end));
        }
    }
    log.shared.view().end = log.end;
    log.start(now_ms);
    recovered.end = Position(log.end);
    recovered.segments = log.shared.view().closed.len() + usize::from(log.current.is_some());
    Ok((log, recovered))
}

/// The segments with a good head, in order; and number and size of the last if its head is bad.
#[expect(clippy::type_complexity, reason = "a pair used once")]
fn heads(
    disk: &dyn Disk,
    recovered: &mut Recovered,
) -> Result<(Vec<Headed>, Option<(u64, u64)>), OpenLogError> {
    let names = disk.list().map_err(|source| failed("list", "the folder", source))?;
    let mut headed: Vec<Headed> = Vec::new();
    let mut lost = None;
    for name in names.iter().filter(|name| is_segment(name)) {
        let file = disk.open(name).map_err(|source| failed("open", name, source))?;
        let bytes = file.length().map_err(|source| failed("measure", name, source))?;
        let mut head = vec![0; usize::try_from(HEADER_BYTES).unwrap_or(0)];
        let filled = file.read_at(0, &mut head).map_err(|source| failed("read", name, source))?;
        head.truncate(filled);
        let header = Header::parse(&head);
        if let Err(BadHeader::Version(version)) = header {
            let file = name.clone();
            return Err(OpenLogError::Version { file, version, known: VERSION });
        }
        let before = headed.last().map(|segment| segment.header);
        let ours = |header: &Header| {
            let follows =
                |before: Header| before.instance == header.instance && before.first <= header.first;
            file_name(header.number) == *name && before.is_none_or(follows)
        };
        if let Some(header) = header.ok().filter(ours) {
            headed.push(Headed { header, bytes });
            lost = None;
        } else {
            let aside = format!("{name}.damaged");
            disk.rename(name, &aside).map_err(|source| failed("put aside", name, source))?;
            let number = name.split('.').next().and_then(|digits| digits.parse().ok());
            lost = Some((number.unwrap_or(0), bytes));
            let from = Position::START;
            recovered.damaged.push(Damage { file: aside, from, to: from });
        }
    }
    Ok((headed, lost))
}

fn failed(action: &'static str, file: &str, source: io::Error) -> OpenLogError {
    OpenLogError::Disk { action, file: file.to_owned(), source }
}

/// Makes what `scan` found durable and gives the segment its index, so that the next start need
/// not read it through and the room behind it is free.
///
/// The process before us may have been killed between write and sync, or its sync may have
/// failed: then the kernel shows bytes that are not on disk and no longer knows it. Writing the
/// last commit again makes them dirty again.
fn finish(file: &dyn DiskFile, closed: &mut Closed, scan: &Scan, is_last: bool) -> io::Result<()> {
    if scan.damaged.is_empty() && scan.closed {
        // The index frame was synced after everything before it.
        return if is_last { secure(file, scan, &[]) } else { Ok(()) };
    }
    closed.index = Some(Arc::new(scan.index.clone()));
    if !scan.damaged.is_empty() {
        if is_last {
            secure(file, scan, &[])?;
            // Without an index frame the next start reads it through as well: it reports the
            // damage again, and serves what lies behind it although bytes may have moved.
            if scan.closed && file.truncate(scan.tail).is_ok() {
                closed.bytes = scan.tail;
            }
        }
        return Ok(());
    }
    let mut bytes = Vec::new();
    let created_ms = scan.last_ms.max(0);
    frame::push_other(&mut bytes, Kind::Index, scan.end, created_ms, &scan.index.encode());
    // As part of the last commit, for both are synced together: it proves nothing about it.
    frame::seal(&mut bytes, closed.seed, scan.last_batch);
    let end = scan.tail + bytes.len() as u64;
    match secure(file, scan, &bytes) {
        Ok(()) => {
            if file.truncate(end).is_ok() {
                closed.bytes = end;
            }
            closed.index = None;
            Ok(())
        }
        // An index is not worth failing for; durability of the last segment is.
        Err(error) if is_last => Err(error),
        Err(_) => Ok(()),
    }
}

/// Writes the last commit again, and `behind` after it, and syncs.
fn secure(file: &dyn DiskFile, scan: &Scan, behind: &[u8]) -> io::Result<()> {
    let from = scan.last_batch.max(HEADER_BYTES);
    let mut bytes = vec![0; usize::try_from(scan.tail.saturating_sub(from)).unwrap_or(0)];
    let filled = file.read_at(from, &mut bytes)?;
    bytes.truncate(filled);
    if bytes.len() as u64 + from == scan.tail {
        bytes.extend_from_slice(behind);
    }
    file.write_at(from, &bytes)?;
    file.sync()
}

impl Log {
    /// Takes over the segments found: all of them are closed from now on.
    fn adopt(&mut self, headed: Vec<Headed>, found: &mut Recovered) -> Result<(), OpenLogError> {
        let nexts: Vec<Header> = headed.iter().skip(1).map(|segment| segment.header).collect();
        let mut nexts = nexts.into_iter();
        for segment in headed {
            let next = nexts.next();
            if self.shared.view().closed.is_empty() {
                self.end = segment.header.first;
            }
            self.adopt_one(segment, next, found)?;
        }
        Ok(())
    }

    fn adopt_one(
        &mut self,
        segment: Headed,
        next: Option<Header>,
        found: &mut Recovered,
    ) -> Result<(), OpenLogError> {
        let Headed { header, bytes } = segment;
        let name = file_name(header.number);
        let file = self.disk.open(&name).map_err(|source| failed("open", &name, source))?;
        if header.first > self.end {
            // A segment between was put aside.
            let (from, to) = (Position(self.end), Position(header.first));
            let unplaced = found.damaged.iter_mut().find(|damage| damage.to == Position::START);
            match unplaced {
                Some(damage) => (damage.from, damage.to) = (from, to),
                None => found.damaged.push(Damage { file: name.clone(), from, to }),
            }
        }
        let seed = header.seed();
        let follows = next.filter(|next| next.previous == header.number);
        // A file that was cut short ends before its tail.
        let tail = follows.map(|next| next.previous_end.min(bytes));
        let end = next.map(|next| next.first);
        let disk_failed = |source| failed("read", &name, source);
        let known = Known { seed, first: header.first, tail, next: end };
        let indexed = recovery::read_index(&*file, known).map_err(disk_failed)?;
        let mut closed = Closed {
            nameless: OnceLock::new(),
            number: header.number,
            seed,
            first: header.first,
            end: end.unwrap_or(0),
            tail: tail.unwrap_or(0),
            bytes,
            last_ms: i64::MIN,
            totals: BTreeMap::new(),
            index: None,
        };
        let index = if let Some(index) = indexed {
            index
        } else {
            let scan = recovery::scan(&*file, known).map_err(disk_failed)?;
            for (from, to) in &scan.damaged {
                let (from, to) = (Position(*from), Position(*to));
                found.damaged.push(Damage { file: name.clone(), from, to });
            }
            found.tail_bytes += scan.ignored;
            (closed.tail, closed.end) = (scan.tail, scan.end);
            if next.is_none() {
                self.take_lanes(&scan).map_err(disk_failed)?;
            }
            finish(&*file, &mut closed, &scan, next.is_none())
                .map_err(|source| failed("sync", &name, source))?;
            scan.index
        };
        self.keep(closed, &index);
        Ok(())
    }

    /// Takes the lanes over from `last`, the scan of the last segment. It begins with the state
    /// of all lanes; if that cannot be read, the segments before it must help out.
    fn take_lanes(&mut self, last: &Scan) -> io::Result<()> {
        let mut scans = Vec::new();
        if !last.has_lanes {
            let before: Vec<_> = self.shared.view().closed.iter().map(Arc::clone).collect();
            for segment in before.iter().rev() {
                let scan = recovery::scan(&*self.shared.file(segment)?, segment.known())?;
                let complete = scan.has_lanes;
                scans.push(scan.lanes);
                if complete {
                    break;
                }
            }
        }
        scans.iter().rev().for_each(|lanes| self.merge_lanes(lanes));
        self.merge_lanes(&last.lanes);
        Ok(())
    }

    fn merge_lanes(&mut self, lanes: &BTreeMap<LaneId, LaneState>) {
        for (lane, state) in lanes {
            let known = self.lanes.entry(*lane).or_default();
            known.cursor = state.cursor;
            if state.label.is_some() {
                known.label.clone_from(&state.label);
            }
        }
    }

    fn keep(&mut self, mut closed: Closed, index: &SegmentIndex) {
        closed.totals = index.totals();
        let newest = closed.totals.values().map(|totals| totals.last_ms).max();
        closed.last_ms = newest.unwrap_or(i64::MIN);
        self.end = closed.end;
        self.closed_bytes += closed.bytes;
        self.shared.view().closed.push_back(Arc::new(closed));
    }

    /// Begins a segment and the reserve. Without room the log serves readers and frees space;
    /// the next commit tries again.
    fn start(&mut self, now_ms: i64) {
        self.reserve = self.allocate(RESERVE).ok();
        let begun = self.allocate(FRESH).and_then(|file| self.begin(file, FRESH, now_ms));
        if begun.is_ok() {
            self.drop_empty();
        }
    }

    /// Segments without a record say nothing that the new one does not say.
    fn drop_empty(&mut self) {
        let mut view = self.shared.view();
        while let Some(last) = view.closed.back() {
            if last.first != last.end || self.disk.remove(&file_name(last.number)).is_err() {
                return;
            }
            self.closed_bytes -= last.bytes;
            view.closed.pop_back();
        }
    }
}
