//! The programs of one folder beside those of another, an earlier build for example: ingest,
//! memory of idle connections, and start times, round by round in one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blackbox::edge::Options;
use blackbox::hub::{Door, Hub};
use blackbox::{place, wait};

use crate::calls::{Call, Calls};
use crate::device::{DEVICE, Device, folder};
use crate::figures::{Rounds, to_f64};
use crate::load::{self, Load};
use crate::ready::watch;
use crate::report::{line, progress};
use crate::server::Server;
use crate::stack::{MODULES, deployment};
use crate::start::millis;
use crate::{clock, process};

/// No figure may be worse than the other folder's by more than this.
const RATIO_MIN: f64 = 0.97;
/// The start that nobody counts.
const WARM_UP: usize = 0;
/// A hub that cannot be told to end by then is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// SIGINT among the signals that the kernel shows as bits.
const SIGINT_BIT: u64 = 1 << 1;
const PAYLOAD_BYTES: usize = 256;
/// Registered devices; the largest load needs as many.
const DEVICES: usize = 200;
const MODULES_MOST: usize = 50;
/// Who bears a load: connections, messages in flight on each, whether it is the router.
const LOADS: [(usize, usize, bool); 5] =
    [(1, 1, false), (1, 16, false), (DEVICES, 16, false), (1, 16, true), (MODULES_MOST, 64, true)];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) span: Duration,
    pub(crate) connections: usize,
}

/// Figures of both sides, round by round.
#[derive(Debug, Default)]
struct Pair([Rounds; 2]);

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// Measures and tells. Start times need root.
pub(crate) async fn section(other: &Path, extent: Extent) -> Result<()> {
    ensure!(extent.rounds > 0, "at least one round");
    let other = other.canonicalize().with_context(|| format!("{}", other.display()))?;
    let sides = [None, Some(other.clone())];
    line("| what | these | those | ratio, round by round | |");
    line("|---|---|---|---|---|");
    let mut worse = Vec::new();
    ingest(&sides, extent, &mut worse).await?;
    idle(&sides, extent, &mut worse).await?;
    hub_starts(&sides, extent, &mut worse)?;
    if nix::unistd::geteuid().is_root() {
        starts(&sides, extent, &mut worse).await?;
    } else {
        line("| start of the runtime | not measured: containers need root | | | |");
    }
    line(&format!(
        "\nThese: the programs of this build; those: the ones in `{}`. {} rounds, in each of \
         which both are measured, the one that begins changes from round to round; {} s per \
         load and round, {} idle connections. Medians with least and most; the ratio is the \
         median of the rounds' own ratios, above 1 where these are better. The ratio is to be \
         at least {RATIO_MIN}.\n",
        other.display(),
        extent.rounds,
        extent.span.as_secs(),
        extent.connections,
    ));
    match worse.as_slice() {
        [] => line(&format!("- every ratio is at least {RATIO_MIN}")),
        some => line(&format!("- below {RATIO_MIN}: {}", some.join("; "))),
    }
    Ok(())
}

/// Runs `measure` for both sides in every round, and the first of a round is the last of the next.
fn order(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

impl Pair {
    fn push(&mut self, side: usize, value: f64) {
        if let Some(rounds) = self.0.get_mut(side) {
            rounds.push(value);
        }
    }

    /// A row of the table; what is worse than allowed is remembered.
    fn tell(&self, what: &str, unit: &str, better: Better, worse: &mut Vec<String>) {
        let [these, those] = &self.0;
        let ratio = match better {
            Better::More => these.over(those),
            Better::Less => those.over(these),
        };
        let median = ratio.median();
        let digits = if these.median() < 100.0 { 2 } else { 0 };
        let mark = if median < RATIO_MIN { "below" } else { "" };
        line(&format!(
            "| {what}, {unit} | {} | {} | {} | {mark} |",
            these.text(digits),
            those.text(digits),
            ratio.text(3)
        ));
        // A figure that is no number is no proof.
        if median.is_nan() || median < RATIO_MIN {
            worse.push(format!("{what} {median:.3}"));
        }
    }
}

async fn ingest(
    sides: &[Option<PathBuf>; 2],
    extent: Extent,
    worse: &mut Vec<String>,
) -> Result<()> {
    let (mut hubs, mut routers) = (Vec::new(), Vec::new());
    for side in sides {
        progress("beside: starting a hub and a device");
        place::choose_binaries(side.clone());
        hubs.push(Server::hub(DEVICES).await?);
        routers.push(Server::router(MODULES_MOST).await?);
    }
    for (connections, in_flight, is_router) in LOADS {
        let load = Load { connections, in_flight, payload: PAYLOAD_BYTES, span: extent.span };
        let servers = if is_router { &routers } else { &hubs };
        let name = if is_router { "router" } else { "hub" };
        let mut found = Pair::default();
        for round in 0..extent.rounds {
            for side in order(round) {
                progress(&format!("beside: {name}, {connections} × {in_flight}, round {round}"));
                let server = servers.get(side).context("two servers")?;
                found.push(side, load::run(server, load).await?.rate);
            }
        }
        let what = format!("ingest of the {name}, {connections} × {in_flight}");
        found.tell(&what, "msg/s", Better::More, worse);
    }
    Ok(())
}

async fn idle(sides: &[Option<PathBuf>; 2], extent: Extent, worse: &mut Vec<String>) -> Result<()> {
    let (mut each, mut empty) = (Pair::default(), Pair::default());
    for round in 0..extent.rounds {
        for side in order(round) {
            progress(&format!("beside: idle connections, round {round}"));
            place::choose_binaries(sides.get(side).cloned().flatten());
            let server = Server::hub(extent.connections).await?;
            let before = process::memory(server.pid()?)?;
            let held = load::hold(&server, extent.connections).await?;
            let after = process::memory(server.pid()?)?;
            let more = to_f64(after.pss.saturating_sub(before.pss)) / 1024.0;
            each.push(side, more / to_f64(u64::try_from(extent.connections)?));
            empty.push(side, to_f64(before.pss) / 1024.0 / 1024.0);
            drop(held);
        }
    }
    each.tell("memory of an idle TLS connection", "KiB PSS", Better::Less, worse);
    empty.tell("memory of the hub before it", "MiB PSS", Better::Less, worse);
    Ok(())
}

fn hub_starts(sides: &[Option<PathBuf>; 2], extent: Extent, worse: &mut Vec<String>) -> Result<()> {
    let mut found = Pair::default();
    let folders = [folder("h")?, folder("h")?];
    let mut hubs = Vec::new();
    for (side, folder) in sides.iter().zip(&folders) {
        place::choose_binaries(side.clone());
        hubs.push(Hub::start_with_log(folder.path(), Door::Behind, "warn")?);
    }
    for round in 0..=extent.rounds {
        for side in order(round) {
            progress(&format!("beside: start of the hub, round {round}"));
            place::choose_binaries(sides.get(side).cloned().flatten());
            let hub = hubs.get_mut(side).context("two hubs")?;
            let pid = hub.pid()?;
            wait::until("the hub to hear signals", PATIENCE, || Ok(hears(pid)?.then_some(())))?;
            hub.stop()?;
            let begun = clock::now();
            hub.start_again()?;
            if round > WARM_UP {
                found.push(side, millis(begun.elapsed()));
            }
        }
    }
    found.tell("start of the hub until it takes connections", "ms", Better::Less, worse);
    Ok(())
}

/// Whether the process has said what it does when it is told to end; before, that kills it.
fn hears(pid: u32) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.context("no signals")?.trim(), 16)?;
    Ok(caught & SIGINT_BIT != 0)
}

/// A device, where its modules call, and the calls of those that run.
struct Started {
    device: Device,
    calls: Calls,
    held: Vec<Call>,
}

async fn starts(
    sides: &[Option<PathBuf>; 2],
    extent: Extent,
    worse: &mut Vec<String>,
) -> Result<()> {
    let mut all = Vec::new();
    for side in sides {
        progress("beside: starting hub and device with modules");
        place::choose_binaries(side.clone());
        let device = Device::start(Options { engine: "embedded", ..Options::default() })?;
        let calls = Calls::listen()?;
        device.service.apply(DEVICE, &deployment(calls.port)).await?;
        let held = calls.take(MODULES.len())?;
        all.push(Started { device, calls, held });
    }
    let (mut router, mut api, mut modules) = Default::default();
    for round in 0..=extent.rounds {
        for side in order(round) {
            progress(&format!("beside: start of the runtime, round {round}"));
            place::choose_binaries(sides.get(side).cloned().flatten());
            let Started { device, calls, held } = all.get_mut(side).context("two devices")?;
            device.edge.stop()?;
            held.clear();
            let begun = clock::now();
            device.edge.spawn()?;
            let (listens, management, workload) = watch(device, begun)?;
            *held = calls.take(MODULES.len())?;
            device.edge.ready()?;
            let last = held.iter().map(|call| call.at).max().unwrap_or(begun);
            if round > WARM_UP {
                let took = millis(last.saturating_duration_since(begun));
                Pair::push(&mut router, side, listens);
                Pair::push(&mut api, side, management.max(workload));
                Pair::push(&mut modules, side, took);
            }
        }
    }
    router.tell("start of the runtime until its router listens", "ms", Better::Less, worse);
    api.tell("until its APIs answer", "ms", Better::Less, worse);
    modules.tell("until 3 modules run", "ms", Better::Less, worse);
    Ok(())
}
