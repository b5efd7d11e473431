//! Telemetry by cursor and as a live stream. Ours, under `/api/v1`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most messages that one page gives.
pub const PAGE_MAX: usize = 1000;

/// One message, as read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryMessage {
    /// The partition it is in.
    pub partition: u16,
    /// Its place in the partition; ascending, not dense.
    pub offset: u64,
    /// When the hub took it, RFC 3339.
    pub enqueued_time: String,
    /// Who sent it, proven.
    pub device_id: String,
    /// The module that sent it, proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<String>,
    /// What protocol and platform say, under Azure's names (`messageId`, `contentType`,
    /// `connectionDeviceId`, `outputName`, …); absent ones are left out.
    pub system_properties: Map<String, Value>,
    /// What the application attached, decoded.
    pub properties: Map<String, Value>,
    /// The body: text, or base64 as `body_encoding` says.
    pub body: String,
    /// How `body` is written.
    pub body_encoding: BodyEncoding,
}

/// How a body is written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyEncoding {
    /// As it is; the bytes are UTF-8.
    #[serde(rename = "utf-8")]
    Utf8,
    /// Base64 with padding.
    #[serde(rename = "base64")]
    Base64,
}

/// What GET `/api/v1/telemetry` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryPage {
    /// The partition asked for.
    pub partition: u16,
    /// Messages in order; may be empty although more come (a filter skipped them).
    pub messages: Vec<TelemetryMessage>,
    /// Where to go on: the `from` of the next call.
    pub next: u64,
    /// The end of the partition at the time of the answer; `next == end` means all was read.
    pub end: u64,
    /// The first offset that retention has left.
    pub first: u64,
}
