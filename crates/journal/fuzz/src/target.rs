//! What is fuzzed: a log finds files that it did not leave like that.
//!
//! The first byte of the input says what the rest is: the bytes of a segment, or changes of the
//! two segments of a real log. Whatever is found, a start ends and nothing panics; it serves no
//! record that was never stored; a second start finds the same; and the log takes new records,
//! which the third start has. Changes that make the checksums right again may contradict each
//! other, so anything may be found, but a start ends, nothing panics, and the log goes on.
//!
//! Every payload carries its position and a checksum of its own, so that an invented record is
//! known without a list of those that were stored.

use std::sync::{Arc, OnceLock};

use journal::disk::Disk as _;
use journal::disk::simulated::SimulatedDisk;
use journal::log::{
    Budget, LaneId, Log, LogOptions, OpenLogError, Position, Record, Recovered, StageError,
    StoredRecord,
};

const FILES: [&str; 2] = ["0000000000000001.segment", "0000000000000002.segment"];
const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 16 * 1024,
    bytes_max: None,
    retention: journal::log::Retention { age_ms: None, bytes: None },
};
const LANES: [LaneId; 4] = [LaneId(1), LaneId(2), LaneId(3), LaneId(u32::MAX)];
/// Most changes of one input, so that it ends soon.
const CHANGES_MAX: usize = 32;
/// Most bytes of a file after changes.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// Format of segments: bytes before the first frame, and of a frame before lanes and payload.
const HEADER_BYTES: usize = 76;
const HEAD_BYTES: usize = 32;

/// One input.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.byte() % 4;
    let disk = match mode {
        0 => SimulatedDisk::new(1),
        _ => written().fork(1),
    };
    match mode {
        0 => disk.put(FILES[0], input.0),
        1 => disk.put(FILES[1], input.0),
        _ => change(&disk, &mut input, mode == 3),
    }
    // With right checksums a record is what the log takes for its own.
    let is_honest = mode != 3;
    let Some(first) = look(&disk, is_honest) else { return };
    disk.kill();
    let second = look(&disk, is_honest).expect("it opened once");
    assert!(!is_honest || first == second, "a second start finds {second:?}, not {first:?}");
    disk.kill();
    go_on(&disk, &second);
}

/// What a start found.
#[derive(Debug, PartialEq)]
struct Found {
    end: Position,
    records: Vec<Vec<StoredRecord>>,
    lanes: Vec<(LaneId, Position, Option<String>)>,
}

/// Opens the log and reads all of it, in large pieces and in small ones.
fn look(disk: &SimulatedDisk, is_honest: bool) -> Option<Found> {
    let (log, recovered) = open(disk)?;
    let reader = log.reader();
    let bounds = reader.bounds();
    assert!(bounds.oldest <= bounds.end && bounds.end == recovered.end, "{bounds:?}");
    let records = LANES.map(|lane| {
        let all = read(&log, lane, Budget { records: 100_000, bytes: 1 << 24 });
        let small = read(&log, lane, Budget { records: 3, bytes: 100 });
        assert!(!is_honest || all == small, "in small pieces {small:?}, in one {all:?}");
        for record in &all {
            assert!((bounds.oldest..bounds.end).contains(&record.position));
            assert!(!is_honest || is_ours(record), "{record:?} was never stored");
        }
        for at_ms in [i64::MIN, 0, 1_003, i64::MAX] {
            let place = reader.seek(lane, at_ms).expect("the disk is well");
            assert!(place <= bounds.end, "{place} is behind the end");
        }
        all
    });
    let lanes = log.lanes().map(|(id, at, label)| (id, at, label.map(str::to_owned)));
    Some(Found { end: recovered.end, lanes: lanes.collect(), records: records.into() })
}

fn open(disk: &SimulatedDisk) -> Option<(Log, Recovered)> {
    match Log::open(Arc::new(disk.clone()), OPTIONS, 9, 5_000) {
        Ok(opened) => Some(opened),
        Err(OpenLogError::Version { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn read(log: &Log, lane: LaneId, budget: Budget) -> Vec<StoredRecord> {
    let reader = log.reader();
    let (mut records, mut from) = (Vec::new(), reader.bounds().oldest);
    loop {
        let batch = reader.read(lane, from, budget).expect("the disk is well");
        records.extend(batch.records);
        if batch.next >= batch.bounds.end {
            return records;
        }
        assert!(batch.next > from, "reading stands still at {from}");
        from = batch.next;
    }
}

/// The log takes a record, and the next start has it.
fn go_on(disk: &SimulatedDisk, before: &Found) {
    let Some((mut log, _)) = open(disk) else { return };
    let record = Record {
        lanes: [LANES[0]].into(),
        enqueued_ms: 5_000,
        expires_ms: None,
        payload: payload(before.end.0, 1).into(),
    };
    match log.stage(std::slice::from_ref(&record)) {
        Ok(_) => {}
        // No position is left; only a file with right checksums can say so.
        Err(StageError::Full { .. }) if before.end == Position(u64::MAX) => return,
        Err(error) => panic!("{error}"),
    }
    log.stage_cursor(LANES[1], before.end);
    log.commit(5_000).expect("the disk is well");
    drop(log);
    disk.kill();
    let (log, _) = open(disk).expect("it opened before");
    let found = log.reader().read(LANES[0], before.end, Budget { records: 9, bytes: 1 << 20 });
    let found = found.expect("the disk is well").records;
    assert_eq!(found.len(), 1, "what was committed is there");
    assert_eq!((found[0].position, &found[0].payload), (before.end, &record.payload));
    assert!(log.lanes().any(|(lane, cursor, _)| (lane, cursor) == (LANES[1], before.end)));
}

/// Bytes that say which position they belong to and carry a checksum of their own.
fn payload(position: u64, length: usize) -> Vec<u8> {
    let mut bytes = position.to_le_bytes().to_vec();
    bytes.extend((0..251).cycle().take(length));
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn is_ours(record: &StoredRecord) -> bool {
    let Some((bytes, sum)) = record.payload.split_last_chunk() else { return false };
    let own = bytes.starts_with(&record.position.0.to_le_bytes());
    own && u64::from_le_bytes(*sum) == checksum(bytes)
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// A log of two segments: the first closed in order, the second as a killed process leaves it.
fn written() -> &'static SimulatedDisk {
    static WRITTEN: OnceLock<SimulatedDisk> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let disk = SimulatedDisk::new(1);
        let mut position = 0_u64;
        for commits in [6, 3] {
            let (mut log, _) = open(&disk).expect("a new log");
            for commit in 0..commits {
                for length in [0, 40 + commit] {
                    let lanes = if position.is_multiple_of(3) { &LANES[..2] } else { &LANES[1..3] };
                    let record = Record {
                        lanes: lanes.into(),
                        enqueued_ms: 1_000 + i64::try_from(position).unwrap_or(0),
                        expires_ms: position.is_multiple_of(2).then_some(9_000),
                        payload: payload(position, length).into(),
                    };
                    log.stage(&[record]).expect("room");
                    position += 1;
                }
                log.stage_cursor(LANES[0], Position(position / 2));
                log.stage_label(LANES[1], "two");
                log.commit(1_000).expect("the disk is well");
            }
            drop(log);
            disk.kill();
        }
        disk
    })
}

/// The rest of the input, eaten from the front; zeros when it is gone.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front.to_vec()
    }
}

/// Changes the files as the input says, and makes their checksums right if `reseal`.
fn change(disk: &SimulatedDisk, input: &mut Input<'_>, reseal: bool) {
    let mut files = FILES.map(|name| disk.bytes(name).unwrap_or_default());
    let mut missing = [false; 2];
    for _ in 0..CHANGES_MAX {
        if input.0.is_empty() {
            break;
        }
        let choice = input.byte();
        let which = usize::from(choice >> 7);
        missing[which] |= choice & 0x7f == 0x7f;
        change_one(&mut files[which], choice % 9, input);
        files[which].truncate(FILE_BYTES_MAX);
    }
    for (which, name) in FILES.iter().enumerate() {
        let mut bytes = std::mem::take(&mut files[which]);
        if reseal {
            seal(&mut bytes);
        }
        if missing[which] {
            disk.remove(name).expect("it was there");
        } else {
            disk.put(name, &bytes);
        }
    }
}

fn change_one(file: &mut Vec<u8>, kind: u8, input: &mut Input<'_>) {
    let at = input.word().min(file.len());
    let end = |count: usize| (at + count).min(file.len());
    match kind {
        // One bit.
        0 => {
            let bit = input.byte() % 8;
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        1 => file.truncate(at),
        2 => {
            let count = usize::from(input.byte());
            let bytes = input.bytes(count);
            file.splice(at..at, bytes);
        }
        3 => {
            let count = input.word();
            file.drain(at..end(count));
        }
        4 => {
            let to = end(input.word());
            file[at..to].fill(0);
        }
        5 => {
            let count = usize::from(input.byte());
            let bytes = input.bytes(count);
            let to = end(bytes.len());
            file[at..to].copy_from_slice(&bytes[..to - at]);
        }
        // A piece once more, somewhere.
        6 => {
            let piece = file[at..end(input.word())].to_vec();
            let to = input.word().min(file.len());
            file.splice(to..to, piece);
        }
        // A number in the head of a frame, or in the header.
        _ => {
            let frames = frames(file);
            let frame = usize::from(input.byte());
            let start = frames.get(frame % (frames.len() + 1)).map_or(0, |frame| frame.start);
            let place = start + usize::from(input.byte()) % HEADER_BYTES;
            let number = [0, 1, 2, 0x7f, 0xff, input.byte()][usize::from(input.byte()) % 6];
            let width = [1, 2, 4, 8][usize::from(input.byte()) % 4];
            for byte in file.iter_mut().skip(place).take(width) {
                *byte = number;
            }
        }
    }
}

/// Where the frames lie, as far as their lengths lead.
fn frames(file: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut frames, mut at) = (Vec::new(), HEADER_BYTES);
    while let Some(length) = file.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = at.saturating_add(u32::from_le_bytes(*length) as usize);
        if end > file.len() || end - at < HEAD_BYTES {
            break;
        }
        frames.push(at..end);
        at = end;
    }
    frames
}

/// Makes the checksums of the header and of all frames right.
fn seal(file: &mut [u8]) {
    let Some((covered, rest)) = file.split_first_chunk_mut::<72>() else { return };
    let sum = crc32c::crc32c(covered).to_le_bytes();
    if let Some(place) = rest.first_chunk_mut() {
        *place = sum;
    }
    let seed = crc32c::crc32c_append(crc32c::crc32c(&covered[16..32]), &covered[32..40]);
    for frame in frames(file) {
        let frame = &mut file[frame];
        let (length, rest) = frame.split_at_mut(4);
        let (place, body) = rest.split_at_mut(4);
        let sum = crc32c::crc32c_append(crc32c::crc32c_append(seed, length), body);
        place.copy_from_slice(&sum.to_le_bytes());
    }
}
