//! The seam between the agent and whatever runs modules.
//!
//! Everything here is plain serialisable data: the engine helper answers the same trait from
//! another process (house guide 1.3, Privilege). Wall times are milliseconds since 1970, UTC.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::Duration;

use model::world::Boxed;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// What every operation of an engine answers.
pub type EngineResult<T> = Result<T, EngineError>;

/// Runs modules. All operations are idempotent where Docker's are; `stop` of a stopped module and
/// `start` of a running one succeed.
pub trait ModuleRuntime: Send + Sync {
    /// What kind of engine this is and what it warns of.
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>>;

    /// Every module this engine knows, sorted by name, observed now.
    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>>;

    /// Brings an archive (OCI layout or `docker save`, plain or gzip) into the store.
    fn import_image(&self, archive: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>>;

    /// Every image reference in the store, sorted.
    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>>;

    /// Makes sure `image` can be used by a following `create`; answers its digest.
    fn prepare(&self, image: String) -> Boxed<'_, EngineResult<ImageState>>;

    /// Makes a module without starting it. The name must be free.
    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>>;

    /// Starts a created or exited module; answers when it runs or has failed.
    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>>;

    /// Asks a module to end, kills it after `grace`; answers when it has ended.
    fn stop(&self, name: String, grace: Duration) -> Boxed<'_, EngineResult<()>>;

    /// Removes a module, killing it first if it runs. Removing an absent one succeeds.
    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>>;

    /// Opens a module's log, also after the module has ended.
    fn logs(&self, name: String, query: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>>;

    /// Wakes when the state of some module may have changed. It carries no data and may wake
    /// without reason; the caller reads [`ModuleRuntime::list`] afresh.
    fn changed(&self) -> Boxed<'_, ()>;
}

/// Lines of one module's log, oldest first. Dropping it ends a following read.
pub trait LogStream: Send {
    /// The next line; `None` at the end, which a following stream never reaches by itself.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<EngineResult<LogLine>>>;
}

/// Which engine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// `embedded` or `process`.
    pub kind: String,
    /// Version of this crate.
    pub version: String,
    /// Sentences an operator must see, such as "modules are not isolated".
    pub warnings: Vec<String>,
    /// Where modules on the engine's network find this machine; it is there when this is
    /// answered. Absent where modules have no network of their own.
    pub gateway: Option<Ipv4Addr>,
}

/// Where an engine finds an archive: a path it can open itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageArchive {
    /// Absolute path of a file, or of a folder in OCI layout.
    pub path: PathBuf,
    /// Reference to store the image under, in place of the archive's own.
    pub reference: Option<String>,
}

/// What an import brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageImported {
    /// The images by reference.
    pub images: Vec<ImageState>,
    /// Bytes of layers that were new, uncompressed.
    pub bytes_new: u64,
}

/// One reference in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageState {
    /// As `name:tag`, completed as Docker does for display, see `image::reference`.
    pub reference: String,
    /// `sha256:…` of the manifest; of the configuration for a `docker save` archive.
    pub digest: String,
    /// Labels of the image configuration.
    pub labels: BTreeMap<String, String>,
}

/// A module to create. Unknown fields are refused: a limit or a mount that the helper does not know
/// must not be dropped from what it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// Also the container's name.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// Docker create body as the manifest holds it: one JSON object, or empty.
    pub create_options: String,
    /// Set after the image's and the create options' variables; these win.
    pub env: BTreeMap<String, String>,
    /// Added to the create options' binds.
    pub binds: Vec<Bind>,
    /// Added to the create options' labels; these win.
    pub labels: BTreeMap<String, String>,
    /// Further names other modules reach this one by (not on the host network).
    pub aliases: Vec<String>,
    /// Further `/etc/hosts` entries, name to address; `host-gateway` for this machine's.
    pub extra_hosts: BTreeMap<String, String>,
    /// Digest of the specification, kept and given back by `list`; the engine does not read it.
    pub digest: String,
}

/// A folder, file or socket of the host inside a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path inside the module.
    pub target: PathBuf,
    /// The module may not write.
    pub read_only: bool,
}

/// What a creation has to say besides success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleCreated {
    /// Fields of the create options that have no effect here, one sentence each.
    pub warnings: Vec<String>,
}

/// What a module is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleStatus {
    /// Made, never started.
    Created,
    /// Its first process lives.
    Running,
    /// Its first process ended and left an exit code.
    Exited,
    /// It ended and nobody knows how; remove and create it again.
    Dead,
    /// The engine cannot tell.
    Unknown,
}

/// One module as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleState {
    /// Its name.
    pub name: String,
    /// The image reference it was created from.
    pub image: String,
    /// Digest of that image at creation.
    pub image_digest: String,
    /// As given at creation.
    pub spec_digest: String,
    /// As given at creation, with the create options' labels.
    pub labels: BTreeMap<String, String>,
    /// What it is doing.
    pub status: ModuleStatus,
    /// 0–255; 128 + signal if killed. Present after an end.
    pub exit_code: Option<i32>,
    /// Killed for want of memory.
    pub out_of_memory: bool,
    /// Why a start failed, or a death happened.
    pub failure: Option<String>,
    /// Last start, Unix milliseconds.
    pub started_at: Option<i64>,
    /// Last end, Unix milliseconds.
    pub finished_at: Option<i64>,
    /// Process id of its first process as the host sees it, while running.
    pub pid: Option<u32>,
    /// Its newest log file, Docker's json-file format.
    pub log_path: PathBuf,
}

/// Which lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// Only the last so many lines; all when absent.
    pub tail: Option<u64>,
    /// Only lines at or after, Unix milliseconds.
    pub since: Option<i64>,
    /// Only lines before, Unix milliseconds.
    pub until: Option<i64>,
    /// Go on with new lines as they are written.
    pub follow: bool,
}

/// One line of a module's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Unix milliseconds, as stamped by the monitor.
    pub time: i64,
    /// Which of the two.
    pub stream: LogSource,
    /// The text without its line break; invalid UTF-8 replaced.
    pub text: String,
}

/// Which output of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
