//! `cargo xtask sim`: runs seeds and prints what they exercised.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use sim::device::lock;
use sim::scenario::{self, Size, Totals};

/// Runs simulated towns; the same seed gives the same run.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Cli {
    /// Run only this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many seeds, from 1
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// Run seeds for so many hours, from a seed that nobody ran before
    #[arg(long)]
    hours: Option<f64>,
    /// Devices per run
    #[arg(long, default_value_t = 4)]
    devices: u64,
    /// Edge devices per run
    #[arg(long, default_value_t = 2)]
    edges: u64,
    /// Messages per device and per sending module
    #[arg(long, default_value_t = 1700)]
    numbers: u64,
    /// Connection cuts per run; other faults come in proportion
    #[arg(long, default_value_t = 340)]
    cuts: u64,
    /// Fail unless the minima of the whole gate are reached
    #[arg(long)]
    minima: bool,
    /// Stop at the first seed that fails and say which; that none fails is then the failure
    #[arg(long)]
    hunt: bool,
}

/// Seeds that run beside each other; the disks of each take some hundred MiB.
const THREADS_MAX: usize = 4;

/// The least that the seeds of the whole gate must exercise.
const MINIMA: Totals = Totals {
    cuts: 10_000,
    silences: 0,
    hub_restarts: 500,
    hub_power_cuts: 0,
    edge_kills: 0,
    edge_power_cuts: 500,
    disk_errors: 200,
    engine_failures: 200,
    module_exits: 0,
    clock_jumps: 50,
    calls: 0,
    deployments: 0,
    acknowledged: 500_000,
    duplicates: 0,
    transcript: 0,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Silent unless RUST_LOG asks; for one seed that is to be understood.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = if cli.hunt { hunt(&cli) } else { run(&cli) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("sim: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn size(&self) -> Size {
        let Self { devices, edges, numbers, cuts, .. } = *self;
        Size { devices, edges, numbers, cuts }
    }
}

/// Runs every seed twice, on all processors.
fn run(cli: &Cli) -> Result<()> {
    let (first, last) = match (cli.seed, cli.hours) {
        (Some(seed), _) => (seed, seed),
        (None, Some(_)) => (fresh_seed(), u64::MAX),
        (None, None) => (1, cli.seeds),
    };
    let ends = cli.hours.map(|hours| now() + Duration::from_secs_f64(hours * 3600.0));
    let (next, totals, failed) = (AtomicU64::new(first), Mutex::default(), Mutex::new(None));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = processors.min(THREADS_MAX);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let over = seed > last || ends.is_some_and(|ends| now() >= ends);
        if over || lock(&failed).is_some() {
            return;
        }
        match twice(seed, cli.size()) {
            Ok(one) => Totals::add(&mut lock(&totals), &one),
            Err(error) => drop(lock(&failed).get_or_insert(error)),
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    let totals: Totals = *lock(&totals);
    say(&format!("sim: {totals}"));
    if cli.minima { totals.reach(&MINIMA) } else { Ok(()) }
}

fn twice(seed: u64, size: Size) -> Result<Totals> {
    let first = scenario::run(seed, size)?;
    let second = scenario::run(seed, size)?;
    ensure!(first == second, "seed {seed} gave two transcripts: {first} and {second}");
    Ok(first)
}

/// Runs seeds once each until one fails.
fn hunt(cli: &Cli) -> Result<()> {
    for seed in 1..=cli.seeds {
        if let Err(error) = scenario::run(seed, cli.size()) {
            say(&format!("found by seed {seed}: {error:#}"));
            return Ok(());
        }
    }
    anyhow::bail!("{} seeds found nothing", cli.seeds)
}

#[expect(clippy::disallowed_methods, reason = "the time at the desk, not in the simulation")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Long runs are to try what was never tried.
fn fresh_seed() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs())
}

#[expect(clippy::print_stderr, reason = "words of a tool")]
fn say(text: &str) {
    eprintln!("{text}");
}
