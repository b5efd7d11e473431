//! Whether the hub works. Ours, under `/api/v1`.

use serde::{Deserialize, Serialize};

/// What GET `/api/v1/health` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok`, or `stopping`.
    pub status: String,
    /// The product's version.
    pub version: String,
    /// How often this data folder was opened.
    pub incarnation: u32,
    /// Open sessions of devices and modules.
    pub sessions: u64,
    /// Telemetry lanes.
    pub partitions: u16,
    /// Telemetry messages taken since the start.
    pub messages_accepted: u64,
    /// The console's streams.
    pub live: LiveTotals,
    /// Ranges of telemetry that could not be read at the start; their segments were put aside.
    #[serde(default)]
    pub damaged: Vec<DamagedTelemetry>,
}

/// What happened to the console's streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveTotals {
    /// Open at this moment.
    pub open: u64,
    /// Bytes that wait for browsers at this moment.
    pub pending_bytes: u64,
    /// Opened since the hub started.
    pub opened: u64,
    /// Cut off because the browser took nothing.
    pub cut: u64,
    /// Updates, rows and lines that streams which ended had left out.
    pub dropped: u64,
    /// Times that the room for one browser's waiting bytes was used up, on streams which ended.
    pub overflows: u64,
}

/// Telemetry that was lost to a damaged segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedTelemetry {
    /// The file it lay in; one that ends in `.damaged` was put aside and can be looked at.
    pub file: String,
    /// The first offset that is missing, over all partitions.
    pub from: u64,
    /// The first offset behind it.
    pub to: u64,
}
