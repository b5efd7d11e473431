//! Kill -9 of module, engine helper, runtime, hub, and all of them at once, at times from a
//! printed seed: nothing that a module saw acknowledged is lost, nothing comes out of order,
//! and repeats stay within what was in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use blackbox::edge::{self, Edge, Options};
use blackbox::hub::{Door, Hub};
use blackbox::oracle::Oracle;
use blackbox::place::Scratch;
use blackbox::seed::Seed;
use blackbox::{image, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SENDERS: usize = 4;
/// Messages in flight from each module to the router.
const WINDOW: u64 = 64;
/// Messages in flight from the router to the hub, of all modules together.
const UPSTREAM_IN_FLIGHT_MAX: u64 = 768;
/// Of each kind, kills at any time, and kills right after an acknowledgement.
const KILLS_ANY_TIME: u64 = 12;
const KILLS_AFTER_ACK: u64 = 10;
/// How soon after an acknowledgement a kill counts as one, and how many must be.
const AFTER_ACK_MAX: Duration = Duration::from_millis(2);
const AFTER_ACK_MIN: u64 = 5;
/// Most kills of one kind; a busy machine may need more of them to make enough that are soon.
const KILLS_MAX: u64 = 80;
/// Messages without which the run proves too little.
const MESSAGES_MIN: u64 = 100_000;
/// Messages that each sender may send from one kill to the next.
const SHARE: u64 = 300;
/// Longest time until something moves again.
const PROGRESS: Duration = Duration::from_mins(1);
/// Longest time to drain all queues, and to read the whole log back.
const READ_BACK: Duration = Duration::from_mins(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Module,
    Helper,
    Runtime,
    Hub,
    All,
}

const KINDS: [Kind; 5] = [Kind::Module, Kind::Helper, Kind::Runtime, Kind::Hub, Kind::All];

impl Kind {
    /// Most messages that one such kill makes come twice.
    fn repeats_max(self) -> u64 {
        let of_all_senders = u64::try_from(SENDERS).unwrap_or(u64::MAX) * WINDOW;
        match self {
            Self::Module => WINDOW,
            Self::Helper => 0,
            Self::Runtime | Self::All => of_all_senders + UPSTREAM_IN_FLIGHT_MAX,
            Self::Hub => UPSTREAM_IN_FLIGHT_MAX,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    after_ack: bool,
}

/// Kills of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    all: u64,
    /// Within [`AFTER_ACK_MAX`] of an acknowledgement.
    soon: u64,
    spent: Duration,
}

struct Sender {
    module: String,
    oracle: Oracle,
}

struct Place {
    hub: Hub,
    edge: Edge,
    senders: Vec<Sender>,
    allowed: u64,
}

#[test]
fn kills_of_every_part_lose_and_reorder_nothing_that_a_module_saw_acknowledged() -> Result<()> {
    let start = Instant::now();
    let scratch = Scratch::short("ki")?;
    let mut seed = Seed::announced("kill_edge");
    let mut place = Place::start(scratch.path())?;
    println!("kill_edge: {SENDERS} modules send after {} s", start.elapsed().as_secs());
    let kills = place.kill_many(&mut seed)?;
    place.allow(MESSAGES_MIN.div_ceil(u64::try_from(SENDERS)?).saturating_sub(place.allowed));
    let sent = place.finish()?;
    println!("kill_edge: {kills:?}, {sent} messages acknowledged, {} s", start.elapsed().as_secs());
    let repeats = place.compare()?;
    let repeats_max: u64 =
        kills.iter().map(|(kind, counted)| counted.all * kind.repeats_max()).sum();
    println!(
        "kill_edge: every first copy is there and in order, {repeats} repeats (≤ {repeats_max}), \
         {} s",
        start.elapsed().as_secs()
    );
    ensure!(repeats <= repeats_max, "{repeats} repeats; at most {repeats_max}");
    for kind in KINDS {
        let counted = kills.get(&kind).copied().unwrap_or_default();
        let enough = counted.all >= KILLS_ANY_TIME + KILLS_AFTER_ACK;
        ensure!(enough && counted.soon >= AFTER_ACK_MIN, "too few kills of {kind:?}: {counted:?}");
    }
    ensure!(sent >= MESSAGES_MIN, "only {sent} messages");
    place.edge.stop()?;
    place.hub.stop()?;
    drop(place);
    scratch.passed()
}

impl Place {
    fn start(scratch: &Path) -> Result<Self> {
        let oracles = scratch.join("o");
        std::fs::create_dir(&oracles)?;
        let hub = Hub::start(scratch, Door::Stock)?;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_sender"));
        let archives = vec![image::pack(&program, "sender", scratch)?];
        let options = Options { engine: "embedded", archives, ..Options::default() };
        let edge = Edge::start(scratch, &hub, "killed", options)?;
        let mut senders = Vec::new();
        let mut modules = serde_json::Map::new();
        let options = json!({ "HostConfig": {
            "NetworkMode": "host", "Binds": [format!("{}:/oracles", oracles.display())],
        }});
        for number in 0..SENDERS {
            let module = format!("sender-{number}");
            let oracle = Oracle::start(&oracles.join(&module))?;
            let (path, window) = (format!("/oracles/{module}"), WINDOW.to_string());
            let env =
                [("SENDER_ORACLE", &*path), ("SENDER_WINDOW", &*window), ("SENDER_PAD", "100")];
            modules.insert(module.clone(), edge::module("sender:1", &options, &env));
            senders.push(Sender { module, oracle });
        }
        let routes = json!({ "up": "FROM /messages/modules/* INTO $upstream" });
        edge.set_modules(&hub, &modules.into(), &routes)?;
        let mut place = Self { hub, edge, senders, allowed: 0 };
        place.allow(SHARE);
        place.wait_for_progress()?;
        Ok(place)
    }

    /// Lets every sender send `more` messages.
    fn allow(&mut self, more: u64) {
        self.allowed += more;
        for sender in &self.senders {
            sender.oracle.allow(self.allowed);
        }
    }

    fn acknowledged(&self) -> Result<Vec<u64>> {
        self.senders.iter().map(|sender| sender.oracle.acknowledged()).collect()
    }

    /// Waits until every sender saw something acknowledged that it had not seen at this call.
    fn wait_for_progress(&mut self) -> Result<()> {
        let before = self.acknowledged()?;
        if before.contains(&self.allowed) {
            self.allow(1);
        }
        wait::until("every sender to go on", PROGRESS, || {
            let now = self.acknowledged()?;
            Ok(now.iter().zip(&before).all(|(now, before)| now > before).then_some(()))
        })
    }

    /// Kills and starts again, in an order from the seed; what was done, by kind.
    fn kill_many(&mut self, seed: &mut Seed) -> Result<BTreeMap<Kind, Counted>> {
        let mut plans = Vec::new();
        for kind in KINDS {
            plans.extend((0..KILLS_ANY_TIME).map(|_| Plan { kind, after_ack: false }));
            plans.extend((0..KILLS_AFTER_ACK).map(|_| Plan { kind, after_ack: true }));
        }
        let mut kills: BTreeMap<Kind, Counted> = BTreeMap::new();
        while !plans.is_empty() {
            let at = usize::try_from(seed.below(u64::try_from(plans.len())?))?;
            let plan = plans.swap_remove(at);
            let begun = Instant::now();
            let after = self.kill(plan, seed).with_context(|| format!("{plan:?}"))?;
            let counted = kills.entry(plan.kind).or_default();
            counted.all += 1;
            counted.soon += u64::from(after.is_some_and(|after| after <= AFTER_ACK_MAX));
            counted.spent += begun.elapsed();
            if plans.is_empty() {
                let again = kills
                    .iter()
                    .find(|(_, counted)| counted.soon < AFTER_ACK_MIN && counted.all < KILLS_MAX);
                plans.extend(again.map(|(kind, _)| Plan { kind: *kind, after_ack: true }));
            }
        }
        Ok(kills)
    }

    /// One kill and the recovery from it; how long after an acknowledgement it came.
    fn kill(&mut self, plan: Plan, seed: &mut Seed) -> Result<Option<Duration>> {
        let chosen = usize::try_from(seed.below(u64::try_from(SENDERS)?))?;
        let progress = seed.below(SHARE);
        let module = self.senders[chosen].module.clone();
        let before = self.senders[chosen].oracle.acknowledged()?;
        let victims = self.victims(plan.kind, &module)?;
        let upstream = self.sent_upstream()?;
        self.allow(SHARE);
        wait::until("the messages before a kill", PROGRESS, || {
            let now = self.senders[chosen].oracle.acknowledged()?;
            Ok((now >= before + progress).then_some(()))
        })?;
        let after = if plan.after_ack {
            self.senders[chosen].oracle.arm(victims.clone());
            // It may have nothing left to send.
            self.allow(WINDOW);
            Some(self.senders[chosen].oracle.killed(PROGRESS)?)
        } else {
            sleep(Duration::from_micros(seed.below(5_000)));
            for victim in &victims {
                // One that a neighbour's death has ended already is as good.
                kill(Pid::from_raw(i32::try_from(*victim)?), Signal::SIGKILL).ok();
            }
            None
        };
        self.recover(plan.kind, &module, &victims, upstream)?;
        Ok(after)
    }

    /// The processes that such a kill ends.
    fn victims(&self, kind: Kind, module: &str) -> Result<Vec<u32>> {
        let victims = match kind {
            Kind::Module => self.edge.module(module),
            Kind::Helper => self.edge.helper().into_iter().collect(),
            Kind::Runtime => vec![self.edge.runtime()?],
            Kind::Hub => vec![self.hub.pid()?],
            Kind::All => {
                let mut all = vec![self.hub.pid()?, self.edge.runtime()?, self.edge.pid()?];
                all.extend(self.edge.helper());
                all.extend(self.edge.monitors());
                all.extend(self.senders.iter().flat_map(|one| self.edge.module(&one.module)));
                all
            }
        };
        ensure!(!victims.is_empty(), "there is nothing to kill");
        Ok(victims)
    }

    /// Starts again what nobody else would, and waits until all is as before.
    fn recover(&mut self, kind: Kind, module: &str, dead: &[u32], upstream: u64) -> Result<()> {
        if matches!(kind, Kind::Hub | Kind::All) {
            self.hub.wait_killed()?;
            self.hub.start_again()?;
        }
        if matches!(kind, Kind::Runtime | Kind::All) {
            self.edge.wait_killed()?;
            self.edge.start_again()?;
        }
        match kind {
            Kind::Module => self.revive(module, dead)?,
            Kind::All => {
                for number in 0..SENDERS {
                    let module = self.senders[number].module.clone();
                    self.revive(&module, dead)?;
                }
            }
            Kind::Helper | Kind::Runtime | Kind::Hub => {}
        }
        wait::until("an engine helper", PROGRESS, || {
            Ok(self.edge.helper().filter(|pid| !dead.contains(pid)))
        })?;
        // A new runtime counts from 0.
        let upstream = if matches!(kind, Kind::Runtime | Kind::All) { 0 } else { upstream };
        self.wait_for_progress()?;
        wait::until("messages in the hub", PROGRESS, || {
            Ok((self.sent_upstream()? > upstream).then_some(()))
        })
    }

    /// Has a dead module started at once, as its operator would who does not want to wait for
    /// the end of its back-off.
    fn revive(&self, module: &str, dead: &[u32]) -> Result<()> {
        let lives = || self.edge.module(module).iter().any(|pid| !dead.contains(pid));
        wait::until("the module to be dead", PROGRESS, || {
            Ok(self.edge.module(module).iter().all(|pid| !dead.contains(pid)).then_some(()))
        })?;
        if !lives() {
            self.edge.run(&["restart", module])?;
        }
        wait::until("the module to run", PROGRESS, || Ok(lives().then_some(())))
    }

    fn sent_upstream(&self) -> Result<u64> {
        self.edge.status()?["router"]["sent_upstream"].as_u64().context("no count")
    }

    /// Waits until all that may be sent is acknowledged and has left the device.
    fn finish(&self) -> Result<u64> {
        wait::until("the last acknowledgements", READ_BACK, || {
            Ok(self.acknowledged()?.iter().all(|count| *count == self.allowed).then_some(()))
        })?;
        wait::until("empty queues", READ_BACK, || {
            let status = self.edge.status()?;
            let queues = status["router"]["queues"].as_array().context("no queues")?;
            Ok(queues.iter().all(|queue| queue["depth"] == 0).then_some(()))
        })?;
        Ok(self.acknowledged()?.iter().sum())
    }

    /// Compares the hub's log with the lists of the oracles; the number of repeats.
    fn compare(&self) -> Result<u64> {
        let log = self.read_back()?;
        let mut repeats = 0;
        for sender in &self.senders {
            let module = &sender.module;
            let numbers = log.get(module).with_context(|| format!("nothing of {module}"))?;
            let mut seen = BTreeSet::new();
            for number in numbers {
                if !seen.insert(*number) {
                    repeats += 1;
                    continue;
                }
                let expected = u64::try_from(seen.len())?;
                ensure!(*number == expected, "{module}: {number} came, {expected} was due");
            }
            let acknowledged = sender.oracle.acknowledged()?;
            let arrived = u64::try_from(seen.len())?;
            ensure!(
                arrived == acknowledged,
                "{module}: {acknowledged} acknowledged, {arrived} came"
            );
            println!("kill_edge: {module}: {arrived} messages, {} copies", numbers.len());
        }
        Ok(repeats)
    }

    /// What the hub's log holds per module, in its order, up to each sender's last message.
    fn read_back(&self) -> Result<BTreeMap<String, Vec<u64>>> {
        let mut monitor = self.hub.command(&["-o", "jsonl", "monitor", "--from", "start"])?;
        let mut monitor = monitor.stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(monitor.stdout.take().context("no output")?);
        let (sender, lines) = mpsc::sync_channel(10_000);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let last = self.acknowledged()?.iter().copied().max().unwrap_or(0);
        let start = Instant::now();
        let mut log: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut ended = BTreeSet::new();
        while ended.len() < SENDERS {
            let Ok(line) = lines.recv_timeout(READ_BACK.saturating_sub(start.elapsed())) else {
                monitor.kill()?;
                let counts: Vec<usize> = log.values().map(Vec::len).collect();
                bail!("the monitor gave {counts:?} messages and not the last ones");
            };
            let message: Value = serde_json::from_str(&line)?;
            let module = message["moduleId"].as_str().context("no moduleId")?;
            let body = message["body"].as_str().context("no body")?;
            let number = body.split(' ').next().unwrap_or_default().parse()?;
            log.entry(module.to_owned()).or_default().push(number);
            if number == last {
                ended.insert(module.to_owned());
            }
        }
        monitor.kill()?;
        monitor.wait()?;
        Ok(log)
    }
}
