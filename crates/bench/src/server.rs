//! The servers under load, started on free loopback ports in folders of their own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blackbox::edge::{Options, content, module};
use blackbox::{place, wait};
use credentials::certificate::{Authority, Validity};
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use model::secret::Secret;
use model::time::WallTime;
use net::network::Address;
use net::tls;
use serde_json::{Value, json};

use crate::device::{DEVICE, Device};
use crate::service::{Service, policy_key, register};

/// A server that is not ready by then is broken.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// A hub takes so long at most to learn of all modules that a device should have.
const MODULES_PATIENCE: Duration = Duration::from_mins(2);
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// What the router does with what its modules send: it stays on disk, for the module it is
/// meant for asks for nothing. Nothing goes to the hub.
pub(crate) const ROUTE: &str =
    "FROM /messages/modules/* INTO BrokeredEndpoint(\"/modules/bench-0/inputs/in\")";
/// More than any run sends.
const QUEUE: &str = "queue_bytes_max = 68719476736\n";

/// A running server and how to log in to it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: Address,
    pub(crate) tls: tls::Client,
    /// The name that its certificate shows.
    pub(crate) host: String,
    who: Who,
    /// Of the hub only.
    pub(crate) service: Option<Arc<Service>>,
    running: Running,
    folder: PathBuf,
}

/// As whom one logs in.
#[derive(Debug)]
enum Who {
    Anybody,
    Devices { host: String, password: Secret },
    Modules { host: String, passwords: Vec<Secret> },
}

/// What is ended with the server.
#[derive(Debug)]
enum Running {
    Process { child: Child, _folder: tempfile::TempDir },
    Device(Box<Device>),
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Process { child, .. } = self {
            // It may have ended by itself; then there is nothing to stop.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// How one client connects.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    pub(crate) client: String,
    pub(crate) user: String,
    pub(crate) password: Option<&'a [u8]>,
}

impl Server {
    /// The process that does the work.
    pub(crate) fn pid(&self) -> Result<u32> {
        match &self.running {
            Running::Process { child, .. } => Ok(child.id()),
            Running::Device(device) => device.edge.runtime(),
        }
    }

    /// Where its data lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How client `number` logs in.
    pub(crate) fn login(&self, number: usize) -> Result<Login<'_>> {
        let device = format!("bench-{number}");
        Ok(match &self.who {
            Who::Anybody => Login { user: "bench".to_owned(), client: device, password: None },
            Who::Devices { host, password } => Login {
                user: format!("{host}/{device}/?api-version=2021-04-12"),
                client: device,
                password: Some(password.expose()),
            },
            Who::Modules { host, passwords } => Login {
                user: format!("{host}/{DEVICE}/{device}/?api-version=2021-04-12"),
                client: format!("{DEVICE}/{device}"),
                password: Some(passwords.get(number).context("no such module")?.expose()),
            },
        })
    }

    /// Where client `number` publishes.
    pub(crate) fn topic(&self, number: usize) -> String {
        match self.who {
            Who::Anybody | Who::Devices { .. } => {
                format!("devices/bench-{number}/messages/events/")
            }
            Who::Modules { .. } => {
                format!("devices/{DEVICE}/modules/bench-{number}/messages/events/")
            }
        }
    }

    /// A hub with `devices` registered devices, `bench-0` and on.
    pub(crate) async fn hub(devices: usize) -> Result<Self> {
        Self::hub_in(tempfile::tempdir()?, READY_PATIENCE, devices).await
    }

    /// The same on what lies in `folder` already; it may take `patience` to be ready.
    pub(crate) async fn hub_in(
        folder: tempfile::TempDir,
        patience: Duration,
        devices: usize,
    ) -> Result<Self> {
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(place::binary("selvedge")?)
            .arg("--data")
            .arg(folder.path())
            .args(["hub", "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting selvedge hub")?;
        let data = folder.path().join("hub");
        let path = folder.path().to_owned();
        let running = Running::Process { child, _folder: folder };
        wait::until("the hub", patience, || {
            let text = fs::read(data.join("endpoint.json")).unwrap_or_default();
            Ok(serde_json::from_slice::<Value>(&text).ok().map(drop))
        })?;
        let service = Arc::new(Service::of(&data)?);
        register(&service, devices).await?;
        let key = policy_key(&data, "device")?;
        let password = SasToken::sign(&service.host, Some("device"), in_a_day(), &key);
        Ok(Self {
            name: "selvedge hub",
            address: service.mqtt.clone(),
            tls: service.tls.clone(),
            host: service.name().to_owned(),
            who: Who::Devices { host: service.host.clone(), password },
            service: Some(service),
            running,
            folder: path,
        })
    }

    /// A device's router with `modules` modules that may send, `bench-0` and on; they exist in
    /// its deployment, but it runs none of them: this program speaks in their names.
    pub(crate) async fn router(modules: usize) -> Result<Self> {
        let options = Options { engine: "process", settings: QUEUE, ..Options::default() };
        let device = Device::start(Options {
            programs: vec![("bench".to_owned(), PathBuf::from("/bin/false"))],
            ..options
        })?;
        let mut one = module("bench", &json!({}), &[]);
        if let Some(status) = one.get_mut("status") {
            *status = json!("stopped");
        }
        let all = (0..modules).map(|number| (format!("bench-{number}"), one.clone()));
        let all = Value::Object(all.collect());
        device.service.apply(DEVICE, &content(&all, &json!({ "local": ROUTE }))).await?;
        let edge = &device.edge;
        wait::until("the modules", MODULES_PATIENCE, || {
            Ok((device.modules()?.len() >= modules && device.routes()?).then_some(()))
        })?;
        let host = device.service.name().to_owned();
        let mut passwords = Vec::new();
        for number in 0..modules {
            let path = format!("/devices/{DEVICE}/modules/bench-{number}?api-version=2021-04-12");
            let found = device.service.get(&path).await?;
            let key = found.pointer("/authentication/symmetricKey/primaryKey");
            let key = SymmetricKey::parse(key.and_then(Value::as_str).context("no key")?)?;
            let resource = format!("{host}/devices/{DEVICE}/modules/bench-{number}");
            passwords.push(SasToken::sign(&resource, None, in_a_day(), &key));
        }
        let folder = edge.folder().to_owned();
        let authority = fs::read_to_string(folder.join("keys/edge-ca.pem"))?;
        let address = edge.address().to_string();
        Ok(Self {
            name: "selvedge router",
            address: Address::Tcp(address.as_str().into(), place::MQTT_PORT),
            tls: tls::Client::trusting(&authority)?,
            host: address,
            who: Who::Modules { host, passwords },
            service: None,
            running: Running::Device(Box::new(device)),
            folder,
        })
    }

    /// mosquitto with TLS and persistence, its other settings as they come.
    pub(crate) fn mosquitto() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let world = net::world::system(tokio::runtime::Handle::current());
        let validity = Validity { now: world.now().wall, life: DAY, serial: world.random.number() };
        let authority = Authority::generate("bench", validity)?;
        let issued = authority.issue_server("localhost", &["localhost", "127.0.0.1"], validity)?;
        let path = folder.path().to_owned();
        fs::write(path.join("cert.pem"), issued.chain_pem.as_bytes())?;
        fs::write(path.join("key.pem"), issued.key_pem.expose())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let settings = mosquitto_settings(port, &path.display().to_string());
        fs::write(path.join("mosquitto.conf"), settings)?;
        // It speaks of every connection that ends without a word.
        let log = File::create(path.join("log"))?;
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(path.join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting mosquitto (Debian package mosquitto)")?;
        let mut running = Running::Process { child, _folder: folder };
        wait::until("mosquitto", READY_PATIENCE, || {
            if let Running::Process { child, .. } = &mut running {
                let ended = child.try_wait()?;
                ensure!(ended.is_none(), "mosquitto ended with {ended:?}");
            }
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })?;
        Ok(Self {
            name: "mosquitto",
            address: Address::Tcp("127.0.0.1".into(), port),
            tls: tls::Client::trusting(authority.to_pem())?,
            host: "localhost".to_owned(),
            who: Who::Anybody,
            service: None,
            running,
            folder: path,
        })
    }
}

/// The peer's configuration, which the report prints as well.
pub(crate) fn mosquitto_settings(port: u16, folder: &str) -> String {
    format!(
        "user root\nlistener {port} 127.0.0.1\ncertfile {folder}/cert.pem\n\
         keyfile {folder}/key.pem\nallow_anonymous true\nset_tcp_nodelay true\n\
         persistence true\npersistence_location {folder}/\nlog_type error\n\
         max_inflight_messages 0\n"
    )
}

fn in_a_day() -> WallTime {
    let world = net::world::system(tokio::runtime::Handle::current());
    world.now().wall.after(DAY)
}
