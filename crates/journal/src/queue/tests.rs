use bytes::Bytes;

use super::*;
use crate::disk::file::FileDisk;

const ALL: Budget = Budget { records: 1_000, bytes: 1 << 20 };

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 * 1024, ..LogOptions::default() }
}

fn open(folder: &std::path::Path) -> (Queue, Recovered) {
    let disk = Arc::new(FileDisk::open(folder).unwrap());
    Queue::open(disk, options(), 7, 0).unwrap()
}

fn record(lane: LaneId, number: u64, expires_ms: Option<i64>) -> Record {
    let payload = Bytes::from(number.to_le_bytes().repeat(32));
    Record { lanes: [lane].into(), enqueued_ms: 5, expires_ms, payload }
}

fn positions(delivery: Option<Delivery>) -> Vec<u64> {
    delivery.into_iter().flat_map(|found| found.records).map(|found| found.position.0).collect()
}

#[test]
fn what_was_not_acknowledged_comes_again_after_a_restart_over_many_segments() {
    let folder = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(folder.path());
    let lane = queue.lane("upstream", 0);
    for batch in 0..100 {
        let records: Vec<_> = (0..10).map(|i| record(lane, batch * 10 + i, None)).collect();
        queue.stage(&records).unwrap();
        assert_eq!(queue.commit(0).unwrap().end(), Position(batch * 10 + 10));
    }
    let first = positions(queue.next(&[lane], ALL, 0).unwrap());
    assert_eq!(first, (0..1000).collect::<Vec<_>>());
    for position in (0..400).chain(500..600) {
        queue.acknowledge(lane, Position(position));
    }
    queue.commit(0).unwrap();
    assert!(queue.reclaim(0) > 0);
    drop(queue);

    let (mut queue, recovered) = open(folder.path());
    assert_eq!((recovered.end, recovered.damaged.len()), (Position(1000), 0));
    assert_eq!(queue.lane("upstream", 0), lane);
    assert_eq!(queue.stats(9).unwrap()[0].depth, 600);
    assert_eq!(queue.stats(9).unwrap()[0].oldest_ms, Some(4));
    let again = positions(queue.next(&[lane], ALL, 0).unwrap());
    assert_eq!(again, (400..1000).collect::<Vec<_>>());
}

#[test]
fn a_lane_that_nobody_reads_is_named_with_the_segments_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(folder.path());
    let (slow, fast) = (queue.lane("slow", 0), queue.lane("fast", 0));
    queue.stage(&[record(slow, 0, None)]).unwrap();
    for number in 1..1000 {
        queue.stage(&[record(fast, number, None)]).unwrap();
        queue.commit(0).unwrap();
    }
    while let Some(delivery) = queue.next(&[fast], ALL, 0).unwrap() {
        delivery.records.iter().for_each(|record| queue.acknowledge(fast, record.position));
    }
    queue.commit(0).unwrap();
    assert_eq!(queue.reclaim(0), 0, "the slow lane holds all of it");
    let held = |queue: &Queue| {
        let stats = queue.stats(0).unwrap();
        let each = stats.into_iter().map(|stats| (stats.held_segments, stats.held_bytes));
        each.collect::<Vec<_>>()
    };
    let [(segments, bytes), (0, 0)] = held(&queue)[..] else { panic!("{:?}", held(&queue)) };
    assert!(segments >= 4 && bytes >= segments * 60_000, "{segments} segments, {bytes} bytes");
    assert!(queue.stats(0).unwrap()[0].bytes < 400, "for one record");

    let only = queue.next(&[slow], ALL, 0).unwrap().unwrap();
    queue.acknowledge(slow, only.records[0].position);
    queue.commit(0).unwrap();
    assert_eq!(held(&queue), [(0, 0), (0, 0)]);
    assert_eq!(queue.reclaim(0), bytes, "and with it, all of it goes");
}

#[test]
fn a_rewind_delivers_again_only_what_was_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(folder.path());
    let (low, high) = (queue.lane("upstream", 9), queue.lane("upstream", 1));
    assert_eq!(queue.lanes("upstream"), [high, low]);
    queue.stage(&[record(low, 0, None), record(high, 1, None), record(high, 2, None)]).unwrap();
    queue.stage(&[record(high, 3, Some(10)), record(high, 4, None)]).unwrap();
    queue.commit(0).unwrap();
    let lanes = queue.lanes("upstream");
    assert_eq!(positions(queue.next(&lanes, ALL, 10).unwrap()), [1, 2, 4]);
    queue.acknowledge(high, Position(2));
    queue.rewind(high);
    assert_eq!(positions(queue.next(&lanes, ALL, 10).unwrap()), [1, 4]);
    assert_eq!(positions(queue.next(&lanes, ALL, 10).unwrap()), [0]);
}

#[test]
fn a_flipped_bit_never_yields_other_bytes_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(folder.path());
    let lane = queue.lane("upstream", 0);
    for number in 0..20 {
        queue.stage(&[record(lane, number, None)]).unwrap();
        queue.commit(0).unwrap();
    }
    drop(queue);
    let file = folder.path().join("0000000000000001.segment");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[76 + 2000] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let (mut queue, recovered) = open(folder.path());
    assert_eq!(recovered.damaged.len(), 1);
    assert_eq!(recovered.end, Position(20));
    let delivery = queue.next(&[lane], ALL, 0).unwrap().unwrap();
    assert_eq!(delivery.records.len(), 19);
    for found in delivery.records {
        assert_eq!(found.payload, found.position.0.to_le_bytes().repeat(32));
    }
}

#[test]
fn an_acknowledged_record_stays_done_over_two_rewinds_and_an_expired_one_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(folder.path());
    let lane = queue.lane("upstream", 0);
    queue.stage(&[record(lane, 0, None), record(lane, 1, None), record(lane, 2, Some(5))]).unwrap();
    queue.commit(0).unwrap();
    assert_eq!(positions(queue.next(&[lane], ALL, 5).unwrap()), [0, 1]);
    queue.acknowledge(lane, Position(1));
    for _ in 0..2 {
        queue.rewind(lane);
        assert_eq!(positions(queue.next(&[lane], ALL, 5).unwrap()), [0]);
        let stats = queue.stats(5).unwrap();
        assert_eq!((stats[0].depth, stats[0].expired), (1, 1));
    }
}

#[test]
fn a_lane_whose_first_record_is_never_acknowledged_stops_at_its_window() {
    let folder = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(folder.path());
    let lane = queue.lane("upstream", 0);
    for batch in 0..30 {
        let records: Vec<_> = (0..100).map(|i| record(lane, batch * 100 + i, None)).collect();
        queue.stage(&records).unwrap();
        queue.commit(0).unwrap();
    }
    let (mut delivered, mut first) = (0, None);
    while let Some(delivery) = queue.next(&[lane], ALL, 0).unwrap() {
        for record in delivery.records {
            delivered += 1;
            let first = *first.get_or_insert(record.position);
            if record.position != first {
                queue.acknowledge(lane, record.position);
            }
        }
    }
    assert!((WINDOW_RECORDS_MAX..=2 * WINDOW_RECORDS_MAX).contains(&delivered), "{delivered}");
    queue.acknowledge(lane, first.unwrap());
    while let Some(delivery) = queue.next(&[lane], ALL, 0).unwrap() {
        for record in delivery.records {
            delivered += 1;
            queue.acknowledge(lane, record.position);
        }
    }
    assert_eq!(delivered, 3_000, "then it goes on, and nothing comes twice");
    assert_eq!(queue.stats(0).unwrap()[0].depth, 0);
}
