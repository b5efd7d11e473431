//! The cloud: access, registry, twins, telemetry, methods, service API, storage.
//!
//! What it is: the rules of the hub over two embedded stores, `SQLite` for what is looked up and
//! the journal for telemetry. What it is not: it opens no socket and speaks no protocol; it
//! exports a [`model::waist::DeviceApi`] for listeners and a service for an HTTP server.
//! Start reading at [`Hub`], then `session`, then `storage`.

mod settings;
mod shell;

mod session;

mod access;
mod connections;

mod methods;
mod registry;
mod telemetry;
mod twins;

mod configurations;
mod service;

mod console;
mod expiry;
mod fleet;
mod live;

mod storage;

pub use model::commit::{CommitFault, CommitFaults, CommitStage, NoFaults};
pub use service::http::PeerOf;
pub use settings::{Retention, Settings};
pub use shell::{Hub, SignInLink};

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
    /// The file of the policies' keys is damaged; defaults are for absent files only.
    #[error("{path} does not hold the keys of all policies")]
    Policies {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The telemetry journal cannot be used.
    #[error("cannot use the telemetry journal: {0}")]
    Journal(String),
}

#[cfg(test)]
mod tests;
