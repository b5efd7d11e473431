//! `selvedge hub`: the hub as a process.

mod certificates;

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::health::{DescriptorTotals, Listening};
use credentials::certificate::client_verifier;
use credentials::connection_string::ConnectionString;
use credentials::host;
use hub::{Hub, Settings};
use journal::disk::file::FileDisk;
use model::world::World;
use net::descriptors::Budget;
use net::http::{HTTP_CONNECTIONS_MAX, HttpServer, RequestPeer};
use net::limits::Watch;
use net::mqtt::{MQTT_CONNECTIONS_MAX, MqttServer};
use net::network::{Address, Network, Peer, SystemNetwork};
use net::tls;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use self::certificates::Certificates;
use crate::cli::{HubArgs, PlaceArgs};
use crate::failure::{Failure, chain};
use crate::place::{self, Endpoint};
use crate::terminal::Terminal;

/// What every console begins with.
const PAGE: &str = "index.html";
/// The policy of whoever starts the hub.
const POLICY: &str = "iothubowner";
/// How long connections may take to end at shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that no listener uses: the tables and their readers, the journal, the listeners
/// themselves, and what the process opens now and then.
const RESERVED_DESCRIPTORS: usize = 96;
/// One of so many parts of the seats is for the service API and the console.
const HTTPS_PARTS: usize = 4;

pub(crate) async fn run(
    place: &PlaceArgs,
    args: HubArgs,
    terminal: &Terminal,
) -> Result<(), Failure> {
    start_log();
    let folder = place::hub_folder(&place::data_folder(place)?);
    fs::create_dir_all(&folder).map_err(|e| cannot("make", &folder, &e))?;
    let _lock = lock(&folder)?;
    let world = net::world::system(tokio::runtime::Handle::current());
    let running = Running::start(&folder, &args, &world).await?;
    let endpoint = &running.endpoint;
    terminal.say(&format!(
        "hub {} is ready\n  MQTT over TLS  {}\n  HTTPS          {}\n  credentials    {}",
        endpoint.host,
        endpoint.mqtt,
        endpoint.https,
        folder.join("owner.connection").display(),
    ));
    running.say_link(terminal);
    stop_asked().await?;
    terminal.say("stopping; what was acknowledged is on disk");
    running.stop().await;
    Ok(())
}

/// A hub with its listeners.
pub(crate) struct Running {
    hub: Hub,
    mqtt: MqttServer,
    https: HttpServer,
    pub(crate) endpoint: Endpoint,
}

impl Running {
    pub(crate) async fn start(
        folder: &Path,
        args: &HubArgs,
        world: &World,
    ) -> Result<Self, Failure> {
        if let Some(console) = args.console_dir.as_deref().filter(|at| !at.join(PAGE).is_file()) {
            let words = format!("--console-dir: there is no {PAGE} in {}", console.display());
            return Err(Failure::usage(words));
        }
        // Before the first file is opened.
        let mut descriptors = Budget::raise(RESERVED_DESCRIPTORS)
            .map_err(|e| Failure::failed(format!("cannot set the limit of open files: {e}")))?;
        let names = host_names(args)?;
        let host = names.first().cloned().unwrap_or_default();
        let certificates = Certificates::open(folder, &names, world)?;
        let tls = tls::Server::new(certificates.shown(), client_verifier())
            .map_err(|error| Failure::failed(format!("TLS: {}", chain(&error))))?;
        let mut settings = Settings::new(folder, host.clone());
        settings.hosts = names;
        settings.console_folder.clone_from(&args.console_dir);
        settings.telemetry.age = Duration::from_hours(args.retention_hours.into());
        settings.telemetry.bytes = args.retention_mib.saturating_mul(1024 * 1024);
        let disk = FileDisk::open(folder.join("telemetry"))
            .map_err(|e| cannot("use", &folder.join("telemetry"), &e))?;
        let hub = Hub::open(settings, world.clone(), Arc::new(disk))
            .map_err(|error| Failure::failed(format!("the hub cannot start: {}", chain(&error))))?;
        let mqtt = listen(args.mqtt.into(), "--mqtt").await?;
        let https = listen(args.https.into(), "--https").await?;
        let endpoint = Endpoint {
            https: https.address().to_string(),
            mqtt: mqtt.address().to_string(),
            host,
            pid: std::process::id(),
        };
        publish(folder, &endpoint, &hub)?;
        let (api, service) = (hub.device_api(), hub.service_over_tls(peer_of));
        let api_seats = descriptors.share(HTTPS_PARTS, HTTP_CONNECTIONS_MAX);
        let seats = descriptors.share(1, MQTT_CONNECTIONS_MAX);
        let mqtt = MqttServer::start_within(seats, mqtt, Some(tls.clone()), api, world);
        let https = HttpServer::start_within(api_seats, https, Some(tls), service, world);
        show_listeners(&hub, descriptors.totals(), mqtt.watch(), https.watch());
        world.spawn(certificates.keep());
        info!(mqtt = endpoint.mqtt, https = endpoint.https, "hub ready");
        Ok(Self { hub, mqtt, https, endpoint })
    }

    /// Prints a link that opens the console once, to a person: what a service manager keeps in
    /// its log, others may read.
    pub(crate) fn say_link(&self, terminal: &Terminal) {
        if !terminal.is_read_by_a_person() {
            terminal.say("console: `selvedge console` prints a link that opens it");
            return;
        }
        let Some(link) = self.hub.sign_in_link(POLICY) else { return };
        let base = console_base(&self.endpoint.host, &self.endpoint.https);
        let path = link.path.expose_str().unwrap_or_default();
        terminal.say(&format!("console {base}{path}\n  works once, until {}", link.expires));
    }

    pub(crate) async fn stop(self) {
        self.hub.end_streams();
        tokio::join!(
            self.mqtt.shut_down(SHUTDOWN_PATIENCE),
            self.https.shut_down(SHUTDOWN_PATIENCE)
        );
        self.hub.close().await;
        info!(
            connections = self.mqtt.accepted(),
            subscribes = self.mqtt.subscribes(),
            "hub stopped"
        );
    }
}

/// Tells in the log what listeners may hold, and lets health tell what they hold and count.
fn show_listeners(hub: &Hub, descriptors: DescriptorTotals, mqtt: Watch, https: Watch) {
    let look = move || Listening {
        descriptors,
        listeners: vec![mqtt.totals("mqtt"), https.totals("https")],
    };
    let now = look();
    info!(descriptors = now.descriptors.limit, reserve = now.descriptors.reserve, "open files");
    for one in now.listeners {
        info!(listener = one.name, seats = one.seats, unproven = one.unproven_seats, "seats");
    }
    hub.show_listeners(look);
}

/// Where a browser finds the hub: its name, so that the certificate fits, and the port.
pub(crate) fn console_base(host: &str, https: &str) -> String {
    let port = https.rsplit_once(':').map_or("443", |(_, port)| port);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("https://{host}:{port}")
}

fn peer_of(extensions: &http::Extensions) -> Option<IpAddr> {
    match extensions.get::<RequestPeer>()?.0 {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix { .. } | Peer::Memory => None,
    }
}

pub(crate) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second call in one process keeps the first subscriber.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init().ok();
}

async fn listen(address: Address, flag: &str) -> Result<Box<dyn net::network::Incoming>, Failure> {
    SystemNetwork.listen(&address).await.map_err(|error| {
        Failure::failed(format!("cannot listen at {address}: {error}"))
            .with_help(format!("give another address with {flag} ADDR; port 0 takes a free one"))
    })
}

/// Takes the folder for this process, or says who has it.
pub(crate) fn lock(folder: &Path) -> Result<nix::fcntl::Flock<File>, Failure> {
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| cannot("open", &path, &e))?;
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
    if let Ok(mut held) = held {
        // Only for people; the lock itself is the kernel's.
        held.set_len(0).and_then(|()| writeln!(held, "{}", std::process::id())).ok();
        return Ok(held);
    }
    let holder = fs::read_to_string(&path).unwrap_or_default();
    let holder = holder.trim();
    Err(Failure::failed(format!("process {holder} already runs a hub in {}", folder.display()))
        .with_help("stop it first, or give another folder with --data DIR"))
}

/// The names by which this hub is reached, its own first: tokens may carry them, and its
/// certificates do.
fn host_names(args: &HubArgs) -> Result<Vec<String>, Failure> {
    let mut names: Vec<String> = Vec::new();
    let local = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let listening = [args.mqtt.ip(), args.https.ip()].map(|ip| ip.to_string());
    for name in args.hosts.iter().chain(&local).chain(&listening) {
        let (name, port) = host::split(name);
        if port.is_some() {
            return Err(Failure::usage(format!("--host {name}: a name without its port")));
        }
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Leaves what clients on this machine need beside the data.
fn publish(folder: &Path, endpoint: &Endpoint, hub: &Hub) -> Result<(), Failure> {
    let owner = ConnectionString {
        host_name: endpoint.host.clone(),
        policy: Some(POLICY.to_owned()),
        key: hub.policy_key(POLICY),
        ..ConnectionString::default()
    };
    write(&folder.join("owner.connection"), owner.to_text().expose(), 0o600)?;
    let text = serde_json::to_vec_pretty(endpoint)
        .map_err(|error| Failure::failed(format!("endpoint.json: {error}")))?;
    write(&folder.join("endpoint.json"), &text, 0o644)
}

/// Writes a file whole or not at all.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
    let fresh = path.with_extension("new");
    let written = (|| {
        // A leftover of a killed process may have other rights.
        fs::remove_file(&fresh).ok();
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    written.map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

pub(crate) async fn stop_asked() -> Result<(), Failure> {
    let failed = |error| Failure::failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn one_list_of_names_serves_tokens_and_certificates() {
        let check = |typed: &[&str], expected: Result<&[&str], &str>| {
            let line = ["selvedge", "hub"].iter().chain(typed);
            let Command::Hub(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
            match (host_names(&args), expected) {
                (Ok(names), Ok(expected)) => assert_eq!(names, expected, "{typed:?}"),
                (Err(failure), Err(words)) => {
                    assert!(failure.to_string().contains(words), "{failure}");
                }
                (found, _) => panic!("{typed:?}: {:?}", found.err().map(|f| f.to_string())),
            }
        };
        check(&[], Ok(&["localhost", "127.0.0.1"]));
        check(&["--host", "Hub.test"], Ok(&["hub.test", "localhost", "127.0.0.1"]));
        check(
            &["--host", "a.test", "--host", "b.test", "--mqtt", "10.0.0.9:8883"],
            Ok(&["a.test", "b.test", "localhost", "127.0.0.1", "10.0.0.9"]),
        );
        check(&["--host", "[::1]"], Ok(&["::1", "localhost", "127.0.0.1"]));
        check(&["--host", "a.test:8883"], Err("without its port"));
    }
}
