//! The cloud: access, registry, twins, telemetry, methods, service API, storage.
//!
//! What it is: the rules of the hub over two embedded stores, SQLite for what is looked up and
//! the journal for telemetry. What it is not: it opens no socket and speaks no protocol; it
//! exports a [`model::waist::DeviceApi`] for listeners and a service for an HTTP server.
//! Start reading at [`Hub`], then `session`, then `storage`.

mod settings;

pub use settings::{CommitFault, CommitFaults, CommitStage, NoFaults, Retention, Settings};

use std::sync::Arc;

use model::waist::DeviceApi;
use model::world::World;
use thiserror::Error;

/// Why a hub cannot be opened.
#[derive(Debug, Error)]
pub enum OpenHubError {
    /// A setting makes no sense.
    #[error("setting `{name}`: {reason}")]
    Setting {
        /// Which.
        name: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The folder cannot be used.
    #[error("cannot use the data folder {path}")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The tables cannot be used; a damaged file is named, never replaced.
    #[error("cannot use the tables in {path}: {reason}")]
    Tables {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
    /// The telemetry journal cannot be used.
    #[error("cannot use the telemetry journal: {0}")]
    Journal(String),
}

/// A running hub. Dropping it loses nothing that was acknowledged; [`Hub::close`] is the
/// orderly end.
#[derive(Debug)]
pub struct Hub {}

impl Hub {
    /// Opens or creates the hub in `settings.data` and starts its workers.
    ///
    /// # Errors
    /// [`OpenHubError`] names the setting, folder or file at fault.
    pub fn open(_settings: Settings, _world: World) -> Result<Self, OpenHubError> {
        todo!()
    }

    /// The waist, for listeners.
    pub fn device_api(&self) -> Arc<dyn DeviceApi> {
        todo!()
    }

    /// The service API and our own API, for an HTTP server. Requests carry `Authorization`.
    pub fn service(&self) -> axum::Router {
        todo!()
    }

    /// The key of a service policy (`iothubowner`, `service`, `device`, `registryRead`,
    /// `registryReadWrite`), base64, for whoever started the hub.
    pub fn policy_key(&self, _policy: &str) -> Option<model::secret::Secret> {
        todo!()
    }

    /// Ends every session with `Closed(ShuttingDown)`, refuses new work, and returns when what
    /// was accepted is on disk and answered.
    pub async fn close(&self) {
        todo!()
    }
}
