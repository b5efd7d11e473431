//! The log against tables: positions, reads, seeks, retention, cursors and labels.

use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::{Connection, params};

use super::{End, body, change, config, end, number, segments, signed, tables};
use crate::disk::simulated::SimulatedDisk;
use crate::log::{
    Budget, LaneId, Log, LogOptions, Position, Reader, Record, Retention, StageError, StoredRecord,
};

const SEGMENT_BYTES: u64 = 16 * 1024;
/// What one commit may bring: a segment without what is spared for its head.
const BATCH_BYTES: u64 = SEGMENT_BYTES - 4 * 1024;
const LANES: u32 = 3;
const EVERYTHING: Budget = Budget { records: 100_000, bytes: 1 << 30 };

/// A record is visible when it lies at `oldest` or behind and before `fin`; behind that it is
/// staged. Cursor and label of a lane are those of now and those of the last commit.
const SCHEMA: &str = "
    CREATE TABLE log (oldest INTEGER, fin INTEGER);
    INSERT INTO log VALUES (0, 0);
    CREATE TABLE record (position INTEGER PRIMARY KEY, enqueued_ms INTEGER, expires_ms INTEGER,
                         payload BLOB, bytes INTEGER);
    CREATE TABLE placed (lane INTEGER, position INTEGER, PRIMARY KEY (lane, position));
    CREATE TABLE lane (id INTEGER PRIMARY KEY, cursor INTEGER, label TEXT,
                       kept INTEGER, kept_label TEXT);
    CREATE VIEW visible AS
        SELECT placed.lane, record.* FROM record JOIN placed USING (position), log
        WHERE position >= oldest AND position < fin;
";

/// Where a read begins, both with 20 records beyond.
#[derive(Clone, Copy, Debug)]
enum From {
    /// So many records behind the oldest.
    Oldest(u64),
    /// So many records before the end.
    End(u64),
}

#[derive(Clone, Debug)]
enum Step {
    /// `count` records of the lanes with a bit in `lanes`; the clock may have jumped.
    Stage {
        count: usize,
        lanes: u32,
        length: usize,
        jump_ms: i64,
        life_ms: Option<i64>,
    },
    Cursor {
        lane: u32,
        back: u64,
    },
    Label {
        lane: u32,
        label: u16,
    },
    Commit,
    Read {
        lane: u32,
        from: From,
        budget: (usize, usize),
    },
    Seek {
        lane: u32,
        back_ms: i64,
    },
    Retain,
    Wait {
        ms: i64,
    },
    Reopen(End),
}

fn step() -> impl Strategy<Value = Step> {
    let lanes = 0..1u32 << LANES;
    let stage = |counts, lengths| {
        let jump_ms = prop_oneof![5 => Just(0), 1 => -40..40i64];
        (counts, lanes.clone(), lengths, jump_ms, prop::option::of(1..30i64)).prop_map(
            |(count, lanes, length, jump_ms, life_ms)| Step::Stage {
                count,
                lanes,
                length,
                jump_ms,
                life_ms,
            },
        )
    };
    let from = prop_oneof![(0..400u64).prop_map(From::Oldest), (0..400u64).prop_map(From::End),];
    prop_oneof![
        6 => stage(0..4usize, 0..1800usize),
        3 => stage(60..200usize, 0..20usize),
        1 => stage(1..3usize, 11_000..13_000usize),
        2 => (1..=LANES, 0..20u64).prop_map(|(lane, back)| Step::Cursor { lane, back }),
        1 => (1..=LANES, any::<u16>()).prop_map(|(lane, label)| Step::Label { lane, label }),
        8 => Just(Step::Commit),
        6 => (1..=LANES, from, (0..80usize, 0..40_000usize))
            .prop_map(|(lane, from, budget)| Step::Read { lane, from, budget }),
        4 => (1..=LANES, -30..200i64).prop_map(|(lane, back_ms)| Step::Seek { lane, back_ms }),
        2 => Just(Step::Retain),
        4 => (0..12i64).prop_map(|ms| Step::Wait { ms }),
        2 => end().prop_map(Step::Reopen),
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    let age_ms = prop::option::of(10..80i64);
    let bytes = prop::option::of(20_000..60_000u64);
    (age_ms, bytes).prop_map(|(age_ms, bytes)| Retention { age_ms, bytes })
}

struct Run {
    disk: SimulatedDisk,
    options: LogOptions,
    log: Log,
    reader: Reader,
    tables: Connection,
    now_ms: i64,
}

impl Run {
    fn new(retention: Retention) -> Self {
        let disk = SimulatedDisk::new(1);
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, bytes_max: None, retention };
        let (log, _) = Log::open(Arc::new(disk.clone()), options, 7, 0).unwrap();
        let reader = log.reader();
        Self { disk, options, log, reader, tables: tables(SCHEMA), now_ms: 1_000 }
    }

    fn ask(&self, question: &str) -> u64 {
        number(&self.tables, question, [])
    }

    fn bounds(&self) -> (u64, u64) {
        (self.ask("SELECT oldest FROM log"), self.ask("SELECT fin FROM log"))
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Stage { count, lanes, length, jump_ms, life_ms } => {
                let lanes: Vec<u32> =
                    (1..=LANES).filter(|lane| lanes >> (lane - 1) & 1 == 1).collect();
                self.stage(count, &lanes, length, (self.now_ms + jump_ms, life_ms));
            }
            Step::Cursor { lane, back } => {
                let cursor = self.bounds().1.saturating_sub(back);
                self.log.stage_cursor(LaneId(lane), Position(cursor));
                let order = "INSERT INTO lane (id, cursor) VALUES (?1, ?2)
                             ON CONFLICT (id) DO UPDATE SET cursor = ?2";
                change(&self.tables, order, params![lane, signed(cursor)]);
            }
            Step::Label { lane, label } => {
                let label = format!("label {label}");
                self.log.stage_label(LaneId(lane), &label);
                let order = "INSERT INTO lane (id, cursor, label) VALUES (?1, 0, ?2)
                             ON CONFLICT (id) DO UPDATE SET label = ?2";
                change(&self.tables, order, params![lane, label]);
            }
            Step::Commit => self.commit(),
            Step::Read { lane, from, budget } => {
                let (oldest, end) = self.bounds();
                let from = match from {
                    From::Oldest(behind) => (oldest + behind).saturating_sub(20),
                    From::End(before) => (end + 20).saturating_sub(before),
                };
                self.read(lane, from, Budget { records: budget.0, bytes: budget.1 });
            }
            Step::Seek { lane, back_ms } => self.seek(lane, self.now_ms - back_ms),
            Step::Retain => self.retain(),
            Step::Wait { ms } => self.now_ms += ms,
            Step::Reopen(end) => self.reopen(end),
        }
        let bounds = self.reader.bounds();
        assert_eq!((bounds.oldest.0, bounds.end.0), self.bounds());
        self.compare_lanes();
    }

    /// Stages `count` records, all alike but for their bytes; `times` is when they were enqueued
    /// and how long they live.
    fn stage(&mut self, count: usize, lanes: &[u32], length: usize, times: (i64, Option<i64>)) {
        let first = self
            .ask("SELECT max(fin, coalesce((SELECT max(position) + 1 FROM record), 0)) FROM log");
        let (enqueued_ms, life_ms) = times;
        let expires_ms = life_ms.map(|life| enqueued_ms + life);
        let record = |position| Record {
            lanes: lanes.iter().map(|lane| LaneId(*lane)).collect(),
            enqueued_ms,
            expires_ms,
            payload: body(position, length),
        };
        let records: Vec<Record> = (first..first + count as u64).map(record).collect();
        let end = first + count as u64;
        let expected = match self.refusal(&records) {
            Some(refusal) => Err(refusal),
            None => Ok(Position(first)..Position(end)),
        };
        assert_eq!(self.log.stage(&records), expected);
        if expected.is_err() {
            return;
        }
        for (position, record) in (first..).zip(&records) {
            let order = "INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5)";
            let bytes = signed(frame_bytes(record));
            let row =
                params![signed(position), enqueued_ms, expires_ms, &record.payload[..], bytes];
            change(&self.tables, order, row);
            for lane in lanes {
                change(
                    &self.tables,
                    "INSERT INTO placed VALUES (?1, ?2)",
                    params![lane, signed(position)],
                );
            }
        }
    }

    /// The refusal that is due, if any. Lengths are those of frames: 32 bytes of head, 8 of
    /// expiry, 4 for each lane.
    fn refusal(&self, records: &[Record]) -> Option<StageError> {
        let limit = usize::try_from(BATCH_BYTES).unwrap();
        let payload_max = limit - 512;
        for record in records {
            if record.payload.len() > payload_max {
                let bytes = record.payload.len();
                return Some(StageError::TooLarge { bytes, limit: payload_max });
            }
            if record.lanes.is_empty() {
                return Some(StageError::Lanes);
            }
        }
        let bytes = records.iter().map(frame_bytes).sum::<u64>();
        let waiting = "SELECT sum(bytes) FROM record, log WHERE position >= fin";
        match self.ask(waiting) {
            staged if staged + bytes <= BATCH_BYTES => None,
            0 => Some(StageError::TooLarge { bytes: usize::try_from(bytes).unwrap(), limit }),
            _ => Some(StageError::CommitFirst),
        }
    }

    fn commit(&mut self) {
        let committed = self.log.commit(self.now_ms).unwrap();
        self.tables
            .execute_batch(
                "UPDATE log SET fin = max(fin, (SELECT coalesce(max(position) + 1, 0) FROM record));
                 UPDATE lane SET kept = cursor, kept_label = label;",
            )
            .unwrap();
        assert_eq!(committed.end().0, self.bounds().1);
    }

    /// The longest run of records within the budget, at least one; and where to read on.
    fn read(&self, lane: u32, from: u64, budget: Budget) {
        let found = self.reader.read(LaneId(lane), Position(from), budget).unwrap();
        let question = "
            SELECT position, enqueued_ms, expires_ms, payload, bytes FROM (
                SELECT *, row_number() OVER each AS nth, sum(bytes) OVER each AS total
                FROM visible WHERE lane = ?1 AND position >= ?2
                WINDOW each AS (ORDER BY position))
            WHERE nth = 1 OR (nth <= ?3 AND total <= ?4) ORDER BY position";
        let mut statement = self.tables.prepare_cached(question).unwrap();
        let records = i64::try_from(budget.records.max(1)).unwrap();
        let bytes = i64::try_from(budget.bytes.max(1)).unwrap();
        let rows = statement.query_map(params![lane, signed(from), records, bytes], |row| {
            Ok(StoredRecord {
                position: Position(u64::try_from(row.get::<_, i64>(0)?).unwrap()),
                enqueued_ms: row.get(1)?,
                expires_ms: row.get(2)?,
                payload: row.get::<_, Vec<u8>>(3)?.into(),
                disk_bytes: u64::try_from(row.get::<_, i64>(4)?).unwrap(),
            })
        });
        let expected: Vec<StoredRecord> = rows.unwrap().map(Result::unwrap).collect();
        assert_eq!(found.records, expected, "lane {lane} from {from}, {budget:?}");
        assert_eq!(found.damaged, 0);
        let last = expected.last().map_or(from, |last| last.position.0 + 1);
        let question = "SELECT coalesce(min(position), fin) FROM log LEFT JOIN
                        (SELECT position FROM visible WHERE lane = ?1 AND position >= ?2)";
        let rest = number(&self.tables, question, params![lane, signed(last)]);
        assert!((last..=rest.max(last)).contains(&found.next.0), "{} is not next", found.next);
    }

    fn seek(&self, lane: u32, at_ms: i64) {
        let found = self.reader.seek(LaneId(lane), at_ms).unwrap();
        let question = "SELECT coalesce(min(position), fin) FROM log LEFT JOIN
                        (SELECT position FROM visible WHERE lane = ?1 AND enqueued_ms >= ?2)";
        let expected = number(&self.tables, question, params![lane, at_ms]);
        assert_eq!(found.0, expected, "lane {lane} at {at_ms}");
    }

    /// Only what is too old or too much goes, and then all of it but for the segment in use.
    fn retain(&mut self) {
        let before = self.log.bytes();
        let freed = self.log.retain(self.now_ms);
        assert_eq!(self.log.bytes(), before - freed);
        let oldest = self.reader.bounds().oldest.0;
        let Retention { age_ms, bytes } = self.options.retention;
        let is_large = bytes.is_some_and(|bytes| before > bytes);
        let young = "SELECT count(*) FROM record, log
                     WHERE position BETWEEN oldest AND ?1 - 1 AND enqueued_ms >= ?2";
        let young = age_ms.map_or(0, |age_ms| {
            number(&self.tables, young, params![signed(oldest), self.now_ms - age_ms])
        });
        assert!(freed == 0 || is_large || (age_ms.is_some() && young == 0), "{young} are gone");
        let is_fit = bytes.is_none_or(|bytes| self.log.bytes() <= bytes);
        assert!(is_fit || segments(&self.disk) == 1, "more could have gone");
        change(&self.tables, "UPDATE log SET oldest = ?1", [signed(oldest)]);
    }

    fn reopen(&mut self, end: End) {
        end.happen(&self.disk);
        let (log, recovered) =
            Log::open(Arc::new(self.disk.clone()), self.options, 8, self.now_ms).unwrap();
        (self.reader, self.log) = (log.reader(), log);
        let (oldest, fin) = self.bounds();
        assert_eq!((recovered.end.0, recovered.damaged.len()), (fin, 0));
        let found = self.reader.bounds().oldest.0;
        assert!(found == oldest || (found < oldest && end.undoes()), "{found}, not {oldest}");
        self.tables
            .execute_batch(
                "DELETE FROM placed WHERE position >= (SELECT fin FROM log);
                 DELETE FROM record WHERE position >= (SELECT fin FROM log);
                 DELETE FROM lane WHERE kept IS NULL;
                 UPDATE lane SET cursor = kept, label = kept_label;",
            )
            .unwrap();
        change(&self.tables, "UPDATE log SET oldest = ?1", [signed(found)]);
        for lane in 1..=LANES {
            self.read(lane, found, EVERYTHING);
        }
    }

    fn compare_lanes(&self) {
        let question = "SELECT id, cursor, label FROM lane ORDER BY id";
        let mut statement = self.tables.prepare_cached(question).unwrap();
        let rows = statement.query_map([], |row| {
            let cursor = u64::try_from(row.get::<_, i64>(1)?).unwrap();
            Ok((LaneId(row.get(0)?), Position(cursor), row.get::<_, Option<String>>(2)?))
        });
        let expected: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
        let found = self.log.lanes().map(|(id, at, label)| (id, at, label.map(str::to_owned)));
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}

fn frame_bytes(record: &Record) -> u64 {
    let expiry = if record.expires_ms.is_some() { 8 } else { 0 };
    (32 + expiry + 4 * record.lanes.len() + record.payload.len()) as u64
}

#[test]
fn a_seek_finds_the_first_record_although_the_clock_went_back() {
    let mut run = Run::new(Retention::default());
    // Blocks of the index begin with times that do not ascend.
    for (count, enqueued_ms) in [(100, 50), (100, 10)] {
        run.stage(count, &[1], 8, (enqueued_ms, None));
        run.commit();
    }
    for at_ms in [5, 10, 11, 50, 51] {
        run.seek(1, at_ms);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_log_answers_as_tables_do(
        retention in retention(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new(retention);
        for step in &steps {
            run.take(step);
        }
        run.take(&Step::Reopen(End::Dropped));
    }
}
