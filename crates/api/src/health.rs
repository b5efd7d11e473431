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
}
