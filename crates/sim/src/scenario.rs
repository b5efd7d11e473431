//! Devices send numbers while connections are cut and the hub is killed; nothing acknowledged
//! may be missing, nothing may be out of order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use credentials::sas::SasToken;
use hub::{Hub, Settings};
use journal::disk::simulated::{PowerCut, SimulatedDisk};
use model::world::Clock;
use net::mqtt::MqttServer;
use net::network::{Address, Network};
use testkit::chance::Chance;
use testkit::world::{Host, VirtualClock};

use crate::cloud::{Logged, Service};
use crate::device::{Device, IN_FLIGHT, Record};
use crate::pipes::Pipes;

/// Longest simulated time that a scenario may take.
const TIME_MAX: Duration = Duration::from_hours(2);
/// Longest pause between two faults.
const FAULT_PAUSE_MAX: Duration = Duration::from_millis(200);
/// One fault in this many kills the hub; the others cut a connection.
const KILL_EVERY: u64 = 60;
const PARTITIONS: u16 = 4;

/// How large a scenario is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Devices that send.
    pub devices: u64,
    /// Numbers that each of them sends.
    pub numbers: u64,
}

/// What a run exercised, and a hash over everything that was observable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections cut beneath a living device.
    pub cuts: u64,
    /// Ends of the hub in the middle of its work, each followed by a start on the same folder.
    pub restarts: u64,
    /// Those of them that were power cuts: what the journal had not synced was lost or damaged.
    pub power_cuts: u64,
    /// Messages acknowledged to their sender.
    pub acknowledged: u64,
    /// Messages that stand in the hub's log more than once.
    pub duplicates: u64,
    /// The same for the same seed.
    pub transcript: u64,
}

impl Totals {
    /// Adds what another run exercised.
    pub fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.restarts += other.restarts;
        self.power_cuts += other.power_cuts;
        self.acknowledged += other.acknowledged;
        self.duplicates += other.duplicates;
        self.transcript ^= other.transcript.rotate_left(7);
    }
}

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
            .unwrap_or_else(|_| bail!("the devices were not done after {TIME_MAX:?}"))
    });
    done.with_context(|| format!("seed {seed}; again with: cargo xtask sim --seed {seed}"))
}

struct House {
    host: Host,
    hub: Hub,
    _mqtt: MqttServer,
}

impl House {
    async fn start(folder: &Path, disk: &SimulatedDisk, host: Host, pipes: &Pipes) -> Result<Self> {
        let world = host.world();
        let mut settings = Settings::new(folder, "hub.test");
        settings.partitions = PARTITIONS;
        let hub = Hub::open(settings, world.clone(), Arc::new(disk.clone()))?;
        let incoming = pipes.listen(&Address::Memory("hub".into())).await?;
        let mqtt = MqttServer::start(incoming, None, hub.device_api(), &world);
        Ok(Self { host, hub, _mqtt: mqtt })
    }

    fn service(&self) -> Result<Service> {
        let key = self.hub.policy_key("iothubowner").context("the owner has no key")?;
        let expiry = self.host.world().now().wall.after(2 * TIME_MAX);
        Service::new(self.hub.service(), &key, expiry)
    }

    /// Kills it in the middle of whatever it does.
    async fn kill(self, pipes: &Pipes) {
        self.host.kill();
        self.host.gone().await;
        drop(self);
        pipes.cut_all();
        tokio::task::yield_now().await;
    }
}

async fn simulate(seed: u64, size: Size) -> Result<Totals> {
    let folder = tempfile::tempdir()?;
    let (chance, clock) = (Chance::new(seed), VirtualClock::begin());
    let pipes = Pipes::new(chance.fork("pipes"));
    let host = |chance: &Chance| Host::on(clock.clone(), chance.fork("host"));
    let disk = SimulatedDisk::new(chance.next());
    let mut house = House::start(folder.path(), &disk, host(&chance), &pipes).await?;
    let service = house.service()?;
    let field = host(&chance);
    let mut records = BTreeMap::new();
    for number in 0..size.devices {
        let id = format!("device-{number}");
        let key = service.create(&id).await?;
        let expiry = clock.now().wall.after(2 * TIME_MAX);
        let token = SasToken::sign(&format!("hub.test/devices/{id}"), None, expiry, &key);
        let record = Arc::new(Mutex::new(Record::default()));
        let device = Device {
            id: id.clone(),
            password: token.expose_str().unwrap_or_default().to_owned(),
            count: size.numbers,
            record: Arc::clone(&record),
        };
        let address = Address::Memory("hub".into());
        field.world().spawn(device.run(field.world(), pipes.clone(), address, chance.fork(&id)));
        records.insert(id, record);
    }
    let mut totals = Totals::default();
    while !done(&records, size) {
        tokio::time::sleep(chance.span(FAULT_PAUSE_MAX)).await;
        if chance.below(KILL_EVERY) == 0 {
            house.kill(&pipes).await;
            totals.restarts += 1;
            totals.power_cuts += u64::from(end_disk(&disk, &chance));
            house = House::start(folder.path(), &disk, host(&chance), &pipes).await?;
        } else {
            pipes.cut_one();
        }
    }
    totals.cuts = pipes.cuts();
    let log = house.service()?.telemetry(PARTITIONS).await?;
    judge(&log, &records, &mut totals)?;
    totals.transcript = transcript(&log, clock.now().tick.0);
    field.kill();
    field.gone().await;
    house.hub.close().await;
    Ok(totals)
}

/// What the end of the process means for its disk; whether it was a power cut.
fn end_disk(disk: &SimulatedDisk, chance: &Chance) -> bool {
    let how = match chance.below(5) {
        0 => PowerCut::Lost,
        1 => PowerCut::Torn,
        2 => PowerCut::Scattered,
        3 => PowerCut::Grown,
        _ => {
            disk.kill();
            return false;
        }
    };
    disk.power_cut(how);
    true
}

fn done(records: &BTreeMap<String, Arc<Mutex<Record>>>, size: Size) -> bool {
    let whole = usize::try_from(size.numbers).unwrap_or(usize::MAX);
    records.values().all(|record| {
        record.lock().unwrap_or_else(PoisonError::into_inner).acknowledged.len() >= whole
    })
}

/// Compares the log with what the devices saw acknowledged.
fn judge(
    log: &[Logged],
    records: &BTreeMap<String, Arc<Mutex<Record>>>,
    totals: &mut Totals,
) -> Result<()> {
    for (device, record) in records {
        let record = record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut highest = 0;
        let mut copies = 0;
        for logged in log.iter().filter(|logged| logged.device == *device) {
            if logged.number > highest {
                ensure!(
                    logged.number == highest + 1,
                    "{device}: {} stands in the log after {highest}",
                    logged.number
                );
                highest = logged.number;
            } else {
                copies += 1;
            }
        }
        let last = record.acknowledged.last().copied().unwrap_or(0);
        ensure!(highest >= last, "{device}: {last} was acknowledged, the log ends at {highest}");
        let window = u64::try_from(IN_FLIGHT).unwrap_or(u64::MAX);
        ensure!(
            copies <= record.connections * window,
            "{device}: {copies} copies in {} connections",
            record.connections
        );
        totals.acknowledged += u64::try_from(record.acknowledged.len()).unwrap_or(u64::MAX);
        totals.duplicates += copies;
    }
    Ok(())
}

fn transcript(log: &[Logged], tick: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    tick.hash(&mut hasher);
    for logged in log {
        logged.device.hash(&mut hasher);
        logged.number.hash(&mut hasher);
    }
    hasher.finish()
}
