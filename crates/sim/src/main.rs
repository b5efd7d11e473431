//! `cargo xtask sim`: runs seeds and prints what they exercised.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use sim::scenario::{self, Size, Totals};

/// Runs simulated houses; the same seed gives the same run.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Cli {
    /// Run only this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many seeds, from 1
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// Devices per run
    #[arg(long, default_value_t = 5)]
    devices: u64,
    /// Messages per device
    #[arg(long, default_value_t = 200)]
    numbers: u64,
    /// Fail unless at least this many connections were cut
    #[arg(long, default_value_t = 0)]
    cuts_min: u64,
    /// Fail unless the hub was killed at least this often
    #[arg(long, default_value_t = 0)]
    restarts_min: u64,
    /// Fail unless at least this many messages were acknowledged
    #[arg(long, default_value_t = 0)]
    acknowledged_min: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("sim: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let size = Size { devices: cli.devices, numbers: cli.numbers };
    let seeds = cli.seed.map_or(1..=cli.seeds, |seed| seed..=seed);
    let mut totals = Totals::default();
    for seed in seeds {
        let first = scenario::run(seed, size)?;
        let second = scenario::run(seed, size)?;
        ensure!(first == second, "seed {seed} gave two transcripts: {first:?} and {second:?}");
        totals.add(&first);
    }
    say(&format!(
        "sim: {} cuts, {} hub restarts ({} power cuts), {} acknowledged, {} duplicates, \
         transcript {:016x}",
        totals.cuts,
        totals.restarts,
        totals.power_cuts,
        totals.acknowledged,
        totals.duplicates,
        totals.transcript
    ));
    ensure!(totals.cuts >= cli.cuts_min, "fewer than {} cuts", cli.cuts_min);
    ensure!(totals.restarts >= cli.restarts_min, "fewer than {} restarts", cli.restarts_min);
    ensure!(
        totals.acknowledged >= cli.acknowledged_min,
        "fewer than {} acknowledged messages",
        cli.acknowledged_min
    );
    Ok(())
}

#[expect(clippy::print_stderr, reason = "words of a tool")]
fn say(text: &str) {
    eprintln!("{text}");
}
