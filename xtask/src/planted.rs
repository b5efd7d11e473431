//! Planted faults: one-line sabotages that no product build has, each of which must be found.
//!
//! All of them are in one build, made with `--cfg planted`; the name of one is given at run
//! time, see `model::planted`. The simulator must find it within [`SEEDS_MAX`] seeds, or the
//! named test must fail. The ordinary gate shows that both are green without it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{root, say};

/// Seeds within which the simulator must find a fault.
const SEEDS_MAX: &str = "200";

/// Who finds a fault.
enum Finder {
    Simulator,
    /// A test of a crate's own binary.
    Test(&'static str, &'static str),
}

use Finder::{Simulator, Test};

const SUITE: Finder = Test("hub", "the_hub_keeps_every_promise_of_the_waist");

/// Faults, and who must find each. What the simulator finds late comes first, so that the
/// hunts end together.
const PLANTED: &[(&str, Finder)] = &[
    ("reported_patch_lost", Simulator),
    ("lost_takeover", Simulator),
    ("chain_not_torn", Simulator),
    ("any_clock_believed", Simulator),
    ("ack_before_sync", Simulator),
    ("ack_before_commit", Simulator),
    ("failed_batch_accepted", Simulator),
    ("disk_error_is_success", Simulator),
    ("cursor_before_delivery", Simulator),
    ("cursor_before_upstream_ack", Simulator),
    ("input_done_when_handed_out", Simulator),
    ("route_swap_drops_queue", Simulator),
    ("clock_back_expires", Simulator),
    ("resend_out_of_order", Simulator),
    ("forgotten_feature", Simulator),
    ("method_answer_mixed", Simulator),
    ("method_handed_out_twice", Simulator),
    ("desired_lost_reconnecting", Simulator),
    ("last_good_not_kept", Simulator),
    ("plan_step_skipped", Simulator),
    ("backoff_forgotten", Simulator),
    ("ack_before_sync", Test("journal", "what_is_acknowledged_survives_a_power_cut")),
    ("cursor_before_delivery", Test("journal", "what_was_only_handed_out_comes_again")),
    ("expired_delivered", Test("journal", "what_has_expired_is_not_delivered")),
    ("lost_takeover", SUITE),
    ("forgotten_feature", SUITE),
    (
        "chain_not_torn",
        Test("hub", "what_was_sent_behind_a_message_that_met_a_failing_disk_does_not_overtake_it"),
    ),
    ("any_clock_believed", Test("hub", "a_clock_that_jumps_for_a_while_costs_no_telemetry")),
    (
        "newer_session_overtakes",
        Test("edge", "over_a_newer_session_nothing_is_sent_before_the_older_one_answered"),
    ),
    (
        "plan_step_skipped",
        Test("edge", "what_is_gone_is_removed_first_and_starts_follow_their_order"),
    ),
    (
        "layer_named_before_sync",
        Test("engine", "images_are_whole_or_absent_wherever_the_power_fails"),
    ),
    (
        "record_before_bundle",
        Test("engine", "modules_are_of_one_generation_wherever_the_power_fails"),
    ),
    ("last_good_not_kept", Test("sim", "a_device_runs_one_generation_wherever_the_power_fails")),
];

/// Hunts that run beside each other.
const HUNTS: usize = 2;

/// Builds the faults and shows that each is found; prints in how many seeds, or by which test.
pub(crate) fn catch_all() -> Result<()> {
    let wrapper = wrapper()?;
    let simulator = build(&wrapper, "sim", &["build", "--release", "--bin", "sim"])?;
    hunt_all(&simulator)?;
    let mut binaries = BTreeMap::new();
    for (fault, finder) in PLANTED {
        let Test(package, test) = finder else { continue };
        let binary = match binaries.entry(*package) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(none) => {
                none.insert(build(&wrapper, package, &["test", "--no-run", "--lib"])?)
            }
        };
        say(&format!("   {fault}: {}", fails(binary, package, test, fault)?));
    }
    Ok(())
}

/// Lets the simulator find all that is its own, some at a time.
fn hunt_all(simulator: &str) -> Result<()> {
    let faults = PLANTED.iter().filter(|(_, finder)| matches!(finder, Simulator));
    let rest = Mutex::new(faults.map(|(fault, _)| *fault));
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(fault) = next() {
            say(&format!("   {fault}: {}", hunt(simulator, fault)?));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..HUNTS).map(|_| scope.spawn(work)).collect();
        let mut ends = all.into_iter().map(|one| one.join().expect("a hunt does not panic"));
        ends.find(Result::is_err).unwrap_or(Ok(()))
    })
}

/// Runs seeds with `fault` until one fails.
fn hunt(simulator: &str, fault: &str) -> Result<String> {
    let done = Command::new(simulator)
        .args(["--hunt", "--seeds", SEEDS_MAX])
        .env("SELVEDGE_PLANTED", fault)
        .env("RUST_LOG", "off")
        .output()
        .with_context(|| format!("starting {simulator}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    ensure!(done.status.success(), "the planted fault {fault} was not found: {said}");
    Ok(said)
}

/// Runs `test`, which must fail with `fault`.
fn fails(binary: &str, package: &str, test: &str, fault: &str) -> Result<String> {
    let done = Command::new(binary)
        .arg(test)
        .env("SELVEDGE_PLANTED", fault)
        .current_dir(root().join("crates").join(package))
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("starting {binary}"))?;
    let printed = String::from_utf8_lossy(&done.stdout);
    let failed = printed.contains("test result: FAILED");
    ensure!(failed, "the planted fault {fault} was not found by {test}:\n{printed}");
    Ok(format!("found by {package}::{test}"))
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
    let named = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message.get("executable").and_then(Value::as_str).map(str::to_owned));
    match named {
        Some(path) => Ok(path),
        None => bail!("cargo named no executable of {package}"),
    }
}
