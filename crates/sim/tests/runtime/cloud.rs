//! The real hub, over its own wire, as a test of a device sees it: twins and identities through
//! its service, telemetry from its log, and a line that can be cut.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use credentials::key::SymmetricKey;
use http::Method;
use model::id::IdentityId;
use model::method::MethodResponse;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::twin::Version;
use model::waist::*;
use model::world::{Boxed, World};
use net::client::{MqttClient, Target};
use serde_json::{Value, json};
use sim::cloud::{Edge, Service};
use sim::hub_site::{self, HubSite};
use sim::pipes::Pipes;
use testkit::chance::Chance;
use testkit::world::VirtualClock;

pub(crate) const DEVICE: &str = "d1";
/// The name of the hub in tokens.
pub(crate) const HUB: &str = "hub.test";
/// The device on the network.
const HOST: &str = "machine";
/// A property by which a message is one that the hub never takes.
pub(crate) const POISON: &str = "poison";
/// How long a caller of a method waits.
const RESPONSE_SECONDS: u64 = 30;

pub(crate) struct Cloud {
    hub: HubSite,
    pipes: Pipes,
    pub(crate) device_key: SymmetricKey,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn identity(module: &str) -> IdentityId {
    format!("{DEVICE}/{module}").parse().unwrap()
}

fn module_path(module: &str) -> String {
    format!("/twins/{DEVICE}/modules/{module}")
}

impl Cloud {
    pub(crate) async fn start(clock: &VirtualClock) -> Self {
        let chance = Chance::new(1);
        let pipes = Pipes::new(chance.fork("pipes"));
        let mut hub = HubSite::new(clock.beside(), pipes.clone(), chance.fork("hub")).unwrap();
        hub.start().await.unwrap();
        let device_key = hub.service().unwrap().create(DEVICE, Edge::Yes).await.unwrap();
        Self { hub, pipes, device_key }
    }

    fn service(&self) -> Service {
        self.hub.service().unwrap()
    }

    /// What the device's runtime speaks to: the hub, over a wire.
    pub(crate) fn upstream(&self, world: &World) -> Arc<dyn DeviceApi> {
        let target = Target {
            mqtt: hub_site::mqtt(),
            https: Some(hub_site::https()),
            tls: None,
            host: HUB.into(),
        };
        let client = MqttClient::new(world.clone(), Arc::new(self.pipes.of(HOST)), target);
        Arc::new(Picky(client))
    }

    /// Nobody gets through to the hub, and who is connected hears nothing more of it.
    pub(crate) fn cut(&self) {
        self.pipes.part(HOST);
    }

    pub(crate) fn restore(&self) {
        self.pipes.join(HOST);
    }

    pub(crate) async fn key(&self, module: &str) -> Option<SymmetricKey> {
        let path = format!("/devices/{DEVICE}/modules/{module}");
        let known = self.service().ask(Method::GET, &path, None).await.ok()?;
        let key = known.pointer("/authentication/symmetricKey/primaryKey")?.as_str()?;
        SymmetricKey::parse(key).ok()
    }

    pub(crate) async fn has_identity(&self, module: &str) -> bool {
        self.key(module).await.is_some()
    }

    /// A module that nobody deployed yet.
    pub(crate) async fn create_module(&self, module: &str) {
        let path = format!("/devices/{DEVICE}/modules/{module}");
        let body = json!({ "deviceId": DEVICE, "moduleId": module });
        self.service().ask(Method::PUT, &path, Some(body)).await.unwrap();
    }

    /// Bodies received from `module`, in order.
    pub(crate) async fn received(&self, module: &str) -> Vec<u32> {
        let from = identity(module);
        let all = self.service().telemetry(hub_site::PARTITIONS).await.unwrap();
        let own = all.into_iter().filter(|logged| logged.sender == from.as_str());
        own.map(|logged| u32::try_from(logged.number).unwrap()).collect()
    }

    /// The reported properties of `module`, without what the hub writes beside them.
    pub(crate) async fn reported(&self, module: &str) -> Value {
        let twin = self.service().ask(Method::GET, &module_path(module), None).await.unwrap();
        let mut reported = twin["properties"]["reported"].clone();
        let fields = reported.as_object_mut().unwrap();
        fields.retain(|name, _| !name.starts_with('$'));
        reported
    }

    /// `desired` takes the place of what was desired.
    pub(crate) async fn set_desired(&self, module: &str, desired: Value) -> Version {
        let body = json!({ "properties": { "desired": desired } });
        let twin = self.service().ask(Method::PUT, &module_path(module), Some(body)).await.unwrap();
        Version(twin["properties"]["desired"]["$version"].as_u64().unwrap())
    }

    /// Calls a method; gives what the module answers.
    ///
    /// # Errors
    /// If nobody listens, or nobody answers in time.
    pub(crate) async fn call(
        &self,
        module: &str,
        name: &str,
        payload: &Value,
    ) -> anyhow::Result<MethodResponse> {
        let body = json!({
            "methodName": name, "payload": payload,
            "responseTimeoutInSeconds": RESPONSE_SECONDS,
        });
        let path = format!("{}/methods", module_path(module));
        let answer = self.service().ask(Method::POST, &path, Some(body)).await?;
        let status = i32::try_from(answer["status"].as_i64().unwrap()).unwrap();
        Ok(MethodResponse { status, payload: answer["payload"].to_string().into() })
    }
}

/// The hub, but for one thing that it never does: it refuses a message for good that a router
/// took. Everything else passes through.
struct Picky(MqttClient);

struct PickySession(Arc<dyn DeviceSession>);

impl DeviceApi for Picky {
    fn open(
        &self,
        claim: Claim,
        link: LinkKind,
        deadline: Tick,
    ) -> Boxed<'_, Result<Opened, Refusal>> {
        Box::pin(async move {
            let mut opened = self.0.open(claim, link, deadline).await?;
            opened.session = Arc::new(PickySession(opened.session));
            Ok(opened)
        })
    }
}

fn is_poison(request: &DeviceRequest) -> bool {
    let DeviceRequest::SendTelemetry(message) = request else { return false };
    message.properties.get(POISON).is_some()
}

/// The answers of a batch of which some requests were not sent at all.
struct Mixed {
    refused: std::vec::IntoIter<bool>,
    rest: Completion,
}

impl Answers for Mixed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
        match self.refused.as_slice().first() {
            Some(true) => {
                self.refused.next();
                let refusal = Refusal::new(RefusalKind::InvalidRequest, "the test says no");
                Poll::Ready(Some(Err(refusal)))
            }
            Some(false) => {
                let polled = self.rest.poll_next(cx);
                if polled.is_ready() {
                    self.refused.next();
                }
                polled
            }
            None => Poll::Ready(None),
        }
    }
}

impl DeviceSession for PickySession {
    fn identity(&self) -> &IdentityId {
        self.0.identity()
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full> {
        if !batch.0.iter().any(is_poison) {
            return self.0.submit(batch, deadline);
        }
        let refused: Vec<bool> = batch.0.iter().map(is_poison).collect();
        let rest = batch.0.into_iter().filter(|request| !is_poison(request)).collect();
        // A test sends few: there is room.
        let rest = self.0.submit(Batch(rest), deadline).expect("room");
        Ok(Completion::new(Mixed { refused: refused.into_iter(), rest }))
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_ready(cx)
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        self.0.poll_event(cx, credit)
    }

    fn renew(&self, claim: Claim, deadline: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        self.0.renew(claim, deadline)
    }

    fn close(&self, how: Leave) {
        self.0.close(how);
    }
}

/// How long is waited for something to be so at a hub behind a wire.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
