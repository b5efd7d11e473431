//! A town: a hub, devices that send to it, edge devices with modules, and an operator, while
//! everything that can fail does. Nothing acknowledged may be missing or out of order, and in
//! the end every device must be as it is desired and say so.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use journal::disk::simulated::{DiskFault, SimulatedDisk};
use model::commit::{CommitFault, CommitStage};
use model::time::Tick;
use model::world::Clock;
use net::client::{MqttClient, Target};
use testkit::chance::Chance;
use testkit::engine::{EngineCall, EngineFault};
use testkit::world::{Host, VirtualClock};

use crate::cloud::Edge;
use crate::device::{Device, Shared, lock};
use crate::edge_site::EdgeSite;
use crate::filler::Filler;
use crate::hub_site::{self, HubSite, TOKEN_LIFE};
use crate::listener::{Caller, Heard, Listener};
use crate::operator::Operator;
use crate::oracle;
use crate::pipes::Pipes;
use crate::program::{EXTRA, SINK, SOURCE};
use crate::sentence::Sentence;
use crate::skewed::jump_ms;
pub use crate::totals::Totals;

mod verdict;

/// Longest simulated time that a scenario may take.
const TIME_MAX: Duration = Duration::from_hours(24);
/// Longest time until everything is as it is to be, once nothing fails any more. The longest
/// wait before a module is started again is five minutes.
const CALM_MAX: Duration = Duration::from_hours(1);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Longest pause between two faults.
const FAULT_PAUSE_MAX: Duration = Duration::from_millis(1500);
/// Longest time a host is without power or a process is away.
const DOWN_MAX: Duration = Duration::from_secs(4);
/// How long a clock is wrong.
const JUMP_MAX: Duration = Duration::from_mins(2);
/// One strike in so many is followed by calls of the listener.
const CALL_EVERY: u64 = 4;
/// Between so many faults quotas are filled once, on average.
const FILL_EVERY: u64 = 8;
/// The device that is called.
const LISTENER: &str = "listener";
/// Longest pause between two bursts of a sender.
const PACE: Duration = Duration::from_secs(20);

/// How large a scenario is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Devices that send straight to the hub.
    pub devices: u64,
    /// Edge devices.
    pub edges: u64,
    /// Numbers that each device and each source module sends.
    pub numbers: u64,
    /// Cuts of connections; other faults come in proportion.
    pub cuts: u64,
}

/// One thing that goes wrong, or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Silence,
    Roam,
    HubJump,
    HubKill,
    HubPower,
    HubDisk,
    HubTables,
    EdgeKill,
    EdgePower,
    EdgeDisk,
    EdgeFull,
    EdgeTables,
    Engine,
    Exit,
    Jump,
    Deploy,
    Break,
    Tell,
}

/// How often each fault comes beside 300 cuts: for the hub, and for each edge device.
const OF_THE_HUB: [(Fault, u64); 7] = [
    (Fault::Silence, 6),
    (Fault::Roam, 10),
    (Fault::HubJump, 2),
    (Fault::HubKill, 4),
    (Fault::HubPower, 7),
    (Fault::HubDisk, 4),
    (Fault::HubTables, 2),
];
const OF_AN_EDGE: [(Fault, u64); 11] = [
    (Fault::EdgeKill, 3),
    (Fault::EdgePower, 6),
    (Fault::EdgeDisk, 4),
    (Fault::EdgeFull, 1),
    (Fault::EdgeTables, 3),
    (Fault::Engine, 5),
    (Fault::Exit, 3),
    (Fault::Jump, 2),
    (Fault::Deploy, 4),
    (Fault::Break, 2),
    (Fault::Tell, 12),
];

/// Runs the scenario of `seed` on a runtime of its own.
///
/// # Errors
/// The promise that was broken.
pub fn run(seed: u64, size: Size) -> Result<Totals> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("starting the runtime of the simulation")?;
    let done = runtime.block_on(async {
        tokio::time::timeout(TIME_MAX, simulate(seed, size))
            .await
            .unwrap_or_else(|_| Err(Sentence::Over.broken(format!("not after {TIME_MAX:?}"))))
    });
    done.with_context(|| format!("seed {seed}; again with: cargo xtask sim --seed {seed}"))
}

struct Town {
    size: Size,
    chance: Chance,
    clock: VirtualClock,
    pipes: Pipes,
    hub: HubSite,
    field: Host,
    devices: Vec<(String, Shared)>,
    edges: Vec<(EdgeSite, Operator)>,
    /// Fills quotas; none before it is registered.
    filler: Option<Filler>,
    /// When which edge device's clock is right again.
    jumps: Vec<Option<Tick>>,
    /// When the hub's is.
    hub_jump: Option<Tick>,
    heard: Arc<Mutex<Heard>>,
    caller: Caller,
    totals: Totals,
    planned: Planned,
}

/// What was to hit something sooner or later.
#[derive(Debug, Default)]
struct Planned {
    connections: u64,
    engines: u64,
}

async fn simulate(seed: u64, size: Size) -> Result<Totals> {
    let mut town = Town::found(seed, size).await?;
    for (fault, at) in town.schedule() {
        tokio::time::sleep(town.chance.span(FAULT_PAUSE_MAX)).await;
        tracing::debug!(?fault, at, "strikes");
        town.strike(fault, at).await.with_context(|| format!("{fault:?}"))?;
        town.set_clocks_right(town.clock.now().tick);
        town.operate().await?;
        if town.chance.below(CALL_EVERY) == 0 {
            town.call().await?;
        }
        if town.chance.below(FILL_EVERY) == 0 {
            town.fill().await?;
        }
    }
    town.calm().await?;
    town.judge().await
}

impl Town {
    async fn found(seed: u64, size: Size) -> Result<Self> {
        let (chance, clock) = (Chance::new(seed), VirtualClock::begin());
        let pipes = Pipes::new(chance.fork("pipes"));
        let mut hub = HubSite::new(clock.beside(), pipes.clone(), chance.fork("hub"))?;
        hub.start().await?;
        let field = Host::on(clock.beside(), chance.fork("field"));
        let (devices, edges, jumps) = (Vec::new(), Vec::new(), Vec::new());
        let totals = Totals::default();
        let (heard, caller) = (Arc::default(), Caller::new(LISTENER));
        let mut town = Self {
            size,
            chance,
            clock,
            pipes,
            hub,
            field,
            devices,
            edges,
            filler: None,
            jumps,
            hub_jump: None,
            heard,
            caller,
            totals,
            planned: Planned::default(),
        };
        town.add_listener().await?;
        let service = town.hub.service()?;
        town.filler = Some(Filler::register(&service, town.chance.fork("filler")).await?);
        for number in 0..size.devices {
            town.add_device(format!("device-{number}")).await?;
        }
        for number in 0..size.edges {
            town.add_edge(&format!("edge-{number}")).await?;
        }
        Ok(town)
    }

    async fn add_device(&mut self, id: String) -> Result<()> {
        let key = self.hub.service()?.create(&id, Edge::No).await?;
        let expiry = self.clock.now().wall.after(TOKEN_LIFE);
        let token = SasToken::sign(&format!("hub.test/devices/{id}"), None, expiry, &key);
        let record = Shared::default();
        let device = Device {
            id: id.clone(),
            password: token.expose_str().unwrap_or_default().to_owned(),
            count: self.size.numbers,
            pace: PACE,
            record: Shared::clone(&record),
        };
        let (network, chance) = (self.pipes.of("field"), self.chance.fork(&id));
        self.field.world().spawn(device.run(network, hub_site::mqtt(), chance));
        self.devices.push((id, record));
        Ok(())
    }

    async fn add_listener(&mut self) -> Result<()> {
        let key = self.hub.service()?.create(LISTENER, Edge::No).await?;
        let (identity, heard) = (LISTENER.parse()?, Arc::clone(&self.heard));
        let expiry = self.clock.now().wall.after(TOKEN_LIFE);
        let listener = Listener { identity, key, expiry, heard };
        let (world, network) = (self.field.world(), Arc::new(self.pipes.of("field")));
        let target =
            Target { mqtt: hub_site::mqtt(), https: None, tls: None, host: "hub.test".into() };
        let client = MqttClient::new(world.clone(), network, target);
        world.spawn(listener.run(client, world.clone(), self.chance.fork(LISTENER)));
        Ok(())
    }

    async fn add_edge(&mut self, name: &str) -> Result<()> {
        let key: SymmetricKey = self.hub.service()?.create(name, Edge::Yes).await?;
        let (clock, chance) = (self.clock.beside(), self.chance.fork(name));
        let sends = (self.size.numbers, PACE);
        let mut site = EdgeSite::new(name, &key, clock, self.pipes.clone(), chance, sends)?;
        site.start().await?;
        self.edges.push((site, Operator::new(name, self.chance.fork("operator"))));
        self.jumps.push(None);
        self.operate().await
    }

    /// Every fault, and whom it strikes, in an order by chance.
    fn schedule(&self) -> Vec<(Fault, usize)> {
        let share = |times: u64| (times * self.size.cuts).div_ceil(300);
        let mut all = Vec::new();
        let mut add = |fault, times, at| all.extend((0..times).map(|_| (fault, at)));
        add(Fault::Cut, self.size.cuts, 0);
        for (fault, times) in OF_THE_HUB {
            add(fault, share(times), 0);
        }
        for at in 0..self.edges.len() {
            for (fault, times) in OF_AN_EDGE {
                add(fault, share(times), at);
            }
        }
        // Fisher and Yates.
        for last in (1..all.len()).rev() {
            let which = self.chance.below(u64::try_from(last + 1).unwrap_or(u64::MAX));
            all.swap(last, usize::try_from(which).unwrap_or(0));
        }
        all
    }

    async fn strike(&mut self, fault: Fault, at: usize) -> Result<()> {
        match fault {
            // Whether they hit is counted in the end: a cut may be for later.
            Fault::Cut | Fault::Silence | Fault::Roam => {
                self.planned.connections += 1;
                match fault {
                    Fault::Cut => drop(self.pipes.cut_one()),
                    Fault::Silence => drop(self.pipes.silence_one()),
                    _ => drop(self.pipes.roam_one()),
                }
            }
            Fault::HubJump => {
                self.hub.clock.jump(&self.chance);
                self.totals.clock_jumps += 1;
                self.hub_jump = Some(self.clock.now().tick.after(self.chance.span(JUMP_MAX)));
            }
            Fault::HubKill | Fault::HubPower => self.end_hub(fault).await?,
            Fault::HubDisk => fail(&self.hub.disk, &self.chance),
            Fault::HubTables => {
                let skip = self.chance.below(4);
                self.hub.strikes.aim(skip, CommitStage::Before, CommitFault::Fail);
            }
            _ => self.strike_edge(fault, at).await?,
        }
        Ok(())
    }

    async fn end_hub(&mut self, fault: Fault) -> Result<()> {
        if fault == Fault::HubPower {
            let hit = self.hub.power_cut().await;
            self.totals.missed.moments += u64::from(!hit);
            self.totals.hub_power_cuts += 1;
        } else {
            self.hub.kill().await;
        }
        self.totals.hub_restarts += 1;
        tokio::time::sleep(self.chance.span(DOWN_MAX)).await;
        self.hub.start().await.context(Sentence::Starts).context("the hub does not start")
    }

    async fn strike_edge(&mut self, fault: Fault, at: usize) -> Result<()> {
        let (site, operator) = self.edges.get_mut(at).context("no such device")?;
        let (chance, totals) = (&self.chance, &mut self.totals);
        match fault {
            Fault::EdgeKill | Fault::EdgePower => {
                if fault == Fault::EdgePower {
                    let hit = site.power_cut().await;
                    totals.missed.moments += u64::from(!hit);
                    totals.edge_power_cuts += 1;
                } else {
                    site.kill().await;
                    totals.edge_kills += 1;
                }
                tokio::time::sleep(chance.span(DOWN_MAX)).await;
                let words = format!("{} does not start", site.name);
                site.start().await.context(Sentence::Starts).context(words)?;
            }
            Fault::EdgeDisk => fail(&site.disk, chance),
            Fault::EdgeFull => {
                site.disk.set_capacity(Some(0));
                tokio::time::sleep(chance.span(DOWN_MAX)).await;
                site.disk.set_capacity(None);
            }
            Fault::EdgeTables => {
                site.strikes.aim(chance.below(4), CommitStage::Before, CommitFault::Fail);
            }
            Fault::Engine => {
                let kind =
                    if chance.below(2) == 0 { EngineFault::Before } else { EngineFault::After };
                site.engine.fail(engine_call(chance), kind);
                self.planned.engines += 1;
            }
            Fault::Exit => {
                let code = i32::from(chance.below(2) == 0);
                let name = match chance.below(5) {
                    0 | 1 => SOURCE,
                    2 | 3 => SINK,
                    _ => EXTRA,
                };
                let hit = site.engine.end(name, code);
                totals.module_exits += u64::from(hit);
                totals.missed.exits += u64::from(!hit);
            }
            Fault::Jump => {
                // The last device's clock is never wrong, so that what depends on it shows.
                if at + 1 < self.jumps.len() {
                    site.clock.set_skew_ms(jump_ms(chance));
                    totals.clock_jumps += 1;
                    let until = self.clock.now().tick.after(chance.span(JUMP_MAX));
                    self.jumps.iter_mut().skip(at).take(1).for_each(|slot| *slot = Some(until));
                }
            }
            Fault::Deploy => operator.deploy(),
            Fault::Break => operator.break_manifest(),
            Fault::Tell => operator.tell(),
            other => bail!("{other:?} strikes no edge device"),
        }
        Ok(())
    }

    /// Ends the jumps that are over at `now`.
    fn set_clocks_right(&mut self, now: Tick) {
        for (slot, (site, _)) in self.jumps.iter_mut().zip(&self.edges) {
            if slot.is_some_and(|until| now >= until) {
                site.clock.set_skew_ms(0);
                *slot = None;
            }
        }
        if self.hub_jump.is_some_and(|until| now >= until) {
            self.hub.clock.set_right();
            self.hub_jump = None;
        }
    }

    async fn call(&mut self) -> Result<()> {
        let service = self.hub.service()?;
        self.caller.call(&service).await;
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        let service = self.hub.service()?;
        if let Some(filler) = &mut self.filler {
            filler.work(&service).await?;
            self.totals.quota_refusals = filler.refused;
        }
        Ok(())
    }

    async fn operate(&mut self) -> Result<()> {
        let service = self.hub.service()?;
        for (_, operator) in &mut self.edges {
            operator.work(&service).await;
        }
        Ok(())
    }

    /// Nothing fails any more; in the end all is as it is to be.
    async fn calm(&mut self) -> Result<()> {
        self.set_clocks_right(Tick::NEVER);
        let mut disks = self.hub.disk.heal();
        self.hub.strikes.heal();
        for (site, _) in &self.edges {
            disks += site.disk.heal();
            site.strikes.heal();
            site.engine.heal();
        }
        self.totals.missed.disks = u64::try_from(disks).unwrap_or(u64::MAX);
        let from = self.clock.now().tick;
        loop {
            self.operate().await?;
            self.call().await?;
            let Err(missing) = self.settled().await else { return Ok(()) };
            let waited = self.clock.now().tick.since(from);
            if waited > CALM_MAX {
                return Err(missing.context(format!("not settled after {waited:?}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn settled(&self) -> Result<()> {
        for (id, record) in &self.devices {
            let (done, all) = (lock(record).acknowledged, self.size.numbers);
            let words = || format!("{id} has {done} of {all} acknowledged");
            Sentence::Sent.check(done == all, words)?;
        }
        let words = || format!("{LISTENER} does not answer");
        Sentence::Listening.check(self.caller.is_heard(), words)?;
        let service = self.hub.service()?;
        for (site, operator) in &self.edges {
            let settled = oracle::settled(site, operator, &service, self.size.numbers).await;
            settled.with_context(|| site.name.clone())?;
        }
        Ok(())
    }
}

fn fail(disk: &SimulatedDisk, chance: &Chance) {
    let fault = if chance.below(2) == 0 { DiskFault::NoSpace } else { DiskFault::Io };
    disk.fail(hub_site::operation(chance), chance.below(4), fault);
}

fn engine_call(chance: &Chance) -> EngineCall {
    match chance.below(10) {
        0..=3 => EngineCall::List,
        4..=6 => EngineCall::Start,
        7 => EngineCall::Create,
        8 => EngineCall::Prepare,
        _ => EngineCall::Remove,
    }
}
