//! Coverage-guided fuzzing, on the stable toolchain.
//!
//! The fuzzer is no part of the workspace, for it brings a C++ runtime along; it is built in a
//! target folder of its own with the counters that it is guided by.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{gate, root, say};

/// How long it runs when nobody says how long, in seconds.
const SECONDS: u64 = 300;
/// Runs in the gate, from one seed: the same inputs each time, in a few seconds.
const GATE_RUNS: u64 = 20_000;
/// The gate's run ends by then, on however slow a machine.
const GATE_SECONDS_MAX: u64 = 20;
/// An input that takes longer is a fault.
const INPUT_SECONDS_MAX: u64 = 5;
/// More memory than this is a fault, in MiB.
const MEMORY_MIB_MAX: u64 = 512;
/// Longest input, in bytes.
const INPUT_BYTES_MAX: u64 = 32 * 1024;
/// What makes the compiler count which edges of the program an input takes.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
];

/// Fuzzes the journal's reader for `--seconds N` from `--seed N` on (chance if not given).
/// Inputs that reach something new are kept in `target/fuzz/corpus`; what breaks a promise is
/// written to `target/fuzz/crashes` and named.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut seconds, mut seed) = (SECONDS, 0);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let place = match arg.as_str() {
            "--seconds" => &mut seconds,
            "--seed" => &mut seed,
            other => bail!("unknown `{other}`; known are --seconds N and --seed N"),
        };
        let value = args.next().with_context(|| format!("{arg} needs a number"))?;
        *place = value.parse().with_context(|| format!("{arg} needs a number, not `{value}`"))?;
    }
    ensure!(seconds > 0, "at least one second");
    let corpus = folder("corpus")?;
    fuzz(&corpus, &[format!("-max_total_time={seconds}"), format!("-seed={seed}")])
}

/// A short run from the seeds in the tree alone.
pub(crate) fn in_gate() -> Result<()> {
    let corpus = folder("gate")?;
    fs::remove_dir_all(&corpus).context("emptying the corpus of the gate")?;
    fs::create_dir_all(&corpus).context("making the corpus of the gate")?;
    let limits = [
        format!("-runs={GATE_RUNS}"),
        format!("-max_total_time={GATE_SECONDS_MAX}"),
        "-seed=1".to_owned(),
    ];
    fuzz(&corpus, &limits)
}

fn fuzz(corpus: &PathBuf, limits: &[String]) -> Result<()> {
    let target = root().join("target/fuzz");
    let package = root().join("crates/journal/fuzz");
    let crashes = folder("crashes")?;
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", COVERAGE.join(" "));
    gate::run(build.current_dir(root()))?;
    let host = gate::host()?;
    let mut fuzzer = Command::new(target.join(host).join("release/journal-fuzz"));
    fuzzer
        .args(limits)
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .args(["-verbosity=0", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args([corpus, &package.join("corpus"), &package.join("crashes")]);
    gate::run(fuzzer.current_dir(root())).with_context(|| {
        format!(
            "a promise is broken; the input is in {}. Put it into crates/journal/fuzz/crashes, \
             where every `cargo test` runs it",
            crashes.display()
        )
    })?;
    say("   no input broke a promise");
    Ok(())
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = root().join("target/fuzz").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
