//! More cut points of the journal than the gate has time for.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{gate, root, say};

/// Points when nobody says how many, log and queue together.
const POINTS: u64 = 1_000_000;

/// Runs `--points N` (both workloads together, default one million) from `--from SEED` on. It
/// prints its progress and where to go on, and ends with the first broken promise.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut points, mut seed) = (POINTS, 1);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = || args.clone().next().with_context(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--points" => points = value()?.parse().context("--points needs a number")?,
            "--from" => seed = value()?.parse().context("--from needs a seed")?,
            other => anyhow::bail!("unknown `{other}`; known are --points N and --from SEED"),
        }
        args.next();
    }
    ensure!(seed > 0, "seeds begin at 1");
    let each = points.div_ceil(2);
    say(&format!("power cuts: {each} points of each workload from seed {seed} on"));
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--release", "--package", "journal", "--lib"])
        .args(["--", "power_cut", "--nocapture"])
        .env("SELVEDGE_POWERCUT", format!("{each}:{seed}"));
    gate::run(command.current_dir(root()))
}
