//! Starts the areas of the runtime, joins them, and stops them in order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use api::health::{ListenerView, Listening};
use credentials::certificate::Issued;
use credentials::key::{InvalidKey, SymmetricKey};
use credentials::key_store::{KeyStore, LeafRequest, Purpose, UseKeyError};
use engine::error::EngineError;
use engine::network::hosts::HOST_GATEWAY;
use engine::runtime::ModuleRuntime;
use journal::disk::Disk;
use journal::log::OpenLogError;
use model::commit::CommitFaults;
use model::feature::FeatureSet;
use model::id::{IdentityId, ModuleName};
use model::names::{EDGE_AGENT, EDGE_HUB};
use model::route::Endpoint;
use model::secret::Secret;
use model::twin::Version;
use model::waist::DeviceApi;
use model::world::World;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::access::ModuleKeys;
use crate::agent::restart::History;
use crate::agent::shell::{Agent, AgentParts, RouterMeter};
use crate::agent::spec::{EDGE_HUB_NAME, Surroundings};
use crate::identity::key_store::{FileKeyStore, OpenKeysError, file};
use crate::identity::shell::{Identities, with_sessions};
use crate::provisioning::DeviceKey;
use crate::router::shell::{Core, RouterApi, RouterParts};
use crate::router::twins::TwinCopy;
use crate::settings::Settings;
use crate::status::{EdgeStatus, ModuleStatus, QueueStatus, RouterStatus};
use crate::storage::store::{Area, Store, StoreError};
use crate::storage::tables;
use crate::upstream::shell::{LinkParts, Links};
use crate::workload::WorkloadSockets;
use crate::workload::http::ModuleSecrets;

/// The file of facts, in the folder of the parts.
const FACTS: &str = "edge.db";
/// The folder of keys, in the folder of the parts.
const KEYS: &str = "keys";

/// How long messages for the hub may take to go out when the runtime closes.
const DRAIN: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// Everything a runtime is made from.
pub struct Parts {
    /// What the operator wrote.
    pub settings: Settings,
    /// Where facts and keys lie; must exist and be private.
    pub folder: PathBuf,
    /// Where messages lie.
    pub disk: Arc<dyn Disk>,
    /// Time, chance, tasks.
    pub world: World,
    /// The next `DeviceApi` towards the cloud. Opened with SAS claims, one per identity.
    pub upstream: Arc<dyn DeviceApi>,
    /// What runs the modules.
    pub runtime: Arc<dyn ModuleRuntime>,
    /// Where modules' workload sockets are opened.
    pub sockets: Arc<dyn WorkloadSockets>,
    /// Faults at the commit boundary of the file of facts; `NoFaults` outside the simulator.
    pub faults: Arc<dyn CommitFaults>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Why the runtime does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartEdgeError {
    /// The file of facts is damaged or cannot be used.
    #[error("cannot use {}", path.display())]
    Facts {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The journal of messages cannot be opened.
    #[error("cannot open the journal of messages")]
    Journal(#[from] OpenLogError),
    /// The keys of this device cannot be used.
    #[error("cannot use the keys of this device")]
    Keys(#[from] OpenKeysError),
    /// The device's key is none.
    #[error("the device's key cannot be used")]
    DeviceKey(#[from] InvalidKey),
    /// The engine does not answer.
    #[error("cannot use the engine")]
    Engine(#[from] EngineError),
}

/// A running device runtime. Dropping it without [`Edge::close`] is like a power cut, but for
/// the tasks, which end.
pub struct Edge {
    running: Arc<Running>,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Edge")
    }
}

/// The router's certificate for clients whose TLS knows RSA alone.
#[derive(Clone)]
pub struct RsaCertificates(Arc<Running>);

impl std::fmt::Debug for RsaCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RsaCertificates")
    }
}

impl RsaCertificates {
    /// A fresh one; `None` while there are no keys for it.
    ///
    /// # Errors
    /// [`UseKeyError`] if the device CA cannot issue it.
    pub fn issue(&self) -> Result<Option<Issued>, UseKeyError> {
        self.0.with_server_request(|request| self.0.secrets.keys.issue_rsa_server(request))
    }

    /// Makes the keys, if there are none. Takes seconds: not for a thread that serves somebody.
    ///
    /// # Errors
    /// [`OpenKeysError`] names the file that cannot be written.
    pub fn make_keys(&self) -> Result<(), OpenKeysError> {
        self.0.secrets.keys.make_rsa()
    }
}

/// What the front door and the handlers share.
pub(crate) struct Running {
    settings: Settings,
    /// This machine's address on the engine's network, if it has one.
    bridge: Option<Ipv4Addr>,
    router: Arc<Core>,
    agent: Arc<Agent>,
    identities: Arc<Identities>,
    secrets: Arc<Secrets>,
    listening: ListenerView,
}

/// What the workload interface may use.
struct Secrets {
    router: Arc<Core>,
    keys: FileKeyStore,
    bundle: String,
    /// Before the names of modules at the hub.
    prefix: String,
    /// Set once, as soon as there is one.
    agent: OnceLock<Weak<Agent>>,
}

/// What was kept from earlier runs.
struct Kept {
    store: Store,
    incarnation: u32,
    copies: BTreeMap<IdentityId, TwinCopy>,
    keys: BTreeMap<ModuleName, ModuleKeys>,
    features: BTreeMap<ModuleName, FeatureSet>,
    histories: BTreeMap<ModuleName, History>,
    last_good: BTreeMap<ModuleName, (Map<String, Value>, Version)>,
}

impl Kept {
    fn open(path: &Path, world: &World, faults: Arc<dyn CommitFaults>) -> Result<Self, StoreError> {
        let store = Store::open(path, world, faults)?;
        let earlier = store.all(Area::Process)?;
        let earlier = earlier.iter().find(|(name, _)| name == "incarnation");
        let earlier = earlier.and_then(|(_, value)| value.as_u64()).unwrap_or(0);
        let incarnation = u32::try_from(earlier).unwrap_or(u32::MAX).wrapping_add(1);
        store.put_now(Area::Process, "incarnation", &json!(incarnation))?;
        Ok(Self {
            incarnation,
            copies: facts(&store, Area::Twins, tables::to_copy)?,
            keys: facts(&store, Area::Keys, tables::to_keys)?,
            features: facts(&store, Area::Sessions, tables::to_features)?,
            histories: facts(&store, Area::Restarts, tables::to_history)?,
            last_good: facts(&store, Area::LastGood, tables::to_desired)?,
            store,
        })
    }
}

fn meter(router: &Arc<Core>) -> RouterMeter {
    let router = Arc::clone(router);
    Arc::new(move || {
        let router = Arc::clone(&router);
        Box::pin(async move { router.metrics().await })
    })
}

fn facts<K: FromStr + Ord, V>(
    store: &Store,
    area: Area,
    read: impl Fn(&Value) -> Option<V>,
) -> Result<BTreeMap<K, V>, StoreError> {
    let damaged = || StoreError::Damaged { area: area.as_str() };
    let each = store.all(area)?.into_iter().map(|(name, value)| {
        let name = name.parse().map_err(|_| damaged())?;
        Ok((name, read(&value).ok_or_else(damaged)?))
    });
    each.collect()
}

impl Edge {
    /// Opens the state, makes what is missing (keys, certificates, tables), and starts.
    /// Needs no upstream: what ran before runs again from the last good manifest.
    ///
    /// # Errors
    /// [`StartEdgeError`] names the file that cannot be used.
    pub async fn start(parts: Parts) -> Result<Self, StartEdgeError> {
        let Parts { settings, folder, disk, world, upstream, runtime, sockets, faults } = parts;
        let path = folder.join(FACTS);
        let device = settings.provisioning.device.clone();
        let key = device_key(&settings.provisioning.key)?;
        let keys = FileKeyStore::open(&folder.join(KEYS), &settings.edge_ca, &device, &world)?;
        let bundle = trust_bundle(&keys, settings.trust_bundle_cert.as_deref())?;
        let mut kept = Kept::open(&path, &world, faults).map_err(|it| unusable(path, it))?;
        // Only now: the engine's process has started meanwhile.
        let bridge = bridge(&*runtime).await?;
        let (stop, stopped) = watch::channel(false);
        let hub_host = settings.provisioning.hub_host.clone();
        let link_parts = LinkParts {
            world: world.clone(),
            upstream,
            hub_host: hub_host.clone(),
            store: kept.store.clone(),
            stopped: stopped.clone(),
            ups: watch::Sender::new(0),
            doubts: watch::Sender::new(0),
        };
        let links = Arc::new(Links::new(link_parts, kept.copies));
        let [agent_name, hub_name] = system_modules();
        let router = Core::start(RouterParts {
            world: world.clone(),
            device: device.clone(),
            hosts: vec![hub_host.clone(), settings.hostname.clone()],
            store: kept.store.clone(),
            links: Arc::clone(&links),
            disk,
            queue_bytes_max: settings.own.queue_bytes_max,
            // From the first moment: the pump gives up messages of modules that are not known.
            modules: with_sessions(&kept.keys),
            features: kept.features,
            last_good: kept.last_good.remove(&hub_name),
            incarnation: kept.incarnation,
            stopped: stopped.clone(),
        })
        .await?;
        let identities = Arc::new(Identities::new(
            device.clone(),
            key,
            Arc::clone(&links),
            kept.store.clone(),
            Arc::clone(&router),
            kept.keys,
        ));
        let prefix = format!("azureiot://{hub_host}/devices/{device}/modules/");
        let secrets = Arc::new(Secrets::new(&router, keys, bundle, prefix));
        let agent = Agent::start(AgentParts {
            world,
            runtime,
            identities: Arc::clone(&identities),
            link: links.link(&IdentityId::module(&device, &agent_name)),
            store: kept.store,
            surroundings: surroundings(&settings, bridge, &secrets.bundle),
            sockets,
            secrets: Arc::<Secrets>::clone(&secrets),
            meter: meter(&router),
            last_good: kept.last_good.remove(&agent_name),
            histories: kept.histories,
            ups: links.ups(),
            doubts: links.doubts(),
            stopped,
        });
        secrets.agent.set(Arc::downgrade(&agent)).expect("set only here");
        info!(device_id = %device, incarnation = kept.incarnation, "edge runtime started");
        let listening = ListenerView::default();
        let running = Running { settings, bridge, router, agent, identities, secrets, listening };
        Ok(Self { running: Arc::new(running), stop })
    }

    /// The waist that listeners offer to modules.
    pub fn device_api(&self) -> Arc<dyn DeviceApi> {
        Arc::new(RouterApi(Arc::clone(&self.running.router)))
    }

    /// The workload interface of `module`, as [`WorkloadSockets::open`] gets it.
    pub fn workload(&self, module: &ModuleName) -> axum::Router {
        let secrets: Arc<Secrets> = Arc::clone(&self.running.secrets);
        crate::workload::http::router(module.clone(), secrets)
    }

    /// The management interface, to be served on a socket for root and the group only:
    /// `GET /status`, `GET /modules`, `GET /modules/{m}/logs`, `POST /modules/{m}/restart`.
    pub fn management(&self) -> axum::Router {
        crate::management::http::router(Arc::clone(&self.running))
    }

    /// Where modules on the engine's network find this machine; the router must listen there.
    /// Absent if modules have no network of their own.
    pub fn bridge(&self) -> Option<Ipv4Addr> {
        self.running.bridge
    }

    /// A fresh certificate for the router's listeners, for the names and addresses under which
    /// modules and leaf devices reach it.
    ///
    /// # Errors
    /// [`UseKeyError`] if a name cannot stand in a certificate, or the device CA has expired.
    pub fn server_certificate(&self) -> Result<Issued, UseKeyError> {
        self.running.with_server_request(|request| self.running.secrets.keys.issue(request))
    }

    /// The same for clients that know RSA alone.
    pub fn rsa_certificates(&self) -> RsaCertificates {
        RsaCertificates(Arc::clone(&self.running))
    }

    /// Certificates that modules trust, PEM.
    pub fn trust_bundle(&self) -> String {
        self.running.secrets.trust_bundle()
    }

    /// From now on the status tells what `look` says about the listeners of this process.
    pub fn show_listeners(&self, look: impl Fn() -> Listening + Send + Sync + 'static) {
        self.running.listening.set(look);
    }

    /// One look at everything.
    pub async fn status(&self) -> EdgeStatus {
        self.running.status().await
    }

    /// Stops all modules, each with its grace, while router and hub still hear them. Call it
    /// before the listeners close; nothing starts a module afterwards.
    pub async fn stop_modules(&self) {
        self.running.agent.stop_modules().await;
    }

    /// Reports all modules `unknown`, lets the hub have what waits for it if it takes it soon,
    /// closes the sessions, and syncs the journal. Modules keep running.
    pub async fn close(self) {
        self.running.agent.say_unknown().await;
        // What is left goes out after the next start.
        tokio::time::timeout(DRAIN, self.running.drained()).await.ok();
        self.stop.send_replace(true);
        self.running.router.close().await;
        info!("edge runtime closed");
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.running.router.intake.close();
    }
}

impl Running {
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(crate) async fn status(&self) -> EdgeStatus {
        let (version, outcome, mut modules) = self.agent.status();
        for module in &mut modules {
            let name = module.name.parse::<ModuleName>();
            module.connected = name.is_ok_and(|name| self.router.session(&name).is_some());
        }
        EdgeStatus {
            device_id: self.settings.provisioning.device.to_string(),
            upstream_connected: self.identities.device_link().session().is_some(),
            desired_version: version.0,
            desired_code: outcome.code,
            desired_words: outcome.words,
            modules,
            router: self.router_status().await,
            listening: self.listening.look(),
        }
    }

    /// Ends when nothing waits for the hub, or it is away.
    async fn drained(&self) {
        let upstream = Endpoint::Upstream.to_string();
        while self.identities.device_link().session().is_some() {
            let lanes = self.router.lanes().await;
            if !lanes.iter().any(|lane| *lane.endpoint == *upstream && lane.depth > 0) {
                return;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    async fn router_status(&self) -> RouterStatus {
        let lanes = self.router.lanes().await;
        let outcome = self.router.outcome();
        let counters = &self.router.counters;
        let queue = |lane: &journal::queue::LaneStats| QueueStatus {
            endpoint: lane.endpoint.to_string(),
            priority: lane.priority,
            depth: lane.depth,
            oldest_ms: lane.oldest_ms,
        };
        RouterStatus {
            desired_code: outcome.code,
            desired_words: outcome.words,
            received: counters.received.load(Ordering::Relaxed),
            sent_upstream: counters.sent_upstream.load(Ordering::Relaxed),
            sent_inputs: counters.sent_inputs.load(Ordering::Relaxed),
            dropped_no_route: counters.dropped_no_route.load(Ordering::Relaxed),
            dropped_expired: lanes.iter().map(|lane| lane.expired).sum(),
            dropped_poison: counters.dropped_poison.load(Ordering::Relaxed),
            dropped_no_sender: counters.dropped_no_sender.load(Ordering::Relaxed),
            dropped_damaged: counters.dropped_damaged.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            damaged_segments: self.router.damaged_segments,
            queues: lanes.iter().map(queue).collect(),
        }
    }
}

impl Running {
    /// Asks for a server certificate that carries every name of the router.
    fn with_server_request<T>(&self, ask: impl FnOnce(&LeafRequest<'_>) -> T) -> T {
        let settings = &self.settings;
        let own = settings.own.gateway_addresses.iter().copied();
        let bridge = self.bridge.map(IpAddr::V4);
        let addresses: Vec<String> = own.chain(bridge).map(|it| it.to_string()).collect();
        let mut names = vec![&*settings.hostname, EDGE_HUB_NAME];
        names.extend(addresses.iter().map(String::as_str));
        ask(&LeafRequest {
            purpose: Purpose::Server,
            common_name: &settings.hostname,
            names: &names,
            until: None,
        })
    }
}

impl Secrets {
    /// The agent is made later: it needs them.
    fn new(router: &Arc<Core>, keys: FileKeyStore, bundle: String, prefix: String) -> Self {
        Self { router: Arc::clone(router), keys, bundle, prefix, agent: OnceLock::new() }
    }
}

impl ModuleSecrets for Secrets {
    fn signing_key(&self, module: &ModuleName) -> Option<(Box<str>, SymmetricKey)> {
        let keys = self.router.keys(module)?;
        Some((keys.generation_id, keys.primary))
    }

    fn trust_bundle(&self) -> String {
        format!("{}{}", self.bundle, self.keys.rsa_authority().unwrap_or_default())
    }

    fn keys(&self) -> &dyn KeyStore {
        &self.keys
    }

    fn identity(&self, module: &ModuleName) -> String {
        format!("{}{module}", self.prefix)
    }

    fn modules(&self) -> Vec<ModuleStatus> {
        let agent = self.agent.get().and_then(Weak::upgrade);
        agent.map(|agent| agent.status().2).unwrap_or_default()
    }
}

fn system_modules() -> [ModuleName; 2] {
    [EDGE_AGENT, EDGE_HUB].map(|name| name.parse().expect("a name of the platform is a name"))
}

fn device_key(key: &DeviceKey) -> Result<SymmetricKey, StartEdgeError> {
    match key {
        DeviceKey::Value(text) => Ok(SymmetricKey::parse(text.expose_str().unwrap_or_default())?),
        DeviceKey::File(path) => {
            let raw = std::fs::read(path).map_err(file("read", path))?;
            Ok(SymmetricKey::from_raw(Secret::new(raw))?)
        }
    }
}

/// The device CA, and what the operator wants trusted along with it.
fn trust_bundle(keys: &dyn KeyStore, more: Option<&Path>) -> Result<String, OpenKeysError> {
    let more = more.map(crate::identity::key_store::read).transpose()?;
    Ok(format!("{}{}", keys.authority(), more.unwrap_or_default()))
}

fn unusable(path: PathBuf, source: StoreError) -> StartEdgeError {
    StartEdgeError::Facts { path, source: Box::new(source) }
}

/// Where modules find this machine, by the engine, which has made its network now.
async fn bridge(runtime: &dyn ModuleRuntime) -> Result<Option<Ipv4Addr>, EngineError> {
    let info = runtime.info().await?;
    for warning in info.warnings {
        warn!(engine = info.kind, warning, "engine");
    }
    Ok(info.gateway)
}

fn surroundings(settings: &Settings, bridge: Option<Ipv4Addr>, trust_bundle: &str) -> Surroundings {
    let listen = &settings.connect.workload;
    let folder = listen.parent().map_or_else(|| settings.own.data.clone(), PathBuf::from);
    Surroundings {
        device: settings.provisioning.device.clone(),
        hub_host: settings.provisioning.hub_host.clone(),
        hostname: settings.hostname.clone(),
        // An address that the operator named may be one that no module reaches.
        gateway: bridge
            .map(|_| HOST_GATEWAY.to_owned())
            .or_else(|| settings.own.gateway_addresses.first().map(ToString::to_string)),
        sockets: folder.join("mnt"),
        agent_env: settings.agent.env.clone(),
        trust_bundle: trust_bundle.into(),
    }
}
