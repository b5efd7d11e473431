//! The suite of the waist over the upstream client: real client, pipes, real listener, real hub.
//!
//! Left out is what MQTT 3.1.1 has no words for: why a session ended (takeover, revocation and
//! expiry all look like a closed socket), renewal within a session, and which subscriptions a
//! resumed session still has.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hub::{Hub, Settings};
use journal::disk::simulated::SimulatedDisk;
use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::method::{MethodRequest, MethodResponse};
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{Answer, Batch, Claim, ClaimSource, DeviceRequest, FreshClaim};
use model::world::{Boxed, World};
use net::client::{MqttClient, Target};
use net::mqtt::MqttServer;
use net::network::{Address, Network};
use serde_json::{Value, json};
use sim::pipes::Pipes;
use testkit::chance::Chance;
use testkit::conformance::{self, Bench, Cloud};
use testkit::world::{Host, VirtualClock};
use tower::ServiceExt;

/// The hub's own service is the cloud behind the client.
struct Service {
    router: Router,
    world: World,
    owner: SymmetricKey,
}

impl Service {
    fn sign(&self, resource: &str, policy: Option<&str>, key: &SymmetricKey, life: u64) -> Secret {
        let expiry = self.world.now().wall.after(Duration::from_secs(life));
        SasToken::sign(resource, policy, expiry, key)
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let token = self.sign("hub.test", Some("iothubowner"), &self.owner, 3600);
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", token.expose_str().unwrap())
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn claim_by(&self, identity: IdentityId, key: &SymmetricKey, life: Duration) -> Claim {
        let resource = format!("hub.test/devices/{identity}");
        let token = self.sign(&resource, None, key, life.as_secs());
        Claim::Sas { identity, token }
    }
}

#[derive(Clone)]
struct Shared(Arc<Service>);

impl Cloud for Shared {
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()> {
        Box::pin(async move {
            let made = self.0.call("PUT", &format!("/devices/{identity}"), json!({})).await;
            assert_eq!(made.0, StatusCode::OK, "{}", made.1);
        })
    }

    fn claim(&self, identity: IdentityId, lifetime: Duration) -> Boxed<'_, Claim> {
        Box::pin(async move {
            let path = format!("/devices/{identity}");
            let (_, entry) = self.0.call("GET", &path, Value::Null).await;
            let key = entry["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
            self.0.claim_by(identity, &SymmetricKey::parse(key).unwrap(), lifetime)
        })
    }

    fn wrong_claim(&self, identity: IdentityId) -> Claim {
        let key = SymmetricKey::parse("d3Jvbmcgd3Jvbmcgd3Jvbmc=").unwrap();
        self.0.claim_by(identity, &key, Duration::from_hours(1))
    }

    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version> {
        Box::pin(async move {
            let body = json!({"properties": {"desired": patch.0}});
            let (status, twin) = self.0.call("PATCH", &format!("/twins/{identity}"), body).await;
            assert_eq!(status, StatusCode::OK, "{twin}");
            Version(twin["properties"]["desired"]["$version"].as_u64().unwrap())
        })
    }

    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'static, Result<MethodResponse, Refusal>> {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let body = json!({
                "methodName": request.name,
                "payload": serde_json::from_slice::<Value>(&request.payload).unwrap(),
                "responseTimeoutInSeconds": request.response_timeout.as_secs(),
                "connectTimeoutInSeconds": request.connect_timeout.as_secs(),
            });
            let path = format!("/twins/{identity}/methods");
            let (status, answer) = service.call("POST", &path, body).await;
            let kind = match status.as_u16() {
                200 => {
                    let status = i32::try_from(answer["status"].as_i64().unwrap()).unwrap();
                    let payload = answer["payload"].to_string().into();
                    return Ok(MethodResponse { status, payload });
                }
                404 => RefusalKind::TargetOffline,
                504 => RefusalKind::TargetTimedOut,
                other => panic!("{other}: {answer}"),
            };
            Err(Refusal::new(kind, answer.to_string()))
        })
    }

    fn telemetry(&self, identity: IdentityId) -> Boxed<'_, Vec<Message>> {
        Box::pin(async move {
            let (mut from, mut all) = (0, Vec::new());
            loop {
                let path = format!("/api/v1/telemetry?device={identity}&from={from}&max=50");
                let (status, page) = self.0.call("GET", &path, Value::Null).await;
                assert_eq!(status, StatusCode::OK, "{page}");
                all.extend(page["messages"].as_array().unwrap().iter().map(message));
                from = page["next"].as_u64().unwrap();
                if from >= page["end"].as_u64().unwrap() {
                    return all;
                }
            }
        })
    }

    fn disable(&self, _: IdentityId) -> Boxed<'_, bool> {
        Box::pin(std::future::ready(false))
    }
}

fn message(read: &Value) -> Message {
    let pairs = read["properties"].as_object().unwrap();
    let pairs = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap()));
    Message {
        body: read["body"].as_str().unwrap().to_owned().into(),
        properties: PropertyBag::from_pairs(pairs),
        system: SystemProperties {
            connection_device_id: read["deviceId"].as_str().map(Into::into),
            ..SystemProperties::default()
        },
    }
}

/// A hub behind pipes, a client in the field, and the clouds of both.
struct House {
    field: Host,
    pipes: Pipes,
    hub: Hub,
    server: MqttServer,
    client: MqttClient,
    cloud: Shared,
    _folder: tempfile::TempDir,
}

impl House {
    async fn start(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (chance, clock) = (Chance::new(seed), VirtualClock::begin());
        let pipes = Pipes::new(chance.fork("pipes"));
        let field = Host::on(clock.clone(), chance.fork("field"));
        let world = Host::on(clock, chance.fork("hub")).world();
        let mut settings = Settings::new(folder.path(), "hub.test");
        settings.partitions = 1;
        let disk = SimulatedDisk::new(chance.next());
        let hub = Hub::open(settings, world.clone(), Arc::new(disk)).unwrap();
        let mqtt = Address::Memory("hub".into());
        let incoming = pipes.listen(&mqtt).await.unwrap();
        let server = MqttServer::start(incoming, None, hub.device_api(), &world);
        let target = Target { mqtt, https: None, tls: None, host: "hub.test".into() };
        let client = MqttClient::new(field.world(), Arc::new(pipes.clone()), target);
        let owner = hub.policy_key("iothubowner").unwrap();
        let owner = SymmetricKey::parse(owner.expose_str().unwrap()).unwrap();
        let service = Service { router: hub.service(), world, owner };
        let cloud = Shared(Arc::new(service));
        Self { field, pipes, hub, server, client, cloud, _folder: folder }
    }

    async fn stop(self) {
        self.field.kill();
        self.field.gone().await;
        self.hub.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_keeps_the_promises_of_the_waist_that_mqtt_can_keep() {
    let house = House::start(7).await;
    let bench = Bench {
        api: Arc::new(house.client.clone()),
        cloud: Arc::new(house.cloud.clone()),
        world: house.field.world(),
        prefix: "client-".to_owned(),
    };
    conformance::a_bad_claim_is_refused(&bench).await;
    conformance::telemetry_is_accepted_in_order(&bench).await;
    conformance::reported_patches_raise_the_version(&bench).await;
    conformance::desired_changes_are_told_and_coalesce(&bench).await;
    conformance::methods_are_called_and_answered(&bench).await;
    conformance::a_full_session_gives_the_batch_back(&bench).await;
    conformance::closing_ends_a_session(&bench).await;
    assert!(house.server.accepted() >= 7, "every scenario went over the wire");
    house.stop().await;
}

/// Claims that hold a minute.
struct Minutes {
    cloud: Shared,
    identity: IdentityId,
    world: World,
}

impl ClaimSource for Minutes {
    fn claim(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<FreshClaim, Refusal>> + Send + '_>> {
        Box::pin(async {
            let life = Duration::from_mins(1);
            let claim = self.cloud.claim(self.identity.clone(), life).await;
            Ok(FreshClaim { claim, valid_until: self.world.now().wall.after(life) })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_loses_nothing_while_its_connections_are_cut() {
    const NUMBERS: usize = 4000;
    let house = House::start(11).await;
    let (identity, world) = ("kept".parse::<IdentityId>().unwrap(), house.field.world());
    house.cloud.create(identity.clone()).await;
    let (cloud, name) = (house.cloud.clone(), identity.clone());
    let claims = Arc::new(Minutes { cloud, identity: name, world: world.clone() });
    let kept = house.client.keep(identity.clone(), claims);
    let sending = async {
        let mut waiting = VecDeque::new();
        for number in 0..NUMBERS {
            let body = number.to_string().into();
            let message = Message { body, ..Message::default() };
            let mut batch = Batch::from(DeviceRequest::SendTelemetry(Box::new(message)));
            let completion = loop {
                match kept.session.submit(batch, Tick::NEVER) {
                    Ok(completion) => break completion,
                    Err(full) => batch = full.0,
                }
                poll_fn(|cx| kept.session.poll_ready(cx)).await;
            };
            waiting.push_back(completion);
            if waiting.len() == 16 {
                let answer = waiting.pop_front().unwrap().only().await;
                assert_eq!(answer, Ok(Answer::Accepted), "number {number}");
            }
        }
        for completion in waiting {
            assert_eq!(completion.only().await, Ok(Answer::Accepted));
        }
    };
    let cutting = async {
        loop {
            tokio::time::sleep(Duration::from_millis(150)).await;
            house.pipes.cut_one();
        }
    };
    tokio::select! {
        biased;
        () = sending => {}
        () = cutting => {}
    }
    let cuts = house.pipes.cuts();
    assert!(cuts >= 20, "only {cuts} cuts; the test shows nothing");
    let read = house.cloud.telemetry(identity).await;
    let numbers = read.iter().map(|message| String::from_utf8_lossy(&message.body).parse());
    let mut next = 0;
    let mut copies = 0;
    for number in numbers {
        let number: usize = number.unwrap();
        assert!(number <= next, "{number} came before {next}");
        copies += usize::from(number < next);
        next = next.max(number + 1);
    }
    assert_eq!(next, NUMBERS, "what was acknowledged is there");
    let copies_max = usize::try_from(cuts).unwrap() * 16;
    assert!(copies <= copies_max, "{copies} repeats in {cuts} cuts");
    drop(kept);
    house.stop().await;
}
