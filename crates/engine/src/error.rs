//! What an engine can refuse, as plain data that crosses a process boundary unchanged.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why an engine did not do what was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
#[non_exhaustive]
pub enum EngineError {
    /// The image was never imported, or was removed since.
    #[error("image {image} is not on this device; import it with `selvedge-edge image import`")]
    ImageMissing {
        /// The reference as the deployment wrote it.
        image: String,
    },
    /// Bytes do not have the digest that names them.
    #[error("{subject} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// What was hashed: a blob, a layer, a manifest.
        subject: String,
        /// `sha256:…` as promised.
        expected: String,
        /// `sha256:…` as computed.
        found: String,
    },
    /// The archive is damaged, hostile, or of a kind that is not understood.
    #[error("image archive refused: {message}")]
    InvalidImage {
        /// What is wrong, with the entry's name where there is one.
        message: String,
    },
    /// A field of `createOptions` that this engine cannot honour.
    #[error("createOptions {path}: {message}")]
    InvalidCreateOptions {
        /// The field, as `HostConfig.Binds[0]`; empty for the document itself.
        path: String,
        /// Why, and what would be accepted.
        message: String,
    },
    /// A field of the module specification that this engine cannot honour.
    #[error("module {name}: {message}")]
    InvalidSpec {
        /// The module's name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// No module of that name.
    #[error("module {name} does not exist")]
    NotFound {
        /// The module's name.
        name: String,
    },
    /// The module is in a state that forbids the operation.
    #[error("module {name}: {message}")]
    Conflict {
        /// The module's name.
        name: String,
        /// Which state, and what would be needed.
        message: String,
    },
    /// The module could not be started; it is there, but does not run.
    #[error("module {name} did not start: {message}")]
    StartFailed {
        /// The module's name.
        name: String,
        /// The reason the operating system or the monitor gave.
        message: String,
    },
    /// The engine itself cannot be reached or lacks something it needs; trying later may help.
    #[error("the engine is unavailable: {message}")]
    Unavailable {
        /// What is missing.
        message: String,
    },
    /// A file, a mount or another operation of the machine failed.
    #[error("{action}: {message}")]
    System {
        /// What was being done, with the path.
        action: String,
        /// The operating system's words.
        message: String,
    },
}

impl EngineError {
    /// A failure of the machine while doing `action`.
    pub fn system(action: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::System { action: action.into(), message: cause.to_string() }
    }

    /// A refused archive.
    pub fn image(message: impl Into<String>) -> Self {
        Self::InvalidImage { message: message.into() }
    }

    /// A refused field of `createOptions`.
    pub fn option(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidCreateOptions { path: path.into(), message: message.into() }
    }
}
