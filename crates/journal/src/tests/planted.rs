//! One test per planted fault of this crate: it passes in the product and fails under the fault.
//! `cargo xtask planted` lists them all.

use std::sync::Arc;

use super::lives::options;
use super::payload;
use crate::disk::simulated::{PowerCut, SimulatedDisk};
use crate::log::{Budget, LaneId, Position, Record};
use crate::queue::Queue;

const ALL: Budget = Budget { records: 100, bytes: 1 << 20 };

fn open(disk: &SimulatedDisk) -> (Queue, LaneId) {
    let (mut queue, _) = Queue::open(Arc::new(disk.clone()), options(), 7, 0).unwrap();
    let lane = queue.lane("upstream", 0);
    queue.commit(0).unwrap();
    (queue, lane)
}

fn stored(expires_ms: Option<i64>) -> (SimulatedDisk, Queue, LaneId) {
    let disk = SimulatedDisk::new(1);
    let (mut queue, lane) = open(&disk);
    let record =
        Record { lanes: [lane].into(), enqueued_ms: 0, expires_ms, payload: payload(1, 100) };
    queue.stage(&[record]).unwrap();
    assert!(queue.commit(0).unwrap().covers(Position(0)));
    (disk, queue, lane)
}

#[test]
fn what_is_acknowledged_survives_a_power_cut() {
    let (disk, ..) = stored(None);
    disk.power_cut(PowerCut::Lost);
    let (mut queue, lane) = open(&disk);
    assert!(queue.next(&[lane], ALL, 0).unwrap().is_some());
}

#[test]
fn what_was_only_handed_out_comes_again() {
    let (disk, mut queue, lane) = stored(None);
    assert!(queue.next(&[lane], ALL, 0).unwrap().is_some());
    queue.commit(0).unwrap();
    disk.kill();
    let (mut queue, lane) = open(&disk);
    assert!(queue.next(&[lane], ALL, 0).unwrap().is_some());
}

#[test]
fn what_has_expired_is_not_delivered() {
    let (_, mut queue, lane) = stored(Some(10));
    assert_eq!(queue.next(&[lane], ALL, 10).unwrap(), None);
}
