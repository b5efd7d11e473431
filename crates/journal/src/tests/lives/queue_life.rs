//! The queue as the router uses it: endpoints, acknowledgements, expiry, reclaim.

use std::sync::Arc;

use super::{EVERYTHING, Entry, LANES, Lane, Ledger, WHOLE_LIFE, middle, options, spoil};
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Budget, LaneId};
use crate::queue::Queue;
use crate::tests::Random;

/// One life of a queue as the router uses it: endpoints, acknowledgements, expiry, reclaim.
pub(in crate::tests) fn live_queue(
    disk: &SimulatedDisk,
    ledger: &mut Ledger,
    random: &mut Random,
    steps: usize,
) {
    let Some(mut queue) = open_queue(disk, ledger) else { return };
    let mut lanes = Vec::new();
    for endpoint in 0..LANES {
        let endpoint = format!("endpoint {endpoint}");
        let id = queue.lane(&endpoint, 0);
        let lane = ledger.lanes.entry(id).or_insert_with(|| Lane {
            cursor: ledger.end,
            cursor_tried: ledger.end,
            born: ledger.end,
            ..Lane::default()
        });
        if let Some(label) = &lane.label {
            assert_eq!(*label, endpoint, "an id is for ever");
        }
        lane.label_tried = Some(endpoint);
        lanes.push(id);
    }
    for step in 0..steps {
        ledger.pending.clear();
        ledger.now_ms += 1;
        let is_full = steps >= WHOLE_LIFE && (step == steps / 3 || step == steps * 3 / 4);
        if is_full && !fill(&mut queue, disk, ledger, random, &lanes) {
            return;
        }
        if steps >= WHOLE_LIFE && step == steps / 2 - 1 {
            drop(queue);
            match open_queue(disk, ledger) {
                Some(opened) => queue = opened,
                None => return,
            }
        }
        if steps >= WHOLE_LIFE && (step == steps / 2 || step == steps - 1) {
            if !drain(&mut queue, disk, ledger, &lanes) {
                return;
            }
            continue;
        }
        if steps >= WHOLE_LIFE && step == steps * 7 / 8 {
            match quarantine(queue, disk, ledger, random, &lanes) {
                Some(opened) => queue = opened,
                None => return,
            }
            continue;
        }
        match random.below(8) {
            0 => {
                ledger.totals.reclaims += u64::from(queue.reclaim(ledger.now_ms) > 0);
                if disk.is_cut() {
                    return;
                }
                continue;
            }
            1..=4 => {
                for _ in 0..=random.below(4) {
                    let entry = ledger.entry(random, &lanes, true);
                    queue.stage(&[entry.record()]).unwrap();
                    ledger.pending.push(entry);
                }
            }
            _ => deliver(&mut queue, ledger, random, &lanes),
        }
        if !commit_queue(&mut queue, ledger, disk) {
            return;
        }
    }
}

/// Stages until the disk is full and the queue says so. Says whether life goes on.
fn fill(
    queue: &mut Queue,
    disk: &SimulatedDisk,
    ledger: &mut Ledger,
    random: &mut Random,
    lanes: &[LaneId],
) -> bool {
    disk.set_capacity(Some(0));
    let refused = ledger.totals.refused;
    while ledger.totals.refused == refused {
        ledger.pending.clear();
        let entry = Entry { length: 3_000, ..ledger.entry(random, lanes, false) };
        queue.stage(&[entry.record()]).unwrap();
        ledger.pending.push(entry);
        if !commit_queue(queue, ledger, disk) {
            return false;
        }
    }
    ledger.totals.full += 1;
    ledger.pending.clear();
    disk.set_capacity(None);
    true
}

/// Spoils a closed segment between two others, as a bad sector would, and starts again.
fn quarantine(
    mut queue: Queue,
    disk: &SimulatedDisk,
    ledger: &mut Ledger,
    random: &mut Random,
    lanes: &[LaneId],
) -> Option<Queue> {
    while middle(disk).is_none() {
        ledger.pending.clear();
        let entry = Entry { length: 3_000, ..ledger.entry(random, lanes, true) };
        queue.stage(&[entry.record()]).unwrap();
        ledger.pending.push(entry);
        if !commit_queue(&mut queue, ledger, disk) {
            return None;
        }
    }
    drop(queue);
    spoil(disk, ledger);
    open_queue(disk, ledger)
}

/// Delivers everything, and frees what nobody needs any more. Says whether life goes on.
fn drain(queue: &mut Queue, disk: &SimulatedDisk, ledger: &mut Ledger, lanes: &[LaneId]) -> bool {
    for id in lanes {
        queue.rewind(*id);
        while let Some(delivery) = queue.next(&[*id], EVERYTHING, ledger.now_ms).unwrap() {
            for record in delivery.records {
                ledger.check_payload(record.position, &record.payload);
                queue.acknowledge(*id, record.position);
                ledger.lanes.get_mut(id).unwrap().done.insert(record.position.0);
            }
        }
    }
    if !commit_queue(queue, ledger, disk) {
        return false;
    }
    ledger.totals.reclaims += u64::from(queue.reclaim(ledger.now_ms) > 0);
    !disk.is_cut()
}

fn commit_queue(queue: &mut Queue, ledger: &mut Ledger, disk: &SimulatedDisk) -> bool {
    let outcome = queue.commit(ledger.now_ms).map(|committed| committed.end().0);
    if disk.is_cut() {
        return ledger.book(outcome, disk);
    }
    // Cursors travel with the commit; what they may say is bounded by what was acknowledged.
    let stats = queue.stats(ledger.now_ms).unwrap();
    for lane in stats {
        ledger.lanes.get_mut(&lane.lane).unwrap().cursor_tried = lane.cursor.0;
    }
    ledger.book(outcome, disk)
}

fn deliver(queue: &mut Queue, ledger: &mut Ledger, random: &mut Random, lanes: &[LaneId]) {
    let id = lanes[usize::try_from(random.below(LANES)).unwrap()];
    let budget = Budget { records: 12, bytes: 1 << 20 };
    let Some(delivery) = queue.next(&[id], budget, ledger.now_ms).unwrap() else { return };
    let mut left = false;
    for record in delivery.records {
        ledger.check_payload(record.position, &record.payload);
        let expires = ledger.records[&record.position.0].expires_ms;
        assert!(expires.is_none_or(|expires| expires > ledger.now_ms), "delivered expired");
        if random.below(8) == 0 {
            left = true;
            continue;
        }
        queue.acknowledge(id, record.position);
        ledger.lanes.get_mut(&id).unwrap().done.insert(record.position.0);
    }
    if left && random.below(2) == 0 {
        queue.rewind(id);
    }
}

fn open_queue(disk: &SimulatedDisk, ledger: &mut Ledger) -> Option<Queue> {
    let opened = Queue::open(Arc::new(disk.clone()), options(), 7, 0);
    if disk.is_cut() {
        return None;
    }
    let opened = opened.or_else(|_| {
        disk.heal();
        Queue::open(Arc::new(disk.clone()), options(), 7, 0)
    });
    let (mut queue, recovered) = opened.expect("a queue that opens");
    ledger.check_damage(&recovered.damaged);
    ledger.adopt(recovered.end);
    let now_ms = ledger.now_ms;
    let stats = queue.stats(now_ms).unwrap();
    for (id, lane) in &ledger.lanes {
        let there = stats.iter().any(|stats| stats.lane == *id);
        assert!(there || lane.label.is_none(), "a committed lane is there");
    }
    let known: Vec<LaneId> = stats.iter().map(|stats| stats.lane).collect();
    ledger.lanes.retain(|id, _| known.contains(id));
    for stats in stats {
        let id = stats.lane;
        let cursor = stats.cursor.0;
        let gone = |entry: &Entry| entry.expires_ms.is_some_and(|expires| expires <= now_ms);
        let lane = ledger.lanes.get_mut(&id).unwrap();
        assert!(cursor >= lane.cursor, "the cursor of {id} went back");
        (lane.cursor, lane.cursor_tried) = (cursor, cursor);
        lane.label = Some(stats.endpoint.to_string());
        let (born, done) = (lane.born, lane.done.clone());
        for position in ledger.expected(id, born) {
            let finished = done.contains(&position) || gone(&ledger.records[&position]);
            assert!(position >= cursor || finished, "{position} of lane {id} was never delivered");
        }
        let mut expected = ledger.expected(id, cursor);
        // Expired records may be gone with their segment although the cursor came back.
        assert!(stats.depth <= expected.len() as u64, "{stats:?}, but {expected:?}");
        expected.retain(|position| !gone(&ledger.records[position]));
        assert!(stats.depth >= expected.len() as u64, "{stats:?}, but {expected:?}");
        let mut found = Vec::new();
        while let Some(delivery) = queue.next(&[id], EVERYTHING, now_ms).unwrap() {
            for record in delivery.records {
                ledger.check_payload(record.position, &record.payload);
                found.push(record.position.0);
            }
        }
        assert_eq!(found, expected, "lane {id} from {cursor}");
        queue.rewind(id);
    }
    Some(queue)
}
