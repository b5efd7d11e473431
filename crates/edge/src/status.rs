//! What the command line shows about a running device: plain numbers, taken at one moment.

use model::id::ModuleName;
use model::time::WallTime;
use serde::Serialize;

/// One look at the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EdgeStatus {
    /// The device's name.
    pub device_id: String,
    /// Whether the hub answered the last time it was asked.
    pub upstream_connected: bool,
    /// The version of the desired properties that are in force; 0 if none ever were.
    pub desired_version: u64,
    /// `lastDesiredStatus.code` of `$edgeAgent`.
    pub desired_code: u16,
    /// `lastDesiredStatus.description` of `$edgeAgent`.
    pub desired_words: String,
    /// Every module that is desired or there, sorted by name.
    pub modules: Vec<ModuleStatus>,
    /// The router.
    pub router: RouterStatus,
}

/// One module, as desired and as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModuleStatus {
    /// Its name.
    pub name: String,
    /// `running` or `stopped`; empty if the manifest does not name it.
    pub desired: String,
    /// `running`, `backoff`, `stopped`, `failed`, …; Azure's runtime status.
    pub actual: String,
    /// The image it was made from.
    pub image: String,
    /// Restarts since the counter was last cleared.
    pub restarts: u32,
    /// The last exit code; absent if it never ended.
    pub exit_code: Option<i64>,
    /// When it was last started, milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// Whether it has an open session with the router.
    pub connected: bool,
    /// Why it is not as desired; empty if all is well.
    pub words: String,
}

/// What the router counted since it started. Rates are for the reader to compute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouterStatus {
    /// Code of `$edgeHub`'s `lastDesiredStatus`.
    pub desired_code: u16,
    /// Words of `$edgeHub`'s `lastDesiredStatus`.
    pub desired_words: String,
    /// Messages taken from modules and made durable.
    pub received: u64,
    /// Messages that went upstream and were acknowledged there.
    pub sent_upstream: u64,
    /// Messages that modules took from their inputs.
    pub sent_inputs: u64,
    /// Messages that no route wanted.
    pub dropped_no_route: u64,
    /// Messages that outlived their time to live.
    pub dropped_expired: u64,
    /// Messages refused because the disk is full or failing.
    pub refused: u64,
    /// Messages waiting, by endpoint, sorted.
    pub queues: Vec<QueueStatus>,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// `$upstream` or `modules/<name>/inputs/<input>`.
    pub endpoint: String,
    /// 0 is highest.
    pub priority: u32,
    /// Messages waiting.
    pub depth: u64,
}

/// Names and times become text and numbers here, once.
pub(crate) fn name_of(module: &ModuleName) -> String {
    module.as_str().to_owned()
}

pub(crate) fn millis(at: Option<WallTime>) -> Option<i64> {
    at.map(|at| at.0)
}
