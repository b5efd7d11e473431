//! What the command line shows about a running device: plain numbers, taken at one moment.

use api::health::Listening;
use serde::{Deserialize, Serialize};

/// One look at the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// The device's name.
    pub device_id: String,
    /// Whether the device's session with the hub is open.
    pub upstream_connected: bool,
    /// The version of the desired properties that were read last; 0 if none ever were.
    pub desired_version: u64,
    /// `lastDesiredStatus.code` of `$edgeAgent`.
    pub desired_code: u16,
    /// `lastDesiredStatus.description` of `$edgeAgent`.
    pub desired_words: String,
    /// Every module that is desired or there, sorted by name.
    pub modules: Vec<ModuleStatus>,
    /// The router.
    pub router: RouterStatus,
    /// Descriptors and listeners of the runtime; absent before they are there.
    #[serde(default)]
    pub listening: Option<Listening>,
}

/// One module, as desired and as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// Its name.
    pub name: String,
    /// `running` or `stopped`; empty if the manifest does not name it.
    pub desired: String,
    /// `running`, `backoff`, `stopped`, `failed`, …; Azure's runtime status.
    pub actual: String,
    /// The image it is to be made from.
    pub image: String,
    /// Restarts since the counter was last cleared.
    pub restarts: u32,
    /// The last exit code; absent if it never ended.
    pub exit_code: Option<i64>,
    /// When it was last started, milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// When it last ended, milliseconds since 1970; absent if it never did.
    #[serde(default)]
    pub exited_ms: Option<i64>,
    /// Whether it has an open session with the router.
    pub connected: bool,
    /// Why it is not as desired; empty if all is well.
    pub words: String,
}

/// What the router counted since it started. Rates are for the reader to compute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Code of `$edgeHub`'s `lastDesiredStatus`; 0 before any were read.
    pub desired_code: u16,
    /// Words of `$edgeHub`'s `lastDesiredStatus`.
    pub desired_words: String,
    /// Messages taken from modules, those that no route wanted included.
    pub received: u64,
    /// Messages that went upstream and were acknowledged there.
    pub sent_upstream: u64,
    /// Messages that modules took from their inputs.
    pub sent_inputs: u64,
    /// Messages that no route wanted.
    pub dropped_no_route: u64,
    /// Messages that outlived their time to live.
    pub dropped_expired: u64,
    /// Messages that the hub will never take.
    pub dropped_poison: u64,
    /// Messages of modules that were removed before their messages were sent.
    pub dropped_no_sender: u64,
    /// Messages that could not be read back.
    pub dropped_damaged: u64,
    /// Messages refused because the disk is full or failing.
    pub refused: u64,
    /// Parts of the journal that could not be read at the start; their files were put aside.
    #[serde(default)]
    pub damaged_segments: usize,
    /// Messages waiting, by endpoint and priority.
    pub queues: Vec<QueueStatus>,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// As routes name it: `$upstream` or `BrokeredEndpoint(…)`.
    pub endpoint: String,
    /// 0 is highest.
    pub priority: u32,
    /// Messages waiting.
    pub depth: u64,
    /// Age of the oldest in milliseconds.
    pub oldest_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use testkit::shape::{check_golden, shape};

    use super::*;

    /// Management is spoken by the command line of the same release; additions are fine.
    #[test]
    fn the_status_is_what_its_golden_file_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/status.golden");
        check_golden(&file, &shape::<EdgeStatus>());
    }
}
