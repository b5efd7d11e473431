//! Whether the hub works. Ours, under `/api/v1`.

use std::fmt;
use std::sync::OnceLock;

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
    /// How often requests of devices waited since the start, because the whole hub held as many
    /// bytes of them as it may.
    #[serde(default)]
    pub requests_full: u64,
    /// How often answers to devices were refused since the start, because the whole hub held as
    /// many bytes of them for devices that do not take them as it may.
    #[serde(default)]
    pub answers_full: u64,
    /// The console's streams.
    pub live: LiveTotals,
    /// Descriptors and listeners of the process; absent if the hub runs without listeners.
    #[serde(default)]
    pub listening: Option<Listening>,
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

/// What a process may open, and who listens in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listening {
    /// Its descriptors.
    pub descriptors: DescriptorTotals,
    /// Its listeners.
    pub listeners: Vec<ListenerTotals>,
}

/// Where a service learns of the listeners that serve it: they start after it.
#[derive(Default)]
pub struct ListenerView(OnceLock<Box<dyn Fn() -> Listening + Send + Sync>>);

impl fmt::Debug for ListenerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListenerView")
    }
}

impl ListenerView {
    /// From now on `look` tells; the first is kept, for a process has one set of listeners.
    pub fn set(&self, look: impl Fn() -> Listening + Send + Sync + 'static) {
        self.0.set(Box::new(look)).ok();
    }

    /// How it is now; none before the listeners are there.
    pub fn look(&self) -> Option<Listening> {
        self.0.get().map(|look| look())
    }
}

/// Descriptors as a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescriptorTotals {
    /// Most that the process may have open.
    pub limit: u64,
    /// Those of them that no listener uses: for stores and the process itself.
    pub reserve: u64,
}

/// What a listener holds and has counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTotals {
    /// What it is for.
    pub name: String,
    /// Connections open now.
    pub open: u64,
    /// Most connections at once.
    pub seats: u64,
    /// Those open now whose peers have proven nothing yet.
    pub unproven: u64,
    /// Most of them at once.
    pub unproven_seats: u64,
    /// Connections that got a seat.
    pub accepted: u64,
    /// Connections closed at once: all seats were taken.
    pub refused: u64,
    /// Connections of unproven peers that ended for a newcomer.
    pub gave_way: u64,
    /// Connections whose peer was gone before it was served.
    pub lost: u64,
    /// Times that accepting waited for descriptors or memory.
    pub pauses: u64,
    /// Handshakes that failed.
    pub failed: u64,
    /// Connections that ended because the peer took longer than it may.
    pub late: u64,
    /// Connections that ended because the peer sent more than it may.
    pub too_large: u64,
    /// Connections cut off because the peer took nothing of what waited for it.
    #[serde(default)]
    pub deaf: u64,
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
