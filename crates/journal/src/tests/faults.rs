use std::sync::Arc;

use super::lives::{Ledger, Life, Totals, live_log, live_queue, options};
use super::{Random, payload};
use crate::disk::simulated::{DiskFault, Operation, PowerCut, SimulatedDisk};
use crate::log::{Budget, CommitError, LaneId, Log, LogOptions, Position, Record, StageError};
use crate::queue::Queue;

const LANE: LaneId = LaneId(1);
const ALL: Budget = Budget { records: 1_000, bytes: 1 << 24 };
const OPERATIONS: [Operation; 8] = [
    Operation::Create,
    Operation::Write,
    Operation::Sync,
    Operation::Preallocate,
    Operation::Truncate,
    Operation::Rename,
    Operation::Remove,
    Operation::SyncDirectory,
];

fn record(serial: u64) -> Record {
    let lanes = [LANE].into();
    Record { lanes, enqueued_ms: 0, expires_ms: None, payload: payload(serial, 2_000) }
}

fn open(disk: &SimulatedDisk) -> Log {
    Log::open(Arc::new(disk.clone()), options(), 7, 0).unwrap().0
}

fn serials(log: &Log) -> Vec<u64> {
    let batch = log.reader().read(LANE, Position::START, ALL).unwrap();
    let serial = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().unwrap());
    batch.records.iter().map(|record| serial(&record.payload)).collect()
}

fn segments(disk: &SimulatedDisk) -> usize {
    let names = crate::disk::Disk::list(disk).unwrap();
    names.iter().filter(|name| name.ends_with(".segment")).count()
}

#[test]
fn a_failed_write_or_sync_is_answered_and_the_next_commit_goes_to_a_new_segment() {
    for operation in [Operation::Write, Operation::Sync] {
        for fault in [DiskFault::NoSpace, DiskFault::Io] {
            let disk = SimulatedDisk::new(3);
            let mut log = open(&disk);
            log.stage(&[record(1)]).unwrap();
            log.commit(0).unwrap();
            let before = segments(&disk);
            disk.fail(operation, 0, fault);
            log.stage(&[record(2)]).unwrap();
            log.stage_cursor(LANE, Position(1));
            let error = log.commit(0).unwrap_err();
            let full = matches!(error, CommitError::NoSpace(_));
            assert_eq!(full, fault == DiskFault::NoSpace, "{operation:?} {fault:?}");
            assert_eq!(serials(&log), [1], "what failed is not readable");
            log.stage(&[record(3)]).unwrap();
            log.commit(0).unwrap();
            assert_eq!(segments(&disk), before + 1);
            assert_eq!(disk.exercised().syncs_after_failure, 0);
            assert_eq!(serials(&log), [1, 3]);
            disk.power_cut(PowerCut::Lost);
            let log = open(&disk);
            assert_eq!(serials(&log), [1, 3]);
            assert_eq!(log.lanes().next(), Some((LANE, Position(1), None)));
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn whatever_operation_fails_no_promise_is_broken() {
    let (mut sum, mut failed, mut runs) = (Totals::default(), 0, 0);
    for (life, name) in [(live_log as Life, "log"), (live_queue, "queue")] {
        for operation in OPERATIONS {
            for skip in 0..24 {
                for fault in [DiskFault::NoSpace, DiskFault::Io] {
                    let seed = skip + 100;
                    let disk = SimulatedDisk::new(seed);
                    let (mut ledger, mut random) = (Ledger::default(), Random(seed));
                    disk.fail(operation, skip, fault);
                    life(&disk, &mut ledger, &mut random, 30);
                    disk.heal();
                    match PowerCut::ALL.get(usize::try_from(random.below(5)).unwrap()) {
                        Some(how) => disk.power_cut(*how),
                        None => disk.kill(),
                    }
                    life(&disk, &mut ledger, &mut random, 8);
                    disk.power_cut(PowerCut::Lost);
                    life(&disk, &mut ledger, &mut random, 2);
                    let exercised = disk.exercised();
                    assert_eq!(exercised.syncs_after_failure, 0, "{name} {operation:?} {skip}");
                    failed += exercised.no_space + exercised.io_errors;
                    sum.add(ledger.totals);
                    runs += 1;
                }
            }
        }
    }
    println!("faults: {runs} runs, {failed} errors met; {sum:?}");
    assert!(failed >= 200 && sum.refused >= 100, "{failed} errors, {} refused", sum.refused);
}

#[test]
fn cursors_are_written_from_the_reserve_when_the_disk_is_full() {
    let disk = SimulatedDisk::new(4);
    let disk_options = LogOptions { retention: crate::log::Retention::default(), ..options() };
    let (mut queue, _) = Queue::open(Arc::new(disk.clone()), disk_options, 7, 0).unwrap();
    let lane = queue.lane("upstream", 0);
    queue.commit(0).unwrap();
    disk.set_capacity(Some(100 * 1024));
    let mut kept = 0;
    let refused = loop {
        let one = Record { lanes: [lane].into(), ..record(kept) };
        queue.stage(&[one]).unwrap();
        match queue.commit(0) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CommitError::NoSpace(_)), "{refused}");
    assert!(kept > 20, "{kept} records fit");
    // Acknowledgements become durable although every commit brings a record without room.
    let delivery = queue.next(&[lane], ALL, 0).unwrap().unwrap();
    assert_eq!(delivery.records.len() as u64, kept);
    for record in &delivery.records {
        queue.acknowledge(lane, record.position);
    }
    queue.stage(&[Record { lanes: [lane].into(), ..record(1) }]).unwrap();
    assert!(queue.commit(0).is_err());
    disk.power_cut(PowerCut::Lost);
    let (mut queue, _) = Queue::open(Arc::new(disk), disk_options, 7, 0).unwrap();
    assert_eq!(queue.next(&[lane], ALL, 0).unwrap(), None, "all was acknowledged");
    assert!(queue.reclaim(0) > 0);
    queue.stage(&[Record { lanes: [lane].into(), ..record(1) }]).unwrap();
    queue.commit(0).unwrap();
}

#[test]
fn positions_and_cursors_survive_when_an_error_is_followed_by_a_reclaim_of_everything() {
    let disk = SimulatedDisk::new(5);
    let (mut queue, _) = Queue::open(Arc::new(disk.clone()), options(), 7, 0).unwrap();
    let lane = queue.lane("upstream", 0);
    queue.stage(&[Record { lanes: [lane].into(), ..record(1) }]).unwrap();
    queue.commit(0).unwrap();
    queue.next(&[lane], ALL, 0).unwrap();
    queue.acknowledge(lane, Position(0));
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    assert!(queue.commit(0).is_err());
    queue.reclaim(0);
    disk.power_cut(PowerCut::Torn);
    let (mut queue, recovered) = Queue::open(Arc::new(disk), options(), 8, 0).unwrap();
    assert_eq!(recovered.end, Position(1), "positions never start again");
    assert_eq!(queue.lane("upstream", 0), lane);
}

#[test]
fn what_one_process_read_back_is_durable_before_it_is_shown() {
    let disk = SimulatedDisk::new(6);
    let mut log = open(&disk);
    disk.cut_at(disk.exercised().operations + 1);
    log.stage(&[record(1)]).unwrap();
    assert!(log.commit(0).is_err(), "written, but killed before the sync");
    drop(log);
    disk.kill();
    let log = open(&disk);
    assert_eq!(serials(&log), [1]);
    drop(log);
    disk.power_cut(PowerCut::Lost);
    assert_eq!(serials(&open(&disk)), [1]);
}

#[test]
fn the_cap_refuses_records_and_not_cursors() {
    let disk = SimulatedDisk::new(7);
    let capped = LogOptions { bytes_max: Some(40 * 1024), ..options() };
    let (mut log, _) = Log::open(Arc::new(disk), capped, 7, 0).unwrap();
    let refused = loop {
        match log.stage(&[record(1)]) {
            Ok(_) => log.commit(0).unwrap(),
            Err(error) => break error,
        };
    };
    assert_eq!(refused, StageError::Full { limit: 40 * 1024 });
    log.stage_cursor(LANE, Position(2));
    log.commit(0).unwrap();
}
