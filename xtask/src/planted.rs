//! Planted faults: one-line sabotages that no product build has, each of which must be caught.
//!
//! A fault is a cfg of one crate. The crate's own test binary is built with it, and the named
//! test must fail; the ordinary gate shows that the same test passes without it.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{root, say};

/// A fault: crate, cfg, and the test that must catch it.
const PLANTED: &[(&str, &str, &str)] = &[
    ("journal", "planted_ack_before_commit", "what_is_acknowledged_survives_a_power_cut"),
    ("journal", "planted_cursor_before_delivery", "what_was_only_handed_out_comes_again"),
    ("journal", "planted_expired_delivered", "what_has_expired_is_not_delivered"),
    ("hub", "planted_lost_takeover", "the_hub_keeps_every_promise_of_the_waist"),
    ("hub", "planted_forgotten_feature", "the_hub_keeps_every_promise_of_the_waist"),
    (
        "edge",
        "planted_plan_step_skipped",
        "what_is_gone_is_removed_first_and_starts_follow_their_order",
    ),
];

/// Builds each fault and shows that it is caught.
pub(crate) fn catch_all() -> Result<()> {
    for (package, fault, test) in PLANTED {
        let binary = build(package, fault)?;
        let done = Command::new(&binary)
            .arg(test)
            .current_dir(root().join("crates").join(package))
            .stderr(Stdio::null())
            .output()
            .with_context(|| format!("starting {binary}"))?;
        let printed = String::from_utf8_lossy(&done.stdout);
        ensure!(
            printed.contains("test result: FAILED"),
            "the planted fault {fault} was not caught by {test}:\n{printed}"
        );
        say(&format!("   {fault}: caught by {package}::{test}"));
    }
    Ok(())
}

/// The path of the crate's test binary, built with the fault.
fn build(package: &str, fault: &str) -> Result<String> {
    let done = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--package", package, "--lib", "--profile", "test"])
        .args(["--message-format", "json", "--", "--cfg", fault])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(done.status.success(), "{package} does not build with {fault}");
    let printed = String::from_utf8(done.stdout).context("cargo printed no UTF-8")?;
    let binary = printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message.get("executable").and_then(Value::as_str).map(str::to_owned));
    binary.with_context(|| format!("cargo named no test binary of {package}"))
}
