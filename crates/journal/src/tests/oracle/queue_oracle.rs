//! The queue against tables: which record is next, cursors, depths, expiry, what a restart
//! brings again, and what may be freed.

use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::{Connection, params};

use super::{End, body, change, config, end, number, segments, signed, tables};
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Budget, LaneId, LogOptions, Position, Record, StoredRecord};
use crate::queue::{LaneStats, Queue};

const ENDPOINTS: [&str; 3] = ["upstream", "filter/input", "other:one"];
const PRIORITIES: u32 = 2;
const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 16 * 1024,
    bytes_max: None,
    retention: crate::log::Retention { age_ms: None, bytes: None },
};

/// `item` is a record in a lane. Its fate: 0 waits, 1 is in flight, 2 was acknowledged, 3 was
/// given up. `kept` of a lane is its cursor at the last commit, `since` the one it was opened
/// with; `loose` says that something was taken back since the lane was last read to its end:
/// until then the cursor may stand before what was done out of order.
const SCHEMA: &str = "
    CREATE TABLE lane (id INTEGER PRIMARY KEY, endpoint TEXT, priority INTEGER, kept INTEGER,
                       since INTEGER, loose INTEGER DEFAULT 0, UNIQUE (endpoint, priority));
    CREATE TABLE record (position INTEGER PRIMARY KEY, enqueued_ms INTEGER, expires_ms INTEGER,
                         payload BLOB, bytes INTEGER, committed INTEGER DEFAULT 0);
    CREATE TABLE placed (lane INTEGER, position INTEGER, fate INTEGER DEFAULT 0,
                         PRIMARY KEY (lane, position));
    CREATE VIEW item AS SELECT * FROM placed JOIN record USING (position) WHERE committed = 1;
";

/// A lane by endpoint and priority, not by id.
type Name = (usize, u32);

#[derive(Clone, Debug)]
enum Step {
    Lane(Name),
    /// Into the known lanes with a bit in `lanes`.
    Stage {
        count: usize,
        lanes: u32,
        length: usize,
        life_ms: Option<i64>,
    },
    Next {
        endpoint: usize,
        records: usize,
    },
    Acknowledge {
        lane: Name,
        nth: u64,
    },
    /// Of something that is not in flight.
    AcknowledgeOther {
        lane: Name,
        position: u64,
    },
    Rewind(Name),
    Drop(usize),
    Commit,
    Reclaim,
    Wait {
        ms: i64,
    },
    Reopen(End),
}

fn name() -> impl Strategy<Value = Name> {
    (0..ENDPOINTS.len(), 0..PRIORITIES)
}

fn step() -> impl Strategy<Value = Step> {
    let endpoint = 0..ENDPOINTS.len();
    prop_oneof![
        2 => name().prop_map(Step::Lane),
        8 => (1..5usize, 1..64u32, 0..1500usize, prop::option::of(1..30i64)).prop_map(
            |(count, lanes, length, life_ms)| Step::Stage { count, lanes, length, life_ms }),
        8 => (endpoint.clone(), 1..12usize)
            .prop_map(|(endpoint, records)| Step::Next { endpoint, records }),
        14 => (name(), 0..6u64).prop_map(|(lane, nth)| Step::Acknowledge { lane, nth }),
        1 => (name(), 0..60u64)
            .prop_map(|(lane, position)| Step::AcknowledgeOther { lane, position }),
        2 => name().prop_map(Step::Rewind),
        1 => endpoint.prop_map(Step::Drop),
        6 => Just(Step::Commit),
        3 => Just(Step::Reclaim),
        3 => (1..10i64).prop_map(|ms| Step::Wait { ms }),
        2 => end().prop_map(Step::Reopen),
    ]
}

struct Run {
    disk: SimulatedDisk,
    queue: Queue,
    tables: Connection,
    now_ms: i64,
}

impl Run {
    fn new() -> Self {
        let disk = SimulatedDisk::new(1);
        let (queue, _) = Queue::open(Arc::new(disk.clone()), OPTIONS, 7, 0).unwrap();
        Self { disk, queue, tables: tables(SCHEMA), now_ms: 0 }
    }

    fn ask(&self, question: &str, with: impl rusqlite::Params) -> u64 {
        number(&self.tables, question, with)
    }

    fn end(&self) -> u64 {
        self.ask("SELECT max(position) + 1 FROM record WHERE committed = 1", [])
    }

    /// The id of a lane, if it was made.
    fn id(&self, (endpoint, priority): Name) -> Option<LaneId> {
        let question = "SELECT max(id) FROM lane WHERE endpoint = ?1 AND priority = ?2";
        let id = self.ask(question, params![ENDPOINTS[endpoint], priority]);
        (id > 0).then(|| LaneId(u32::try_from(id).unwrap()))
    }

    fn ids(&self, question: &str, with: impl rusqlite::Params) -> Vec<LaneId> {
        let mut statement = self.tables.prepare_cached(question).unwrap();
        let rows = statement.query_map(with, |row| row.get(0).map(LaneId)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Lane(name) => self.make_lane(name),
            Step::Stage { count, lanes, length, life_ms } => {
                let known = self.ids("SELECT id FROM lane ORDER BY id", []);
                let bit = |place: usize| lanes >> place & 1 == 1;
                let own = known.iter().enumerate().filter(|(place, _)| bit(*place));
                let own: Vec<LaneId> = own.map(|(_, id)| *id).collect();
                if !own.is_empty() {
                    self.stage(count, &own, length, life_ms.map(|life| self.now_ms + life));
                }
            }
            Step::Next { endpoint, records } => self.next(endpoint, records),
            Step::Acknowledge { lane, nth } => self.acknowledge(lane, nth),
            Step::AcknowledgeOther { lane, position } => {
                let Some(id) = self.id(lane) else { return };
                let question =
                    "SELECT count(*) FROM item WHERE lane = ?1 AND position = ?2 AND fate = 1";
                if self.ask(question, params![id.0, signed(position)]) == 0 {
                    self.queue.acknowledge(id, Position(position));
                }
            }
            Step::Rewind(name) => {
                let Some(id) = self.id(name) else { return };
                self.queue.rewind(id);
                change(&self.tables, "UPDATE lane SET loose = 1 WHERE id = ?1", [id.0]);
                let order = "UPDATE placed SET fate = 0 WHERE lane = ?1 AND fate = 1";
                change(&self.tables, order, [id.0]);
            }
            Step::Drop(endpoint) => {
                self.queue.drop_endpoint(ENDPOINTS[endpoint]);
                let order = "
                    UPDATE placed SET fate = 3 WHERE fate < 2
                        AND lane IN (SELECT id FROM lane WHERE endpoint = ?1)
                        AND position IN (SELECT position FROM record WHERE committed = 1)";
                change(&self.tables, order, [ENDPOINTS[endpoint]]);
            }
            Step::Commit => self.commit(),
            Step::Reclaim => self.reclaim(),
            Step::Wait { ms } => self.now_ms += ms,
            Step::Reopen(end) => self.reopen(end),
        }
        self.compare_lanes();
    }

    fn make_lane(&mut self, (endpoint, priority): Name) {
        let known = self.id((endpoint, priority));
        let id = self.queue.lane(ENDPOINTS[endpoint], priority);
        assert!(known.is_none_or(|known| known == id), "{id} is new");
        if known.is_none() {
            let order = "INSERT INTO lane (id, endpoint, priority, since) VALUES (?1, ?2, ?3, ?4)";
            let row = params![id.0, ENDPOINTS[endpoint], priority, signed(self.end())];
            change(&self.tables, order, row);
        }
        let question = "SELECT id FROM lane WHERE endpoint = ?1 ORDER BY priority";
        let expected = self.ids(question, [ENDPOINTS[endpoint]]);
        assert_eq!(self.queue.lanes(ENDPOINTS[endpoint]), expected);
    }

    fn stage(&mut self, count: usize, lanes: &[LaneId], length: usize, expires_ms: Option<i64>) {
        let staged = "SELECT sum(bytes) FROM record WHERE committed = 0";
        if self.ask(staged, []) > 6_000 {
            // More may not fit into one write; the log's own tables have the limit.
            self.commit();
        }
        let first = self.ask("SELECT max(position) + 1 FROM record", []);
        let enqueued_ms = self.now_ms;
        let lanes: Box<[LaneId]> = lanes.into();
        let record = |position| {
            let payload = body(position, length);
            Record { lanes: lanes.clone(), enqueued_ms, expires_ms, payload }
        };
        let records: Vec<Record> = (first..first + count as u64).map(record).collect();
        self.queue.stage(&records).unwrap();
        for (position, record) in (first..).zip(&records) {
            let order = "INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, 0)";
            let bytes = signed(crate::log::frame_bytes(record) as u64);
            let row =
                params![signed(position), enqueued_ms, expires_ms, &record.payload[..], bytes];
            change(&self.tables, order, row);
            for lane in &record.lanes {
                let order = "INSERT INTO placed (lane, position) VALUES (?1, ?2)";
                change(&self.tables, order, params![lane.0, signed(position)]);
            }
        }
    }

    /// The first lane of the endpoint that has work, from its first record on, none left out.
    fn next(&mut self, endpoint: usize, records: usize) {
        let lanes = self.queue.lanes(ENDPOINTS[endpoint]);
        let budget = Budget { records, bytes: 1 << 20 };
        let found = self.queue.next(&lanes, budget, self.now_ms).unwrap();
        let question = "
            SELECT position, enqueued_ms, expires_ms, payload, bytes, id FROM lane JOIN item ON lane = id
            WHERE endpoint = ?1 AND fate = 0 AND (expires_ms IS NULL OR expires_ms > ?2)
            ORDER BY priority, position";
        let mut statement = self.tables.prepare_cached(question).unwrap();
        let rows = statement.query_map(params![ENDPOINTS[endpoint], self.now_ms], |row| {
            let record = StoredRecord {
                position: Position(u64::try_from(row.get::<_, i64>(0)?).unwrap()),
                enqueued_ms: row.get(1)?,
                expires_ms: row.get(2)?,
                payload: row.get::<_, Vec<u8>>(3)?.into(),
                disk_bytes: u64::try_from(row.get::<_, i64>(4)?).unwrap(),
            };
            Ok((LaneId(row.get(5)?), record))
        });
        let due: Vec<(LaneId, StoredRecord)> = rows.unwrap().map(Result::unwrap).collect();
        let found_any = found.as_ref().map(|delivery| delivery.lane);
        assert_eq!(
            found_any,
            due.first().map(|(lane, _)| *lane),
            "all that waits comes in the end"
        );
        // What was read to its end without a find has passed all that was taken back.
        let passed = lanes.iter().take_while(|lane| Some(**lane) != found_any);
        for lane in passed {
            change(&self.tables, "UPDATE lane SET loose = 0 WHERE id = ?1", [lane.0]);
        }
        let Some(delivery) = found else { return };
        assert!((1..=records).contains(&delivery.records.len()));
        for (record, (lane, due)) in delivery.records.iter().zip(&due) {
            assert_eq!((delivery.lane, record), (*lane, due), "in order, none left out");
            let order = "UPDATE placed SET fate = 1 WHERE lane = ?1 AND position = ?2";
            change(&self.tables, order, params![lane.0, signed(record.position.0)]);
        }
    }

    fn acknowledge(&mut self, lane: Name, nth: u64) {
        let Some(id) = self.id(lane) else { return };
        let question = "SELECT count(*) FROM item WHERE lane = ?1 AND fate = 1";
        if self.ask(question, [id.0]) <= nth {
            return;
        }
        let question = "SELECT position FROM item WHERE lane = ?1 AND fate = 1
                        ORDER BY position LIMIT 1 OFFSET ?2";
        let position = self.ask(question, params![id.0, signed(nth)]);
        self.queue.acknowledge(id, Position(position));
        let order = "UPDATE placed SET fate = 2 WHERE lane = ?1 AND position = ?2";
        change(&self.tables, order, params![id.0, signed(position)]);
    }

    fn commit(&mut self) {
        let committed = self.queue.commit(self.now_ms).unwrap();
        change(&self.tables, "UPDATE record SET committed = 1", []);
        assert_eq!(committed.end().0, self.end());
        for stats in self.queue.stats(self.now_ms).unwrap() {
            let order = "UPDATE lane SET kept = ?2 WHERE id = ?1";
            change(&self.tables, order, params![stats.lane.0, signed(stats.cursor.0)]);
        }
    }

    /// Frees nothing that somebody waits for, and everything else.
    fn reclaim(&mut self) {
        let freed = self.queue.reclaim(self.now_ms);
        let oldest = self.queue.bounds().oldest.0;
        let lost = "SELECT count(*) FROM item WHERE position < ?1 AND (fate = 1
                    OR (fate = 0 AND (expires_ms IS NULL OR expires_ms > ?2)))";
        assert_eq!(self.ask(lost, params![signed(oldest), self.now_ms]), 0, "{freed} bytes");
        let open = "SELECT count(*) FROM item WHERE fate = 1
                    OR (fate = 0 AND (expires_ms IS NULL OR expires_ms > ?1))";
        // What is too old and not read yet frees its segment if all of its lane there is too
        // old, and else when the lane is read on.
        let unread = "SELECT count(*) FROM item AS one WHERE fate = 0 AND EXISTS
                      (SELECT 1 FROM item WHERE lane = one.lane
                       AND (expires_ms IS NULL OR expires_ms > ?1))";
        let loose = "SELECT count(*) FROM lane WHERE loose = 1";
        let waits = [open, unread].map(|question| self.ask(question, [self.now_ms]));
        if waits == [0, 0] && self.ask(loose, []) == 0 {
            let kept = segments(&self.disk);
            assert!(kept <= 1, "nobody waits, and {kept} segments are kept");
        }
    }

    fn reopen(&mut self, end: End) {
        end.happen(&self.disk);
        let (queue, recovered) =
            Queue::open(Arc::new(self.disk.clone()), OPTIONS, 7, self.now_ms).unwrap();
        let before = std::mem::replace(&mut self.queue, queue).bounds().oldest;
        assert!(self.queue.bounds().oldest <= before, "a start removes nothing");
        assert_eq!((recovered.end.0, recovered.damaged.len()), (self.end(), 0));
        // What was done or too old may be gone although no commit said so.
        let oldest = self.queue.bounds().oldest.0;
        change(&self.tables, "DELETE FROM placed WHERE position < ?1", [signed(oldest)]);
        self.tables
            .execute_batch(
                "DELETE FROM placed WHERE position IN
                    (SELECT position FROM record WHERE committed = 0);
                 DELETE FROM record WHERE committed = 0;
                 DELETE FROM lane WHERE kept IS NULL;
                 UPDATE lane SET since = kept, loose = 0;
                 UPDATE placed SET fate = CASE
                    WHEN position >= (SELECT kept FROM lane WHERE id = lane) THEN 0 ELSE 2 END;",
            )
            .unwrap();
    }

    fn compare_lanes(&self) {
        let stats = self.queue.stats(self.now_ms).unwrap();
        let ids = self.ids("SELECT id FROM lane ORDER BY id", []);
        assert_eq!(stats.iter().map(|stats| stats.lane).collect::<Vec<_>>(), ids);
        for stats in &stats {
            self.compare(stats);
        }
    }

    /// The cursor passes all that is done in front and nothing that is not; depth and bytes are
    /// those of what is not done, where what expired may be counted until it is met.
    fn compare(&self, stats: &LaneStats) {
        let id = stats.lane.0;
        let own = |question: &str| self.ask(question, params![id, self.now_ms]);
        let live = "lane = ?1 AND fate < 2 AND (expires_ms IS NULL OR expires_ms > ?2)";
        let open = "lane = ?1 AND fate < 2 AND ?2 = ?2";
        let first_live =
            own(&format!("SELECT coalesce(min(position), 1 << 40) FROM item WHERE {live}"));
        assert!(stats.cursor.0 <= first_live, "{stats:?} passed {first_live}");
        let done = own(&format!(
            "SELECT max(position) + 1 FROM item WHERE lane = ?1 AND position <
                (SELECT coalesce(min(position), 1 << 40) FROM item WHERE {open})"
        ));
        let is_loose = own("SELECT loose FROM lane WHERE id = ?1 AND ?2 = ?2") == 1;
        assert!(is_loose || stats.cursor.0 >= done, "{stats:?} is behind {done}");
        let count = |what: &str| own(&format!("SELECT count(*) FROM item WHERE {what}"));
        let bytes = |what: &str| own(&format!("SELECT sum(bytes) FROM item WHERE {what}"));
        let depths = count(live)..=count(open);
        assert!(depths.contains(&stats.depth), "{stats:?}, depth {depths:?}");
        let sizes = bytes(live)..=bytes(open);
        assert!(sizes.contains(&stats.bytes), "{stats:?}, bytes {sizes:?}");
        let too_old = own("SELECT count(*) FROM item, lane WHERE lane = ?1 AND id = lane
                           AND position >= since AND expires_ms <= ?2 AND fate IN (0, 1, 3)");
        assert!(stats.expired <= too_old, "{stats:?}, {too_old} are too old");
        let unseen = "SELECT count(*) FROM item, lane WHERE lane = ?1 AND id = lane
                      AND position >= since AND position < ?2 AND fate = 0";
        let unseen = self.ask(unseen, params![id, signed(stats.cursor.0)]);
        assert!(stats.expired >= unseen, "{stats:?}, {unseen} were passed undelivered");
        let waits = "SELECT ?3 - enqueued_ms FROM item WHERE lane = ?1 AND position >= ?2
                     UNION ALL SELECT 0 LIMIT 1";
        let waits = self.ask(waits, params![id, signed(stats.cursor.0), self.now_ms]);
        let waits = (stats.depth > 0).then_some(i64::try_from(waits).unwrap());
        assert_eq!(stats.oldest_ms, waits, "{stats:?}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_queue_answers_as_tables_do(steps in prop::collection::vec(step(), 1..150)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        run.take(&Step::Commit);
        run.take(&Step::Reopen(End::Dropped));
    }
}
