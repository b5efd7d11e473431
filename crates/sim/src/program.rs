//! What runs in the modules of a simulated edge device: real SDK modules over real clients.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::runtime::ModuleSpec;
use model::message::Message;
use model::time::Tick;
use model::twin::TwinPatch;
use model::waist::{Batch, DeviceRequest, DeviceSession};
use model::world::World;
use net::client::{Kept, Link, MqttClient, Target};
use net::network::Address;
use sdk::Module;
use sdk::environment::Environment;
use sdk::workload::Workload;
use serde_json::json;
use testkit::chance::Chance;
use testkit::engine::Programs;
use testkit::world::{Host, VirtualClock};
use tokio::sync::watch;

use crate::device::{Shared, lock};
use crate::pipes::Pipes;

/// The module that sends.
pub const SOURCE: &str = "source";
/// The module that receives.
pub const SINK: &str = "sink";
/// A module that comes and goes.
pub const EXTRA: &str = "extra";
/// Numbers in flight of a source.
pub const IN_FLIGHT: u64 = 64;
/// A sink passes one number in so many on.
pub const PASSED_ON: u64 = 16;

/// What a sink knows, outside of any process.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Every number in the order of arrival, copies included.
    pub numbers: Vec<u64>,
    /// The highest number so far.
    pub highest: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Something that must not happen.
    pub wrong: Option<String>,
}

/// The processes of the modules of one device.
#[derive(Debug)]
pub struct Processes {
    device: Box<str>,
    pipes: Pipes,
    clock: VirtualClock,
    chance: Chance,
    count: u64,
    pace: Duration,
    /// What the source knows.
    pub source: Shared,
    /// What the sink knows.
    pub sink: Arc<Mutex<Arrivals>>,
    running: Mutex<BTreeMap<String, Host>>,
}

impl Processes {
    /// Processes on the machine of `device`, whose source sends the numbers from 1 to `count`.
    pub fn new(
        device: &str,
        pipes: Pipes,
        clock: VirtualClock,
        chance: Chance,
        (count, pace): (u64, Duration),
    ) -> Self {
        Self {
            device: device.into(),
            pipes,
            clock,
            chance,
            count,
            pace,
            source: Shared::default(),
            sink: Arc::default(),
            running: Mutex::default(),
        }
    }

    fn host_name(&self, module: &str) -> String {
        format!("{}/{module}", self.device)
    }

    fn connect(&self, environment: &Environment, world: &World) -> Running {
        let network = Arc::new(self.pipes.of(&self.host_name(environment.module.as_str())));
        let target = Target {
            mqtt: Address::Tcp(environment.server_name.clone(), environment.port),
            https: None,
            tls: None,
            host: environment.hub_host.clone(),
        };
        let claims = Workload::new(environment.clone(), Arc::clone(&network) as _, world.clone());
        let client = MqttClient::new(world.clone(), network, target);
        let Kept { session, link } = client.keep(environment.identity(), Arc::new(claims));
        let module = Module::over(Arc::clone(&session), link.clone(), world.clone());
        Running { session, link, module }
    }
}

struct Running {
    session: Arc<dyn DeviceSession>,
    link: watch::Receiver<Link>,
    module: Module,
}

impl Programs for Processes {
    fn started(&self, spec: &ModuleSpec) {
        let Ok(environment) = Environment::parse(|name| spec.env.get(name).cloned()) else {
            lock(&self.source).wrong = Some(format!("{} has no environment", spec.name));
            return;
        };
        let host = Host::on(self.clock.clone(), self.chance.fork(&spec.name));
        let world = host.world();
        let running = self.connect(&environment, &world);
        world.spawn(follow(running.module.clone()));
        match spec.name.as_str() {
            SOURCE => {
                let (record, chance) = (Arc::clone(&self.source), self.chance.fork("source"));
                world.spawn(count_source(running.link.clone(), Arc::clone(&record)));
                world.spawn(send(running.session, record, (self.count, self.pace), chance));
            }
            SINK => {
                world.spawn(count_sink(running.link.clone(), Arc::clone(&self.sink)));
                world.spawn(receive(running.module, Arc::clone(&self.sink)));
            }
            _ => {}
        }
        lock(&self.running).insert(spec.name.clone(), host);
    }

    fn ended(&self, name: &str) {
        if let Some(host) = lock(&self.running).remove(name) {
            host.kill();
            self.pipes.cut_all_of(&self.host_name(name));
        }
    }
}

async fn count_source(mut link: watch::Receiver<Link>, record: Shared) {
    while link.changed().await.is_ok() {
        let up = matches!(*link.borrow_and_update(), Link::Up { .. });
        lock(&record).connections += u64::from(up);
    }
}

async fn count_sink(mut link: watch::Receiver<Link>, record: Arc<Mutex<Arrivals>>) {
    while link.changed().await.is_ok() {
        let up = matches!(*link.borrow_and_update(), Link::Up { .. });
        lock(&record).connections += u64::from(up);
    }
}

/// Reports what is desired, so that the cloud sees who was told.
async fn follow(module: Module) {
    let mut desired = module.desired();
    while let Some(now) = desired.next().await {
        if let Some(value) = now.properties.get("value") {
            let seen = json!({ "seen": value });
            let patch = seen.as_object().cloned().unwrap_or_default();
            module.report_soon(TwinPatch(patch));
        }
    }
}

/// Sends from where the last process of the module got to, in bursts.
async fn send(
    session: Arc<dyn DeviceSession>,
    record: Shared,
    (count, pace): (u64, Duration),
    chance: Chance,
) {
    loop {
        let first = lock(&record).acknowledged + 1;
        if first > count {
            return;
        }
        let burst = first..(first + 1 + chance.below(IN_FLIGHT)).min(count + 1);
        let mut numbers: VecDeque<u64> = burst.clone().collect();
        let requests = burst.map(|number| DeviceRequest::SendTelemetry(Box::new(message(number))));
        let mut batch = Batch(requests.collect());
        let mut completion = loop {
            // The client sends again by itself, however long it takes.
            match session.submit(batch, Tick::NEVER) {
                Ok(completion) => break completion,
                Err(full) => batch = full.0,
            }
            poll_fn(|cx| session.poll_ready(cx)).await;
        };
        while let Some(answer) = completion.next().await {
            let Some(number) = numbers.pop_front() else { break };
            match answer {
                Ok(_) => lock(&record).acknowledged = number,
                Err(refusal) => {
                    let words = format!("number {number} was refused: {refusal}");
                    lock(&record).wrong = Some(words);
                    return;
                }
            }
        }
        tokio::time::sleep(chance.span(pace)).await;
    }
}

fn message(number: u64) -> Message {
    let mut message = Message { body: number.to_string().into(), ..Message::default() };
    message.system.output_name = Some("numbers".into());
    message
}

/// Notes what arrives, passes some of it on, and only then says that it is done with it.
async fn receive(module: Module, record: Arc<Mutex<Arrivals>>) {
    let mut inputs = module.inputs();
    while let Some(input) = inputs.next().await {
        let number = std::str::from_utf8(&input.message().body).ok().and_then(|it| it.parse().ok());
        let Some(number) = number else {
            lock(&record).wrong = Some("an input without a number".to_owned());
            return;
        };
        // It may have been sent or not; sending it again is right.
        while number % PASSED_ON == 0 && module.send("passed", message(number)).await.is_err() {}
        {
            let mut arrivals = lock(&record);
            arrivals.numbers.push(number);
            arrivals.highest = arrivals.highest.max(number);
        }
        // If nobody hears it, it comes again.
        input.complete().await.ok();
    }
}
