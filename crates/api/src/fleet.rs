//! The fleet as the console shows it: counts, rows of devices, one device whole. Ours.
//!
//! Times are RFC 3339 in UTC.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::{Device, Status};

/// Most rows in one page of devices.
pub const DEVICE_ROWS_MAX: usize = 200;

/// The state of the whole fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When the counts were taken.
    pub as_of: String,
    /// Whether every identity was counted; a large fleet is counted in steps.
    pub complete: bool,
    /// Identities counted so far.
    pub scanned: u64,
    /// Devices by state.
    pub devices: DeviceCounts,
    /// Modules by reported state.
    pub modules: ModuleCounts,
    /// Telemetry over time.
    pub ingest: Ingest,
    /// The newest changes, newest first.
    pub recent: Vec<Change>,
}

/// Devices by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCounts {
    /// All.
    pub total: u64,
    /// Those that may connect.
    pub enabled: u64,
    /// Those that may not.
    pub disabled: u64,
    /// Edge devices.
    pub edge: u64,
    /// Connected at this moment.
    pub connected: u64,
    /// Enabled, seen before, and now silent for longer than `stale_after_seconds`.
    pub stale: u64,
    /// Enabled, and never connected.
    pub never_seen: u64,
    /// The silence after which a device counts as stale.
    pub stale_after_seconds: u64,
}

/// Modules by what their agents reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleCounts {
    /// All that any agent reported, the system's included.
    pub reported: u64,
    /// Those that run.
    pub running: u64,
    /// Those that should run and do not.
    pub failing: u64,
    /// Some of the failing.
    pub top: Vec<FailingModule>,
}

/// A module that should run and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingModule {
    /// The device.
    pub device_id: String,
    /// The module.
    pub module_id: String,
    /// What the agent calls its state.
    pub runtime_status: String,
    /// The status of its last end.
    pub exit_code: Option<i64>,
    /// The agent's words.
    pub description: Option<String>,
}

/// Telemetry over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingest {
    /// Messages taken since the hub started.
    pub messages_total: u64,
    /// Messages a second over the last whole step.
    pub messages_per_second: f64,
    /// Length of a step.
    pub step_seconds: u64,
    /// Whole steps, oldest first.
    pub series: Vec<IngestStep>,
}

/// One step of [`Ingest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestStep {
    /// When it began.
    pub at: String,
    /// Messages taken in it.
    pub messages: u64,
}

/// One entry of the change feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Its place in the feed.
    pub sequence: u64,
    /// When it was made.
    pub at: String,
    /// What changed.
    pub kind: String,
    /// The device it is about.
    pub device_id: String,
    /// The module it is about, if it is about one.
    pub module_id: Option<String>,
    /// The version of what changed.
    pub version: u64,
    /// `service`, `device` or `deployment`.
    pub cause: String,
}

/// A page of devices, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DevicePage {
    /// The rows; fewer than asked for, even none, does not mean the end.
    pub devices: Vec<DeviceRow>,
    /// Where to go on; the end when it is null.
    pub next: Option<String>,
    /// Devices that were looked at for this page.
    pub scanned: u64,
}

/// One device in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    /// The name.
    pub device_id: String,
    /// Whether it may connect.
    pub status: Status,
    /// Why, in the operator's words.
    pub status_reason: Option<String>,
    /// `Connected` or `Disconnected`.
    pub connection_state: String,
    /// Whether it counts as stale.
    pub stale: bool,
    /// When it last did anything; null if never.
    pub last_activity_time: Option<String>,
    /// Whether it runs the edge runtime.
    pub iot_edge: bool,
    /// Its tags; empty for a caller that may not read twins.
    pub tags: Map<String, Value>,
}

/// One device whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    /// The identity, without keys.
    pub device: Device,
    /// Whether it counts as stale.
    pub stale: bool,
    /// The versions of its twin and of its modules' twins.
    pub twins: Vec<TwinState>,
    /// What runs on it, for an edge device.
    pub edge: Option<EdgeView>,
}

/// The versions of one twin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwinState {
    /// The module; null for the device's own twin.
    pub module_id: Option<String>,
    /// The etag, unquoted.
    pub etag: String,
    /// Counts every change.
    pub version: u64,
    /// Counts changes of the desired properties.
    pub desired_version: u64,
    /// Counts changes of the reported properties.
    pub reported_version: u64,
    /// Whether the identity is connected to the hub itself.
    pub connected: bool,
}

/// What runs on an edge device, from the twin of its `$edgeAgent`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeView {
    /// The version of the deployment that the agent last looked at.
    pub last_desired_version: Option<u64>,
    /// The version that the hub holds.
    pub desired_version: u64,
    /// How that went.
    pub last_desired_status: Option<DesiredOutcome>,
    /// Every module that is desired or reported: the system's first, then by name.
    pub modules: Vec<EdgeModule>,
}

/// How a deployment went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DesiredOutcome {
    /// 200 when it was applied.
    pub code: i64,
    /// The agent's words.
    pub description: String,
}

/// One module as desired and as reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeModule {
    /// The name; the system's modules are `$edgeAgent` and `$edgeHub`.
    pub module_id: String,
    /// Whether it is the system's.
    pub system: bool,
    /// What the deployment wants; null if it does not name the module any more.
    pub desired: Option<DesiredModule>,
    /// What the agent said; null if it said nothing yet.
    pub reported: Option<ReportedModule>,
    /// Whether it should run and does not.
    pub failing: bool,
}

/// What a deployment wants of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredModule {
    /// `running` or `stopped`.
    pub status: Option<String>,
    /// The image.
    pub image: Option<String>,
    /// When it is started again.
    pub restart_policy: Option<String>,
    /// When the image is fetched.
    pub image_pull_policy: Option<String>,
    /// Smaller starts earlier.
    pub startup_order: Option<u64>,
    /// The operator's own mark.
    pub version: Option<String>,
}

/// What an agent said of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedModule {
    /// Its state.
    pub runtime_status: Option<String>,
    /// The agent's words.
    pub status_description: Option<String>,
    /// The status of its last end.
    pub exit_code: Option<i64>,
    /// How often it was started again.
    pub restart_count: Option<u64>,
    /// When it last started.
    pub last_start_time_utc: Option<String>,
    /// When it last ended.
    pub last_exit_time_utc: Option<String>,
    /// When it was last started again.
    pub last_restart_time_utc: Option<String>,
    /// The image it runs.
    pub image: Option<String>,
    /// The digest of that image.
    pub image_digest: Option<String>,
}
