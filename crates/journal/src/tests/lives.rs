//! Workloads with a ledger: what was promised must hold in every later life.

use std::collections::{BTreeMap, BTreeSet};

use super::{Random, payload};
use crate::disk::Disk as _;
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Budget, CommitError, LaneId, LogOptions, Position, Record, Retention};

mod log_life;
mod queue_life;

pub(super) use log_life::live_log;
pub(super) use queue_life::live_queue;

const EVERYTHING: Budget = Budget { records: 100_000, bytes: 1 << 30 };
const LANES: u64 = 3;

/// [`live_log`] or [`live_queue`].
pub(super) type Life = fn(&SimulatedDisk, &mut Ledger, &mut Random, usize);

/// A record as the ledger knows it.
#[derive(Clone, Debug)]
struct Entry {
    lanes: Vec<LaneId>,
    serial: u64,
    length: usize,
    expires_ms: Option<i64>,
}

impl Entry {
    fn record(&self) -> Record {
        Record {
            lanes: self.lanes.clone().into(),
            enqueued_ms: 0,
            expires_ms: self.expires_ms,
            payload: payload(self.serial, self.length),
        }
    }
}

/// What a lane was promised, and what may also be.
#[derive(Clone, Debug, Default)]
struct Lane {
    cursor: u64,
    cursor_tried: u64,
    label: Option<String>,
    label_tried: Option<String>,
    /// Where the log ended when the lane was made: what lies before is none of its business.
    born: u64,
    /// Positions acknowledged by whoever read them.
    done: BTreeSet<u64>,
}

/// What was promised.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    records: BTreeMap<u64, Entry>,
    /// Written but not proven: a prefix of it may come back.
    pending: Vec<Entry>,
    pub(super) end: u64,
    lanes: BTreeMap<LaneId, Lane>,
    /// Retention may have removed what lies before.
    oldest: u64,
    serial: u64,
    now_ms: i64,
    /// A segment was spoiled, and no start has reported it yet.
    spoiled: bool,
    /// Positions that were reported as lost, from and to.
    lost: Vec<(u64, u64)>,
    /// The number of the newest segment at the last commit.
    newest: u64,
    pub(super) totals: Totals,
}

/// What the lives exercised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) opened: u64,
    pub(super) commits: u64,
    pub(super) refused: u64,
    pub(super) records_checked: u64,
    pub(super) unproven_kept: u64,
    /// Times that the disk was full when something was to be kept.
    pub(super) full: u64,
    /// Times that segments were removed.
    pub(super) reclaims: u64,
    /// Segments that were put aside as damaged.
    pub(super) quarantines: u64,
    /// Segments that began with the state of all lanes when a cursor had moved.
    pub(super) snapshots: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.commits += other.commits;
        self.refused += other.refused;
        self.records_checked += other.records_checked;
        self.unproven_kept += other.unproven_kept;
        self.full += other.full;
        self.reclaims += other.reclaims;
        self.quarantines += other.quarantines;
        self.snapshots += other.snapshots;
    }
}

pub(super) fn options() -> LogOptions {
    let retention = Retention { age_ms: None, bytes: Some(90 * 1024) };
    LogOptions { segment_bytes: 16 * 1024, bytes_max: None, retention }
}

/// Small enough that a workload meets retention.
fn small_options() -> LogOptions {
    let retention = Retention { age_ms: None, bytes: Some(18 * 1024) };
    LogOptions { retention, ..options() }
}

/// Shorter lives only look around.
const WHOLE_LIFE: usize = 40;

impl Ledger {
    fn is_unspoiled(&self) -> bool {
        !self.spoiled && self.lost.is_empty()
    }

    /// Checks what a start reported as damaged: at most the segment that was spoiled, once as
    /// new, and from then on as a gap until retention has passed it.
    fn check_damage(&mut self, damaged: &[crate::log::Damage]) {
        for damage in damaged {
            let range = (damage.from.0, damage.to.0);
            let is_known = self.lost.iter().any(|(from, to)| (*from..=*to).contains(&range.0));
            if is_known {
                continue;
            }
            assert!(std::mem::take(&mut self.spoiled), "a power cut is no damage: {damage:?}");
            assert!(range.1 - range.0 <= options().segment_bytes / 36, "{damage:?} is too much");
            self.lost.push(range);
            self.totals.quarantines += 1;
            self.records.retain(|position, _| !(range.0..range.1).contains(position));
        }
    }

    fn entry(&mut self, random: &mut Random, lanes: &[LaneId], expires: bool) -> Entry {
        self.serial += 1;
        let first = lanes[usize::try_from(random.below(lanes.len() as u64)).unwrap()];
        let mut own = vec![first];
        if random.below(4) == 0 {
            own.extend(lanes.iter().filter(|lane| **lane != first));
        }
        let magnitude = 7 + random.below(5);
        let length = 8 + usize::try_from(random.below(1 << magnitude)).unwrap();
        let expires_ms = (expires && random.below(4) == 0).then(|| self.now_ms + 5);
        Entry { lanes: own, serial: self.serial, length, expires_ms }
    }

    /// Books the outcome of a commit. Says whether life goes on.
    fn book(&mut self, outcome: Result<u64, CommitError>, disk: &SimulatedDisk) -> bool {
        let Ok(end) = outcome else {
            self.totals.refused += 1;
            return !disk.is_cut();
        };
        self.totals.commits += 1;
        assert_eq!(end, self.end + self.pending.len() as u64, "dense positions");
        for entry in std::mem::take(&mut self.pending) {
            self.records.insert(self.end, entry);
            self.end += 1;
        }
        for lane in self.lanes.values_mut() {
            lane.cursor = lane.cursor_tried;
            lane.label.clone_from(&lane.label_tried);
        }
        let newest = newest(disk);
        let has_moved = self.lanes.values().any(|lane| lane.cursor > 0);
        self.totals.snapshots += u64::from(newest > self.newest && has_moved);
        self.newest = newest;
        true
    }

    /// Checks where the log ends, and takes what came back unproven as there from now on.
    fn adopt(&mut self, end: Position) {
        let kept = end.0.checked_sub(self.end).expect("acknowledged records are there");
        assert!(kept <= self.pending.len() as u64, "{kept} records were invented");
        self.totals.opened += 1;
        self.totals.unproven_kept += kept;
        self.pending.truncate(usize::try_from(kept).unwrap());
        for entry in std::mem::take(&mut self.pending) {
            self.records.insert(self.end, entry);
            self.end += 1;
        }
    }

    /// The positions `lane` must show from `from` on.
    fn expected(&self, lane: LaneId, from: u64) -> Vec<u64> {
        let own = self.records.range(from..).filter(|(_, entry)| entry.lanes.contains(&lane));
        own.map(|(position, _)| *position).collect()
    }

    fn check_payload(&mut self, position: Position, found: &[u8]) {
        let entry = &self.records[&position.0];
        assert_eq!(found, payload(entry.serial, entry.length), "the bytes at {position}");
        self.totals.records_checked += 1;
    }
}

/// Makes nonsense of a closed segment in the middle, as a bad sector would.
fn spoil(disk: &SimulatedDisk, ledger: &mut Ledger) {
    let Some(name) = middle(disk) else { return };
    disk.put(&name, &[0x5a; 700]);
    ledger.spoiled = true;
}

/// The number of the newest segment.
pub(super) fn newest(disk: &SimulatedDisk) -> u64 {
    let names = disk.list().unwrap();
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".segment")?.parse().ok());
    numbers.max().unwrap_or(0)
}

fn middle(disk: &SimulatedDisk) -> Option<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".segment"));
    names.sort();
    (names.len() > 2).then(|| names.swap_remove(1))
}
