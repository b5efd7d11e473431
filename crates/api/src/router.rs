//! What an edge device's router counts: the answer of `$edgeAgent` to `GetRouterMetrics`, and
//! what the console gets of it. Ours.
//!
//! The method's fields carry the names of the reference's Prometheus metrics where it has one.
//! Source: Azure IoT Edge, `doc/BuiltInMetrics.md`. Counters begin anew when the router starts.

use serde::{Deserialize, Serialize};

/// The method of `$edgeAgent` that answers with [`RouterMetrics`].
pub const GET_ROUTER_METRICS: &str = "GetRouterMetrics";

/// What a router counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterMetrics {
    /// `1.0`.
    pub schema_version: String,
    /// How long the router runs.
    pub uptime_seconds: u64,
    /// The routes in force, by name.
    pub routes: Vec<RouteState>,
    /// Messages taken, by sender and output.
    #[serde(rename = "edgehub_messages_received_total")]
    pub received: Vec<ReceivedTotal>,
    /// Messages that arrived where their route leads.
    #[serde(rename = "edgehub_messages_sent_total")]
    pub sent: Vec<EndpointTotal>,
    /// Messages that wait.
    #[serde(rename = "edgehub_queue_length")]
    pub queues: Vec<QueueLength>,
    /// Messages that will never arrive.
    #[serde(rename = "edgehub_messages_dropped_total")]
    pub dropped: Vec<DroppedTotal>,
}

/// A route in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteState {
    /// Its name.
    pub name: String,
    /// Where its messages come from, as in `FROM`.
    pub source: String,
    /// Which of them, as in `WHERE`; null for all.
    pub condition: Option<String>,
    /// `$upstream`, or `module/input`.
    pub endpoint: String,
    /// Smaller is more urgent.
    pub priority: u32,
    /// How long a message may wait; null is the router's own setting.
    pub time_to_live_secs: Option<u64>,
}

/// Messages of one sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedTotal {
    /// The module, or the device itself.
    pub id: String,
    /// The output they were sent to; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_output: Option<String>,
    /// How many.
    pub value: u64,
}

/// Messages of one endpoint and priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointTotal {
    /// `$upstream`, or `module/input`.
    pub endpoint: String,
    /// Smaller is more urgent.
    pub priority: u32,
    /// How many.
    pub value: u64,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLength {
    /// `$upstream`, or `module/input`.
    pub endpoint: String,
    /// Smaller is more urgent.
    pub priority: u32,
    /// Messages that wait.
    pub value: u64,
    /// Milliseconds that the oldest waits; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_ms: Option<u64>,
    /// Segments of the store that this queue keeps from being freed, beside the one in use.
    #[serde(default)]
    pub held_segments: u64,
    /// Bytes on disk of those segments: a queue that nobody empties can hold far more than waits
    /// in it.
    #[serde(default)]
    pub held_bytes: u64,
}

/// Messages that were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedTotal {
    /// Where they were to go; absent if nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `no_route`, `ttl_expiry`, `refused_upstream`, `sender_removed`, `damaged`.
    pub reason: String,
    /// How many.
    pub value: u64,
}

/// A device's pipeline as the console shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    /// When the device was last heard; null if never.
    pub as_of: Option<String>,
    /// Why there is nothing newer; null if there is.
    pub problem: Option<Problem>,
    /// How long the router runs.
    pub uptime_seconds: u64,
    /// The routes in force.
    pub routes: Vec<RouteState>,
    /// Messages taken.
    pub received: Vec<PipelineReceived>,
    /// Messages that arrived.
    pub sent: Vec<PipelineSent>,
    /// Messages that wait.
    pub queues: Vec<PipelineQueue>,
    /// Messages that will never arrive.
    pub dropped: Vec<PipelineDropped>,
}

/// Why a device does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `offline`, `timedOut` or `refused`.
    pub code: String,
    /// In words.
    pub message: String,
}

/// Messages of one sender, over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineReceived {
    /// The sender.
    pub from: String,
    /// The output.
    pub output: Option<String>,
    /// Since the router started.
    pub total: u64,
    /// Between the last two looks; null at the first.
    pub per_second: Option<f64>,
}

/// Messages of one endpoint and priority, over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineSent {
    /// The endpoint.
    pub endpoint: String,
    /// The priority.
    pub priority: u32,
    /// Since the router started.
    pub total: u64,
    /// Between the last two looks; null at the first.
    pub per_second: Option<f64>,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineQueue {
    /// The endpoint.
    pub endpoint: String,
    /// The priority.
    pub priority: u32,
    /// Messages that wait.
    pub length: u64,
    /// How long the oldest waits; null when none does.
    pub oldest_age_seconds: Option<f64>,
}

/// Messages that were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineDropped {
    /// Where they were to go; null if nowhere.
    pub endpoint: Option<String>,
    /// Why.
    pub reason: String,
    /// Since the router started.
    pub total: u64,
}
