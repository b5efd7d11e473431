//! The hub of a scenario: its folder and disk, and the process that comes and goes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hub::{Hub, Settings};
use journal::disk::simulated::{Operation, PowerCut, SimulatedDisk};
use model::commit::{CommitFault, CommitFaults, CommitStage};
use net::http::HttpServer;
use net::mqtt::MqttServer;
use net::network::{Address, Network};
use tempfile::TempDir;
use testkit::chance::Chance;
use testkit::world::{Host, VirtualClock};

use crate::cloud::Service;
use crate::pipes::Pipes;
use crate::skewed::Skewed;
use crate::strikes::Strikes;

/// The name of the host.
pub const HUB: &str = "hub";
/// Telemetry lanes.
pub const PARTITIONS: u16 = 4;
/// How long tokens of a scenario hold.
pub const TOKEN_LIFE: Duration = Duration::from_hours(1000);
/// Longest time that a commit of telemetry takes.
pub const DISK_SLOW: Duration = Duration::from_millis(4);
/// How often is looked whether the power has failed when it was to, and how many times.
const AIM_EVERY: Duration = Duration::from_millis(50);
const AIM_LOOKS: u32 = 100;
/// Starts that a failing disk may cost.
const STARTS_MAX: u32 = 20;

/// Where devices and runtimes dial for MQTT.
pub fn mqtt() -> Address {
    Address::Memory("hub/mqtt".into())
}

/// Where they dial for HTTPS.
pub fn https() -> Address {
    Address::Memory("hub/https".into())
}

/// A folder in memory if there is one: what survives here survives by order of events, and
/// waiting for a real disk would show nothing.
///
/// # Errors
/// If no folder can be made.
pub fn folder() -> Result<TempDir> {
    let shared = std::path::Path::new("/dev/shm");
    let made = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    made.context("making a folder")
}

/// The hub's machine.
#[derive(Debug)]
pub struct HubSite {
    folder: TempDir,
    /// Where telemetry lies.
    pub disk: SimulatedDisk,
    /// Faults at the commits of its tables.
    pub strikes: Arc<Strikes>,
    /// The machine's clock.
    pub clock: Skewed,
    pipes: Pipes,
    chance: Chance,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    host: Host,
    hub: Hub,
    _mqtt: MqttServer,
    _https: HttpServer,
}

impl HubSite {
    /// A hub that was never started.
    ///
    /// # Errors
    /// If no folder can be made.
    pub fn new(clock: VirtualClock, pipes: Pipes, chance: Chance) -> Result<Self> {
        let disk = SimulatedDisk::new(chance.next());
        let (strikes, clock) = (Arc::default(), Skewed::new(clock));
        Ok(Self { folder: folder()?, disk, strikes, clock, pipes, chance, life: None })
    }

    /// Starts it; a disk that fails meanwhile is met with another start.
    ///
    /// # Errors
    /// If it does not start on a disk that works.
    pub async fn start(&mut self) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..STARTS_MAX {
            self.strikes.heal();
            let (clock, chance) = (self.clock.clock(), self.chance.fork("host"));
            let host = Host::with_workers(clock, chance, DISK_SLOW);
            match self.live(&host).await {
                Ok(life) => {
                    self.life = Some(life);
                    return Ok(());
                }
                Err(error) => last = Err(error),
            }
            host.kill();
            host.gone().await;
            self.disk.kill();
        }
        last
    }

    async fn live(&self, host: &Host) -> Result<Life> {
        let world = host.world();
        let mut settings = Settings::new(self.folder.path(), "hub.test");
        settings.partitions = PARTITIONS;
        settings.faults = Arc::clone(&self.strikes) as Arc<dyn CommitFaults>;
        let hub = Hub::open(settings, world.clone(), Arc::new(self.disk.clone()))?;
        let network = self.pipes.of(HUB);
        let incoming = network.listen(&mqtt()).await?;
        let mqtt = MqttServer::start(incoming, None, hub.device_api(), &world);
        let incoming = network.listen(&https()).await?;
        let https = HttpServer::start(incoming, None, hub.service(), &world);
        Ok(Life { host: host.clone(), hub, _mqtt: mqtt, _https: https })
    }

    /// Its service, asked as the owner.
    ///
    /// # Errors
    /// If it does not run.
    pub fn service(&self) -> Result<Service> {
        let life = self.life.as_ref().context("the hub does not run")?;
        let key = life.hub.policy_key("iothubowner").context("the owner has no key")?;
        let expiry = life.host.world().now().wall.after(TOKEN_LIFE);
        Service::new(life.hub.service(), &key, expiry)
    }

    /// Kills the process in the middle of whatever it does.
    pub async fn kill(&mut self) {
        self.end().await;
        self.disk.kill();
        self.pipes.cut_all_of(HUB);
    }

    /// The power goes: at once, within a commit of the tables, or within a change of the disk.
    /// Whether it went when it was to go.
    pub async fn power_cut(&mut self) -> bool {
        let hit = aim(&self.strikes, &self.disk, &self.chance).await;
        // Nobody is told that the other end is gone.
        self.pipes.silence_all_of(HUB);
        self.end().await;
        self.disk.power_cut(how(&self.chance));
        hit
    }

    async fn end(&mut self) {
        if let Some(life) = self.life.take() {
            life.host.kill();
            life.host.gone().await;
        }
    }

    /// Ends it in order.
    pub async fn close(&mut self) {
        if let Some(life) = self.life.take() {
            life.hub.close().await;
            life.host.kill();
            life.host.gone().await;
        }
    }
}

/// Waits for the moment at which the power goes; whether it came.
pub async fn aim(strikes: &Strikes, disk: &SimulatedDisk, chance: &Chance) -> bool {
    match chance.below(3) {
        0 => return true,
        1 => {
            let stages = [CommitStage::Before, CommitStage::After];
            let stage = if chance.below(2) == 0 { stages[0] } else { stages[1] };
            strikes.aim(chance.below(3), stage, CommitFault::Cut);
        }
        _ => {
            disk.cut_at(disk.exercised().operations + chance.below(8));
        }
    }
    for _ in 0..AIM_LOOKS {
        if strikes.is_cut() || disk.is_cut() {
            return true;
        }
        tokio::time::sleep(AIM_EVERY).await;
    }
    false
}

/// What the end of the power does to a disk.
pub fn how(chance: &Chance) -> PowerCut {
    match chance.below(4) {
        0 => PowerCut::Lost,
        1 => PowerCut::Torn,
        2 => PowerCut::Scattered,
        _ => PowerCut::Grown,
    }
}

/// Any operation that changes a disk.
pub fn operation(chance: &Chance) -> Operation {
    match chance.below(8) {
        0 => Operation::Create,
        1..=3 => Operation::Write,
        4..=6 => Operation::Sync,
        _ => Operation::Preallocate,
    }
}
