//! The log as the hub uses it: lanes, readers, retention.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{EVERYTHING, Entry, LANES, Ledger, WHOLE_LIFE, middle, small_options, spoil};
use crate::disk::simulated::SimulatedDisk;
use crate::log::{LaneId, Log, OpenLogError, Position, Reader, Recovered};
use crate::tests::Random;

/// One life of a log as the hub uses it: lanes, readers, retention. Ends after `steps`, or when
/// the power fails.
pub(in crate::tests) fn live_log(
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
fn again(disk: &SimulatedDisk) -> Result<(Log, Recovered), OpenLogError> {
    disk.heal();
    Log::open(Arc::new(disk.clone()), small_options(), 7, 0)
}
