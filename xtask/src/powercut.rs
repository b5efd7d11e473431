//! More cut points of the journal than the gate has time for.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{gate, root, say};

/// Points when nobody says how many, log and queue together.
const POINTS: u64 = 1_000_000;
/// The kinds of workload: log and queue. Each runs on a core of its own.
const WORKLOADS: u64 = 2;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    points: u64,
    seed: u64,
    jobs: u64,
}

/// Runs `--points N` (both workloads together, default one million) from `--from SEED` on, with
/// `--jobs 1` one workload after the other. It prints its progress and where to go on, ends with
/// the first broken promise, and says at the end what was exercised; too little is a failure.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Wanted { points, seed, jobs } = parse(args)?;
    let each = points.div_ceil(WORKLOADS);
    say(&format!("power cuts: {each} points of each workload from seed {seed} on"));
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--release", "--package", "journal", "--lib", "--", "at_every_cut_point"])
        .arg("--nocapture")
        .arg(format!("--test-threads={jobs}"))
        .env("SELVEDGE_POWERCUT", format!("{each}:{seed}"));
    gate::run(command.current_dir(root()))
}

fn parse(args: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted { points: POINTS, seed: 1, jobs: WORKLOADS };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let place = match arg.as_str() {
            "--points" => &mut wanted.points,
            "--from" => &mut wanted.seed,
            "--jobs" => &mut wanted.jobs,
            other => bail!("unknown `{other}`; known are --points N, --from SEED and --jobs N"),
        };
        let value = args.next().with_context(|| format!("{arg} needs a number"))?;
        *place = value.parse().with_context(|| format!("{arg} needs a number, not `{value}`"))?;
    }
    ensure!(wanted.points > 0, "at least one point");
    ensure!(wanted.seed > 0, "seeds begin at 1");
    ensure!((1..=WORKLOADS).contains(&wanted.jobs), "--jobs is 1 or {WORKLOADS}");
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbers_behind_known_names() {
        let check = |line: &str, expected: Option<(u64, u64, u64)>| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let found = parse(&args).ok().map(|wanted| (wanted.points, wanted.seed, wanted.jobs));
            assert_eq!(found, expected, "{line}");
        };
        check("", Some((1_000_000, 1, 2)));
        check("--points 10 --from 7 --jobs 1", Some((10, 7, 1)));
        check("--points", None);
        check("--points ten", None);
        check("--points 0", None);
        check("--from 0", None);
        check("--jobs 3", None);
        check("--seeds 3", None);
    }
}
