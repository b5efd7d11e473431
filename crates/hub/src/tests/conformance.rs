//! The suite of the waist over the hub.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::method::{MethodRequest, MethodResponse};
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::twin::{TwinPatch, Version};
use model::waist::Claim;
use model::world::Boxed;
use serde_json::{Value, json};
use testkit::conformance::{Bench, Cloud, run_all};

use super::{Machine, Running, resource, token};

/// The hub's own service is the cloud behind it.
struct Service(Arc<Running>);

impl Service {
    fn path(identity: &IdentityId, root: &str) -> String {
        match identity.module_str() {
            None => format!("/{root}/{}", identity.device_str()),
            Some(module) => format!("/{root}/{}/modules/{module}", identity.device_str()),
        }
    }
}

impl Cloud for Service {
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()> {
        Box::pin(async move {
            let path = Self::path(&identity, "devices");
            let (status, body) = self.0.call("PUT", &path, json!({})).await;
            assert_eq!(status, StatusCode::OK, "{body}");
        })
    }

    fn claim(&self, identity: IdentityId, lifetime: Duration) -> Boxed<'_, Claim> {
        Box::pin(async move {
            let path = Self::path(&identity, "devices");
            let (_, entry) = self.0.call("GET", &path, Value::Null).await;
            let key = entry["authentication"]["symmetricKey"]["secondaryKey"].as_str().unwrap();
            let (world, key) = (self.0.world(), Secret::from(key));
            let token = token(&world, &resource(&identity), None, &key, lifetime);
            Claim::Sas { identity, token }
        })
    }

    fn wrong_claim(&self, identity: IdentityId) -> Claim {
        let key = Secret::from("d3Jvbmcgd3Jvbmcgd3Jvbmc=");
        let lifetime = Duration::from_hours(1);
        let token = token(&self.0.world(), &resource(&identity), None, &key, lifetime);
        Claim::Sas { identity, token }
    }

    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version> {
        Box::pin(async move {
            let body = json!({"properties": {"desired": patch.0}});
            let (status, twin) = self.0.call("PATCH", &Self::path(&identity, "twins"), body).await;
            assert_eq!(status, StatusCode::OK, "{twin}");
            Version(twin["properties"]["desired"]["$version"].as_u64().unwrap())
        })
    }

    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'static, Result<MethodResponse, Refusal>> {
        let running = Arc::clone(&self.0);
        Box::pin(async move {
            let body = json!({
                "methodName": request.name,
                "payload": serde_json::from_slice::<Value>(&request.payload).unwrap(),
                "responseTimeoutInSeconds": request.response_timeout.as_secs(),
                "connectTimeoutInSeconds": request.connect_timeout.as_secs(),
            });
            let path = format!("{}/methods", Self::path(&identity, "twins"));
            let (status, answer) = running.call("POST", &path, body).await;
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
        Box::pin(async move { telemetry(&self.0, identity.device_str()).await })
    }

    fn disable(&self, identity: IdentityId) -> Boxed<'_, bool> {
        Box::pin(async move {
            let path = Self::path(&identity, "devices");
            let body = json!({"status": "disabled"});
            let call = ("PUT", path.as_str());
            let (status, _) = self.0.call_as("iothubowner", call, Some("*"), body).await;
            status == StatusCode::OK
        })
    }
}

/// All telemetry of `device`, by the pages of the API.
pub(super) async fn telemetry(running: &Running, device: &str) -> Vec<Message> {
    let (mut from, mut all) = (0, Vec::new());
    loop {
        let path = format!("/api/v1/telemetry?device={device}&from={from}&max=50");
        let (status, page) = running.call("GET", &path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        all.extend(page["messages"].as_array().unwrap().iter().map(message));
        from = page["next"].as_u64().unwrap();
        if from >= page["end"].as_u64().unwrap() {
            return all;
        }
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

#[tokio::test(start_paused = true)]
async fn the_hub_keeps_every_promise_of_the_waist() {
    let machine = Machine::new();
    let running = Arc::new(machine.start(1));
    let bench = Bench {
        api: Arc::clone(&running.api),
        cloud: Arc::new(Service(Arc::clone(&running))),
        world: running.world(),
        prefix: "suite-".to_owned(),
    };
    assert_eq!(run_all(&bench).await, 11);
}
