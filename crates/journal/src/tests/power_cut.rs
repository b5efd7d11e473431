//! The power fails at every operation of a workload, in every way it can.
//!
//! A cut point is a workload, the index of an operation of its disk, and one of the four ways
//! in which unsynced changes get lost. At the same operations the process is killed as well;
//! that is not counted as a point. The gate runs at least ten thousand points; `cargo xtask
//! powercut` runs as many as wanted from any seed on, through the variable [`WANTED`].

use super::Random;
use super::lives::{Ledger, Life, Totals, live_log, live_queue, newest};
use crate::disk::simulated::{Exercised, PowerCut, SimulatedDisk};

/// `POINTS:SEED`: how many points each workload runs at least, and the first seed.
const WANTED: &str = "SELVEDGE_POWERCUT";
/// Steps of a workload.
const STEPS: usize = 80;
/// Points between two lines of progress.
const PROGRESS: u64 = 20_000;

/// How a life ends: the process is killed and the power stays, or the power fails.
const ENDS: [Option<PowerCut>; 5] = [
    None,
    Some(PowerCut::Lost),
    Some(PowerCut::Torn),
    Some(PowerCut::Scattered),
    Some(PowerCut::Grown),
];

fn end(disk: &SimulatedDisk, how: Option<PowerCut>) {
    match how {
        Some(how) => disk.power_cut(how),
        None => disk.kill(),
    }
}

/// Names the cut point if a promise breaks there.
struct Place<'a> {
    name: &'a str,
    seed: u64,
    cut: u64,
    how: Option<PowerCut>,
}

impl Drop for Place<'_> {
    #[expect(clippy::print_stderr, reason = "a failing point says how to come back to it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Place { name, seed, cut, how } = self;
            eprintln!(
                "{name}: seed {seed}, operation {cut}, {how:?}; cargo xtask powercut \
                       --from {seed} --points 1"
            );
        }
    }
}

/// What the runs of one kind of workload went through.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    /// Points by way, in the order of [`ENDS`]; the first are kills.
    points: [u64; 5],
    totals: Totals,
    disks: Exercised,
}

impl Sum {
    fn points(&self) -> u64 {
        self.points.iter().skip(1).sum()
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in self.points.iter_mut().zip(other.points) {
            *sum += more;
        }
        self.totals.add(other.totals);
        self.disks.power_cuts += other.disks.power_cuts;
        self.disks.kills += other.disks.kills;
        self.disks.changes_lost += other.disks.changes_lost;
    }
}

/// Every cut point of one workload, each end, then a second life cut somewhere, then a third.
/// Says too whether the workload, when nothing cuts it, meets all there is to meet.
fn enumerate((name, life): (&str, Life), seed: u64) -> (Sum, bool) {
    let mut sum = Sum::default();
    let mut cut = 0;
    loop {
        let mut place = Place { name, seed, cut, how: None };
        let (disk, mut ledger) = (SimulatedDisk::new(seed), Ledger::default());
        disk.cut_at(cut);
        life(&disk, &mut ledger, &mut Random(seed * 77 + 1), STEPS);
        if !disk.is_cut() {
            return (sum, meets_all(newest(&disk), &ledger.totals));
        }
        // Whoever comes after a cut finds room again.
        disk.set_capacity(None);
        let base = std::mem::take(&mut ledger.totals);
        for (number, how) in ENDS.into_iter().enumerate() {
            place.how = how;
            let chance = seed.wrapping_mul(1_000_003) + cut * 5 + number as u64 + 1;
            let mut random = Random(chance);
            let (disk, mut ledger) = (disk.fork(chance), ledger.clone());
            end(&disk, how);
            disk.cut_at(disk.exercised().operations + random.below(24));
            life(&disk, &mut ledger, &mut random, 5);
            let second = usize::try_from(random.below(5)).unwrap();
            end(&disk, ENDS[second]);
            let before = ledger.totals.commits;
            life(&disk, &mut ledger, &mut random, 3);
            assert!(!disk.is_cut() && ledger.totals.commits >= before);
            assert_eq!(disk.exercised().syncs_after_failure, 0);
            sum.add(&Sum { points: [0; 5], totals: ledger.totals, disks: disk.exercised() });
            sum.points[number] += 1;
        }
        sum.totals.add(base);
        cut += 1;
    }
}

/// Three segment changes, two reclaims, a segment that began with moved cursors, a full disk, a
/// damaged segment.
fn meets_all(segments: u64, totals: &Totals) -> bool {
    segments > 3
        && totals.reclaims >= 2
        && totals.snapshots >= 1
        && totals.full >= 1
        && totals.quarantines >= 1
}

/// The wanted points and the first seed; none in the gate.
fn wanted() -> Option<(u64, u64)> {
    let text = std::env::var(WANTED).ok()?;
    let (points, seed) = text.split_once(':').expect("POINTS:SEED");
    Some((points.parse().expect("a number of points"), seed.parse().expect("a seed")))
}

#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn check(name: &str, life: Life, gate: (u64, u64)) {
    let wanted = wanted();
    let (points_min, first) = wanted.unwrap_or(gate);
    let (mut sum, mut workloads, mut poor, mut shown) = (Sum::default(), 0_u64, 0_u64, 0);
    for seed in first.. {
        let (more, meets_all) = enumerate((name, life), seed);
        workloads += 1;
        // Only workloads that meet all there is to meet count; the others were run all the same.
        if meets_all {
            sum.add(&more);
        } else {
            poor += 1;
        }
        let points = sum.points();
        if wanted.is_some() && points / PROGRESS > shown {
            shown = points / PROGRESS;
            println!("{name}: {points} of {points_min}; to go on: --from {}", seed + 1);
        }
        if points >= points_min {
            break;
        }
        assert!(poor <= 10 + workloads / 2, "{name}: {poor} of {workloads} workloads are poor");
    }
    let (points, totals, disks) = (sum.points(), &sum.totals, &sum.disks);
    let [kills, lost, torn, scattered, grown] = sum.points;
    let last = first + workloads - 1;
    println!(
        "{name}: {points} cut points: {lost} lost, {torn} torn, {scattered} scattered, {grown} \
         grown; and {kills} kills. {workloads} workloads, seeds {first} to {last}, {poor} of \
         them not counted. With later lives {} power cuts, {} kills, {} changes lost; {totals:?}",
        disks.power_cuts, disks.kills, disks.changes_lost
    );
    assert!(lost == torn && torn == scattered && scattered == grown && grown == kills);
    assert!(disks.power_cuts >= points && disks.kills >= kills);
    assert!(disks.changes_lost >= points / 2);
    assert!(totals.records_checked >= points * 10);
    assert!(totals.unproven_kept >= points / 50, "what was not acknowledged comes back at times");
}

#[test]
fn the_log_keeps_every_promise_at_every_cut_point() {
    check("log", live_log, (6_000, 1));
}

#[test]
fn the_queue_keeps_every_promise_at_every_cut_point() {
    check("queue", live_queue, (4_200, 1));
}
