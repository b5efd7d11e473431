use std::collections::BTreeMap;
use std::sync::Arc;

use super::lives::options;
use super::payload;
use crate::disk::Disk as _;
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Budget, LaneId, Log, OpenLogError, Position, Record};

pub(super) const ALL: Budget = Budget { records: 10_000, bytes: 1 << 24 };
pub(super) const FIRST: &str = "0000000000000001.segment";

fn record(lanes: &[u32], serial: u64, expires_ms: Option<i64>) -> Record {
    let lanes = lanes.iter().map(|lane| LaneId(*lane)).collect();
    let payload = payload(serial, 24 + usize::try_from(serial).unwrap());
    Record { lanes, enqueued_ms: 1_700_000_000_000, expires_ms, payload }
}

/// A log of two segments: the first closed in order, the second as a crash leaves it.
pub(super) fn small() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), 0x0123_4567, 5).unwrap();
    for serial in 0..4 {
        log.stage(&[record(&[1], serial * 2, None), record(&[1, 2], serial * 2 + 1, Some(99))])
            .unwrap();
        log.stage_cursor(LaneId(1), Position(serial));
        log.stage_label(LaneId(2), "two");
        log.commit(6).unwrap();
    }
    drop(log);
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), 9, 7).unwrap();
    for serial in 8..11 {
        log.stage(&[record(&[2], serial, None)]).unwrap();
        log.commit(8).unwrap();
    }
    disk
}

/// What a reader finds: position to bytes; and how many records were reported as damaged.
fn contents(log: &Log) -> (BTreeMap<u64, Vec<u8>>, usize) {
    let (mut found, mut damaged) = (BTreeMap::new(), 0);
    for lane in [1, 2] {
        let reader = log.reader();
        let batch = reader.read(LaneId(lane), reader.bounds().oldest, ALL).unwrap();
        damaged += batch.damaged;
        for record in batch.records {
            found.insert(record.position.0, record.payload.to_vec());
        }
    }
    (found, damaged)
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn every_flipped_bit_is_noticed_and_no_wrong_record_is_served() {
    let disk = small();
    let names: Vec<String> =
        disk.list().unwrap().into_iter().filter(|name| name.ends_with("segment")).collect();
    assert_eq!(names.len(), 2);
    let (whole, _) = contents(&Log::open(Arc::new(disk.fork(1)), options(), 9, 9).unwrap().0);
    assert_eq!(whole.len(), 11);
    let (mut flips, mut lossless) = (0, 0);
    for name in names {
        let bytes = disk.bytes(&name).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 64;
        for bit in 0..used.min(bytes.len()) * 8 {
            let disk = disk.fork(1);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            disk.put(&name, &flipped);
            let (log, recovered) = Log::open(Arc::new(disk), options(), 9, 9).unwrap();
            let (found, damaged) = contents(&log);
            for (position, bytes) in &found {
                assert_eq!(whole.get(position), Some(bytes), "{name} bit {bit}: a wrong record");
            }
            let noticed = damaged > 0 || !recovered.damaged.is_empty() || recovered.tail_bytes > 0;
            // A flip in the index of a segment costs nothing: it is made anew.
            lossless += usize::from(found == whole && !noticed);
            assert!(noticed || found == whole, "{name} bit {bit}: lost without notice");
            assert!(recovered.end >= Position(10), "{name} bit {bit}: positions went back");
            flips += 1;
        }
    }
    println!("flips: {flips} bits, {lossless} of them without any loss");
    assert!(flips > 10_000 && lossless < flips / 2);
}

#[test]
fn cursors_and_labels_survive_a_bad_head_of_the_last_segment() {
    let disk = small();
    let last = "0000000000000002.segment";
    let mut bytes = disk.bytes(last).unwrap();
    bytes[100] ^= 1;
    disk.put(last, &bytes);
    let (log, recovered) = Log::open(Arc::new(disk), options(), 9, 9).unwrap();
    assert_eq!(recovered.damaged.len(), 1);
    let lanes: Vec<_> = log.lanes().map(|(id, at, label)| (id.0, at.0, label)).collect();
    assert_eq!(lanes, [(1, 3, None), (2, 0, Some("two"))]);
    assert_eq!(contents(&log).0.len(), 11, "the records are all there");
}

#[test]
fn a_segment_in_the_middle_that_is_gone_is_reported_and_the_rest_is_served() {
    let disk = SimulatedDisk::new(1);
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), 7, 0).unwrap();
    for serial in 0..60 {
        let record = Record { payload: payload(serial, 1_000), ..record(&[1], serial, None) };
        log.stage(&[record]).unwrap();
        log.commit(0).unwrap();
    }
    drop(log);
    disk.put("0000000000000002.segment", &[0; 300]);
    let (log, recovered) = Log::open(Arc::new(disk), options(), 7, 0).unwrap();
    let [damage] = recovered.damaged.as_slice() else { panic!("{recovered:?}") };
    assert_eq!(damage.file, "0000000000000002.segment.damaged");
    let (found, _) = contents(&log);
    let missing = (0..60).filter(|position| !found.contains_key(position));
    assert_eq!(missing.collect::<Vec<_>>(), (damage.from.0..damage.to.0).collect::<Vec<_>>());
}

#[test]
fn a_segment_of_a_newer_version_is_left_alone() {
    let disk = small();
    let mut bytes = disk.bytes(FIRST).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..72]).to_le_bytes();
    bytes[72..76].copy_from_slice(&crc);
    disk.put(FIRST, &bytes);
    let error = Log::open(Arc::new(disk.clone()), options(), 9, 9).unwrap_err();
    assert!(matches!(error, OpenLogError::Version { version: 2, known: 1, .. }), "{error}");
    assert_eq!(disk.bytes(FIRST).unwrap(), bytes);
}

#[test]
fn a_start_reads_a_segment_through_once_and_cuts_it_to_size() {
    let disk = small();
    assert_eq!(disk.bytes("0000000000000002.segment").unwrap().len(), 16 * 1024);
    for _ in 0..3 {
        let (log, recovered) = Log::open(Arc::new(disk.clone()), options(), 9, 9).unwrap();
        assert_eq!((recovered.damaged.len(), recovered.end), (0, Position(11)));
        assert_eq!(contents(&log).0.len(), 11);
        assert!(log.bytes() < 3 * 1024, "{} bytes: nothing is left preallocated", log.bytes());
    }
    assert!(disk.bytes("0000000000000002.segment").unwrap().len() < 1024);
}

#[test]
fn the_golden_segment_of_version_1_is_written_and_read_as_ever() {
    let golden = include_bytes!("../../golden/segment-v1.bin");
    assert_eq!(small().bytes(FIRST).unwrap(), golden, "the writer has changed its format");
    let disk = SimulatedDisk::new(1);
    disk.put(FIRST, golden);
    let (log, recovered) = Log::open(Arc::new(disk), options(), 9, 9).unwrap();
    assert_eq!((recovered.damaged.len(), recovered.end), (0, Position(8)));
    let (found, _) = contents(&log);
    for (position, bytes) in found {
        let expected = record(&[1], position, None).payload;
        assert_eq!(bytes, expected);
    }
    let lanes: Vec<_> = log.lanes().map(|(id, at, label)| (id.0, at.0, label)).collect();
    assert_eq!(lanes, [(1, 3, None), (2, 0, Some("two"))]);
    let expiring = log.reader().read(LaneId(2), Position::START, ALL).unwrap().records;
    let times: Vec<_> =
        expiring.iter().map(|record| (record.position.0, record.expires_ms)).collect();
    assert_eq!(times, [1, 3, 5, 7].map(|position| (position, Some(99))));
}
