//! What whoever starts a hub decides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::commit::{CommitFaults, NoFaults};

/// Settings of one hub.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder for everything; made if absent, mode 0700.
    pub data: PathBuf,
    /// Host names that tokens may name (without port, case ignored); the first is the hub's
    /// own. At least one.
    pub hosts: Vec<String>,
    /// Telemetry lanes, 1 to 64; fixed when the folder is first used.
    pub partitions: u16,
    /// How long telemetry is kept.
    pub telemetry: Retention,
    /// How long the change feed is kept.
    pub changes: Retention,
    /// A folder to serve the console from instead of the files inside the hub, for its developers.
    pub console_folder: Option<PathBuf>,
    /// Faults at the commit boundary; [`NoFaults`] outside the simulator.
    pub faults: Arc<dyn CommitFaults>,
}

impl Settings {
    /// The usual settings for `data` and one host name.
    pub fn new(data: impl Into<PathBuf>, host: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            hosts: vec![host.into()],
            partitions: 4,
            telemetry: Retention { age: Duration::from_hours(24), bytes: 4 << 30 },
            changes: Retention { age: Duration::from_hours(24), bytes: 64 << 20 },
            console_folder: None,
            faults: Arc::new(NoFaults),
        }
    }
}

/// How long something is kept: until either limit is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Oldest age.
    pub age: Duration,
    /// Most bytes.
    pub bytes: u64,
}
