//! Every limit of a log that whoever stages can reach, reached.

use std::sync::Arc;

use super::payload;
use crate::disk::simulated::SimulatedDisk;
use crate::log::{
    BATCH_BYTES_MAX, LABEL_BYTES_MAX, LaneId, Log, LogOptions, OpenLogError, PAYLOAD_BYTES_MAX,
    RECORD_LANES_MAX, Record, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, StageError,
};

fn open(disk: &SimulatedDisk, segment_bytes: u64) -> Result<Log, OpenLogError> {
    let options = LogOptions { segment_bytes, ..LogOptions::default() };
    Log::open(Arc::new(disk.clone()), options, 7, 0).map(|(log, _)| log)
}

fn record(lanes: usize, bytes: usize) -> Record {
    let lanes = (0..lanes).map(|lane| LaneId(u32::try_from(lane).unwrap())).collect();
    Record { lanes, enqueued_ms: 0, expires_ms: None, payload: payload(1, bytes) }
}

#[test]
fn payloads_and_lanes_may_reach_their_limits_and_no_more() {
    let mut log = open(&SimulatedDisk::new(1), 64 << 20).unwrap();
    log.stage(&[record(RECORD_LANES_MAX, PAYLOAD_BYTES_MAX)]).unwrap();
    log.commit(0).unwrap();
    let bytes = PAYLOAD_BYTES_MAX + 1;
    let large = StageError::TooLarge { bytes, limit: PAYLOAD_BYTES_MAX };
    assert_eq!(log.stage(&[record(1, bytes)]).unwrap_err(), large);
    assert_eq!(log.stage(&[record(RECORD_LANES_MAX + 1, 8)]).unwrap_err(), StageError::Lanes);
}

#[test]
fn a_batch_that_is_full_must_be_committed_first() {
    let mut log = open(&SimulatedDisk::new(2), 64 << 20).unwrap();
    let one = record(1, PAYLOAD_BYTES_MAX / 2);
    let mut staged = 0;
    while log.stage(std::slice::from_ref(&one)).is_ok() {
        staged += 1;
    }
    let most = usize::try_from(BATCH_BYTES_MAX).unwrap() / (PAYLOAD_BYTES_MAX / 2);
    assert!((most - 1..=most).contains(&staged), "{staged} of {most}");
    assert_eq!(log.stage(std::slice::from_ref(&one)).unwrap_err(), StageError::CommitFirst);
    log.commit(0).unwrap();
    log.stage(std::slice::from_ref(&one)).unwrap();
}

#[test]
fn a_label_is_cut_at_its_limit_on_a_character() {
    let disk = SimulatedDisk::new(3);
    let mut log = open(&disk, 64 << 20).unwrap();
    let lane = LaneId(1);
    log.stage_label(lane, &"ä".repeat(LABEL_BYTES_MAX));
    log.commit(0).unwrap();
    drop(log);
    let log = open(&disk, 64 << 20).unwrap();
    let label = log.lanes().find(|(id, ..)| *id == lane).and_then(|(_, _, label)| label);
    assert_eq!(label.map(str::len), Some(LABEL_BYTES_MAX));
}

#[test]
fn segments_have_a_size_between_two_limits() {
    let check = |bytes: u64, good: bool| {
        let opened = open(&SimulatedDisk::new(4), bytes);
        assert_eq!(opened.is_ok(), good, "{bytes}");
    };
    check(SEGMENT_BYTES_MIN, true);
    check(SEGMENT_BYTES_MIN - 1, false);
    check(SEGMENT_BYTES_MAX, true);
    check(SEGMENT_BYTES_MAX + 1, false);
}
