//! The power fails at every operation of a workload, in every way it can.
//!
//! A cut point is a workload, the index of an operation of its disk, and how the power fails.
//! The gate runs at least ten thousand of them; `cargo xtask powercut` runs as many as wanted
//! from any seed on, through the variable [`WANTED`].

use super::Random;
use super::lives::{Ledger, Life, Totals, live_log, live_queue};
use crate::disk::Disk as _;
use crate::disk::simulated::{Exercised, PowerCut, SimulatedDisk};

/// `POINTS:SEED`: how many points each workload runs at least, and the first seed.
const WANTED: &str = "SELVEDGE_POWERCUT";
/// Steps of a workload.
const STEPS: usize = 80;

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

/// What one workload met when nothing cut it.
#[derive(Clone, Copy, Debug)]
struct Met {
    segments: u64,
    totals: Totals,
}

/// Every cut point of one workload, each end, then a second life cut somewhere, then a third.
fn enumerate(
    (name, life): (&str, Life),
    seed: u64,
    sum: &mut Totals,
    disks: &mut Exercised,
) -> (u64, Met) {
    let mut points = 0;
    let mut cut = 0;
    loop {
        let mut place = Place { name, seed, cut, how: None };
        let (disk, mut ledger) = (SimulatedDisk::new(seed), Ledger::default());
        disk.cut_at(cut);
        life(&disk, &mut ledger, &mut Random(seed * 77 + 1), STEPS);
        if !disk.is_cut() {
            return (points, Met { segments: newest(&disk), totals: ledger.totals });
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
            let fork = disk.exercised();
            disks.power_cuts += fork.power_cuts;
            disks.kills += fork.kills;
            disks.changes_lost += fork.changes_lost;
            sum.add(ledger.totals);
            points += 1;
        }
        sum.add(base);
        cut += 1;
    }
}

/// The number of the newest segment.
fn newest(disk: &SimulatedDisk) -> u64 {
    let names = disk.list().unwrap();
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".segment")?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// The wanted points and the first seed; none in the gate.
fn wanted() -> Option<(u64, u64)> {
    let text = std::env::var(WANTED).ok()?;
    let (points, seed) = text.split_once(':').expect("POINTS:SEED");
    Some((points.parse().expect("a number of points"), seed.parse().expect("a seed")))
}

#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn check(name: &str, life: Life, quarantines_min: u64, gate: (u64, u64)) {
    let (mut sum, mut disks) = (Totals::default(), Exercised::default());
    let wanted = wanted();
    let (points_min, first) = wanted.unwrap_or(gate);
    let (mut points, mut workloads, mut met_all) = (0, 0, 0);
    for seed in first.. {
        let (more, met) = enumerate((name, life), seed, &mut sum, &mut disks);
        // Points count only of workloads that meet all there is to meet: three segment changes,
        // two reclaims, a full disk, a damaged segment. The others were run all the same.
        let meets_all = met.segments > 3
            && met.totals.reclaims >= 2
            && met.totals.full >= 1
            && met.totals.quarantines >= quarantines_min;
        if meets_all {
            points += more;
            met_all += 1;
        }
        workloads += 1;
        if wanted.is_some() {
            let next = seed + 1;
            println!("{name}: {points} of {points_min} points; to go on: --from {next}");
        }
        if points >= points_min {
            break;
        }
    }
    println!(
        "{name}: {points} cut points of {met_all} of {workloads} workloads, {} power cuts, {} kills, {} changes lost; {sum:?}",
        disks.power_cuts, disks.kills, disks.changes_lost
    );
    assert!(met_all * 2 > workloads, "most workloads meet all there is to meet");
    assert!(disks.power_cuts >= points && disks.kills >= points / 4);
    assert!(disks.changes_lost >= points / 2);
    assert!(sum.records_checked >= points * 10);
    assert!(sum.unproven_kept >= points / 50, "what was not acknowledged comes back at times");
}

#[test]
fn the_log_keeps_every_promise_at_every_cut_point() {
    check("log", live_log, 1, (6_000, 1));
}

#[test]
fn the_queue_keeps_every_promise_at_every_cut_point() {
    check("queue", live_queue, 0, (4_000, 1));
}
