use std::sync::Arc;

use proptest::prelude::*;

use super::lives::options;
use super::payload;
use crate::disk::simulated::{PowerCut, SimulatedDisk};
use crate::log::{Budget, LaneId, Position, Record};
use crate::queue::{LaneStats, Queue};

#[derive(Clone, Debug)]
enum Step {
    Stage { lanes: usize, length: usize, life_ms: Option<i64> },
    Next { lane: usize, records: usize },
    Acknowledge { lane: usize, nth: usize },
    Rewind { lane: usize },
    Commit,
    Reclaim,
    Wait { ms: i64 },
    Reopen { cut: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4usize, 8..1500usize, prop::option::of(1..30i64))
            .prop_map(|(lanes, length, life_ms)| Step::Stage { lanes, length, life_ms }),
        4 => (0..2usize, 1..8usize).prop_map(|(lane, records)| Step::Next { lane, records }),
        8 => (0..2usize, 0..8usize).prop_map(|(lane, nth)| Step::Acknowledge { lane, nth }),
        1 => (0..2usize).prop_map(|lane| Step::Rewind { lane }),
        4 => Just(Step::Commit),
        1 => Just(Step::Reclaim),
        2 => (1..10i64).prop_map(|ms| Step::Wait { ms }),
        1 => any::<bool>().prop_map(|cut| Step::Reopen { cut }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    InFlight,
    Done,
}

/// One record in one lane.
#[derive(Clone, Debug)]
struct Item {
    position: u64,
    expires_ms: Option<i64>,
    fate: Fate,
}

/// The reference: each lane is a list.
#[derive(Debug, Default)]
struct Model {
    lanes: [Vec<Item>; 2],
    /// Cursors as of the last commit.
    cursors: [u64; 2],
    /// Whether something was taken back since the lane was last read to its end. Until then the
    /// cursor may stand before what was done out of order.
    rewound: [bool; 2],
    staged: Vec<(usize, Option<i64>)>,
    end: u64,
    now_ms: i64,
}

impl Item {
    fn is_live(&self, now_ms: i64) -> bool {
        self.fate != Fate::Done && self.expires_ms.is_none_or(|expires| expires > now_ms)
    }
}

struct Run {
    disk: SimulatedDisk,
    queue: Queue,
    ids: [LaneId; 2],
    model: Model,
}

impl Run {
    fn new() -> Self {
        let disk = SimulatedDisk::new(1);
        let (mut queue, _) = Queue::open(Arc::new(disk.clone()), options(), 7, 0).unwrap();
        let ids = [queue.lane("a", 0), queue.lane("b", 0)];
        queue.commit(0).unwrap();
        Self { disk, queue, ids, model: Model::default() }
    }

    fn stats(&self, lane: usize) -> LaneStats {
        let all = self.queue.stats(self.model.now_ms).unwrap();
        all.into_iter().find(|stats| stats.lane == self.ids[lane]).unwrap()
    }

    fn take(&mut self, step: &Step) {
        let now_ms = self.model.now_ms;
        match *step {
            Step::Stage { lanes, length, life_ms } => {
                if self.model.staged.len() >= 7 {
                    // More may not fit into one write.
                    self.commit();
                }
                let expires_ms = life_ms.map(|life| now_ms + life);
                let position = self.model.end + self.model.staged.len() as u64;
                let own = self.ids.iter().enumerate().filter(|(bit, _)| lanes >> bit & 1 == 1);
                let lanes_of = own.map(|(_, id)| *id).collect();
                let payload = payload(position, length);
                let record = Record { lanes: lanes_of, enqueued_ms: now_ms, expires_ms, payload };
                self.queue.stage(&[record]).unwrap();
                self.model.staged.push((lanes, expires_ms));
            }
            Step::Next { lane, records } => self.next(lane, records),
            Step::Acknowledge { lane, nth } => {
                let items = &mut self.model.lanes[lane];
                let flying = items.iter_mut().filter(|item| item.fate == Fate::InFlight).nth(nth);
                if let Some(item) = flying {
                    item.fate = Fate::Done;
                    self.queue.acknowledge(self.ids[lane], Position(item.position));
                }
            }
            Step::Rewind { lane } => {
                self.queue.rewind(self.ids[lane]);
                self.model.rewound[lane] = true;
                let flying = self.model.lanes[lane].iter_mut();
                flying.filter(|i| i.fate == Fate::InFlight).for_each(|i| i.fate = Fate::Waiting);
            }
            Step::Commit => self.commit(),
            Step::Reclaim => {
                self.queue.reclaim(now_ms);
            }
            Step::Wait { ms } => self.model.now_ms += ms,
            Step::Reopen { cut } => self.reopen(cut),
        }
        for lane in [0, 1] {
            self.check(lane);
        }
    }

    fn next(&mut self, lane: usize, records: usize) {
        let now_ms = self.model.now_ms;
        let budget = Budget { records, bytes: 1 << 20 };
        let delivery = self.queue.next(&[self.ids[lane]], budget, now_ms).unwrap();
        let found: Vec<u64> =
            delivery.iter().flat_map(|d| &d.records).map(|record| record.position.0).collect();
        let waiting: Vec<&mut Item> = self.model.lanes[lane]
            .iter_mut()
            .filter(|item| item.fate == Fate::Waiting && item.is_live(now_ms))
            .collect();
        assert!(found.len() <= records);
        self.model.rewound[lane] &= !found.is_empty();
        assert_eq!(found.is_empty(), waiting.is_empty(), "all that waits comes in the end");
        for (found, item) in found.iter().zip(waiting) {
            assert_eq!(*found, item.position, "in order, none left out");
            item.fate = Fate::InFlight;
        }
        for record in delivery.iter().flat_map(|delivery| &delivery.records) {
            let expected = payload(record.position.0, record.payload.len());
            assert_eq!(record.payload, expected);
        }
    }

    fn commit(&mut self) {
        let end = self.queue.commit(self.model.now_ms).unwrap().end();
        for (lanes, expires_ms) in std::mem::take(&mut self.model.staged) {
            for (bit, items) in self.model.lanes.iter_mut().enumerate() {
                if lanes >> bit & 1 == 1 {
                    let position = self.model.end;
                    items.push(Item { position, expires_ms, fate: Fate::Waiting });
                }
            }
            self.model.end += 1;
        }
        assert_eq!(end.0, self.model.end);
        for lane in [0, 1] {
            self.model.cursors[lane] = self.stats(lane).cursor.0;
        }
    }

    fn reopen(&mut self, cut: bool) {
        if cut {
            self.disk.power_cut(PowerCut::Lost);
        } else {
            self.commit();
            self.disk.kill();
        }
        let now_ms = self.model.now_ms;
        let (queue, recovered) =
            Queue::open(Arc::new(self.disk.clone()), options(), 7, now_ms).unwrap();
        self.queue = queue;
        assert_eq!((recovered.end.0, recovered.damaged.len()), (self.model.end, 0));
        self.model.staged.clear();
        self.model.rewound = [false; 2];
        for lane in [0, 1] {
            let cursor = self.stats(lane).cursor.0;
            assert_eq!(cursor, self.model.cursors[lane], "the cursor of the last commit");
            for item in &mut self.model.lanes[lane] {
                let again = item.position >= cursor;
                item.fate = if again { Fate::Waiting } else { Fate::Done };
            }
        }
    }

    /// The cursor never passes what is not done, and the depth counts what is not done.
    fn check(&self, lane: usize) {
        let now_ms = self.model.now_ms;
        let stats = self.stats(lane);
        let items = &self.model.lanes[lane];
        if let Some(first) = items.iter().find(|item| item.is_live(now_ms)) {
            assert!(stats.cursor.0 <= first.position, "{stats:?} passed {first:?}");
        }
        let done = items.iter().take_while(|item| item.fate == Fate::Done).last();
        let passed = done.is_none_or(|done| done.position < stats.cursor.0);
        assert!(passed || self.model.rewound[lane], "{stats:?} is behind");
        let open = items.iter().filter(|item| item.fate != Fate::Done);
        let live = items.iter().filter(|item| item.is_live(now_ms));
        // Expired records leave the depth when they are met.
        let depths = live.count() as u64..=open.count() as u64;
        assert!(depths.contains(&stats.depth), "{stats:?} not in {depths:?}");
    }
}

proptest! {
    #![proptest_config(super::oracle::config())]

    #[test]
    fn the_queue_is_a_list_per_lane(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
    }
}
