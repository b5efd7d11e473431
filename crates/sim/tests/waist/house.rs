//! A real hub and a real device runtime in one process, and the cloud as a bench sees it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use edge::shell::{Edge as Runtime, Parts};
use edge::workload::WorkloadSockets;
use http::Request;
use http_body_util::BodyExt as _;
use hub::Settings;
use journal::disk::simulated::SimulatedDisk;
use model::commit::NoFaults;
use model::id::{DeviceId, IdentityId, ModuleName};
use model::message::Message;
use model::method::{MethodRequest, MethodResponse};
use model::refusal::Refusal;
use model::secret::Secret;
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{Answer, Claim, DeviceApi, DeviceRequest, Leave, LinkKind, ask};
use model::world::{Boxed, World};
use net::client::{MqttClient, Target};
use net::http::HttpServer;
use net::mqtt::MqttServer;
use net::network::{Address, Network as _};
use serde_json::{Value, json};
use sim::pipes::Pipes;
use testkit::chance::Chance;
use testkit::conformance::{Cloud, Service, ServiceCloud};
use testkit::engine::FakeEngine;
use testkit::world::{Host, VirtualClock};
use tower::ServiceExt as _;

/// The name of the hub in tokens.
const HUB: &str = "hub.test";
/// The device that the runtime runs on.
pub(crate) const DEVICE: &str = "edge";
/// The module that sends messages to the inputs of others.
const FEEDER: &str = "feeder";
/// The only module whose input a route leads to; the scenario about messages has this name.
const FED: &str = "messages";
/// How long the runtime may take to notice what changed at the hub.
const NOTICE: Duration = Duration::from_mins(10);

pub(crate) type HubCloud = ServiceCloud<HubService>;

/// The hub's own service, asked in memory.
pub(crate) struct HubService {
    router: Router,
    world: World,
    owner: SymmetricKey,
}

impl HubService {
    fn token(&self, resource: &str, policy: Option<&str>, key: &SymmetricKey) -> Secret {
        self.token_for(resource, policy, key, Duration::from_hours(1))
    }

    fn token_for(
        &self,
        resource: &str,
        policy: Option<&str>,
        key: &SymmetricKey,
        lifetime: Duration,
    ) -> Secret {
        SasToken::sign(resource, policy, self.world.now().wall.after(lifetime), key)
    }
}

impl Service for HubService {
    fn call(
        &self,
        method: &'static str,
        path: String,
        if_match: Option<&'static str>,
        body: Value,
    ) -> Boxed<'_, (u16, Value)> {
        let token = self.token(HUB, Some("iothubowner"), &self.owner);
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{path}{joint}api-version=2021-04-12"))
            .header("authorization", token.expose_str().unwrap())
            .header("content-type", "application/json");
        if let Some(etag) = if_match {
            request = request.header("if-match", etag);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let (router, request) = (self.router.clone(), request.body(body).unwrap());
        Box::pin(async move {
            let answer = router.oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or_default())
        })
    }

    fn sign(&self, identity: &IdentityId, key: &str, lifetime: Duration) -> Secret {
        let resource = match identity.module_str() {
            None => format!("{HUB}/devices/{}", identity.device_str()),
            Some(module) => format!("{HUB}/devices/{}/modules/{module}", identity.device_str()),
        };
        self.token_for(&resource, None, &SymmetricKey::parse(key).unwrap(), lifetime)
    }
}

/// A hub behind pipes, and a host in the field.
pub(crate) struct Hub {
    pub(crate) field: Host,
    pub(crate) pipes: Pipes,
    pub(crate) cloud: HubCloud,
    pub(crate) server: MqttServer,
    clock: VirtualClock,
    chance: Chance,
    cloud_side: hub::Hub,
    https: HttpServer,
    _folder: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (chance, clock) = (Chance::new(seed), VirtualClock::begin());
        let pipes = Pipes::new(chance.fork("pipes"));
        let field = Host::on(clock.clone(), chance.fork("field"));
        let world = Host::on(clock.clone(), chance.fork("hub")).world();
        let mut settings = Settings::new(folder.path(), HUB);
        settings.partitions = 1;
        let disk = SimulatedDisk::new(chance.next());
        let hub = hub::Hub::open(settings, world.clone(), Arc::new(disk)).unwrap();
        let incoming = pipes.listen(&Address::Memory("mqtt".into())).await.unwrap();
        let server = MqttServer::start(incoming, None, hub.device_api(), &world);
        let incoming = pipes.listen(&Address::Memory("https".into())).await.unwrap();
        let https = HttpServer::start(incoming, None, hub.service(), &world);
        let owner = hub.policy_key("iothubowner").unwrap();
        let owner = SymmetricKey::parse(owner.expose_str().unwrap()).unwrap();
        let service = HubService { router: hub.service(), world, owner };
        let cloud = ServiceCloud::new(Arc::new(service));
        Self { field, pipes, cloud, server, clock, chance, cloud_side: hub, https, _folder: folder }
    }

    /// The hub itself, without a wire.
    pub(crate) fn api(&self) -> Arc<dyn DeviceApi> {
        self.cloud_side.device_api()
    }

    /// A client of the hub.
    pub(crate) fn client(&self) -> MqttClient {
        self.client_of("mqtt", Some("https"))
    }

    fn client_of(&self, mqtt: &str, https: Option<&str>) -> MqttClient {
        let target = Target {
            mqtt: Address::Memory(mqtt.into()),
            https: https.map(|name| Address::Memory(name.into())),
            tls: None,
            host: HUB.into(),
        };
        MqttClient::new(self.field.world(), Arc::new(self.pipes.clone()), target)
    }

    pub(crate) async fn stop(self) {
        self.field.kill();
        self.field.gone().await;
        drop(self.https);
        self.cloud_side.close().await;
    }
}

/// Modules are no processes here, so nobody knocks at their doors.
#[derive(Default)]
struct Doors(Mutex<BTreeSet<ModuleName>>);

impl WorkloadSockets for Doors {
    fn open<'a>(
        &'a self,
        module: &'a ModuleName,
        _: &'a Path,
        _: Router,
    ) -> Boxed<'a, io::Result<()>> {
        self.0.lock().unwrap().insert(module.clone());
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&self, module: &ModuleName) {
        self.0.lock().unwrap().remove(module);
    }
}

/// A device runtime whose upstream is the hub, with or without a wire between.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) runtime: Arc<Runtime>,
    cloud: HubCloud,
    world: World,
    _folder: Arc<tempfile::TempDir>,
}

impl Edge {
    /// Registers the device, deploys routes and starts the runtime.
    pub(crate) async fn start(hub: &Hub, upstream: Arc<dyn DeviceApi>) -> Self {
        let path = format!("/devices/{DEVICE}");
        let body = json!({ "deviceId": DEVICE, "capabilities": { "iotEdge": true } });
        let made = hub.cloud.call("PUT", path.clone(), body).await;
        let key = made.pointer("/authentication/symmetricKey/primaryKey").unwrap().as_str();
        let into = format!("BrokeredEndpoint(\"/modules/{FED}/inputs/in\")");
        let content = json!({ "modulesContent": { "$edgeHub": { "properties.desired": {
            "schemaVersion": "1.1",
            "routes": {
                "up": "FROM /messages/* INTO $upstream",
                "in": format!("FROM /messages/modules/{FEEDER}/* INTO {into}"),
            },
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 },
        } } } });
        hub.cloud.call("POST", format!("{path}/applyConfigurationContent"), content).await;
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "hostname = \"edge.test\"\n[provisioning]\nsource = \"manual\"\nconnection_string = \
             \"HostName={HUB};DeviceId={DEVICE};SharedAccessKey={}\"\n",
            key.unwrap()
        );
        let world = Host::on(hub.clock.clone(), hub.chance.fork("edge")).world();
        let runtime = Runtime::start(Parts {
            settings: edge::settings::Settings::parse_in(&text, folder.path()).unwrap(),
            folder: folder.path().to_owned(),
            disk: Arc::new(SimulatedDisk::new(hub.chance.next())),
            world: world.clone(),
            upstream,
            runtime: Arc::new(FakeEngine::new(hub.clock.clone(), &[])),
            sockets: Arc::new(Doors::default()),
            faults: Arc::new(NoFaults),
        });
        let runtime = Arc::new(runtime.await.unwrap());
        let cloud = hub.cloud.clone();
        let edge = Self { runtime, cloud, world, _folder: Arc::new(folder) };
        let mut waiting = Waiting::until("routes are in force", &edge.world);
        while edge.runtime.status().await.router.desired_code != 200 {
            waiting.again().await;
        }
        edge.create(identity(FEEDER)).await;
        edge
    }

    /// The router behind pipes, and a client of it.
    pub(crate) async fn listen(&self, hub: &Hub) -> (MqttServer, MqttClient) {
        let incoming = hub.pipes.listen(&Address::Memory("router".into())).await.unwrap();
        let server = MqttServer::start(incoming, None, self.runtime.device_api(), &self.world);
        (server, hub.client_of("router", None))
    }

    /// Whether the router takes `identity`; one that it does not know yet makes it look.
    async fn knows(&self, identity: &IdentityId) -> bool {
        let claim = self.cloud.claim(identity.clone(), Duration::from_hours(1)).await;
        let link = LinkKind::Mqtt { clean: true };
        let opened = self.runtime.device_api().open(claim, link, Tick::NEVER).await;
        opened.map(|opened| opened.session.close(Leave::Asked)).is_ok()
    }

    async fn forwarded(&self) {
        let mut waiting = Waiting::until("all is forwarded", &self.world);
        loop {
            let queues = self.runtime.status().await.router.queues;
            if queues.iter().filter(|it| it.endpoint == "$upstream").all(|it| it.depth == 0) {
                return;
            }
            waiting.again().await;
        }
    }
}

/// Looks again and again, but not for ever.
struct Waiting<'a> {
    what: &'a str,
    world: &'a World,
    end: Tick,
}

impl<'a> Waiting<'a> {
    fn until(what: &'a str, world: &'a World) -> Self {
        Self { what, world, end: world.now().tick.after(NOTICE) }
    }

    async fn again(&mut self) {
        assert!(self.world.now().tick < self.end, "never: {}", self.what);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(crate) fn device() -> DeviceId {
    DEVICE.parse().unwrap()
}

fn identity(module: &str) -> IdentityId {
    IdentityId::module(&device(), &module.parse().unwrap())
}

/// The hub as the router's cloud: what the router must learn first is waited for.
impl Cloud for Edge {
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()> {
        Box::pin(async move {
            if !identity.is_module() {
                return;
            }
            self.cloud.create(identity.clone()).await;
            let mut waiting = Waiting::until("the router knows it", &self.world);
            while !self.knows(&identity).await {
                waiting.again().await;
            }
        })
    }

    fn claim(&self, identity: IdentityId, lifetime: Duration) -> Boxed<'_, Claim> {
        self.cloud.claim(identity, lifetime)
    }

    fn wrong_claim(&self, identity: IdentityId) -> Claim {
        self.cloud.wrong_claim(identity)
    }

    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version> {
        self.cloud.patch_desired(identity, patch)
    }

    fn replace_desired(&self, identity: IdentityId, values: TwinPatch) -> Boxed<'_, Version> {
        self.cloud.replace_desired(identity, values)
    }

    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'static, Result<MethodResponse, Refusal>> {
        self.cloud.invoke(identity, request)
    }

    fn telemetry(&self, identity: IdentityId) -> Boxed<'_, Vec<Message>> {
        Box::pin(async move {
            self.forwarded().await;
            self.cloud.telemetry(identity).await
        })
    }

    fn send(&self, to: IdentityId, body: &'static str) -> Boxed<'_, ()> {
        assert_eq!(to.module_str(), Some(FED), "one route leads to one input");
        Box::pin(async move {
            let claim = self.cloud.claim(identity(FEEDER), Duration::from_hours(1)).await;
            let deadline = self.world.now().tick.after(NOTICE);
            let link = LinkKind::Mqtt { clean: true };
            let opened = self.runtime.device_api().open(claim, link, deadline).await.unwrap();
            let message = Message { body: body.into(), ..Message::default() };
            let request = DeviceRequest::SendTelemetry(Box::new(message));
            let answer = ask(&*opened.session, request, deadline).await;
            assert_eq!(answer, Ok(Answer::Accepted));
        })
    }

    fn revoke(&self, identity: IdentityId) -> Boxed<'_, ()> {
        self.cloud.revoke(identity)
    }
}
