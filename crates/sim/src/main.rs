//! `cargo xtask sim`: runs seeds and prints what they exercised.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use sim::device::lock;
use sim::scenario::{self, Size, Totals};
use sim::seeds::{self, Seed};
use sim::sentence::Sentence;

/// Runs simulated towns; the same seed gives the same run. Without `--seed`: the fixed seeds, the
/// corpus of those that once failed, and as many fresh ones as are wanted.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Cli {
    /// Run only this seed; may come several times
    #[arg(long)]
    seed: Vec<u64>,
    /// Run this many fixed seeds, from 1
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// Run this many seeds that the commit decides as well
    #[arg(long, default_value_t = 0)]
    fresh: u64,
    /// The hash of the commit, for --fresh; `cargo xtask sim` gives it
    #[arg(long, default_value = "")]
    commit: String,
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
    /// Fail unless the minima of the whole gate are reached, in proportion to the seeds
    #[arg(long)]
    minima: bool,
    /// Stop at the first of the fixed seeds that fails and say which and why; that none fails is
    /// then the failure
    #[arg(long)]
    hunt: bool,
}

/// Seeds that run beside each other; the disks of each take some hundred MiB.
const THREADS_MAX: usize = 4;

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

/// The seeds to be run, each said with where it comes from.
fn seeds(cli: &Cli) -> Result<Vec<Seed>> {
    if !cli.seed.is_empty() {
        return Ok(cli.seed.iter().copied().map(Seed::passing).collect());
    }
    let mut all = seeds::parse(seeds::CORPUS)?;
    let corpus: Vec<u64> = all.iter().map(|seed| seed.number).collect();
    let mut fresh = Vec::new();
    if cli.fresh > 0 {
        fresh = seeds::of_commit(&cli.commit, cli.fresh)?;
    }
    say(&format!(
        "sim: fixed seeds 1 to {}; of the corpus {corpus:?}; of commit {:?} {fresh:?}",
        cli.seeds, cli.commit
    ));
    for number in (1..=cli.seeds).chain(fresh) {
        if !corpus.contains(&number) {
            all.push(Seed::passing(number));
        }
    }
    Ok(all)
}

/// Runs every seed twice, on all processors.
fn run(cli: &Cli) -> Result<()> {
    let ends = cli.hours.map(|hours| now() + Duration::from_secs_f64(hours * 3600.0));
    let all: Box<dyn Iterator<Item = Seed> + Send> = match ends {
        Some(_) => Box::new((fresh_seed()..).map(Seed::passing)),
        None => Box::new(seeds(cli)?.into_iter()),
    };
    let (rest, totals, failed) = (Mutex::new(all), Mutex::default(), Mutex::new(None));
    let ran = AtomicU64::new(0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = processors.min(THREADS_MAX);
    let work = || loop {
        let next = lock(&rest).next();
        let is_over = ends.is_some_and(|ends| now() >= ends) || lock(&failed).is_some();
        let Some(seed) = next.filter(|_| !is_over) else { return };
        match seed.judge(twice(seed.number, cli.size())) {
            Ok(one) => {
                ran.fetch_add(1, Ordering::Relaxed);
                Totals::add(&mut lock(&totals), &one.unwrap_or_default());
            }
            Err(error) => drop(lock(&failed).get_or_insert(error)),
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    let (totals, ran): (Totals, u64) = (*lock(&totals), ran.into_inner());
    say(&format!("sim: {ran} seeds: {totals}"));
    if cli.minima { totals.reach(ran) } else { Ok(()) }
}

fn twice(seed: u64, size: Size) -> Result<Totals> {
    let first = scenario::run(seed, size)?;
    let second = scenario::run(seed, size)?;
    let words = || format!("seed {seed} gave two transcripts: {first} and {second}");
    Sentence::Replayed.check(first == second, words)?;
    Ok(first)
}

/// Runs seeds once each until one fails; says the seed, the sentence and the words of the fault.
fn hunt(cli: &Cli) -> Result<()> {
    for seed in 1..=cli.seeds {
        if let Err(error) = scenario::run(seed, cli.size()) {
            let sentence = Sentence::of(&error).map_or("none", Sentence::name);
            say(&format!("found {seed} {sentence} {error:#}"));
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
