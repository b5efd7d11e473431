//! The hub as a whole: real tables, a real journal, virtual time.

mod conformance;
mod console;
mod disk;
mod durability;
mod fleet;
mod hostile;
mod limits;
mod live;
mod messages;
mod operators;
mod outward;
mod quota;
mod reference;
mod service;
mod stock;
mod stream;
mod threads;
mod twins;
mod two_lives;

use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use http::{Request, StatusCode};
use journal::disk::Disk;
use journal::disk::file::FileDisk;
use model::id::IdentityId;
use model::secret::Secret;
use model::waist::{Claim, DeviceApi};
use model::world::World;
use serde_json::Value;
use tempfile::TempDir;
use testkit::world::Host;
use tower::ServiceExt as _;

use crate::{CommitFaults, Hub, Settings};

const NAME: &str = "hub.test";

/// A folder that outlives hubs.
pub(crate) struct Machine {
    folder: TempDir,
    /// What a test still holds of a hub that was killed shares its folder with the next; a real
    /// process would hold nothing.
    disk: Mutex<Weak<FileDisk>>,
}

/// A hub that runs on a simulated host.
pub(crate) struct Running {
    pub(crate) hub: Hub,
    /// None on real threads.
    pub(crate) host: Option<Host>,
    pub(crate) world: World,
    pub(crate) api: Arc<dyn DeviceApi>,
    pub(crate) service: Router,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), disk: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(&self, seed: u64) -> Running {
        self.start_with(seed, |_| {})
    }

    pub(crate) fn start_faulty(&self, seed: u64, faults: Arc<dyn CommitFaults>) -> Running {
        self.start_with(seed, |settings| settings.faults = faults)
    }

    pub(crate) fn start_with(&self, seed: u64, change: impl FnOnce(&mut Settings)) -> Running {
        let mut held = self.disk.lock().unwrap();
        let fresh = || Arc::new(FileDisk::open(self.path().join("telemetry")).unwrap());
        let disk = held.upgrade().unwrap_or_else(fresh);
        *held = Arc::downgrade(&disk);
        drop(held);
        self.start_on(seed, disk, change)
    }

    pub(crate) fn start_on(
        &self,
        seed: u64,
        disk: Arc<dyn Disk>,
        change: impl FnOnce(&mut Settings),
    ) -> Running {
        let host = Host::new(seed);
        let mut settings = Settings::new(self.path(), NAME);
        change(&mut settings);
        let hub = Hub::open(settings, host.world(), disk).unwrap();
        let (api, service) = (hub.device_api(), hub.service());
        Running { hub, world: host.world(), host: Some(host), api, service }
    }
}

/// A token over `resource`.
pub(crate) fn token(
    world: &World,
    resource: &str,
    policy: Option<&str>,
    key: &Secret,
    lifetime: Duration,
) -> Secret {
    let key = SymmetricKey::parse(key.expose_str().unwrap()).unwrap();
    SasToken::sign(resource, policy, world.now().wall.after(lifetime), &key)
}

/// The resource that `identity` signs.
pub(crate) fn resource(identity: &IdentityId) -> String {
    match identity.module_str() {
        None => format!("{NAME}/devices/{}", identity.device_str()),
        Some(module) => format!("{NAME}/devices/{}/modules/{module}", identity.device_str()),
    }
}

/// `path` with a version of the service API, which our own paths need not name.
pub(crate) fn versioned(path: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    let is_enough = path.starts_with("/api/") || path.contains("api-version=");
    if is_enough { path.to_owned() } else { format!("{path}{joint}api-version=2021-04-12") }
}

impl Running {
    /// The power goes.
    pub(crate) async fn kill(self) {
        self.host.unwrap().kill();
        // Aborted tasks are dropped when the runtime comes to them.
        Host::sleep(Duration::from_millis(1)).await;
    }

    pub(crate) fn world(&self) -> World {
        self.world.clone()
    }

    /// Calls the service as `policy`; an empty answer reads as null.
    pub(crate) async fn call_as(
        &self,
        policy: &str,
        (method, path): (&str, &str),
        if_match: Option<&str>,
        body: Value,
    ) -> (StatusCode, Value) {
        let key = self.hub.policy_key(policy).unwrap();
        let token = token(&self.world(), NAME, Some(policy), &key, Duration::from_hours(1));
        self.call_with(&token, (method, path), if_match, body).await
    }

    pub(crate) async fn call_with(
        &self,
        token: &Secret,
        (method, path): (&str, &str),
        if_match: Option<&str>,
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{NAME}{}", versioned(path)))
            .header("authorization", token.expose_str().unwrap());
        if let Some(etag) = if_match {
            request = request.header("if-match", etag);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.service.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let value =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        (status, value)
    }

    /// Calls the service as its owner.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.call_as("iothubowner", (method, path), None, body).await
    }

    /// Makes a device and gives a claim for it.
    pub(crate) async fn device(&self, name: &str) -> Claim {
        let (status, made) =
            self.call("PUT", &format!("/devices/{name}"), serde_json::json!({})).await;
        assert_eq!(status, StatusCode::OK, "{made}");
        let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
        let identity: IdentityId = name.parse().unwrap();
        let lifetime = Duration::from_hours(1);
        let token = token(&self.world(), &resource(&identity), None, &key.into(), lifetime);
        Claim::Sas { identity, token }
    }
}
