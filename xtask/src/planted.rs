//! Planted faults: one-line sabotages that no product build has, each of which must be found.
//!
//! All of them are in one build, made with `--cfg planted`; the name of one is given at run
//! time, see `model::planted`. The simulator must find it within [`SEEDS_MAX`] seeds by breaking
//! the sentence that the list names, or the named test must fail with the words that it names.
//! The same build with nothing planted must hold on the same seeds and pass the same tests.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

mod list;

use list::{Finder, PLANTED, Plant};

use crate::{root, say};

/// Names the fault, see `model::planted`.
const VARIABLE: &str = "SELVEDGE_PLANTED";
/// Seeds within which the simulator must find a fault.
const SEEDS_MAX: &str = "200";
/// How the code asks whether a fault is planted.
const QUESTION: &str = "planted::is(";

/// Hunts that run beside each other.
const HUNTS: usize = 2;

/// Builds the faults and shows that each is found; prints in how many seeds, or by which test.
pub(crate) fn catch_all() -> Result<()> {
    let wrapper = wrapper()?;
    let simulator = build(&wrapper, "sim", &["build", "--release", "--bin", "sim"])?;
    let seeds = hunt_all(&simulator)?;
    hold(&simulator, &seeds)?;
    let mut binaries = BTreeMap::new();
    for plant in PLANTED {
        let Finder::Test { package, target, test, words } = plant.finder else { continue };
        let binary = match binaries.entry((package, target)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(none) => {
                none.insert(build(&wrapper, package, &["test", "--no-run", target])?)
            }
        };
        passes(binary, package, test)?;
        fails((binary, package, test), plant, words)?;
        say(&format!("   {}: found by {package}::{test}", plant.text()));
    }
    Ok(())
}

/// How many faults the simulator finds, how many of these also when they strike seldom, how many
/// of these a test of its own finds as well, and how many only a test finds.
pub(crate) fn counts() -> [usize; 4] {
    let of = |wanted: fn(&Plant) -> bool| -> BTreeSet<&str> {
        PLANTED.iter().filter(|plant| wanted(plant)).map(|plant| plant.fault).collect()
    };
    let simulator = of(|plant| matches!(plant.finder, Finder::Simulator(_)));
    let seldom = of(|plant| matches!(plant.finder, Finder::Simulator(_)) && plant.one_in > 1);
    let tests = of(|plant| matches!(plant.finder, Finder::Test { .. }));
    let both = tests.intersection(&simulator).count();
    [simulator.len(), seldom.len(), both, tests.len() - both]
}

/// Names that the code asks for and the list lacks, and the other way round; `sources` are the
/// texts of the tree by name.
pub(crate) fn names(sources: &BTreeMap<String, String>, faults: &mut Vec<String>) {
    let mut asked = BTreeMap::new();
    for (name, text) in sources.iter().filter(|(name, _)| !name.starts_with("xtask/")) {
        for question in text.split(QUESTION).skip(1) {
            let literal = question.trim_start().strip_prefix('"').and_then(|it| it.split_once('"'));
            match literal {
                Some((fault, _)) => drop(asked.insert(fault, name)),
                None => faults.push(format!("{name}: a planted fault is named by a literal")),
            }
        }
    }
    let listed: BTreeSet<&str> = PLANTED.iter().map(|plant| plant.fault).collect();
    for (fault, name) in asked.iter().filter(|(fault, _)| !listed.contains(*fault)) {
        faults.push(format!("{name}: nobody hunts the planted fault {fault}"));
    }
    for fault in listed.iter().filter(|fault| !asked.contains_key(*fault)) {
        faults.push(format!("xtask/src/planted/list.rs: no code has the planted fault {fault}"));
    }
}

/// Lets the simulator find all that is its own, some at a time; gives the seeds that did.
fn hunt_all(simulator: &str) -> Result<BTreeSet<u64>> {
    let own = |plant: &&Plant| matches!(plant.finder, Finder::Simulator(_));
    let rest = Mutex::new(PLANTED.iter().filter(own));
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut seeds = BTreeSet::new();
        while let Some(plant) = next() {
            let (seed, said) = hunt(simulator, plant)?;
            say(&format!("   {}: {said}", plant.text()));
            seeds.insert(seed);
        }
        Ok(seeds)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..HUNTS).map(|_| scope.spawn(work)).collect();
        let ends = all.into_iter().map(|one| one.join().expect("a hunt does not panic"));
        ends.collect::<Result<Vec<_>>>().map(|all| all.into_iter().flatten().collect())
    })
}

/// Runs seeds with the fault until one fails, which must break the sentence that is expected;
/// gives the seed and the words.
fn hunt(simulator: &str, plant: &Plant) -> Result<(u64, String)> {
    let fault = plant.text();
    let done = Command::new(simulator)
        .args(["--hunt", "--seeds", SEEDS_MAX])
        .env(VARIABLE, &fault)
        .env("RUST_LOG", "off")
        .output()
        .with_context(|| format!("starting {simulator}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.success(), "the planted fault {fault} was not found: {said}");
    let seed = judge(plant, &said)?;
    Ok((seed, said))
}

/// The seed of a hunt that `said` how it ended.
fn judge(plant: &Plant, said: &str) -> Result<u64> {
    let Finder::Simulator(expected) = plant.finder else { bail!("a test finds {plant:?}") };
    let mut words = said.split_whitespace();
    let (Some("found"), Some(seed), Some(sentence)) = (words.next(), words.next(), words.next())
    else {
        bail!("the simulator does not say what it found: {said}")
    };
    ensure!(
        expected.contains(&sentence),
        "{} is to break {expected:?}, and broke {sentence}: {said}",
        plant.text()
    );
    seed.parse().with_context(|| format!("no seed: {said}"))
}

/// The control: with nothing planted the same build holds on every seed that found something.
fn hold(simulator: &str, seeds: &BTreeSet<u64>) -> Result<()> {
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("--seed={seed}")).collect();
    let done = Command::new(simulator)
        .args(&seeds)
        .env_remove(VARIABLE)
        .env("RUST_LOG", "off")
        .output()
        .with_context(|| format!("starting {simulator}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.success(), "with nothing planted: {said}");
    say(&format!("   nothing planted: {} holds", seeds.join(" ")));
    Ok(())
}

/// Runs `test` with nothing planted: it must be there, or several that begin so, and pass.
fn passes(binary: &str, package: &str, test: &str) -> Result<()> {
    let (passed, printed) = run_test((binary, package, test), None)?;
    let is_there = !printed.contains("test result: ok. 0 passed");
    ensure!(passed && is_there, "with nothing planted {test}:\n{printed}");
    Ok(())
}

/// Runs `test`, which must fail with the fault and say `words`.
fn fails(place: (&str, &str, &str), plant: &Plant, words: &str) -> Result<()> {
    let (passed, printed) = run_test(place, Some(&plant.text()))?;
    let (fault, test) = (plant.text(), place.2);
    let failed = !passed && printed.contains("test result: FAILED");
    ensure!(failed, "the planted fault {fault} was not found by {test}:\n{printed}");
    ensure!(printed.contains(words), "{fault}: {test} did not say {words:?}:\n{printed}");
    Ok(())
}

fn run_test(
    (binary, package, test): (&str, &str, &str),
    fault: Option<&str>,
) -> Result<(bool, String)> {
    let mut command = Command::new(binary);
    command.arg(test).current_dir(root().join("crates").join(package)).env_remove(VARIABLE);
    let done = command
        .envs(fault.map(|fault| (VARIABLE, fault)))
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("starting {binary}"))?;
    Ok((done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned()))
}

/// A compiler for our own crates that plants the faults; dependencies are built once for both.
fn wrapper() -> Result<PathBuf> {
    let folder = root().join("target");
    fs::create_dir_all(&folder).context("making the target folder")?;
    let path = folder.join("planted-rustc.sh");
    fs::write(&path, "#!/bin/sh\nexec \"$@\" --cfg planted\n").context("writing the wrapper")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("the wrapper's mode")?;
    Ok(path)
}

/// The path of the executable that cargo makes of `package` with the faults in it.
fn build(wrapper: &PathBuf, package: &str, how: &[&str]) -> Result<String> {
    let done = Command::new(env!("CARGO"))
        .args(how)
        .args(["--quiet", "--package", package, "--message-format", "json"])
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(done.status.success(), "{package} does not build with planted faults");
    let printed = String::from_utf8(done.stdout).context("cargo printed no UTF-8")?;
    // With a test program cargo builds, and names first, the package's own programs.
    let is_test = how.first() == Some(&"test");
    let named = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.pointer("/profile/test") == Some(&Value::Bool(is_test)))
        .find_map(|message| message.get("executable").and_then(Value::as_str).map(str::to_owned));
    match named {
        Some(path) => Ok(path),
        None => bail!("cargo named no executable of {package}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_nobody_hunts_and_one_that_nobody_plants_are_told() {
        let all = PLANTED.iter().map(|plant| format!("if planted::is(\n  \"{}\") {{", plant.fault));
        let whole: String = all.collect();
        let check = |text: String, expected: &[&str]| {
            let mut faults = Vec::new();
            let texts = [("crates/a.rs", text), ("xtask/b.rs", "planted::is(\"c\")".into())];
            names(&texts.map(|(name, text)| (name.to_owned(), text)).into(), &mut faults);
            assert_eq!(faults, expected);
        };
        check(whole.clone(), &[]);
        check(
            format!("{whole} planted::is(\"lost\")"),
            &["crates/a.rs: nobody hunts the planted fault lost"],
        );
        check(
            format!("{whole} planted::is(name)"),
            &["crates/a.rs: a planted fault is named by a literal"],
        );
        check(
            whole.replace("expired_delivered", "ack_before_sync"),
            &["xtask/src/planted/list.rs: no code has the planted fault expired_delivered"],
        );
    }

    #[test]
    fn a_hunt_must_break_the_sentence_that_is_expected_of_it() {
        let finder = Finder::Simulator(&["kept"]);
        let plant = Plant { fault: "f", one_in: 100, finder };
        assert_eq!(plant.text(), "f/100");
        assert_eq!(judge(&plant, "found 8 kept seed 8: 7 is missing").unwrap(), 8);
        assert!(judge(&plant, "found 8 ordered seed 8: 7 is late").is_err());
        assert!(judge(&plant, "found 8 none seed 8: another error").is_err());
        assert!(judge(&plant, "8 kept").is_err());
    }
}
