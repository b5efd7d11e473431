//! `SQLite` as the judge: the same steps for a log or a queue and for tables that mean the same.
//!
//! What a read must bring, where a seek must land, which record is next and how deep a lane is
//! are questions in SQL. The variable [`WANTED`] runs other cases than the gate's.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rusqlite::{Connection, Params};

use crate::disk::Disk as _;
use crate::disk::simulated::{PowerCut, SimulatedDisk};

mod log_oracle;
mod queue_oracle;

/// `CASES:SEED`: how many cases of each kind, and from which seed.
const WANTED: &str = "SELVEDGE_ORACLE";
/// Cases of each kind in the gate.
const CASES: u32 = 96;

/// The gate's cases are the same each time; what a longer run finds, `CASES:SEED` finds again.
pub(super) fn config() -> ProptestConfig {
    let wanted = std::env::var(WANTED).ok();
    let (cases, seed) = wanted.map_or((CASES, 1), |text| {
        let (cases, seed) = text.split_once(':').expect("CASES:SEED");
        (cases.parse().expect("a number of cases"), seed.parse().expect("a seed"))
    });
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// In order; nothing is closed, for a log needs no closing.
    Dropped,
    Killed,
    Cut(PowerCut),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Dropped),
        Just(End::Killed),
        prop::sample::select(PowerCut::ALL.as_slice()).prop_map(End::Cut),
    ]
}

impl End {
    fn happen(self, disk: &SimulatedDisk) {
        match self {
            Self::Dropped => {}
            Self::Killed => disk.kill(),
            Self::Cut(how) => disk.power_cut(how),
        }
    }

    /// Whether removals that were not synced may be undone.
    fn undoes(self) -> bool {
        matches!(self, Self::Cut(_))
    }
}

/// A database in memory with `schema`.
fn tables(schema: &str) -> Connection {
    let tables = Connection::open_in_memory().unwrap();
    tables.execute_batch(schema).unwrap();
    tables
}

/// The one number that `question` asks for; 0 for null.
fn number(tables: &Connection, question: &str, with: impl Params) -> u64 {
    let mut statement = tables.prepare_cached(question).unwrap();
    let found: Option<i64> = statement.query_row(with, |row| row.get(0)).unwrap();
    u64::try_from(found.unwrap_or(0)).unwrap()
}

fn change(tables: &Connection, order: &str, with: impl Params) {
    tables.prepare_cached(order).unwrap().execute(with).unwrap();
}

/// Integers of `SQLite` have a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}

/// Bytes of its own for the record at `position`, any length.
fn body(position: u64, length: usize) -> Bytes {
    super::payload(position, length.max(8)).slice(..length)
}

fn segments(disk: &SimulatedDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| name.ends_with(".segment")).count()
}
