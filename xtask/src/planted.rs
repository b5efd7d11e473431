//! Planted faults: one-line sabotages that no product build has, each of which must be found.
//!
//! All of them are in one build, made with `--cfg planted`; the name of one is given at run
//! time, see `model::planted`. The simulator must find it within [`SEEDS_MAX`] seeds, or the
//! named test must fail. The ordinary gate shows that both are green without it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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

/// Faults, and who must find each.
const PLANTED: &[(&str, Finder)] = &[
    ("ack_before_sync", Simulator),
    ("cursor_before_delivery", Simulator),
    ("clock_back_expires", Simulator),
    ("resend_out_of_order", Simulator),
    ("ack_before_sync", Test("journal", "what_is_acknowledged_survives_a_power_cut")),
    ("cursor_before_delivery", Test("journal", "what_was_only_handed_out_comes_again")),
    ("expired_delivered", Test("journal", "what_has_expired_is_not_delivered")),
    ("lost_takeover", SUITE),
    ("forgotten_feature", SUITE),
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
];

/// Builds the faults and shows that each is found; prints in how many seeds, or by which test.
pub(crate) fn catch_all() -> Result<()> {
    let wrapper = wrapper()?;
    let simulator = build(&wrapper, "sim", &["build", "--release", "--bin", "sim"])?;
    for (fault, finder) in PLANTED {
        let found = match finder {
            Simulator => hunt(&simulator, fault)?,
            Test(package, test) => {
                let binary = build(&wrapper, package, &["test", "--no-run", "--lib"])?;
                fails(&binary, package, test, fault)?
            }
        };
        say(&format!("   {fault}: {found}"));
    }
    Ok(())
}

/// Runs seeds with `fault` until one fails.
fn hunt(simulator: &str, fault: &str) -> Result<String> {
    let done = Command::new(simulator)
        .args(["--hunt", "--seeds", SEEDS_MAX])
        .env("SELVEDGE_PLANTED", fault)
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
