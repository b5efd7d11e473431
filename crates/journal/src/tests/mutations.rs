//! Segments that nobody wrote: real ones with random changes. Whatever is in a file, a start
//! ends, nothing panics, and no record is served that was not stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Random;
use super::damage::{ALL, FIRST, small};
use super::lives::options;
use crate::disk::Disk as _;
use crate::log::{LaneId, Log, OpenLogError, Position};

/// Changed files in the gate; `SELVEDGE_MUTATIONS=COUNT:SEED` runs others.
const GATE: (u64, u64) = (3_000, 1);

fn wanted() -> (u64, u64) {
    let Ok(text) = std::env::var("SELVEDGE_MUTATIONS") else { return GATE };
    let (count, seed) = text.split_once(':').expect("COUNT:SEED");
    (count.parse().expect("a count"), seed.parse().expect("a seed"))
}

/// Changes `bytes` in one of the ways that files go bad, or that somebody would try.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1) as u64;
    let place = |random: &mut Random| usize::try_from(random.below(used)).unwrap();
    match random.below(6) {
        0 => {
            for _ in 0..=random.below(8) {
                let at = place(random);
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
        }
        1 => bytes.truncate(place(random)),
        2 => {
            // A number where a length may be: small, large, negative.
            let at = place(random).min(bytes.len().saturating_sub(4));
            let number = [0, 1, u32::MAX, 1 << 31, 0x7fff_ffff][place(random) % 5];
            bytes.splice(at..(at + 4).min(bytes.len()), number.to_le_bytes());
        }
        3 => {
            let (from, to) = (place(random), place(random));
            let piece = bytes[from.min(to)..from.max(to)].to_vec();
            let at = place(random);
            bytes.splice(at..at, piece);
        }
        4 => {
            let (from, to) = (place(random), place(random));
            bytes.drain(from.min(to)..from.max(to));
        }
        _ => {
            let (from, to) = (place(random), place(random));
            bytes[from.min(to)..from.max(to)].fill(0);
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what was exercised is part of the proof")]
fn whatever_is_in_a_segment_nothing_panics_and_nothing_is_invented() {
    let (count, first) = wanted();
    let disk = small();
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".segment"));
    let whole = contents(&Log::open(Arc::new(disk.fork(1)), options(), 9, 9).unwrap().0);
    let (mut opened, mut refused, mut lost) = (0_u64, 0_u64, 0_u64);
    for seed in first..first + count {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let disk = disk.fork(seed);
        let name = &names[usize::try_from(random.below(2)).unwrap()];
        let mut bytes = disk.bytes(name).unwrap();
        for _ in 0..=random.below(3) {
            if !bytes.is_empty() {
                mutate(&mut bytes, &mut random);
            }
        }
        disk.put(name, &bytes);
        match Log::open(Arc::new(disk.clone()), options(), 9, 9) {
            Ok((mut log, _)) => {
                let found = contents(&log);
                for (position, bytes) in &found {
                    assert_eq!(whole.get(position), Some(bytes), "seed {seed}: a wrong record");
                }
                opened += 1;
                lost += u64::from(found.len() < whole.len());
                log.stage_cursor(LaneId(1), Position(1));
                log.commit(9).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
            Err(OpenLogError::Version { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        assert!(disk.bytes(FIRST).is_some() || disk.list().unwrap().len() > 1, "seed {seed}");
    }
    println!("mutations: {opened} opened, {lost} of them with losses, {refused} refused");
    assert!(opened > count / 2 && lost > count / 10);
}

fn contents(log: &Log) -> BTreeMap<u64, Vec<u8>> {
    let reader = log.reader();
    let lanes = [1, 2].map(|lane| {
        let batch = reader.read(LaneId(lane), reader.bounds().oldest, ALL).unwrap();
        batch.records.into_iter().map(|record| (record.position.0, record.payload.to_vec()))
    });
    lanes.into_iter().flatten().collect()
}
