//! The power fails after every operation of a workload, in every way it can.
//!
//! A cut point is a workload, the index of an operation of its disk, and how the life ends. A
//! second life opens what is left, goes on, and is cut somewhere, too; a third must find all in
//! order. Whatever a life was told or has told is promised to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use super::disk::{Disk, ENDS, End, Random};
use super::watch::{self, Operation};

/// States of named things, such as the digest of an image; what is absent has none.
pub(crate) type Things = BTreeMap<String, String>;

/// What a step changes: new states, or none.
pub(crate) type Effects = Vec<(String, Option<String>)>;

/// What is enumerated.
pub(crate) trait Subject {
    /// One thing that is asked for.
    type Step: Clone + Debug;
    /// Opened on what is left.
    type Open;

    /// The folder.
    fn root(&self) -> &Path;
    /// Names below the folder that are none of the workload's.
    fn is_foreign(path: &Path) -> bool;
    /// Opens the folder, whatever is left of it; it must not fail.
    fn open(&self) -> Self::Open;
    /// What is there; panics if anything is half there, or left behind.
    fn look(&self, open: &Self::Open) -> Things;
    /// Does `step`; whether it was done.
    fn act(&self, open: &Self::Open, step: &Self::Step) -> bool;
    /// What `step` is to change.
    fn effect(&self, step: &Self::Step) -> Effects;
    /// Any step that makes sense with these things there.
    fn any(&self, there: &Things, random: &mut Random) -> Self::Step;
    /// Steps after which everything must be as wanted, whatever was there, and what that is.
    fn mend(&self, there: &Things) -> (Vec<Self::Step>, Things);
}

/// How many second lives follow each kill.
const KILLED_DRAWS: u64 = 4;

/// What was run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) points: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    /// Names and files that a cut took.
    pub(crate) lost: u64,
    /// Steps that a full disk refused.
    pub(crate) refused: u64,
}

/// States that each thing may have.
type Allowed = BTreeMap<String, BTreeSet<Option<String>>>;

/// What was promised, begun, and told, by the number of operations before.
struct Ledger {
    /// What the life before has promised.
    before: Allowed,
    /// Until then nobody had looked.
    opened: usize,
    first: Things,
    steps: Vec<(usize, Option<usize>, Effects)>,
}

impl Ledger {
    /// The states that each thing may have if only `operations` have happened.
    fn allowed(&self, operations: usize) -> Allowed {
        if operations < self.opened {
            return self.before.clone();
        }
        let mut allowed = exactly(&self.first);
        for (begun, told, effects) in &self.steps {
            for (name, state) in effects {
                if told.is_some_and(|told| told <= operations) {
                    allowed.insert(name.clone(), BTreeSet::from([state.clone()]));
                } else if *begun < operations {
                    let states = allowed.entry(name.clone());
                    states.or_insert_with(|| BTreeSet::from([None])).insert(state.clone());
                }
            }
        }
        allowed
    }
}

fn exactly(things: &Things) -> Allowed {
    let one = |(name, state): (&String, &String)| (name.clone(), [Some(state.clone())].into());
    things.iter().map(one).collect()
}

/// Panics unless what is there was promised, or was at least asked for.
fn check(there: &Things, allowed: &Allowed) {
    for (name, states) in allowed {
        let state = there.get(name).cloned();
        assert!(states.contains(&state), "{name} is {state:?}, not one of {states:?}");
    }
    let asked = there.keys().all(|name| allowed.contains_key(name));
    assert!(asked, "nobody asked for some of {there:?}");
}

/// How a life goes.
pub(crate) struct Course<'a, T: Subject> {
    pub(crate) steps: &'a [T::Step],
    /// From this operation on the disk is full.
    pub(crate) full_at: Option<usize>,
}

/// One life; gives what it promises to the next, and the disk's operations.
fn live<T: Subject>(
    subject: &T,
    course: &Course<'_, T>,
    before: &Allowed,
    totals: &mut Totals,
) -> (Ledger, Vec<Operation>) {
    watch::start(subject.root(), course.full_at);
    let open = subject.open();
    let mut now = subject.look(&open);
    check(&now, before);
    let (first, before) = (now.clone(), before.clone());
    let mut ledger = Ledger { before, opened: watch::mark(), first, steps: Vec::new() };
    for step in course.steps {
        let (begun, effects) = (watch::mark(), subject.effect(step));
        let is_done = subject.act(&open, step);
        ledger.steps.push((begun, is_done.then(watch::mark), effects.clone()));
        if is_done {
            change(&mut now, effects);
            assert_eq!(subject.look(&open), now, "after {step:?}");
        } else {
            assert!(course.full_at.is_some(), "{step:?} failed");
            totals.refused += 1;
            let there = subject.look(&open);
            check(&there, &ledger.allowed(watch::mark()));
            now = there;
        }
    }
    (ledger, watch::stop())
}

fn change(things: &mut Things, effects: Effects) {
    for (name, state) in effects {
        match state {
            Some(state) => things.insert(name, state),
            None => things.remove(&name),
        };
    }
}

/// Where a promise broke.
struct Place<'a>(std::fmt::Arguments<'a>);

impl Drop for Place<'_> {
    #[expect(clippy::print_stderr, reason = "a failing point says which it is")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Cuts a life on the disk `before` after each of its operations, in each way of `ends`.
pub(crate) fn enumerate<T: Subject>(
    subject: &T,
    before: &Disk,
    course: &Course<'_, T>,
    (seed, ends): (u64, &[End]),
    totals: &mut Totals,
) {
    before.put(subject.root());
    let first = exactly(&subject.look(&subject.open()));
    before.put(subject.root());
    let (ledger, operations) = live(subject, course, &first, totals);
    // The record is complete: it leads to the very disk that the life has left.
    let mut disk = before.clone();
    disk.apply_all(&operations);
    disk.compare(subject.root(), T::is_foreign);

    disk = before.clone();
    for cut in 0..=operations.len() {
        for (number, end) in (0..).zip(ends.iter().copied()) {
            // After a kill everything depends on what comes then.
            for draw in 0..if end == End::Killed { KILLED_DRAWS } else { 1 } {
                let _place = Place(format_args!("seed {seed}, operation {cut}, {end:?}, {draw}"));
                let point = (cut as u64 * 8 + number) * KILLED_DRAWS + draw;
                let mut random = Random(seed.wrapping_mul(1_000_003) + point);
                let mut left = disk.clone();
                left.end(end, &mut random);
                second_life(subject, left, &ledger.allowed(cut), &mut random, totals);
                totals.points += 1;
                totals.kills += u64::from(end == End::Killed);
                totals.power_cuts += u64::from(end != End::Killed);
            }
        }
        if let Some(operation) = operations.get(cut) {
            disk.apply(operation);
        }
    }
}

fn second_life<T: Subject>(
    subject: &T,
    mut disk: Disk,
    allowed: &Allowed,
    random: &mut Random,
    totals: &mut Totals,
) {
    let there = allowed.iter().filter_map(|(name, states)| {
        let state = states.iter().flatten().next();
        state.map(|state| (name.clone(), state.clone()))
    });
    let mut there: Things = there.collect();
    let steps = [(); 2].map(|()| {
        let step = subject.any(&there, random);
        change(&mut there, subject.effect(&step));
        step
    });
    disk.put(subject.root());
    let course = Course { steps: &steps, full_at: None };
    let (ledger, operations) = live(subject, &course, allowed, totals);
    let (cut, end) = (random.below(operations.len() + 1), ENDS[random.below(ENDS.len())]);
    let (done, _) = operations.split_at(cut);
    let _place = Place(format_args!("then {steps:?} up to {:?}, {end:?}", done.last()));
    disk.apply_all(done);
    disk.end(end, random);
    totals.lost += disk.lost;
    disk.put(subject.root());
    third_life(subject, &ledger.allowed(cut));
}

/// Nothing cuts it: everything can be made as it is wanted.
fn third_life<T: Subject>(subject: &T, allowed: &Allowed) {
    let open = subject.open();
    let there = subject.look(&open);
    check(&there, allowed);
    let (steps, wanted) = subject.mend(&there);
    for step in &steps {
        assert!(subject.act(&open, step), "{step:?} failed");
    }
    assert_eq!(subject.look(&open), wanted);
}

/// A folder in memory if there is one: what survives here survives by order of events.
pub(crate) fn folder() -> tempfile::TempDir {
    let shared = PathBuf::from("/dev/shm");
    let base = if shared.is_dir() { shared } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("cut").tempdir_in(base).unwrap()
}
