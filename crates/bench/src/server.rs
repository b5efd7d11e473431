//! The servers under load, started on free loopback ports in folders of their own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use credentials::certificate::{Authority, Validity};
use credentials::connection_string::ConnectionString;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use http::Request;
use http_body_util::Full;
use model::secret::Secret;
use model::time::WallTime;
use model::world::World;
use net::http_client::HttpClient;
use net::network::{Address, SystemNetwork};
use net::tls;
use serde_json::{Value, json};

use crate::clock;

/// A server that is not ready by then is broken.
const READY_PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_hours(24);

/// A running server and how to log in to it.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: Address,
    pub(crate) tls: tls::Client,
    host: String,
    password: Option<Secret>,
    service: Option<(Address, Secret)>,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the service API is, and a token of its owner.
    pub(crate) fn service(&self) -> Option<(Address, Secret)> {
        self.service.clone()
    }

    /// User name and password of `device`.
    pub(crate) fn login(&self, device: &str) -> (String, Option<&[u8]>) {
        let user = format!("{}/{device}/?api-version=2021-04-12", self.host);
        (user, self.password.as_ref().map(Secret::expose))
    }

    /// A hub with `devices` registered devices, `bench-0` and on.
    pub(crate) async fn selvedge(devices: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let binary = PathBuf::from(std::env::var_os("SELVEDGE_BIN").context("SELVEDGE_BIN")?);
        let child = Command::new(binary.join("selvedge"))
            .arg("--data")
            .arg(folder.path())
            .args(["hub", "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stderr(
                std::env::var_os("BENCH_LOG")
                    .and_then(|file| fs::File::create(file).ok())
                    .map_or_else(Stdio::null, Stdio::from),
            )
            .spawn()
            .context("starting selvedge hub")?;
        let hub = folder.path().join("hub");
        let endpoint: Value =
            wait_for(|| serde_json::from_slice(&fs::read(hub.join("endpoint.json")).ok()?).ok())
                .await?;
        let text = |name: &str| endpoint.get(name).and_then(Value::as_str).unwrap_or_default();
        let tls = tls::Client::trusting(&fs::read_to_string(hub.join("ca.pem"))?)?;
        let owner = ConnectionString::parse(&fs::read_to_string(hub.join("owner.connection"))?)?;
        let key = owner.key.as_ref().and_then(Secret::expose_str).unwrap_or_default();
        let world = net::world::system(tokio::runtime::Handle::current());
        let expiry = world.now().wall.after(DAY);
        let key = SymmetricKey::parse(key)?;
        let token = SasToken::sign(&owner.host_name, owner.policy.as_deref(), expiry, &key);
        let https = address(text("https"))?;
        register(https.clone(), &tls, &world, &token, devices).await?;
        let device_key = policy_key(&hub, "device")?;
        let password = SasToken::sign(&owner.host_name, Some("device"), expiry, &device_key);
        Ok(Self {
            name: "selvedge",
            address: address(text("mqtt"))?,
            tls,
            host: owner.host_name,
            password: Some(password),
            service: Some((https, token)),
            child,
            _folder: folder,
        })
    }

    /// mosquitto with TLS and persistence, its other settings as they come.
    pub(crate) async fn mosquitto() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let world = net::world::system(tokio::runtime::Handle::current());
        let now: WallTime = world.now().wall;
        let validity = Validity { now, life: DAY, serial: world.random.number() };
        let authority = Authority::generate("bench", validity)?;
        let issued = authority.issue_server("localhost", &["localhost", "127.0.0.1"], validity)?;
        let file = |name: &str, content: &[u8]| -> Result<PathBuf> {
            let path = folder.path().join(name);
            fs::write(&path, content)?;
            Ok(path)
        };
        let chain = file("cert.pem", issued.chain_pem.as_bytes())?;
        let key = file("key.pem", issued.key_pem.expose())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = format!(
            "user root\nlistener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\nallow_anonymous true\n\
             set_tcp_nodelay true\npersistence true\npersistence_location {}/\nlog_type error\n\
             max_inflight_messages 0\n",
            chain.display(),
            key.display(),
            folder.path().display(),
        );
        let settings = file("mosquitto.conf", settings.as_bytes())?;
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&settings)
            .stdin(Stdio::null())
            .spawn()
            .context("starting mosquitto (Debian package mosquitto)")?;
        wait_for(|| std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await?;
        Ok(Self {
            name: "mosquitto",
            address: Address::Tcp("127.0.0.1".into(), port),
            tls: tls::Client::trusting(authority.to_pem())?,
            host: "localhost".to_owned(),
            password: None,
            service: None,
            child,
            _folder: folder,
        })
    }
}

async fn register(
    https: Address,
    tls: &tls::Client,
    world: &World,
    token: &Secret,
    devices: usize,
) -> Result<()> {
    let tls = Some((tls.clone(), "localhost".into()));
    let client = HttpClient::new(Arc::new(SystemNetwork), world.clone(), https, tls);
    for number in 0..devices {
        let device = format!("bench-{number}");
        let body = serde_json::to_vec(&json!({ "deviceId": device }))?;
        let request = Request::put(format!("/devices/{device}?api-version=2021-04-12"))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", token.expose_str().unwrap_or_default())
            .body(Full::new(Bytes::from(body)))?;
        let answer = client.send(request, READY_PATIENCE).await?;
        ensure!(answer.status().is_success(), "registering {device}: {}", answer.status());
    }
    Ok(())
}

fn policy_key(hub: &Path, policy: &str) -> Result<SymmetricKey> {
    let policies: Value = serde_json::from_slice(&fs::read(hub.join("policies.json"))?)?;
    let key = policies.pointer(&format!("/policies/{policy}")).and_then(Value::as_str);
    Ok(SymmetricKey::parse(key.context("policies.json names no device policy")?)?)
}

fn address(text: &str) -> Result<Address> {
    let (host, port) = text.rsplit_once(':').context("no port in the address")?;
    Ok(Address::Tcp(host.into(), port.parse()?))
}

async fn wait_for<T>(mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let start = clock::now();
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if start.elapsed() > READY_PATIENCE {
            bail!("a server was not ready within {READY_PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
