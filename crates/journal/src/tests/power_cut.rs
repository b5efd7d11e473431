use super::Random;
use super::lives::{Ledger, Life, Totals, live_log, live_queue};
use crate::disk::simulated::{Exercised, PowerCut, SimulatedDisk};

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

/// Every cut point of one workload, each end, then a second life cut somewhere, then a third.
fn enumerate(life: Life, seed: u64, steps: usize, sum: &mut Totals, disks: &mut Exercised) -> u64 {
    let mut points = 0;
    for cut in 0.. {
        let (disk, mut ledger) = (SimulatedDisk::new(seed), Ledger::default());
        disk.cut_at(cut);
        life(&disk, &mut ledger, &mut Random(seed * 77 + 1), steps);
        if !disk.is_cut() {
            return points;
        }
        let base = std::mem::take(&mut ledger.totals);
        for (number, how) in ENDS.into_iter().enumerate() {
            let chance = seed * 1_000_003 + cut * 5 + number as u64 + 1;
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
    }
    points
}

#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn check(name: &str, life: Life, seeds: std::ops::Range<u64>, points_min: u64) {
    let (mut sum, mut disks) = (Totals::default(), Exercised::default());
    let points: u64 = seeds.map(|seed| enumerate(life, seed, 55, &mut sum, &mut disks)).sum();
    println!(
        "{name}: {points} cut points, {} power cuts, {} kills, {} changes lost; {sum:?}",
        disks.power_cuts, disks.kills, disks.changes_lost
    );
    assert!(points >= points_min, "{points} cut points");
    assert!(disks.power_cuts >= points && disks.kills >= points / 4);
    assert!(disks.changes_lost >= points / 2);
    assert!(sum.records_checked >= points * 10);
    assert!(sum.unproven_kept >= points / 50, "what was not acknowledged comes back at times");
}

#[test]
fn the_log_keeps_every_promise_at_every_cut_point() {
    check("log", live_log, 1..9, 6_000);
}

#[test]
fn the_queue_keeps_every_promise_at_every_cut_point() {
    check("queue", live_queue, 1..9, 4_000);
}
