//! The hub's service API, asked as its owner.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use credentials::connection_string::ConnectionString;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Incoming;
use model::secret::Secret;
use net::http_client::{HttpClient, read_whole};
use net::network::{Address, SystemNetwork};
use net::tls;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::server::DAY;

/// An answer that takes longer is a broken server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Devices that are being registered at once; the hub commits them together.
const REGISTERING_MAX: usize = 16;

/// A hub's service API.
#[derive(Debug)]
pub(crate) struct Service {
    client: HttpClient,
    pub(crate) host: String,
    token: Secret,
    pub(crate) tls: tls::Client,
    pub(crate) mqtt: Address,
}

impl Service {
    /// That of the hub which keeps its state in `folder` and has published its addresses.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let endpoint: Value = serde_json::from_slice(&fs::read(folder.join("endpoint.json"))?)?;
        let text = |name: &str| endpoint.get(name).and_then(Value::as_str).unwrap_or_default();
        let tls = tls::Client::trusting(&fs::read_to_string(folder.join("ca.pem"))?)?;
        let owner = fs::read_to_string(folder.join("owner.connection"))?;
        let owner = ConnectionString::parse(owner.trim())?;
        let world = net::world::system(tokio::runtime::Handle::current());
        let expiry = world.now().wall.after(DAY);
        let key = owner.key.as_ref().and_then(Secret::expose_str).unwrap_or_default();
        let key = SymmetricKey::parse(key)?;
        let token = SasToken::sign(&owner.host_name, owner.policy.as_deref(), expiry, &key);
        let host = owner.host_name.split(':').next().unwrap_or_default().to_owned();
        let shown = Some((tls.clone(), host.as_str().into()));
        let client =
            HttpClient::new(Arc::new(SystemNetwork), world, address(text("https"))?, shown);
        Ok(Self { client, host: owner.host_name, token, tls, mqtt: address(text("mqtt"))? })
    }

    /// The name that the hub's certificate shows.
    pub(crate) fn name(&self) -> &str {
        self.host.split(':').next().unwrap_or_default()
    }

    /// Asks, with `body` as JSON; the answer must be a success.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Incoming> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.name())
            .header("content-type", "application/json")
            .header("authorization", self.token.expose_str().unwrap_or_default())
            .body(Full::new(Bytes::from(body)))?;
        let answer = self.client.send(request, PATIENCE).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let words = read_whole(answer.into_body(), PATIENCE).await.unwrap_or_default();
        anyhow::bail!("{path}: {status} {}", String::from_utf8_lossy(&words))
    }

    /// The whole answer to a GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let body = self.ask(Method::GET, path, None).await?;
        Ok(serde_json::from_slice(&read_whole(body, PATIENCE).await?)?)
    }

    /// Makes `content` what `device` should run.
    pub(crate) async fn apply(&self, device: &str, content: &Value) -> Result<()> {
        let path = format!("/devices/{device}/applyConfigurationContent?api-version=2021-04-12");
        self.ask(Method::POST, &path, Some(content)).await.map(drop)
    }
}

/// Registers `devices` devices, `bench-0` and on.
pub(crate) async fn register(service: &Arc<Service>, devices: usize) -> Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..devices {
        if tasks.len() >= REGISTERING_MAX {
            tasks.join_next().await.context("a task")???;
        }
        let service = Arc::clone(service);
        tasks.spawn(async move {
            let device = format!("bench-{number}");
            let path = format!("/devices/{device}?api-version=2021-04-12");
            let body = json!({ "deviceId": device });
            service.ask(Method::PUT, &path, Some(&body)).await.map(drop)
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// The key of `policy` of the hub in `folder`.
pub(crate) fn policy_key(folder: &Path, policy: &str) -> Result<SymmetricKey> {
    let policies: Value = serde_json::from_slice(&fs::read(folder.join("policies.json"))?)?;
    let key = policies.pointer(&format!("/policies/{policy}")).and_then(Value::as_str);
    Ok(SymmetricKey::parse(key.context("policies.json names no such policy")?)?)
}

/// `HOST:PORT` as an address.
pub(crate) fn address(text: &str) -> Result<Address> {
    let (host, port) = text.rsplit_once(':').context("no port in the address")?;
    ensure!(!host.is_empty(), "no host in the address");
    Ok(Address::Tcp(host.into(), port.parse()?))
}
