//! The cloud of a bench, made of nothing but the hub's service API.

use std::sync::Arc;
use std::time::Duration;

use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::method::{MethodRequest, MethodResponse};
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::twin::{TwinPatch, Version};
use model::waist::Claim;
use model::world::Boxed;
use serde_json::{Value, json};

use super::Cloud;

/// A key that is nobody's, base64.
const WRONG_KEY: &str = "d3Jvbmcgd3Jvbmcgd3Jvbmc=";

/// What a bench must bring: a way to call the service as its owner, and to sign.
pub trait Service: Send + Sync {
    /// Calls the service; gives the status and the body, null if there is none. A body of null
    /// is no body.
    fn call(
        &self,
        method: &'static str,
        path: String,
        if_match: Option<&'static str>,
        body: Value,
    ) -> Boxed<'_, (u16, Value)>;

    /// A token of `identity` that holds for `lifetime` from now, signed with a base64 key.
    fn sign(&self, identity: &IdentityId, key: &str, lifetime: Duration) -> Secret;
}

/// The cloud behind a service.
pub struct ServiceCloud<S>(Arc<S>);

impl<S> std::fmt::Debug for ServiceCloud<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceCloud")
    }
}

impl<S> Clone for ServiceCloud<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Service + 'static> ServiceCloud<S> {
    /// The cloud that `service` shows.
    pub fn new(service: Arc<S>) -> Self {
        Self(service)
    }

    /// Calls and expects success.
    pub async fn call(&self, method: &'static str, path: String, body: Value) -> Value {
        call(&*self.0, method, path, body).await
    }

    async fn write_desired(
        &self,
        method: &'static str,
        identity: IdentityId,
        values: TwinPatch,
    ) -> Version {
        let body = json!({"properties": {"desired": values.0}});
        let twin = self.call(method, path("twins", &identity), body).await;
        let version = twin.pointer("/properties/desired/$version").and_then(Value::as_u64);
        Version(version.expect("a twin has a version"))
    }
}

async fn call(service: &impl Service, method: &'static str, path: String, body: Value) -> Value {
    let (status, answer) = service.call(method, path.clone(), None, body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

/// All telemetry of `identity`, by the pages of the service.
pub async fn telemetry(service: &impl Service, identity: &IdentityId) -> Vec<Message> {
    let (device, module) = (identity.device_str(), identity.module_str());
    let (mut from, mut all) = (0, Vec::new());
    loop {
        let path = format!("/api/v1/telemetry?device={device}&from={from}&max=500");
        let page = call(service, "GET", path, Value::Null).await;
        let messages = page.get("messages").and_then(Value::as_array);
        let own = messages
            .into_iter()
            .flatten()
            .filter(|message| message.get("moduleId").and_then(Value::as_str) == module);
        all.extend(own.map(message));
        let number = |name: &str| page.get(name).and_then(Value::as_u64);
        from = number("next").expect("a page says where to go on");
        if from >= number("end").expect("a page says where the end is") {
            return all;
        }
    }
}

fn path(root: &str, identity: &IdentityId) -> String {
    match identity.module_str() {
        None => format!("/{root}/{}", identity.device_str()),
        Some(module) => format!("/{root}/{}/modules/{module}", identity.device_str()),
    }
}

impl<S: Service + 'static> Cloud for ServiceCloud<S> {
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()> {
        Box::pin(async move {
            self.call("PUT", path("devices", &identity), json!({})).await;
        })
    }

    fn claim(&self, identity: IdentityId, lifetime: Duration) -> Boxed<'_, Claim> {
        Box::pin(async move {
            let entry = self.call("GET", path("devices", &identity), Value::Null).await;
            let key = entry.pointer("/authentication/symmetricKey/secondaryKey");
            let key = key.and_then(Value::as_str).expect("an entry has keys");
            let token = self.0.sign(&identity, key, lifetime);
            Claim::Sas { identity, token }
        })
    }

    fn wrong_claim(&self, identity: IdentityId) -> Claim {
        let token = self.0.sign(&identity, WRONG_KEY, Duration::from_hours(1));
        Claim::Sas { identity, token }
    }

    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version> {
        Box::pin(self.write_desired("PATCH", identity, patch))
    }

    fn replace_desired(&self, identity: IdentityId, values: TwinPatch) -> Boxed<'_, Version> {
        Box::pin(self.write_desired("PUT", identity, values))
    }

    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'static, Result<MethodResponse, Refusal>> {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let payload: Value =
                serde_json::from_slice(&request.payload).expect("scenarios send JSON");
            let body = json!({
                "methodName": request.name,
                "payload": payload,
                "responseTimeoutInSeconds": request.response_timeout.as_secs(),
                "connectTimeoutInSeconds": request.connect_timeout.as_secs(),
            });
            let path = format!("{}/methods", path("twins", &identity));
            let (status, answer) = service.call("POST", path, None, body).await;
            let kind = match status {
                200 => return Ok(response(&answer)),
                404 => RefusalKind::TargetOffline,
                504 => RefusalKind::TargetTimedOut,
                other => unreachable!("{other}: {answer}"),
            };
            Err(Refusal::new(kind, answer.to_string()))
        })
    }

    fn telemetry(&self, identity: IdentityId) -> Boxed<'_, Vec<Message>> {
        Box::pin(async move { telemetry(&*self.0, &identity).await })
    }

    fn send(&self, _: IdentityId, _: &'static str) -> Boxed<'_, ()> {
        // A bench whose implementer has messages wraps this one.
        unreachable!("the hub sends no messages to devices yet")
    }

    fn revoke(&self, identity: IdentityId) -> Boxed<'_, ()> {
        Box::pin(async move {
            let (method, body) = match identity.module_str() {
                None => ("PUT", json!({"status": "disabled"})),
                Some(_) => ("DELETE", Value::Null),
            };
            let path = path("devices", &identity);
            let (status, answer) = self.0.call(method, path, Some("*"), body).await;
            assert!((200..300).contains(&status), "{status} {answer}");
        })
    }
}

fn response(answer: &Value) -> MethodResponse {
    let status = answer.get("status").and_then(Value::as_i64);
    let status = status.and_then(|status| i32::try_from(status).ok());
    let payload = answer.get("payload").unwrap_or(&Value::Null).to_string().into();
    MethodResponse { status: status.expect("an answer has a status"), payload }
}

fn message(read: &Value) -> Message {
    let text = |name: &str| read.get(name).and_then(Value::as_str);
    let pairs = read.get("properties").and_then(Value::as_object);
    let pairs = pairs
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    Message {
        body: text("body").unwrap_or_default().to_owned().into(),
        properties: PropertyBag::from_pairs(pairs),
        system: SystemProperties {
            connection_device_id: text("deviceId").map(Into::into),
            connection_module_id: text("moduleId").map(Into::into),
            ..SystemProperties::default()
        },
    }
}
