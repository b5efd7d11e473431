use std::fs;
use std::path::Path;

use super::*;
use crate::disk::file::FileDisk;
use crate::log::{Log, LogOptions, Record, Retention, SEGMENT_BYTES_MIN};

const LANE: LaneId = LaneId(1);
const SEGMENTS: u64 = 40;
/// Of the folder, of its lock, of the segment in use, of the reserve.
const OTHERS: usize = 4;

/// How many descriptors of this process are below `folder`.
fn open_below(folder: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = all.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.starts_with(folder)).count()
}

fn open(folder: &Path) -> Log {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    let options = LogOptions { segment_bytes: SEGMENT_BYTES_MIN, ..LogOptions::default() };
    Log::open(disk, options, 1, 0).unwrap().0
}

/// Writes until there are so many segments; how many records that took.
fn fill(log: &mut Log) -> u64 {
    let mut count = 0;
    while log.shared_for_tests().view().closed.len() < usize::try_from(SEGMENTS).unwrap() {
        let payload = Bytes::from(vec![b'x'; 4000]);
        let record = Record {
            lanes: [LANE].into(),
            enqueued_ms: i64::try_from(count).unwrap(),
            expires_ms: None,
            payload,
        };
        log.stage(&[record.clone(), record.clone(), record]).unwrap();
        log.commit(0).unwrap();
        count += 3;
    }
    count
}

fn read_all(reader: &Reader, from: Position) -> u64 {
    let (mut from, mut count) = (from, 0);
    loop {
        let batch = reader.read(LANE, from, Budget { records: 5, bytes: 1 << 20 }).unwrap();
        if batch.records.is_empty() {
            return count;
        }
        count += u64::try_from(batch.records.len()).unwrap();
        from = batch.next;
    }
}

#[test]
fn closed_segments_hold_no_descriptor_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let mut log = open(&path);
    let written = fill(&mut log);
    let check = |when: &str| {
        let open = open_below(&path);
        assert!(open <= FILES_MAX + OTHERS, "{when}: {open} descriptors");
    };
    check("written");
    assert_eq!(read_all(&log.reader(), Position::START), written);
    check("read");
    let position = log.reader().seek(LANE, 10).unwrap();
    assert_eq!(position, Position(12), "three records share a time");
    check("sought");
    drop(log);
    assert_eq!(open_below(&path), 0);
    let log = open(&path);
    check("opened again");
    assert_eq!(read_all(&log.reader(), Position::START), written);
    check("read again");
}

#[test]
fn a_segment_found_before_it_was_removed_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let mut log = open(&path);
    fill(&mut log);
    let shared = Arc::clone(log.shared_for_tests());
    let found = shared.view().closed.front().map(Arc::clone).unwrap();
    assert!(shared.view().files.iter().all(|(number, _)| *number != found.number), "it is open");
    let freed = {
        log.set_retention(Retention { bytes: Some(SEGMENT_BYTES_MIN), age_ms: None });
        log.retain(0)
    };
    assert!(freed > 0);
    let file = shared.file(&found).unwrap();
    assert_eq!(recovery::load_index(&*file, found.known()).unwrap().totals(), found.totals);
    drop((file, found));
    assert!(open_below(&path) <= 2 + OTHERS, "what was removed is not kept open");
}
