//! One edge device of a scenario: folder, disk, engine and modules, and the runtime that comes
//! and goes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use credentials::key::SymmetricKey;
use edge::settings::Settings;
use edge::shell::{Edge, Parts};
use edge::status::EdgeStatus;
use edge::workload::WorkloadSockets;
use journal::disk::simulated::SimulatedDisk;
use model::commit::CommitFaults;
use model::id::ModuleName;
use model::world::{Boxed, Clock as _, World};
use net::client::{MqttClient, Target};
use net::http::HttpServer;
use net::mqtt::MqttServer;
use net::network::{Address, Network};
use tempfile::TempDir;
use testkit::chance::Chance;
use testkit::engine::FakeEngine;
use testkit::world::{Host, VirtualClock};

use crate::device::lock;
use crate::hub_site::{self, folder};
use crate::owed::Watched;
use crate::pipes::{HostNetwork, Pipes};
use crate::program::Processes;
use crate::sentence::Sentence;
use crate::strikes::Strikes;

/// Images that the engine has.
pub const IMAGES: [&str; 2] = ["img:1", "img:2"];
/// Longest time that an operation of the engine takes, twice.
const ENGINE_SLOW: Duration = Duration::from_millis(200);
/// A runtime that did not start by then is started again.
const START_MAX: Duration = Duration::from_secs(30);
/// Starts that a failing disk may cost.
const STARTS_MAX: u32 = 20;

/// The machine of one device.
#[derive(Debug)]
pub struct EdgeSite {
    /// The device's name, which is its host's name as well.
    pub name: String,
    folder: TempDir,
    settings: Settings,
    /// Where messages lie.
    pub disk: SimulatedDisk,
    /// Faults at the commits of its facts.
    pub strikes: Arc<Strikes>,
    /// The machine's clock.
    pub clock: VirtualClock,
    /// The machine's engine.
    pub engine: FakeEngine,
    /// The machine's modules.
    pub processes: Arc<Processes>,
    pipes: Pipes,
    chance: Chance,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    host: Host,
    edge: Edge,
    _mqtt: MqttServer,
}

impl EdgeSite {
    /// A machine whose runtime was never started.
    ///
    /// # Errors
    /// If no folder can be made, or the name is no device's.
    pub fn new(
        name: &str,
        key: &SymmetricKey,
        clock: VirtualClock,
        pipes: Pipes,
        chance: Chance,
        sends: (u64, Duration),
    ) -> Result<Self> {
        let engine = FakeEngine::new(clock.clone(), &IMAGES);
        engine.set_slow(chance.fork("engine"), ENGINE_SLOW);
        let modules = chance.fork("modules");
        let processes = Processes::new(name, pipes.clone(), clock.clone(), modules, sends);
        let processes = Arc::new(processes);
        engine.set_programs(Arc::clone(&processes) as _);
        Ok(Self {
            name: name.to_owned(),
            folder: folder()?,
            settings: settings(name, key)?,
            disk: SimulatedDisk::new(chance.next()),
            strikes: Arc::default(),
            clock,
            engine,
            processes,
            pipes,
            chance,
            life: None,
        })
    }

    /// Starts the runtime; a disk that fails meanwhile is met with another start.
    ///
    /// # Errors
    /// If it does not start on a disk that works.
    pub async fn start(&mut self) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..STARTS_MAX {
            self.strikes.heal();
            let (clock, chance) = (self.clock.clone(), self.chance.fork("host"));
            let host = Host::with_workers(clock, chance, hub_site::DISK_SLOW);
            let starting = tokio::time::timeout(START_MAX, self.live(&host));
            match starting.await.context("the runtime did not start in time").flatten() {
                Ok(life) => {
                    self.life = Some(life);
                    return Ok(());
                }
                Err(error) => last = Err(error),
            }
            host.kill();
            host.gone().await;
            lock(&self.processes.ledger).handle_death(self.clock.now().tick);
            self.disk.kill();
        }
        last
    }

    async fn live(&self, host: &Host) -> Result<Life> {
        self.engine.handle_runtime_begins();
        let (world, network) = (host.world(), self.pipes.of(&self.name));
        let target = Target {
            mqtt: hub_site::mqtt(),
            https: Some(hub_site::https()),
            tls: None,
            host: "hub.test".into(),
        };
        let upstream = MqttClient::new(world.clone(), Arc::new(network.clone()), target);
        let doors = Doors::new(network.clone(), world.clone());
        let edge = Edge::start(Parts {
            settings: self.settings.clone(),
            folder: self.folder.path().to_owned(),
            disk: Arc::new(self.disk.clone()),
            world: world.clone(),
            upstream: Arc::new(Watched {
                api: Arc::new(upstream),
                ledger: Arc::clone(&self.processes.ledger),
                clock: self.clock.clone(),
            }),
            runtime: Arc::new(self.engine.clone()),
            sockets: Arc::new(doors),
            faults: Arc::clone(&self.strikes) as Arc<dyn CommitFaults>,
        })
        .await?;
        let incoming = network.listen(&Address::Tcp(self.name.as_str().into(), 8883)).await?;
        let mqtt = MqttServer::start(incoming, None, edge.device_api(), &world);
        Ok(Life { host: host.clone(), edge, _mqtt: mqtt })
    }

    /// How the runtime stands.
    ///
    /// # Errors
    /// If it does not run, or does not answer.
    pub async fn status(&self) -> Result<EdgeStatus> {
        let life = self.life.as_ref().context("the runtime does not run")?;
        let status = tokio::time::timeout(START_MAX, life.edge.status()).await;
        status.context("the runtime does not say how it stands")
    }

    /// Kills the runtime in the middle of whatever it does; the modules run on.
    pub async fn kill(&mut self) {
        self.end().await;
        self.disk.kill();
        self.pipes.cut_all_of(&self.name);
    }

    /// The machine loses power: at once, within a commit of its facts, or within a change of
    /// its disk. Nothing runs afterwards. Whether it went when it was to go.
    pub async fn power_cut(&mut self) -> bool {
        let hit = hub_site::aim(&self.strikes, &self.disk, &self.chance).await;
        self.power_cut_now().await;
        hit
    }

    /// The machine loses power at once.
    pub async fn power_cut_now(&mut self) {
        self.pipes.silence_all_of(&self.name);
        self.end().await;
        self.engine.power_cut();
        self.disk.power_cut(hub_site::how(&self.chance));
    }

    async fn end(&mut self) {
        if let Some(life) = self.life.take() {
            life.host.kill();
            life.host.gone().await;
            lock(&self.processes.ledger).handle_death(self.clock.now().tick);
        }
    }

    /// Ends the runtime in order, and then the modules.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn close(&mut self) -> Result<()> {
        let Some(life) = self.life.take() else { return Ok(()) };
        let closed = tokio::time::timeout(START_MAX, life.edge.close()).await;
        life.host.kill();
        life.host.gone().await;
        self.engine.power_cut();
        let words = || format!("{}: the runtime did not close in time", self.name);
        Sentence::Closed.check(closed.is_ok(), words)
    }
}

fn settings(name: &str, key: &SymmetricKey) -> Result<Settings> {
    let key = key.to_base64();
    let key = key.expose_str().unwrap_or_default();
    // Paths of a module's environment: of the simulated machine, not of this one.
    let text = format!(
        "hostname = \"{name}\"\n[provisioning]\nsource = \"manual\"\nconnection_string = \
         \"HostName=hub.test;DeviceId={name};SharedAccessKey={key}\"\n[selvedge]\n\
         data = \"/sim/{name}\"\n"
    );
    Ok(Settings::parse(&text)?)
}

/// The workload sockets of a device, as pipes.
struct Doors {
    network: HostNetwork,
    world: World,
    open: Mutex<BTreeMap<ModuleName, HttpServer>>,
}

impl Doors {
    fn new(network: HostNetwork, world: World) -> Self {
        Self { network, world, open: Mutex::default() }
    }
}

impl WorkloadSockets for Doors {
    fn open<'a>(
        &'a self,
        module: &'a ModuleName,
        path: &'a Path,
        service: axum::Router,
    ) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            let incoming = self.network.listen(&Address::Unix(path.to_owned())).await?;
            let server = HttpServer::start(incoming, None, service, &self.world);
            lock(&self.open).insert(module.clone(), server);
            Ok(())
        })
    }

    fn close(&self, module: &ModuleName) {
        lock(&self.open).remove(module);
    }
}
