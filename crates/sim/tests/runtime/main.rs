//! The whole device runtime against the real hub, over pipes, and an engine in memory, all in this
//! process. The hub misbehaves in one test only, see `Picky`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod clients;
mod cloud;
mod machine;
mod stop;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use cloud::{Cloud, DEVICE, HUB, PATIENCE, POISON, identity};
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use edge::settings::Settings;
use edge::shell::{Edge, Parts, StartEdgeError};
use edge::status::EdgeStatus;
use journal::disk::simulated::{PowerCut, SimulatedDisk};
use machine::{Doors, engine};
use model::commit::NoFaults;
use model::feature::{Feature, Subscription};
use model::message::{Message, PropertyBag};
use model::method::MethodResponse;
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::twin::TwinPatch;
use model::waist::*;
use model::world::Clock as _;
use serde_json::{Value, json};
use testkit::chance::Chance;
use testkit::engine::{EngineCall, EngineFault, FakeEngine};
use testkit::world::{Host, VirtualClock};
use tower::ServiceExt;

/// One device with its folder, its disk, its hub and its engine.
struct Bench {
    folder: tempfile::TempDir,
    disk: SimulatedDisk,
    cloud: Cloud,
    clock: VirtualClock,
    /// The machine that the runtime runs on now.
    host: Mutex<Option<Host>>,
    doors: Doors,
    machine: FakeEngine,
}

fn text(path: &Path, key: &SymmetricKey) -> String {
    let key = key.to_base64();
    let key = key.expose_str().unwrap();
    format!(
        "hostname = \"edge1\"\n[provisioning]\nsource = \"manual\"\nconnection_string = \
         \"HostName={HUB};DeviceId={DEVICE};SharedAccessKey={key}\"\n\
         [selvedge]\ndata = \"{}\"\n",
        path.display()
    )
}

impl Bench {
    async fn new() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), VirtualClock::begin());
        let doors = Doors::default();
        let machine = engine(&clock, &doors, &["img:1", "img:2"]);
        let (disk, cloud) = (SimulatedDisk::new(1), Cloud::start(&clock).await);
        Self { folder, disk, cloud, clock, host: Mutex::default(), doors, machine }
    }

    async fn start(&self) -> Edge {
        self.start_with(&self.machine).await.unwrap()
    }

    async fn start_with(&self, machine: &FakeEngine) -> Result<Edge, StartEdgeError> {
        let folder = self.folder.path().to_owned();
        let host = Host::on(self.clock.clone(), Chance::new(1));
        *cloud::lock(&self.host) = Some(host.clone());
        let world = host.world();
        Edge::start(Parts {
            settings: Settings::parse(&text(&folder, &self.cloud.device_key)).unwrap(),
            folder,
            disk: Arc::new(self.disk.clone()),
            upstream: self.cloud.upstream(&world),
            world,
            runtime: Arc::new(machine.clone()),
            sockets: Arc::new(self.doors.clone()),
            faults: Arc::new(NoFaults),
        })
        .await
    }

    /// Ends the runtime where it stands; what it wrote can be read, and the modules run on.
    async fn kill(&self, edge: Edge) {
        self.end(edge).await;
        self.disk.kill();
    }

    /// The machine loses power: of its messages only what was synced is left, and nothing runs.
    /// Its facts are `SQLite`'s, and no power is cut there.
    async fn power_cut(&self, edge: Edge) {
        self.end(edge).await;
        self.disk.power_cut(PowerCut::Lost);
        self.machine.power_cut();
    }

    async fn end(&self, edge: Edge) {
        let host = cloud::lock(&self.host).take().unwrap();
        host.kill();
        drop(edge);
        host.gone().await;
    }

    /// Deploys modules `a` and `b` and waits until they run.
    async fn deploy(&self, routes: Value) -> Edge {
        self.cloud.set_desired("$edgeAgent", manifest(&["a", "b"])).await;
        self.cloud.set_desired("$edgeHub", routes_of(routes)).await;
        let edge = self.start().await;
        eventually("both modules run and the routes are in force", async || {
            let status = edge.status().await;
            let runs = self.machine.is_running("a") && self.machine.is_running("b");
            (runs && status.router.desired_code == 200).then_some(())
        })
        .await;
        edge
    }

    async fn open(&self, edge: &Edge, module: &str, clean: bool) -> Opened {
        let key = self.cloud.key(module).await.unwrap();
        open(self, edge, module, &key, clean).await.unwrap()
    }
}

async fn open(
    bench: &Bench,
    edge: &Edge,
    module: &str,
    key: &SymmetricKey,
    clean: bool,
) -> Result<Opened, Refusal> {
    let now = bench.clock.now().wall;
    let resource = format!("{HUB}/devices/{DEVICE}/modules/{module}");
    let token = SasToken::sign(&resource, None, now.after(Duration::from_hours(1)), key);
    let claim = Claim::Sas { identity: identity(module), token };
    edge.device_api().open(claim, LinkKind::Mqtt { clean }, Tick::NEVER).await
}

fn manifest(modules: &[&str]) -> Value {
    let system = json!({ "type": "docker", "settings": { "image": "x" } });
    let mut hub = system.clone();
    hub["status"] = json!("running");
    hub["restartPolicy"] = json!("always");
    let module = json!({
        "type": "docker", "status": "running", "restartPolicy": "always",
        "settings": { "image": "img:1", "createOptions": "{}" },
    });
    let modules: serde_json::Map<String, Value> =
        modules.iter().map(|&name| (name.to_owned(), module.clone())).collect();
    json!({
        "schemaVersion": "1.1",
        "runtime": { "type": "docker", "settings": {} },
        "systemModules": { "edgeAgent": system, "edgeHub": hub },
        "modules": modules,
    })
}

fn routes_of(routes: Value) -> Value {
    json!({ "schemaVersion": "1.1", "routes": routes,
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 } })
}

fn all_up() -> Value {
    routes_of(json!({ "up": "FROM /messages/* INTO $upstream" }))["routes"].clone()
}

/// How often is looked whether something is so.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks again and again until there is an answer.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let trying = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let Ok(found) = tokio::time::timeout(PATIENCE, trying).await else { panic!("never: {what}") };
    found
}

fn numbered(numbers: std::ops::Range<u32>) -> Batch {
    let message = |number: u32| Message {
        body: number.to_string().into_bytes().into(),
        ..Message::default()
    };
    Batch(numbers.map(|it| DeviceRequest::SendTelemetry(Box::new(message(it)))).collect())
}

/// Sends and waits until all of it is acknowledged.
async fn send(session: &Arc<dyn DeviceSession>, numbers: std::ops::Range<u32>) {
    let count = numbers.len();
    let mut completion = session.submit(numbered(numbers), Tick::NEVER).unwrap();
    for _ in 0..count {
        assert_eq!(completion.next().await, Some(Ok(Answer::Accepted)));
    }
    assert_eq!(completion.next().await, None);
}

fn bodies(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|it| std::str::from_utf8(&it.body).unwrap().parse().unwrap()).collect()
}

/// Without what came twice.
fn first_copies(numbers: &[u32]) -> Vec<u32> {
    let mut seen = std::collections::BTreeSet::new();
    numbers.iter().copied().filter(|number| seen.insert(*number)).collect()
}

async fn event(session: &Arc<dyn DeviceSession>, messages: u16) -> DeviceEvent {
    let next = std::future::poll_fn(|cx| session.poll_event(cx, Credit::of_messages(messages)));
    tokio::time::timeout(PATIENCE, next).await.expect("an event")
}

async fn subscribe(session: &Arc<dyn DeviceSession>, feature: Feature) {
    let one = Subscription { feature, qos: 1, filter: format!("{feature:?}").into() };
    let request = DeviceRequest::Subscribe([one].into_iter().collect());
    ask(&**session, request, Tick::NEVER).await.unwrap();
}

async fn delivery(session: &Arc<dyn DeviceSession>, messages: u16) -> Delivery {
    match event(session, messages).await {
        DeviceEvent::Message(delivery) => *delivery,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_offline_arrives_in_order_also_after_a_power_cut() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let session = bench.open(&edge, "a", true).await.session;
    send(&session, 0..100).await;
    eventually("the first arrive", async || {
        (bench.cloud.received("a").await.len() >= 100).then_some(())
    })
    .await;

    bench.cloud.cut();
    for start in (100..1100).step_by(200) {
        send(&session, start..start + 200).await;
    }
    assert!(edge.status().await.router.queues.iter().any(|queue| queue.depth >= 1000));
    drop(session);
    bench.power_cut(edge).await;

    // Nothing was closed; the next start finds it all, still without a hub.
    let edge = bench.start().await;
    let depth = edge.status().await.router.queues[0].depth;
    assert!((1000..=1100).contains(&depth), "{depth}");
    let session = bench.open(&edge, "a", true).await.session;
    send(&session, 1100..1200).await;
    bench.cloud.restore();
    eventually("everything arrives", async || {
        let got = first_copies(&bench.cloud.received("a").await);
        (got.len() == 1200).then_some(())
    })
    .await;
    let got = first_copies(&bench.cloud.received("a").await);
    assert_eq!(got, (0..1200).collect::<Vec<_>>());
    eventually("the queue is empty", async || {
        let router = edge.status().await.router;
        (router.queues[0].depth == 0 && router.sent_upstream >= 1100).then_some(())
    })
    .await;
    edge.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_hub_never_takes_holds_up_nobody() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let session = bench.open(&edge, "a", true).await.session;
    let mut batch = numbered(0..3);
    let DeviceRequest::SendTelemetry(second) = &mut batch.0[1] else { panic!() };
    second.properties = PropertyBag::from_pairs([(POISON, "1")]);
    let mut completion = session.submit(batch, Tick::NEVER).unwrap();
    while let Some(answer) = completion.next().await {
        assert_eq!(answer, Ok(Answer::Accepted));
    }
    eventually("the others arrive", async || {
        (bench.cloud.received("a").await == [0, 2]).then_some(())
    })
    .await;
    eventually("it is counted", async || {
        (edge.status().await.router.dropped_poison == 1).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_no_route_wants_is_taken_and_counted() {
    let bench = Bench::new().await;
    let edge = bench.deploy(json!({ "z": "FROM /messages/modules/z/* INTO $upstream" })).await;
    let session = bench.open(&edge, "a", true).await.session;
    send(&session, 0..5).await;
    let router = edge.status().await.router;
    assert_eq!((router.received, router.dropped_no_route), (5, 5));
    // What is too large is refused alone.
    let mut batch = numbered(0..2);
    let DeviceRequest::SendTelemetry(first) = &mut batch.0[0] else { panic!() };
    first.body = vec![0; 300_000].into();
    let mut completion = session.submit(batch, Tick::NEVER).unwrap();
    let refused = completion.next().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, RefusalKind::TooLarge);
    assert_eq!(completion.next().await, Some(Ok(Answer::Accepted)));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_starts_without_its_hub_runs_the_last_good_manifest() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let before = bench.machine.spec("a").unwrap();
    let session = bench.open(&edge, "a", true).await.session;
    assert!(matches!(
        ask(&*session, DeviceRequest::ReadTwin, Tick::NEVER).await,
        Ok(Answer::Twin(_))
    ));
    // The newest desired properties are bad: the good ones before them count.
    bench.cloud.set_desired("$edgeAgent", json!({ "schemaVersion": "9.9" })).await;
    eventually("it is refused", async || (edge.status().await.desired_code == 412).then_some(()))
        .await;
    drop(session);
    edge.close().await;

    bench.cloud.cut();
    let machine = engine(&bench.clock, &bench.doors, &["img:1"]);
    let edge = bench.start_with(&machine).await.unwrap();
    eventually("the modules run again", async || {
        (machine.is_running("a") && machine.is_running("b")).then_some(())
    })
    .await;
    assert_eq!(machine.spec("a").unwrap(), before, "image, variables and folders are the same");
    assert_eq!(edge.status().await.desired_code, 412);
    let session = bench.open(&edge, "a", true).await.session;
    let twin = ask(&*session, DeviceRequest::ReadTwin, Tick::NEVER).await;
    assert!(matches!(twin, Ok(Answer::Twin(_))), "{twin:?}");
    send(&session, 0..10).await;
    bench.cloud.restore();
    eventually("what was sent offline arrives", async || {
        (bench.cloud.received("a").await.len() >= 10).then_some(())
    })
    .await;
}

/// What is wrong with a manifest, the code and a part of the words.
fn broken_manifests() -> Vec<(Value, u16, &'static str)> {
    let with = |change: fn(&mut Value)| {
        let mut all = manifest(&["a", "b"]);
        change(&mut all);
        all
    };
    vec![
        (json!({}), 417, "no deployment"),
        (json!({ "schemaVersion": "2.0" }), 412, "\"2.0\" is not supported"),
        (with(|it| it["schemaVersion"] = json!(1)), 412, "schemaVersion 1"),
        (with(|it| it["surprise"] = json!(1)), 400, "surprise"),
        (with(|it| it["integrity"] = json!(7)), 400, "integrity"),
        (with(|it| it["modules"] = json!([])), 400, "modules"),
        (with(|it| it["modules"]["c"] = json!({})), 400, "modules.c"),
        (with(|it| it["modules"]["a"]["status"] = json!("sleeping")), 400, "modules.a.status"),
        (with(|it| it["modules"]["a"]["restartPolicy"] = json!("x")), 400, "restartPolicy"),
        (with(|it| it["modules"]["a"]["type"] = json!("wasm")), 400, "modules.a.type"),
        (with(|it| it["modules"]["a"]["settings"]["image"] = json!("")), 400, "image"),
        (with(|it| it["modules"]["a"]["settings"]["digest"] = json!("md5:1")), 400, "digest"),
        (with(|it| it["modules"]["a"]["settings"]["createOptions"] = json!("{")), 400, "JSON"),
        (with(|it| it["modules"]["a"]["startupOrder"] = json!(-1)), 400, "startupOrder"),
        (with(|it| it["modules"]["a"]["env"] = json!({ "X": 1 })), 400, "modules.a.env.X"),
        (with(|it| it["systemModules"]["edgeHub"]["status"] = json!("stopped")), 400, "edge hub"),
        // Well formed, but it cannot be done.
        (with(|it| it["modules"]["a"]["settings"]["image"] = json!("no:1")), 500, "no:1"),
        (
            with(|it| {
                it["modules"]["a"]["settings"]["digest"] =
                    json!(format!("sha256:{}", "1".repeat(64)));
            }),
            500,
            "module a",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_broken_manifest_is_reported_and_touches_nothing_that_runs() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let calls = bench.machine.calls();
    for (desired, code, words) in broken_manifests() {
        let version = bench.cloud.set_desired("$edgeAgent", desired).await.0;
        let said = eventually(&format!("{code} {words}"), async || {
            let reported = bench.cloud.reported("$edgeAgent").await;
            let status = &reported["lastDesiredStatus"];
            (reported["lastDesiredVersion"] == json!(version) && status["code"] == json!(code))
                .then(|| status["description"].as_str().unwrap().to_owned())
        })
        .await;
        assert!(said.contains(words), "{said:?} lacks {words:?}");
        assert_eq!(bench.machine.calls(), calls, "{words}");
        assert!(bench.machine.is_running("a") && bench.machine.is_running("b"));
    }
    let version = bench.cloud.set_desired("$edgeAgent", manifest(&["a", "b"])).await.0;
    eventually("a good one is in force again", async || {
        let reported = bench.cloud.reported("$edgeAgent").await;
        let code = &reported["lastDesiredStatus"]["code"];
        (reported["lastDesiredVersion"] == json!(version) && *code == json!(200)).then_some(())
    })
    .await;
    assert_eq!(bench.machine.calls(), calls);
    edge.close().await;
    let reported = bench.cloud.reported("$edgeAgent").await;
    assert_eq!(reported["modules"]["a"]["runtimeStatus"], json!("unknown"));
    assert_eq!(reported["lastDesiredStatus"]["code"], json!(406));
    assert_eq!(bench.machine.calls(), calls, "modules keep running");
}

#[tokio::test(start_paused = true)]
async fn create_options_that_the_engine_refuses_name_the_module_and_leave_the_others() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let mut desired = manifest(&["a", "b", "c"]);
    desired["modules"]["c"]["settings"]["createOptions"] = json!("{\"Nonsense\":1}");
    bench.cloud.set_desired("$edgeAgent", desired).await;
    let said = eventually("500", async || {
        let status = edge.status().await;
        (status.desired_code == 500 && status.desired_words.contains("Nonsense"))
            .then_some(status.desired_words)
    })
    .await;
    assert!(said.contains("module c: createOptions Nonsense"), "{said}");
    assert!(bench.machine.is_running("a") && bench.machine.is_running("b"));
}

#[tokio::test(start_paused = true)]
async fn refused_routes_leave_the_older_ones_in_force() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let session = bench.open(&edge, "a", true).await.session;
    let check = async |desired: Value, words: &str| {
        bench.cloud.set_desired("$edgeHub", desired).await;
        eventually(words, async || {
            let reported = bench.cloud.reported("$edgeHub").await;
            let status = &reported["lastDesiredStatus"];
            let said = status["description"].as_str().unwrap_or_default();
            (status["code"] == json!(400) && said.contains(words)).then_some(())
        })
        .await;
    };
    check(routes_of(json!({ "r": "FROM /messages/* INTO $downstream" })), "routes.r").await;
    check(routes_of(json!({ "r": "FROM /messages/* WHERE = INTO $upstream" })), "position").await;
    check(json!({ "schemaVersion": "7.0" }), "\"7.0\"").await;
    check(json!({ "schemaVersion": "1.1", "mqttBroker": 7 }), "mqttBroker").await;
    send(&session, 0..3).await;
    eventually("the old route still leads upstream", async || {
        (bench.cloud.received("a").await == [0, 1, 2]).then_some(())
    })
    .await;
}

fn to_b() -> Value {
    json!({ "ab": "FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in1\")" })
}

#[tokio::test(start_paused = true)]
async fn inputs_are_handed_out_many_at_once_and_again_until_they_are_completed() {
    let bench = Bench::new().await;
    let edge = bench.deploy(to_b()).await;
    let a = bench.open(&edge, "a", true).await.session;
    let b = bench.open(&edge, "b", true).await.session;
    subscribe(&b, Feature::Inputs).await;
    send(&a, 0..50).await;
    let mut taken = Vec::new();
    for left in (1..=50).rev() {
        taken.push(delivery(&b, left).await);
    }
    let got: Vec<_> = taken.iter().map(|it| it.message.clone()).collect();
    assert_eq!(bodies(&got), (0..50).collect::<Vec<_>>());
    assert_eq!(got[0].system.input_name.as_deref(), Some("in1"));
    assert_eq!(got[0].system.connection_module_id.as_deref(), Some("a"));

    // Every other one is completed, out of order; the session breaks.
    for done in taken.iter().skip(1).step_by(2).rev() {
        let settle = DeviceRequest::Settle { token: done.token, outcome: Outcome::Complete };
        ask(&*b, settle, Tick::NEVER).await.unwrap();
    }
    b.close(Leave::Lost { will: None });
    let b = bench.open(&edge, "b", true).await.session;
    subscribe(&b, Feature::Inputs).await;
    for expected in (0..50).step_by(2) {
        let again = delivery(&b, 10).await;
        assert_eq!(bodies(&[again.message]), [expected]);
        let settle = DeviceRequest::Settle { token: again.token, outcome: Outcome::Complete };
        ask(&*b, settle, Tick::NEVER).await.unwrap();
    }
    // Nothing is left, and news comes at once.
    send(&a, 90..91).await;
    let last = delivery(&b, 10).await;
    assert_eq!(bodies(&[last.message]), [90]);
    let abandon = DeviceRequest::Settle { token: last.token, outcome: Outcome::Abandon };
    ask(&*b, abandon, Tick::NEVER).await.unwrap();
    let again = delivery(&b, 10).await;
    assert_eq!(bodies(&[again.message]), [90], "what is abandoned comes again");
    let settle = DeviceRequest::Settle { token: again.token, outcome: Outcome::Complete };
    ask(&*b, settle, Tick::NEVER).await.unwrap();
    eventually("all are counted", async || {
        (edge.status().await.router.sent_inputs == 51).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_credit_no_input_is_taken() {
    let bench = Bench::new().await;
    let edge = bench.deploy(to_b()).await;
    let a = bench.open(&edge, "a", true).await.session;
    let b = bench.open(&edge, "b", true).await.session;
    subscribe(&b, Feature::Inputs).await;
    send(&a, 0..5).await;
    let none = std::future::poll_fn(|cx| b.poll_event(cx, Credit::of_messages(0)));
    let waited = tokio::time::timeout(Duration::from_millis(50), none).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(bodies(&[delivery(&b, 1).await.message]), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_twin_reported_offline_is_seen_at_once_and_pushed_when_the_hub_is_back() {
    let bench = Bench::new().await;
    bench.cloud.create_module("a").await;
    bench.cloud.set_desired("a", json!({ "speed": 1 })).await;
    let edge = bench.deploy(all_up()).await;
    let session = bench.open(&edge, "a", true).await.session;
    let read = async || match ask(&*session, DeviceRequest::ReadTwin, Tick::NEVER).await {
        Ok(Answer::Twin(twin)) => *twin,
        other => panic!("{other:?}"),
    };
    assert_eq!(Value::Object(read().await.desired), json!({ "speed": 1 }));
    subscribe(&session, Feature::DesiredChanges).await;

    bench.cloud.cut();
    for patch in [json!({ "x": 1, "y": 2 }), json!({ "x": null })] {
        let patch = TwinPatch(patch.as_object().unwrap().clone());
        let report = DeviceRequest::PatchReported { patch, if_version: None };
        let answer = ask(&*session, report, Tick::NEVER).await;
        assert!(matches!(answer, Ok(Answer::Patched(_))), "{answer:?}");
    }
    assert_eq!(Value::Object(read().await.reported), json!({ "y": 2 }));
    assert_eq!(bench.cloud.reported("a").await, json!({}));
    let version = bench.cloud.set_desired("a", json!({ "speed": 2 })).await;
    bench.cloud.restore();

    let DeviceEvent::Desired { patch, version: told } = event(&session, 0).await else { panic!() };
    assert_eq!((Value::Object(patch.0), told), (json!({ "speed": 2 }), version));
    eventually("the patch is pushed", async || {
        (bench.cloud.reported("a").await == json!({ "y": 2 })).then_some(())
    })
    .await;
    let version = bench.cloud.set_desired("a", json!({ "speed": 3, "more": true })).await;
    let DeviceEvent::Desired { patch, version: told } = event(&session, 0).await else { panic!() };
    assert_eq!(Value::Object(patch.0), json!({ "speed": 3, "more": true }));
    assert_eq!(told, version);
}

#[tokio::test(start_paused = true)]
async fn a_reported_patch_survives_the_death_of_the_runtime() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let session = bench.open(&edge, "a", true).await.session;
    bench.cloud.cut();
    let patch = TwinPatch(json!({ "kept": true }).as_object().unwrap().clone());
    let report = DeviceRequest::PatchReported { patch, if_version: None };
    ask(&*session, report, Tick::NEVER).await.unwrap();
    drop(session);
    bench.kill(edge).await;
    let edge = bench.start().await;
    bench.cloud.restore();
    // The link of a module wakes with its first session or its first message.
    let _session = bench.open(&edge, "a", true).await;
    eventually("the patch is pushed", async || {
        (bench.cloud.reported("a").await == json!({ "kept": true })).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn methods_reach_the_module_that_subscribed_and_nobody_else() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let session = bench.open(&edge, "a", true).await.session;
    let refused = bench.cloud.call("a", "go", &json!(null)).await;
    assert!(refused.is_err(), "nobody listens yet: {refused:?}");
    subscribe(&session, Feature::Methods).await;
    // The hub learns a little later that somebody listens.
    let calling = eventually("somebody listens and answers", async || {
        bench.cloud.call("a", "go", &json!({ "n": 1 })).await.ok()
    });
    let answering = async {
        let DeviceEvent::Method { call, request, .. } = event(&session, 0).await else { panic!() };
        assert_eq!(request.name, "go");
        let response = MethodResponse { status: 207, payload: request.payload };
        let answer = DeviceRequest::AnswerMethod { call, response: response.clone() };
        ask(&*session, answer, Tick::NEVER).await.unwrap();
        response
    };
    let (answered, response) = tokio::join!(calling, answering);
    assert_eq!(answered, response);
    session.close(Leave::Asked);
    eventually("the hub answers for a module that left", async || {
        bench.cloud.call("a", "go", &json!(null)).await.err()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_agent_answers_what_the_cloud_asks_of_it() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let ask = async |name: &str, payload: Value| {
        let answer = eventually("the agent listens and answers", async || {
            bench.cloud.call("$edgeAgent", name, &payload).await.ok()
        })
        .await;
        (answer.status, serde_json::from_slice::<Value>(&answer.payload).unwrap())
    };
    assert_eq!(ask("ping", json!(null)).await, (200, json!(null)));
    let (status, words) = ask("fly", json!({})).await;
    assert_eq!(status, 400);
    assert!(words["message"].as_str().unwrap().contains("ping"));
    let id = |name: &str| json!({ "schemaVersion": "1.0", "id": name });
    assert_eq!(ask("RestartModule", id("zzz")).await.0, 400);
    let starts = || bench.machine.calls().iter().filter(|it| *it == "start a").count();
    let before = starts();
    assert_eq!(ask("restartmodule", id("a")).await, (200, json!(null)));
    eventually("it is started again", async || (starts() == before + 1).then_some(())).await;
    let logs = json!({ "schemaVersion": "1.0", "items": { "id": "a" } });
    let expected = json!([{ "id": "a", "payload": "one\ntwo\n" }]);
    assert_eq!(ask("GetModuleLogs", logs).await, (200, expected));
    let session = bench.open(&edge, "a", true).await.session;
    send(&session, 0..5).await;
    let question = json!({ "schemaVersion": "1.0" });
    let (status, metrics) = ask("GetRouterMetrics", question).await;
    assert_eq!(status, 200, "{metrics}");
    let metrics: api::router::RouterMetrics = serde_json::from_value(metrics).unwrap();
    assert_eq!(metrics.received.iter().map(|one| one.value).sum::<u64>(), 5);
    assert_eq!(metrics.received[0].id, "a");
    assert!(!metrics.routes.is_empty());
    let sent: u64 = metrics.sent.iter().map(|one| one.value).sum();
    let waiting: u64 = metrics.queues.iter().map(|one| one.value).sum();
    let dropped: u64 = metrics.dropped.iter().map(|one| one.value).sum();
    assert_eq!(sent + waiting + dropped, 5, "{metrics:?}");
    edge.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_module_that_ends_is_counted_and_reported_as_waiting() {
    let bench = Bench::new().await;
    let _edge = bench.deploy(all_up()).await;
    bench.machine.end("a", 3);
    eventually("it is restarted and counted", async || {
        let reported = bench.cloud.reported("$edgeAgent").await;
        let one = &reported["modules"]["a"];
        (one["restartCount"] == json!(1) && one["runtimeStatus"] == json!("running")).then_some(())
    })
    .await;
    assert!(bench.machine.is_running("a"));
}

#[tokio::test(start_paused = true)]
async fn a_module_that_is_no_longer_desired_loses_its_container_and_its_identity() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let key = bench.cloud.key("b").await.unwrap();
    let session = bench.open(&edge, "b", true).await.session;
    bench.cloud.set_desired("$edgeAgent", manifest(&["a"])).await;
    eventually("it is gone", async || {
        let gone = !bench.cloud.has_identity("b").await && bench.machine.spec("b").is_none();
        gone.then_some(())
    })
    .await;
    let closed = event(&session, 0).await;
    assert_eq!(closed, DeviceEvent::Closed(CloseReason::Revoked));
    let refused = open(&bench, &edge, "b", &key, true).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unauthenticated);
    assert!(bench.machine.is_running("a"));
}

#[tokio::test(start_paused = true)]
async fn subscriptions_persist_until_a_clean_session_wipes_them() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let first = bench.open(&edge, "a", false).await;
    assert!(!first.resumed && first.features.is_empty());
    subscribe(&first.session, Feature::Methods).await;
    subscribe(&first.session, Feature::Inputs).await;
    drop(first);
    bench.kill(edge).await;
    let edge = bench.start().await;
    let second = bench.open(&edge, "a", false).await;
    assert!(second.resumed);
    assert_eq!(second.features.len(), 2);
    let gone = DeviceRequest::Unsubscribe(vec!["Inputs".into()]);
    ask(&*second.session, gone, Tick::NEVER).await.unwrap();
    assert_eq!(bench.open(&edge, "a", false).await.features.len(), 1);
    let clean = bench.open(&edge, "a", true).await;
    assert!(!clean.resumed && clean.features.is_empty());
    assert!(bench.open(&edge, "a", false).await.features.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_newer_session_takes_over_and_a_bad_token_opens_none() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let older = bench.open(&edge, "a", true).await.session;
    let newer = bench.open(&edge, "a", true).await.session;
    assert!(older.epoch() < newer.epoch());
    assert_eq!(event(&older, 0).await, DeviceEvent::Closed(CloseReason::TakenOver));
    let refused = older.submit(numbered(0..1), Tick::NEVER).unwrap().only().await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::TakenOver);
    send(&newer, 0..1).await;

    let other = bench.cloud.key("b").await.unwrap();
    let refused = open(&bench, &edge, "a", &other, true).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unauthenticated);
}

async fn call(edge: &Edge, method: Method, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = edge.management().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_operator_sees_modules_logs_and_counts_and_can_restart() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let (status, body) = call(&edge, Method::GET, "/status").await;
    assert_eq!(status, StatusCode::OK);
    let seen: EdgeStatus = serde_json::from_str(&body).unwrap();
    assert_eq!((seen.device_id.as_str(), seen.modules.len()), (DEVICE, 2));
    assert!(seen.upstream_connected);
    let check = async |method, path, expected| {
        assert_eq!(call(&edge, method, path).await.0, expected, "{path}");
    };
    check(Method::GET, "/modules", StatusCode::OK).await;
    check(Method::GET, "/modules/zzz/logs", StatusCode::NOT_FOUND).await;
    check(Method::GET, "/modules/a/logs?tail=x", StatusCode::BAD_REQUEST).await;
    check(Method::GET, "/modules/a/logs?tale=1", StatusCode::BAD_REQUEST).await;
    check(Method::POST, "/modules/zzz/restart", StatusCode::NOT_FOUND).await;
    check(Method::POST, "/modules/a/restart", StatusCode::NO_CONTENT).await;
    check(Method::GET, "/elsewhere", StatusCode::NOT_FOUND).await;
    let logs = call(&edge, Method::GET, "/modules/a/logs?tail=2").await;
    assert_eq!(logs, (StatusCode::OK, "one\ntwo\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_device_ca_is_made_once_and_certificates_hold_for_the_host_name() {
    let bench = Bench::new().await;
    let edge = bench.start().await;
    let bundle = edge.trust_bundle();
    assert!(edge.server_certificate().unwrap().chain_pem.ends_with(&bundle));
    edge.close().await;
    let edge = bench.start().await;
    assert_eq!(edge.trust_bundle(), bundle);
    let key = bench.folder.path().join("keys/edge-ca.key.pem");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_did_what_it_answered_with_an_error_leaves_no_failure() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    bench.machine.fail(EngineCall::Start, EngineFault::After);
    bench.machine.end("a", 1);
    eventually("it runs again", async || {
        let starts = bench.machine.calls().iter().filter(|it| *it == "start a").count();
        (starts == 2 && bench.machine.is_running("a")).then_some(())
    })
    .await;
    assert_eq!(bench.machine.failed(), 1);
    Host::sleep(Duration::from_mins(1)).await;
    let status = edge.status().await;
    assert_eq!((status.desired_code, status.modules[0].words.as_str()), (200, ""));
}
