//! Starts the areas of the runtime, joins them, and stops them in order.

use std::path::PathBuf;
use std::sync::Arc;

use model::id::ModuleName;
use model::waist::DeviceApi;
use model::world::World;
use thiserror::Error;

use crate::settings::Settings;
use crate::status::EdgeStatus;

/// Everything a runtime is made from.
pub struct Parts {
    /// What the operator wrote.
    pub settings: Settings,
    /// Where tables, keys and the journal lie; must exist and be private.
    pub folder: PathBuf,
    /// Time, chance, tasks.
    pub world: World,
    /// The next `DeviceApi` towards the cloud. Opened with SAS claims, one per identity.
    pub upstream: Arc<dyn DeviceApi>,
}

/// Why the runtime does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A file of the device's state is damaged or cannot be used.
    #[error("the state of the device cannot be used")]
    State,
}

/// A running device runtime. Dropping it without [`Edge::close`] is like a power cut.
pub struct Edge {
    _parts: Parts,
}

impl Edge {
    /// Opens the state, makes what is missing (keys, certificates, tables), and starts.
    /// Needs no upstream: what ran before runs again from the last good manifest.
    ///
    /// # Errors
    /// [`StartError`] names the file that cannot be used.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        Ok(Self { _parts: parts })
    }

    /// The waist that listeners offer to modules.
    pub fn device_api(&self) -> Arc<dyn DeviceApi> {
        todo!()
    }

    /// The workload interface of `module`, to be served on that module's own socket.
    pub fn workload(&self, _module: &ModuleName) -> axum::Router {
        todo!()
    }

    /// The management interface, to be served on a socket for root and the group only.
    pub fn management(&self) -> axum::Router {
        todo!()
    }

    /// One look at everything.
    pub fn status(&self) -> EdgeStatus {
        EdgeStatus::default()
    }

    /// Reports all modules `unknown`, closes the sessions, and syncs the journal. Modules
    /// keep running.
    pub async fn close(self) {}
}
