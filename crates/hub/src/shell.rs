//! A running hub: its stores, its workers, its two doors.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::health::{ListenerView, Listening};
use journal::disk::Disk;
use model::secret::Secret;
use model::waist::DeviceApi;
use model::world::{Random, World};
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};

use crate::OpenHubError;
use crate::PeerOf;
use crate::access::shell::Guard;
use crate::access::{Access, POLICIES};
use crate::connections::{Connections, Wheel};
use crate::console::shell::Console;
use crate::fleet::shell::Fleet;
use crate::live::shell::Live;
use crate::methods::shell::Calls;
use crate::registry::fresh_key;
use crate::session::budget::{Budget, HUB_ANSWER_BYTES_MAX, HUB_BYTES_MAX};
use crate::session::effect::Effect;
use crate::session::shell::{Core, HubApi};
use crate::settings::Settings;
use crate::storage::feed::Feed;
use crate::storage::reader::Reader;
use crate::storage::rows::put_activity;
use crate::storage::schema;
use crate::storage::writer::{Tables, WriterParts, Writing};
use crate::telemetry::http::STREAMS_MAX;
use crate::telemetry::shell::Telemetry;

/// The file of the tables within the data folder.
const TABLES_FILE: &str = "hub.db";
/// The file of the policies' keys within the data folder.
const POLICIES_FILE: &str = "policies.json";
/// Most lanes: what one journal record may name.
pub(crate) const PARTITIONS_MAX: u16 = 64;

/// A link into the console that works once.
#[derive(Clone, Debug)]
pub struct SignInLink {
    /// Path and fragment behind the address of the HTTPS listener.
    pub path: Secret,
    /// Until when it works, RFC 3339.
    pub expires: String,
}

/// A running hub. Dropping it loses nothing that was acknowledged; [`Hub::close`] is the
/// orderly end.
#[derive(Debug)]
pub struct Hub {
    pub(crate) core: Arc<Core>,
}

impl Hub {
    /// Opens or creates the hub in `settings.data`, telemetry on `disk`, and starts its workers.
    ///
    /// # Errors
    /// [`OpenHubError`] names the setting, folder or file at fault.
    pub fn open(
        settings: Settings,
        world: World,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, OpenHubError> {
        let settings = checked(settings)?;
        make_folder(&settings.data)?;
        let path = settings.data.join(TABLES_FILE);
        let fault = |reason: String| OpenHubError::Tables { path: path.clone(), reason };
        let store = |error: rusqlite::Error| fault(error.to_string());
        let db = schema::open_writer(&path).map_err(fault)?;
        let incarnation = raise_incarnation(&db).map_err(store)?;
        keep_partitions(&db, settings.partitions).map_err(store)??;
        let feed = Feed::open(&db, settings.changes).map_err(store)?;
        let access = open_access(&settings, &*world.random)?;
        let telemetry = Telemetry::open(&settings, &world, disk)?;
        let connections = Arc::new(Connections::new(incarnation));
        let sessions = Arc::clone(&connections);
        let (told, heads) = watch::channel(feed.head());
        let parts = WriterParts {
            db,
            feed,
            told,
            faults: Arc::clone(&settings.faults),
            apply: Box::new(move |effect, now| sessions.apply(effect, now)),
        };
        let reading = schema::open_reader(&path).map_err(fault)?;
        let tables = Tables::start(&world, parts);
        let reader = Reader::start(&world, reading);
        start_wheel(&world, &connections, &tables);
        let calls = Arc::new(Calls::new());
        let budget = Arc::new(Budget::new(HUB_BYTES_MAX));
        let answers = Arc::new(Budget::new(HUB_ANSWER_BYTES_MAX));
        let console = Console::new(settings.console_folder, &access);
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let core = Core {
            listening: ListenerView::default(),
            world,
            access: Guard::new(access),
            tables,
            reader,
            telemetry,
            connections,
            calls,
            console,
            fleet: Fleet::default(),
            live: Live::default(),
            heads,
            budget,
            answers,
            streams,
            incarnation,
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// The waist, for listeners.
    pub fn device_api(&self) -> Arc<dyn DeviceApi> {
        Arc::new(HubApi(Arc::clone(&self.core)))
    }

    /// The service API and our own API, for an HTTP server. Requests carry `Authorization`.
    pub fn service(&self) -> axum::Router {
        crate::service::http::router(Arc::clone(&self.core), None)
    }

    /// The same for a listener that speaks TLS, and besides it the web console and its sessions:
    /// their cookies are taken nowhere else. `peer_of` finds the peer's address among the
    /// extensions of a request.
    pub fn service_over_tls(&self, peer_of: PeerOf) -> axum::Router {
        crate::service::http::router(Arc::clone(&self.core), Some(peer_of))
    }

    /// From now on health tells what `look` says about the listeners of this process.
    pub fn show_listeners(&self, look: impl Fn() -> Listening + Send + Sync + 'static) {
        self.core.listening.set(look);
    }

    /// A fresh link that opens the console once, with the rights of `policy`; `None` if there is
    /// no such policy.
    pub fn sign_in_link(&self, policy: &str) -> Option<SignInLink> {
        let at = POLICIES.iter().position(|(name, _)| *name == policy)?;
        let link = crate::console::http::issue(&self.core, at);
        Some(SignInLink { path: link.path.0, expires: link.expires_time })
    }

    /// The key of a service policy (`iothubowner`, `service`, `device`, `registryRead`,
    /// `registryReadWrite`), base64, for whoever started the hub.
    pub fn policy_key(&self, policy: &str) -> Option<Secret> {
        let at = POLICIES.iter().position(|(name, _)| *name == policy)?;
        self.core.access.keys.get(at).cloned()
    }

    /// Ends the console's streams, so that connections which carry them can end too.
    pub fn end_streams(&self) {
        self.core.live.stop();
        self.core.telemetry.wake_readers();
    }

    /// Ends every session with `Closed(ShuttingDown)`, refuses new work, and returns when what
    /// was accepted is on disk and answered.
    pub async fn close(&self) {
        self.end_streams();
        self.core.connections.stop();
        // The last writes of the tables: everything queued before them is durable after them. A
        // refusal means that the writer is gone already, or cannot write.
        while let Some(seen) = self.core.connections.take_any_slice() {
            let write = move |w: &mut Writing<'_>| Ok(put_activity(w.db, &seen)?);
            if self.core.tables.write(write).await.is_err() {
                break;
            }
        }
        let (refused, taken_back) = (self.core.tables.refused(), self.core.tables.taken_back());
        tracing::info!(refused, taken_back, "the tables close");
        self.core.tables.close();
        self.core.reader.close();
        self.core.telemetry.close().await;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.end_streams();
        self.core.connections.stop();
        self.core.tables.close();
        self.core.reader.close();
        self.core.telemetry.stop();
    }
}

fn start_wheel(world: &World, connections: &Arc<Connections>, tables: &Tables) {
    let (tables, answered, clock) = (tables.clone(), Arc::clone(connections), world.clone());
    let write = move |seen: Vec<_>| {
        let connections = Arc::clone(&answered);
        let answered = Answered { connections, world: clock.clone() };
        // Nobody waits: activity is told lazily, and what is not kept is told again.
        drop(tables.submit(model::time::Tick::NEVER, answered, move |w| {
            put_activity(w.db, &seen)?;
            w.effects.push(Effect::ActivityWritten);
            Ok(())
        }));
    };
    let wheel = Wheel { connections: Arc::clone(connections), write: Box::new(write) };
    let waker = world.spawner.start("hub-wheel", Box::new(wheel));
    connections.set_wheel(waker);
}

/// Dropped when a slice of activity is answered.
struct Answered {
    connections: Arc<Connections>,
    world: World,
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.connections.handle_answered(self.world.now().tick);
    }
}

fn checked(mut settings: Settings) -> Result<Settings, OpenHubError> {
    let fault = |name, reason| Err(OpenHubError::Setting { name, reason });
    if settings.hosts.is_empty() || settings.hosts.iter().any(String::is_empty) {
        return fault("hosts", "at least one host name is needed, none of them empty");
    }
    if settings.partitions == 0 || settings.partitions > PARTITIONS_MAX {
        return fault("partitions", "must be 1 to 64");
    }
    settings.hosts.iter_mut().for_each(|host| host.make_ascii_lowercase());
    Ok(settings)
}

fn make_folder(path: &Path) -> Result<(), OpenHubError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| OpenHubError::Folder { path: path.into(), source })
}

fn raise_incarnation(db: &Connection) -> rusqlite::Result<u32> {
    let last = schema::number(db, "incarnation")?.unwrap_or(0);
    schema::set_number(db, "incarnation", last + 1)?;
    u32::try_from(last + 1).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, last + 1))
}

/// A device's partition may never change, so neither may their number.
fn keep_partitions(db: &Connection, wanted: u16) -> rusqlite::Result<Result<(), OpenHubError>> {
    match schema::number(db, "partitions")? {
        None => schema::set_number(db, "partitions", i64::from(wanted))?,
        Some(kept) if kept == i64::from(wanted) => {}
        Some(_) => {
            return Ok(Err(OpenHubError::Setting {
                name: "partitions",
                reason: "the folder was made with another number",
            }));
        }
    }
    Ok(Ok(()))
}

fn open_access(settings: &Settings, random: &dyn Random) -> Result<Access, OpenHubError> {
    let path = settings.data.join(POLICIES_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = fresh_policies(settings, random);
            write_private(&path, &text)
                .map_err(|source| OpenHubError::Folder { path: path.clone(), source })?;
            text
        }
        Err(source) => return Err(OpenHubError::Folder { path, source }),
    };
    let keys = read_policies(&text).ok_or(OpenHubError::Policies { path })?;
    Ok(Access { hosts: settings.hosts.clone(), keys })
}

fn fresh_policies(settings: &Settings, random: &dyn Random) -> String {
    let policies: Map<String, Value> = POLICIES
        .iter()
        .map(|(name, _)| {
            let key = fresh_key(random);
            ((*name).to_owned(), json!(key.expose_str().unwrap_or_default()))
        })
        .collect();
    json!({"hostName": settings.hosts.first(), "policies": policies}).to_string()
}

fn read_policies(text: &str) -> Option<Vec<Secret>> {
    let file: Value = serde_json::from_str(text).ok()?;
    let policies = file.get("policies")?.as_object()?;
    POLICIES.iter().map(|(name, _)| policies.get(*name)?.as_str().map(Secret::from)).collect()
}

/// Written beside and renamed, so that a cut leaves no half file.
fn write_private(path: &PathBuf, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
