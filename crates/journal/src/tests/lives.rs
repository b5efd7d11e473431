//! Workloads with a ledger: what was promised must hold in every later life.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Random, payload};
use crate::disk::Disk as _;
use crate::disk::simulated::SimulatedDisk;
use crate::log::{
    Budget, CommitError, LaneId, Log, LogOptions, Position, Reader, Record, Retention,
};
use crate::queue::Queue;

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

/// One life of a log as the hub uses it: lanes, readers, retention. Ends after `steps`, or when
/// the power fails.
pub(super) fn live_log(
    disk: &SimulatedDisk,
    ledger: &mut Ledger,
    random: &mut Random,
    steps: usize,
) {
    let Some((mut log, mut reader)) = open_log(disk, ledger) else { return };
    let is_whole = steps >= WHOLE_LIFE;
    let lanes: Vec<LaneId> =
        (0..LANES).map(|lane| LaneId(u32::try_from(lane).unwrap() + 1)).collect();
    for step in 0..steps {
        let kind = match step {
            _ if is_whole && (step == steps / 2 || step == steps * 3 / 4) => 12,
            _ if is_whole && (step == steps * 5 / 8 || step == steps - 1) => 0,
            _ if is_whole
                && step > steps / 2
                && ledger.is_unspoiled()
                && middle(disk).is_some() =>
            {
                13
            }
            _ => random.below(12),
        };
        match kind {
            0 => {
                ledger.totals.reclaims += u64::from(log.retain(0) > 0);
                // What is removed while the power fails is gone or not.
                let next = log.oldest_totals().filter(|_| disk.is_cut()).map(|(end, _)| end);
                ledger.oldest = next.unwrap_or_else(|| reader.bounds().oldest).0;
                if disk.is_cut() {
                    return;
                }
            }
            1 => {
                drop(log);
                match open_log(disk, ledger) {
                    Some(opened) => (log, reader) = opened,
                    None => return,
                }
            }
            12 => {
                if !fill_log(&mut log, disk, ledger, random, &lanes) {
                    return;
                }
            }
            13 => {
                drop((log, reader));
                spoil(disk, ledger);
                match open_log(disk, ledger) {
                    Some(opened) => (log, reader) = opened,
                    None => return,
                }
            }
            other => {
                ledger.pending.clear();
                if other > 3 {
                    for _ in 0..=random.below(4) {
                        let entry = ledger.entry(random, &lanes, false);
                        log.stage(&[entry.record()]).unwrap();
                        ledger.pending.push(entry);
                    }
                }
                if other < 7 {
                    stage_lane(&mut log, ledger, random, &lanes);
                }
                let outcome = log.commit(0).map(|committed| committed.end().0);
                if !ledger.book(outcome, disk) {
                    return;
                }
            }
        }
    }
}

/// Commits until the disk is full and the log says so: room that is reserved is used up first.
/// Says whether life goes on.
fn fill_log(
    log: &mut Log,
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
        log.stage(&[entry.record()]).unwrap();
        ledger.pending.push(entry);
        let outcome = log.commit(0).map(|committed| committed.end().0);
        if !ledger.book(outcome, disk) {
            return false;
        }
    }
    ledger.totals.full += 1;
    disk.set_capacity(None);
    true
}

/// Makes nonsense of a closed segment in the middle, as a bad sector would.
fn spoil(disk: &SimulatedDisk, ledger: &mut Ledger) {
    let Some(name) = middle(disk) else { return };
    disk.put(&name, &[0x5a; 700]);
    ledger.spoiled = true;
}

fn middle(disk: &SimulatedDisk) -> Option<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".segment"));
    names.sort();
    (names.len() > 2).then(|| names.swap_remove(1))
}

fn stage_lane(log: &mut Log, ledger: &mut Ledger, random: &mut Random, lanes: &[LaneId]) {
    let id = lanes[usize::try_from(random.below(LANES)).unwrap()];
    let end = ledger.end;
    let lane = ledger.lanes.entry(id).or_default();
    lane.cursor_tried = lane.cursor_tried.max(end.saturating_sub(random.below(9)));
    log.stage_cursor(id, Position(lane.cursor_tried));
    if random.below(3) == 0 {
        let label = format!("label {}", random.below(1000));
        log.stage_label(id, &label);
        lane.label_tried = Some(label);
    }
}

fn open_log(disk: &SimulatedDisk, ledger: &mut Ledger) -> Option<(Log, Reader)> {
    let opened = Log::open(Arc::new(disk.clone()), small_options(), 7, 0);
    if disk.is_cut() {
        return None;
    }
    let (log, recovered) = opened.or_else(|_| again(disk)).expect("a log that opens");
    ledger.check_damage(&recovered.damaged);
    ledger.adopt(recovered.end);
    let found: BTreeMap<LaneId, (Position, Option<&str>)> =
        log.lanes().map(|(lane, cursor, label)| (lane, (cursor, label))).collect();
    for (id, lane) in &mut ledger.lanes {
        let (cursor, label) = found.get(id).copied().unwrap_or_default();
        assert!((lane.cursor..=lane.cursor_tried).contains(&cursor.0), "cursor of {id}");
        let known = [lane.label.as_deref(), lane.label_tried.as_deref()];
        assert!(known.contains(&label), "label of {id}: {label:?} is none of {known:?}");
        (lane.cursor, lane.cursor_tried) = (cursor.0, cursor.0);
        lane.label = label.map(str::to_owned);
        lane.label_tried.clone_from(&lane.label);
    }
    let reader = log.reader();
    let oldest = reader.bounds().oldest;
    // A gap that has become the front is passed at once.
    let gap = ledger.lost.iter().find(|(from, to)| (*from..*to).contains(&ledger.oldest));
    let known = gap.map_or(ledger.oldest, |(_, to)| *to);
    assert!(oldest.0 <= known, "nothing before {known} may be missing");
    ledger.oldest = oldest.0;
    for lane in 1..=u32::try_from(LANES).unwrap() {
        let batch = reader.read(LaneId(lane), oldest, EVERYTHING).unwrap();
        assert_eq!(batch.damaged, 0);
        let positions: Vec<u64> = batch.records.iter().map(|record| record.position.0).collect();
        assert_eq!(positions, ledger.expected(LaneId(lane), oldest.0), "lane {lane}");
        for record in &batch.records {
            ledger.check_payload(record.position, &record.payload);
        }
    }
    Some((log, reader))
}

/// An injected error may hit the first try.
fn again(disk: &SimulatedDisk) -> Result<(Log, crate::log::Recovered), crate::log::OpenLogError> {
    disk.heal();
    Log::open(Arc::new(disk.clone()), small_options(), 7, 0)
}

/// One life of a queue as the router uses it: endpoints, acknowledgements, expiry, reclaim.
pub(super) fn live_queue(
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
    assert_eq!(recovered.damaged, [], "a power cut is no damage");
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
        lane.label = Some(stats.endpoint.into());
        let (born, done) = (lane.born, lane.done.clone());
        for position in ledger.expected(id, born) {
            let finished = done.contains(&position) || gone(&ledger.records[&position]);
            assert!(position >= cursor || finished, "{position} of lane {id} was never delivered");
        }
        let mut expected = ledger.expected(id, cursor);
        expected.retain(|position| !gone(&ledger.records[position]));
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
