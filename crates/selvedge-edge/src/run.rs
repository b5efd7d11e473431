//! The runtime: opens everything, joins it, waits for a signal, closes in order.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::health::{DescriptorTotals, Listening};
use bytes::Bytes;
use credentials::certificate::client_verifier;
use credentials::renewal::{CERTIFICATE, Lifetime, Renewal, renewal};
use edge::settings::{EngineKind, Settings};
use edge::shell::{Edge, Parts, RsaCertificates};
use engine::backend::Offloaded;
use engine::process::ProcessEngine;
use engine::runtime::{ImageArchive, ModuleRuntime};
use journal::disk::file::FileDisk;
use model::commit::NoFaults;
use model::time::WallTime;
use model::waist::DeviceApi;
use model::world::World;
use net::client::{MqttClient, Target};
use net::descriptors::Budget;
use net::http::HttpServer;
use net::limits::{SeatLimits, Watch};
use net::mqtt::{MQTT_CONNECTIONS_MAX, MqttServer};
use net::network::{Address, Incoming, Network, SystemNetwork};
use net::tls::{self, RsaIsComing, ServerCertificate};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::helper::Helper;
use crate::sockets::{Doors, listen, set_mode};
use crate::user::{Names, User};
use crate::{Engine, RunArgs, RuntimeArgs, folder, privilege};

/// How long connections may take to end at shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors that no listener uses: the store, the journal, the links to the hub, the calls of
/// the engine helper, the listeners themselves, and what the process opens now and then.
const RESERVED_DESCRIPTORS: usize = 96;
/// One of so many parts of the seats is for the management socket, and most of them.
const MANAGEMENT_PARTS: usize = 8;
const MANAGEMENT_CONNECTIONS_MAX: usize = 64;
/// The same for the workload socket of each module; a module that takes more than its share
/// takes it from itself.
const WORKLOAD_PARTS: usize = 32;
const WORKLOAD_CONNECTIONS_MAX: usize = 64;
/// What every user of the process engine must read.
const BANNER: &str = "\
*** DEVELOPMENT ONLY: the process engine ***
*** Modules run as plain processes of this user: no isolation, no limits. ***
*** They stop when this program is told to stop. ***";
/// Who may use the management socket when a group is named, and when none is.
const MANAGEMENT_GROUP_MODE: u32 = 0o660;
const MANAGEMENT_MODE: u32 = 0o600;
/// Where SDKs of modules dial the router; they know no other port.
const ROUTER_PORT: u16 = 8883;
/// Where others learn the addresses in use, in the data folder.
const ADDRESSES: &str = "edge.json";

/// The runtime as the user that started it, with modules as plain processes.
pub(crate) async fn as_started(args: &RunArgs, settings: Settings) -> Result<()> {
    if settings.own.user.is_some() {
        bail!(
            "[selvedge] user: the process engine runs everything as the user that starts it; \
             leave the line out, or use engine = \"embedded\""
        );
    }
    let data = &settings.own.data;
    set_mode(data, 0o700).with_context(|| format!("cannot protect {}", data.display()))?;
    let _lock = folder::lock(data)?;
    crate::failure::say(BANNER);
    let world = net::world::system(tokio::runtime::Handle::current());
    let programs = args.programs.iter().cloned().collect();
    let engine = ProcessEngine::open(&folder::engine(data), programs, world.clone())
        .context("the process engine does not start")?;
    let runtime = Arc::new(Offloaded::new(Arc::new(engine), world.clone()));
    serve_device(args, settings, runtime, world, None).await
}

/// Reads what only root can read, and becomes the unprivileged user for good.
pub(crate) fn give_up_root(args: &RuntimeArgs) -> Result<Settings> {
    let mut settings = read_settings(&args.run)?;
    folder::take_given(&mut settings);
    let user = User { uid: args.uid, gid: args.gid };
    let data = &settings.own.data;
    privilege::open_way(data, user)
        .with_context(|| format!("cannot make {} reachable", data.display()))?;
    privilege::drop_to(user, args.group).context("cannot give up root")?;
    privilege::end_with(args.launcher)?;
    Ok(settings)
}

/// The runtime as an unprivileged user, with modules in containers.
pub(crate) async fn under_launcher(args: &RuntimeArgs, settings: Settings) -> Result<()> {
    let world = net::world::system(tokio::runtime::Handle::current());
    let helper = Helper::at(folder::helper_socket(&settings.own.data), &world);
    serve_device(&args.run, settings, helper, world, Some(args.launcher)).await
}

async fn serve_device(
    args: &RunArgs,
    settings: Settings,
    runtime: Arc<dyn ModuleRuntime>,
    world: World,
    launcher: Option<u32>,
) -> Result<()> {
    for notice in &settings.notices {
        warn!(notice, "config.toml");
    }
    // Before anybody is told that this process is there.
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Before the first file is opened.
    let mut descriptors =
        Budget::raise(RESERVED_DESCRIPTORS).context("cannot set the limit of open files")?;
    let seats = Seats::of(&mut descriptors);
    let data = settings.own.data.clone();
    let network: Arc<dyn Network> = Arc::new(SystemNetwork);
    let upstream = upstream(&settings, &network, &world)?;
    import(args, &*runtime).await?;
    let messages = data.join("messages");
    let disk =
        FileDisk::open(&messages).with_context(|| format!("cannot use {}", messages.display()))?;
    let doors = Arc::new(Doors::new(Arc::clone(&network), world.clone(), seats.workload));
    let edge = Edge::start(Parts {
        settings: settings.clone(),
        folder: data.clone(),
        disk: Arc::new(disk),
        world: world.clone(),
        upstream,
        runtime: Arc::clone(&runtime),
        sockets: Arc::<Doors>::clone(&doors),
        faults: Arc::new(NoFaults),
    })
    .await
    .context("the runtime does not start")?;
    let listeners = Listeners::start(&edge, &settings, &network, &world, seats).await?;
    show_listeners(&edge, descriptors.totals(), &listeners, doors);
    publish(&data, &listeners.mqtt_addresses, &settings.listen.management, launcher)?;
    for mqtt in &listeners.mqtt_addresses {
        info!(%mqtt, "the router listens");
    }
    info!("selvedge-edge is ready");
    until_stopped(&edge, &listeners, &world, signals).await?;
    info!("stopping");
    if args.stop_modules || settings.own.engine == EngineKind::Process {
        // While the router still answers: modules have last words, and wait for their answer.
        edge.stop_modules().await;
    }
    listeners.stop().await;
    edge.close().await;
    Ok(())
}

/// Reads the configuration and makes its data folder, whose true path the settings then hold.
pub(crate) fn read_settings(args: &RunArgs) -> Result<Settings> {
    let text = fs::read_to_string(&args.config)
        .with_context(|| format!("cannot read {}", args.config.display()))?;
    let data = match &args.data {
        Some(data) => data.clone(),
        None => Settings::parse(&text)?.own.data,
    };
    let data = fs::create_dir_all(&data)
        .and_then(|()| data.canonicalize())
        .with_context(|| format!("cannot make {}", data.display()))?;
    let mut settings = Settings::parse_in(&text, &data)?;
    if let Some(engine) = args.engine {
        settings.own.engine = match engine {
            Engine::Process => EngineKind::Process,
            Engine::Embedded => EngineKind::Embedded,
        };
    }
    Ok(settings)
}

fn upstream(
    settings: &Settings,
    network: &Arc<dyn Network>,
    world: &World,
) -> Result<Arc<dyn DeviceApi>> {
    let trust = trust(settings.trust_bundle_cert.as_deref())?;
    let host = settings.provisioning.hub_host.clone();
    let dialled: Box<str> =
        settings.own.upstream_address.map_or_else(|| host.clone(), |at| at.to_string().into());
    let target = Target {
        mqtt: Address::Tcp(dialled.clone(), settings.own.upstream_mqtt_port),
        https: Some(Address::Tcp(dialled, settings.own.upstream_https_port)),
        tls: Some((trust, host.clone())),
        host,
    };
    Ok(Arc::new(MqttClient::new(world.clone(), Arc::clone(network), target)))
}

/// Whom this device trusts to name its hub: those in `bundle`, or without one those that this
/// system trusts.
fn trust(bundle: Option<&Path>) -> Result<tls::Client> {
    let Some(path) = bundle else {
        let found = rustls_native_certs::load_native_certs();
        let (roots, faults) = (found.certs.len(), found.errors.len());
        info!(roots, faults, "no trust_bundle_cert: the hub must show a public certificate");
        let der = found.certs.into_iter().map(|one| Bytes::copy_from_slice(&one));
        return tls::Client::trusting_system(der).context(
            "trust_bundle_cert is missing and this system trusts no authority: name the PEM file \
             with the authority of the hub's certificate, or install ca-certificates",
        );
    };
    let roots =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    tls::Client::trusting(&roots).with_context(|| format!("cannot trust {}", path.display()))
}

/// Brings in the images that the command line names, before any module asks for them.
async fn import(args: &RunArgs, runtime: &dyn ModuleRuntime) -> Result<()> {
    for path in &args.imports {
        let path = std::path::absolute(path).context("--import")?;
        let archive = ImageArchive { path: path.clone(), reference: None };
        let imported = runtime.import_image(archive).await;
        let imported = imported.with_context(|| format!("cannot import {}", path.display()))?;
        for image in imported.images {
            info!(reference = image.reference, digest = image.digest, "image imported");
        }
    }
    Ok(())
}

/// How many connections each kind of listener holds.
#[derive(Clone, Copy, Debug)]
struct Seats {
    management: SeatLimits,
    /// Of each module.
    workload: SeatLimits,
    /// Of each of the two addresses that the router may have.
    router: SeatLimits,
}

impl Seats {
    fn of(descriptors: &mut Budget) -> Self {
        Self {
            management: descriptors.share(MANAGEMENT_PARTS, MANAGEMENT_CONNECTIONS_MAX),
            workload: descriptors.share(WORKLOAD_PARTS, WORKLOAD_CONNECTIONS_MAX),
            router: descriptors.share(2, MQTT_CONNECTIONS_MAX),
        }
    }
}

/// Tells in the log what listeners may hold, and lets the status tell what they hold and count.
fn show_listeners(
    edge: &Edge,
    descriptors: DescriptorTotals,
    listeners: &Listeners,
    doors: Arc<Doors>,
) {
    let mqtt: Vec<(String, Watch)> = (listeners.mqtt_addresses.iter().zip(&listeners.mqtt))
        .map(|(address, server)| (format!("mqtt {address}"), server.watch()))
        .collect();
    let management = listeners.management.watch();
    let look = move || {
        let router = mqtt.iter().map(|(name, watch)| watch.totals(name));
        let workload = doors.watches().into_iter();
        let workload = workload.map(|(module, watch)| watch.totals(&format!("workload {module}")));
        let management = std::iter::once(management.totals("management"));
        Listening { descriptors, listeners: router.chain(management).chain(workload).collect() }
    };
    let now = look();
    info!(descriptors = now.descriptors.limit, reserve = now.descriptors.reserve, "open files");
    for one in now.listeners {
        info!(listener = one.name, seats = one.seats, unproven = one.unproven_seats, "seats");
    }
    edge.show_listeners(look);
}

/// Everything that listens.
struct Listeners {
    mqtt: Vec<MqttServer>,
    /// The configured one first.
    mqtt_addresses: Vec<Address>,
    management: HttpServer,
    certificate: ServerCertificate,
    /// How long the first certificate holds.
    life: Lifetime,
}

impl Listeners {
    async fn start(
        edge: &Edge,
        settings: &Settings,
        network: &Arc<dyn Network>,
        world: &World,
        seats: Seats,
    ) -> Result<Self> {
        let issued = edge.server_certificate()?;
        let life = Lifetime { from: world.now().wall, until: issued.expires };
        let certificate = ServerCertificate::new(&issued.chain, &issued.key_der)?;
        show_rsa(&edge.rsa_certificates(), &certificate)?;
        let tls = tls::Server::new(certificate.clone(), client_verifier())?;
        let (mut mqtt, mut mqtt_addresses) = (Vec::new(), Vec::new());
        for at in router_addresses(settings.own.mqtt, edge.bridge()) {
            let at = Address::from(at);
            let incoming =
                network.listen(&at).await.with_context(|| format!("cannot listen at {at}"))?;
            mqtt_addresses.push(incoming.address());
            let (tls, api) = (Some(tls.clone()), edge.device_api());
            mqtt.push(MqttServer::start_within(seats.router, incoming, tls, api, world));
        }
        let path = &settings.listen.management;
        let incoming = management(path, settings.own.group.as_deref(), network)
            .await
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let service = edge.management();
        let management = HttpServer::start_within(seats.management, incoming, None, service, world);
        Ok(Self { mqtt, mqtt_addresses, management, certificate, life })
    }

    async fn stop(self) {
        let mqtt = self.mqtt.iter().map(|server| server.shut_down(SHUTDOWN_PATIENCE));
        let management = self.management.shut_down(SHUTDOWN_PATIENCE);
        tokio::join!(futures_util::future::join_all(mqtt), management);
    }
}

/// Where the router listens: as configured, and where modules on the engine's network find it.
fn router_addresses(configured: SocketAddr, bridge: Option<Ipv4Addr>) -> Vec<SocketAddr> {
    let bridge = bridge.map(|bridge| SocketAddr::from((bridge, ROUTER_PORT)));
    let is_covered = |wanted: &SocketAddr| {
        let reaches = configured.ip().is_unspecified() || configured.ip() == wanted.ip();
        reaches && configured.port() == wanted.port()
    };
    std::iter::once(configured).chain(bridge.filter(|it| !is_covered(it))).collect()
}

/// Listens at the management socket, which `group` may use.
async fn management(
    path: &Path,
    group: Option<&str>,
    network: &Arc<dyn Network>,
) -> Result<Box<dyn Incoming>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mode = if group.is_some() { MANAGEMENT_GROUP_MODE } else { MANAGEMENT_MODE };
    let incoming = listen(&**network, path, mode).await?;
    if let Some(name) = group {
        let group = Names::of_this_machine().group(name)?;
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    Ok(incoming)
}

/// Tells others where the router listens; the file is complete whenever it is there.
fn publish(data: &Path, mqtt: &[Address], management: &Path, launcher: Option<u32>) -> Result<()> {
    let mut mqtt = mqtt.iter().map(ToString::to_string);
    // Without a launcher there is nothing to say about it.
    let text = json!({
        "mqtt": mqtt.next(),
        "modules": mqtt.next(),
        "management": management,
        "pid": std::process::id(),
        "launcher": launcher,
    });
    let path = data.join(ADDRESSES);
    let fresh: PathBuf = path.with_extension("new");
    fs::write(&fresh, text.to_string())
        .and_then(|()| fs::rename(&fresh, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Waits for a signal, renewing the certificate meanwhile.
async fn until_stopped(
    edge: &Edge,
    listeners: &Listeners,
    world: &World,
    (mut terminate, mut interrupt): (Signal, Signal),
) -> Result<()> {
    let (mut life, mut failed) = (listeners.life, None);
    loop {
        let now = world.now().wall;
        let wait = match renewal(life, CERTIFICATE, failed, now) {
            Renewal::Wait(wait) => wait,
            Renewal::Due => {
                match renew(edge, &listeners.certificate) {
                    Ok(until) => (life, failed) = (Lifetime { from: now, until }, None),
                    Err(refused) => {
                        error!(error = format!("{refused:#}"), "the older certificate is shown");
                        failed = Some(now);
                    }
                }
                continue;
            }
        };
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Shows clients that know RSA alone a certificate of theirs; at the first start a thread makes
/// its keys meanwhile, which a small machine does in some ten seconds.
fn show_rsa(all: &RsaCertificates, shown: &ServerCertificate) -> Result<()> {
    if let Some(rsa) = all.issue()? {
        return Ok(shown.replace_rsa(&rsa.chain, &rsa.key_der)?);
    }
    shown.set_rsa_is_coming(RsaIsComing::Yes);
    let (all, shown) = (all.clone(), shown.clone());
    let make = move || {
        let made = (|| -> Result<()> {
            all.make_keys()?;
            let rsa = all.issue()?.context("the keys that were made are gone")?;
            Ok(shown.replace_rsa(&rsa.chain, &rsa.key_der)?)
        })();
        if let Err(refused) = made {
            error!(error = format!("{refused:#}"), "clients that know RSA alone cannot connect");
            shown.set_rsa_is_coming(RsaIsComing::No);
        }
    };
    let thread = std::thread::Builder::new().name("rsa-keys".into()).spawn(make);
    thread.map(drop).context("cannot start a thread")
}

/// Shows a fresh certificate from now on; until when it holds.
fn renew(edge: &Edge, shown: &ServerCertificate) -> Result<WallTime> {
    let fresh = edge.server_certificate()?;
    shown.replace(&fresh.chain, &fresh.key_der)?;
    if let Some(rsa) = edge.rsa_certificates().issue()? {
        shown.replace_rsa(&rsa.chain, &rsa.key_der)?;
    }
    info!(expires = %fresh.expires, "certificate renewed");
    Ok(fresh.expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_has_its_share_of_the_descriptors() {
        for limit in [256, 1024, 20_000, 1 << 20] {
            let seats = Seats::of(&mut Budget::of(limit, RESERVED_DESCRIPTORS));
            assert!(seats.management.seats <= MANAGEMENT_CONNECTIONS_MAX, "{limit}: {seats:?}");
            assert!(seats.workload.seats <= WORKLOAD_CONNECTIONS_MAX, "{limit}: {seats:?}");
            let router = seats.router.seats;
            assert!(router > seats.management.seats, "{limit}: {seats:?}");
            assert!(2 * router + seats.management.seats < limit, "{limit}: {seats:?}");
        }
    }

    #[test]
    fn the_router_listens_once_wherever_modules_look_for_it() {
        let check = |configured: &str, bridge: Option<&str>, expected: &[&str]| {
            let bridge = bridge.map(|text| text.parse().unwrap());
            let all = router_addresses(configured.parse().unwrap(), bridge);
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            assert_eq!(all, expected);
        };
        let bridge = Some("172.29.7.1");
        check("127.0.0.2:8883", None, &["127.0.0.2:8883"]);
        check("127.0.0.2:8883", bridge, &["127.0.0.2:8883", "172.29.7.1:8883"]);
        check("0.0.0.0:8883", bridge, &["0.0.0.0:8883"]);
        check("[::]:8883", bridge, &["[::]:8883"]);
        check("0.0.0.0:1883", bridge, &["0.0.0.0:1883", "172.29.7.1:8883"]);
        check("172.29.7.1:8883", bridge, &["172.29.7.1:8883"]);
    }
}
