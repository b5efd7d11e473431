//! The cloud's side of a scenario: the hub's own service, asked in memory.

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Body;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use model::secret::Secret;
use model::time::WallTime;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::properties;

/// Asks the service as the owner.
#[derive(Clone, Debug)]
pub struct Service {
    router: Router,
    token: String,
}

/// One number of one sender, as the hub's log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Who sent it: `device` or `device/module`.
    pub sender: String,
    /// The number.
    pub number: u64,
    /// Which of the sender's connections it came over, if it says so.
    pub life: Option<u64>,
    /// When the hub took it.
    pub enqueued: WallTime,
    /// What is wrong with its properties.
    pub fault: Option<String>,
}

impl Service {
    /// Asks `router`, proving to be the owner with `key` until `expiry`.
    ///
    /// # Errors
    /// If the key is none.
    pub fn new(router: Router, key: &Secret, expiry: WallTime) -> Result<Self> {
        let key = SymmetricKey::parse(key.expose_str().unwrap_or_default())?;
        let token = SasToken::sign("hub.test", Some("iothubowner"), expiry, &key);
        Ok(Self { router, token: token.expose_str().unwrap_or_default().to_owned() })
    }

    /// Registers `device`, as an edge device or not; gives its primary key.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn create(&self, device: &str, edge: Edge) -> Result<SymmetricKey> {
        let capable = json!({ "iotEdge": edge == Edge::Yes });
        let body = json!({ "deviceId": device, "capabilities": capable });
        let made = self.ask(Method::PUT, &format!("/devices/{device}"), Some(body)).await?;
        let key = made.pointer("/authentication/symmetricKey/primaryKey").and_then(Value::as_str);
        Ok(SymmetricKey::parse(key.context("the answer has no key")?)?)
    }

    /// Applies `content` to `device`.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn apply(&self, device: &str, content: Value) -> Result<()> {
        let path = format!("/devices/{device}/applyConfigurationContent");
        self.ask(Method::POST, &path, Some(content)).await.map(drop)
    }

    /// Merges `desired` into the desired properties of a module.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn desire(&self, device: &str, module: &str, desired: Value) -> Result<()> {
        let body = json!({ "properties": { "desired": desired } });
        let path = format!("/twins/{device}/modules/{module}");
        self.ask(Method::PATCH, &path, Some(body)).await.map(drop)
    }

    /// The twin of a module.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn twin(&self, device: &str, module: &str) -> Result<Value> {
        self.ask(Method::GET, &format!("/twins/{device}/modules/{module}"), None).await
    }

    /// Calls `method` of `device`; gives status and payload.
    ///
    /// # Errors
    /// If the device is not there, does not answer in time, or the hub refuses.
    pub async fn invoke(&self, device: &str, method: &str, payload: Value) -> Result<Value> {
        let body = json!({
            "methodName": method, "payload": payload, "responseTimeoutInSeconds": 5,
        });
        self.ask(Method::POST, &format!("/twins/{device}/methods"), Some(body)).await
    }

    /// All telemetry, per partition in order.
    ///
    /// # Errors
    /// If the hub refuses or answers nonsense.
    pub async fn telemetry(&self, partitions: u16) -> Result<Vec<Logged>> {
        let mut all = Vec::new();
        for partition in 0..partitions {
            let mut from = 0;
            loop {
                let path = format!("/api/v1/telemetry?partition={partition}&from={from}&max=1000");
                let page = self.ask(Method::GET, &path, None).await?;
                for message in page.get("messages").and_then(Value::as_array).into_iter().flatten()
                {
                    all.push(logged(message)?);
                }
                let number = |name: &str| page.get(name).and_then(Value::as_u64);
                let next = number("next").context("next")?;
                if next >= number("end").context("end")? {
                    break;
                }
                ensure!(next > from || from == 0, "the cursor stands still at {next}");
                from = next;
            }
        }
        Ok(all)
    }

    /// What stands at `path`.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// Carries out `call`; gives the status of the answer, whatever it is.
    ///
    /// # Errors
    /// If no request can be made of it.
    pub async fn status(&self, call: Call) -> Result<StatusCode> {
        Ok(self.answer(call).await?.status())
    }

    /// Asks for anything; gives the answer's body.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let call = Call { method, path: path.to_owned(), if_match: None, body };
        let answer = self.answer(call).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
    }

    async fn answer(&self, call: Call) -> Result<Response<Body>> {
        let body = call.body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = Request::builder()
            .method(call.method)
            .uri(versioned(&call.path))
            .header("authorization", &self.token)
            .header("content-type", "application/json");
        if let Some(if_match) = call.if_match {
            request = request.header("if-match", if_match);
        }
        Ok(self.router.clone().oneshot(request.body(body)?).await?)
    }
}

/// A call of the service API.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is done.
    pub method: Method,
    /// To what.
    pub path: String,
    /// What is demanded of its etag.
    pub if_match: Option<&'static str>,
    /// With what.
    pub body: Option<Value>,
}

/// `path` with the version of the service API that calls under Azure's paths name.
fn versioned(path: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}api-version=2021-04-12")
}

/// Whether a device is an edge device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It runs modules.
    Yes,
    /// It only sends.
    No,
}

fn logged(message: &Value) -> Result<Logged> {
    let text = |name: &str| message.get(name).and_then(Value::as_str);
    let device = text("deviceId").context("deviceId")?;
    let sender =
        text("moduleId").map_or_else(|| device.to_owned(), |module| format!("{device}/{module}"));
    let life = message.pointer("/properties/life").and_then(Value::as_str);
    let enqueued = text("enqueuedTime").and_then(WallTime::parse_rfc3339);
    let number = text("body").context("body")?.parse()?;
    Ok(Logged {
        sender,
        number,
        fault: properties::fault_of_logged(message, number),
        life: life.map(str::parse).transpose()?,
        enqueued: enqueued.context("enqueuedTime")?,
    })
}
