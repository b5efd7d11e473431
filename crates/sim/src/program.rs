//! What runs in the modules of a simulated edge device: real SDK modules over real clients.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::runtime::ModuleSpec;
use model::time::Tick;
use model::twin::TwinPatch;
use model::waist::{Batch, DeviceRequest, DeviceSession, ask};
use model::world::{Clock as _, World};
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

use crate::device::{Shared, Wrong, lock};
use crate::owed::{Ledger, Owed};
use crate::pipes::Pipes;
use crate::properties::{self, message};
use crate::sentence::Sentence;

/// The module that sends.
pub const SOURCE: &str = "source";
/// The module that receives.
pub const SINK: &str = "sink";
/// A module that comes and goes.
pub const EXTRA: &str = "extra";
/// Numbers in flight of a source.
pub const IN_FLIGHT: u64 = 64;
/// Inputs at the end of which a router may not know that they are settled: those of one
/// connection, twice.
const UNSETTLED: usize = 2 * wire::mqtt::server::IN_FLIGHT_MAX;
/// A sink passes one number in so many on.
pub const PASSED_ON: u64 = 16;

/// What a sink knows, outside of any process.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Every number in the order of arrival, copies included.
    pub numbers: Vec<u64>,
    /// The highest number so far.
    pub highest: u64,
    /// Which of them may have come again.
    pub owed: Owed,
    /// How often each number that is passed on was sent, and was on its way at a death.
    pub passed: Owed,
    /// What is being passed on.
    passing: Option<u64>,
    /// Something that must not happen.
    pub wrong: Wrong,
}

impl Arrivals {
    /// The connection broke, or the process died: what was not settled for good comes again.
    fn handle_death(&mut self) {
        let recent = self.numbers.iter().rev().take(UNSETTLED);
        self.owed.add(recent.copied());
        self.passed.add(self.passing);
        tracing::trace!(last = self.numbers.last(), "the sink's connection died");
    }

    fn handle_number(&mut self, number: u64) {
        tracing::trace!(number, "the sink has got");
        self.numbers.push(number);
        self.highest = self.highest.max(number);
    }
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
    /// What the modules gave the runtime, and what it sent upstream.
    pub ledger: Arc<Mutex<Ledger>>,
    /// A module that heard what must not be.
    pub misheard: Arc<Mutex<Wrong>>,
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
            ledger: Arc::default(),
            misheard: Arc::default(),
        }
    }

    fn books(&self) -> Books {
        (Arc::clone(&self.ledger), self.clock.clone())
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

/// Where is written down what a runtime is given, and by which clock.
type Books = (Arc<Mutex<Ledger>>, VirtualClock);

/// Where a source sends to.
struct Outlet {
    session: Arc<dyn DeviceSession>,
    record: Shared,
    books: Books,
}

struct Running {
    session: Arc<dyn DeviceSession>,
    link: watch::Receiver<Link>,
    module: Module,
}

impl Programs for Processes {
    fn started(&self, spec: &ModuleSpec) {
        let Ok(environment) = Environment::parse(|name| spec.env.get(name).cloned()) else {
            let words = format!("{} has no environment", spec.name);
            lock(&self.source).wrong = Some((Sentence::Running, words));
            return;
        };
        let host = Host::on(self.clock.clone(), self.chance.fork(&spec.name));
        let world = host.world();
        let running = self.connect(&environment, &world);
        world.spawn(follow(running.module.clone(), Arc::clone(&self.misheard)));
        match spec.name.as_str() {
            SOURCE => {
                let (record, chance) = (Arc::clone(&self.source), self.chance.fork("source"));
                world.spawn(count_source(running.link.clone(), Arc::clone(&record)));
                let to = Outlet { session: running.session, record, books: self.books() };
                world.spawn(send(to, (self.count, self.pace), chance));
            }
            SINK => {
                world.spawn(count_sink(running.link.clone(), Arc::clone(&self.sink)));
                world.spawn(receive(running.module, Arc::clone(&self.sink), self.books()));
            }
            _ => {}
        }
        lock(&self.running).insert(spec.name.clone(), host);
    }

    fn ended(&self, name: &str) {
        if let Some(host) = lock(&self.running).remove(name) {
            host.kill();
            self.pipes.cut_all_of(&self.host_name(name));
            match name {
                SOURCE => lock(&self.source).handle_death(),
                SINK => {
                    let mut sink = lock(&self.sink);
                    sink.handle_death();
                    sink.passing = None;
                }
                _ => {}
            }
        }
    }
}

/// Every connection of a process but its first follows the death of another.
async fn count_source(link: watch::Receiver<Link>, record: Shared) {
    each_new_connection(link, || lock(&record).handle_death()).await;
}

async fn count_sink(link: watch::Receiver<Link>, record: Arc<Mutex<Arrivals>>) {
    each_new_connection(link, || lock(&record).handle_death()).await;
}

async fn each_new_connection(mut link: watch::Receiver<Link>, mut count: impl FnMut()) {
    let mut is_first = true;
    while link.changed().await.is_ok() {
        if matches!(*link.borrow_and_update(), Link::Up { .. }) && !std::mem::take(&mut is_first) {
            count();
        }
    }
}

/// Reports what is desired, so that the cloud sees who was told. Values only rise.
async fn follow(module: Module, misheard: Arc<Mutex<Wrong>>) {
    let mut desired = module.desired();
    let mut newest = 0;
    while let Some(now) = desired.next().await {
        let Some(value) = now.properties.get("value") else { continue };
        let number = value.as_u64().unwrap_or_default();
        if number < newest {
            let words = format!("a module heard {number} after {newest}");
            *lock(&misheard) = Some((Sentence::Desired, words));
        }
        newest = number;
        let seen = json!({ "seen": value });
        let patch = seen.as_object().cloned().unwrap_or_default();
        module.report_soon(TwinPatch(patch));
    }
}

/// Sends from where the last process of the module got to, in bursts, and reports each.
async fn send(to: Outlet, (count, pace): (u64, Duration), chance: Chance) {
    let Outlet { session, record, .. } = &to;
    loop {
        let first = lock(record).acknowledged + 1;
        if first > count {
            return;
        }
        let burst = first..(first + 1 + chance.below(IN_FLIGHT)).min(count + 1);
        let about = lock(record).reports.begin();
        report(&**session, record, (about, 1)).await;
        if !to.send_all(burst).await {
            return;
        }
        report(&**session, record, (about, 2)).await;
        tokio::time::sleep(chance.span(pace)).await;
    }
}

impl Outlet {
    /// Sends `burst`; whether all of it was acknowledged.
    async fn send_all(&self, burst: Range<u64>) -> bool {
        let Self { session, record, books: (ledger, clock) } = self;
        lock(ledger).handle_given(SOURCE, burst.clone(), clock.now().tick);
        let mut numbers: VecDeque<u64> = burst.clone().collect();
        lock(record).sent = burst.end.saturating_sub(1);
        let request = |number| DeviceRequest::SendTelemetry(Box::new(message(number, "numbers")));
        let mut batch = Batch(burst.map(request).collect());
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
                Ok(_) => lock(record).acknowledged = number,
                Err(refusal) => {
                    let words = format!("number {number} was refused: {refusal}");
                    lock(record).wrong = Some((Sentence::Answered, words));
                    return false;
                }
            }
        }
        true
    }
}

/// Reports `value` of a burst; a router that has no room for it may refuse.
async fn report(session: &dyn DeviceSession, record: &Shared, (burst, value): (u64, u64)) {
    let patch = lock(record).reports.handle_trying(burst, value);
    let request = DeviceRequest::PatchReported { patch, if_version: None };
    if ask(session, request, Tick::NEVER).await.is_ok() {
        lock(record).reports.handle_acknowledged(burst, value);
    }
}

/// Notes what arrives, passes some of it on, and only then says that it is done with it.
async fn receive(module: Module, record: Arc<Mutex<Arrivals>>, books: Books) {
    let mut inputs = module.inputs();
    while let Some(input) = inputs.next().await {
        let number = std::str::from_utf8(&input.message().body).ok().and_then(|it| it.parse().ok());
        let Some(number) = number else {
            let words = "an input without a number".to_owned();
            lock(&record).wrong = Some((Sentence::Invented, words));
            return;
        };
        if let Some(fault) = properties::fault_of(input.message(), number) {
            lock(&record).wrong = Some((Sentence::Properties, fault));
        }
        // It may have been sent or not; sending it again is right.
        while number % PASSED_ON == 0 && !pass(&module, &record, &books, number).await {}
        lock(&record).handle_number(number);
        // It came over a connection that is dead: nobody hears it, and it comes again.
        if input.complete().await.is_err() {
            lock(&record).owed.add([number]);
        }
    }
}

/// Passes `number` on; whether that is known to have arrived.
async fn pass(
    module: &Module,
    record: &Mutex<Arrivals>,
    (ledger, clock): &Books,
    number: u64,
) -> bool {
    lock(ledger).handle_given(SINK, [number].into_iter(), clock.now().tick);
    {
        let mut arrivals = lock(record);
        arrivals.passed.add([number]);
        arrivals.passing = Some(number);
    }
    let is_sent = module.send("passed", message(number, "passed")).await.is_ok();
    lock(record).passing = None;
    is_sent
}
