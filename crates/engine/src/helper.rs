//! The privileged helper: an engine in a process of its own, over an inherited socket: one
//! connection, or a listener that admits one user only.
//!
//! Protocol, version 1: each side sends frames of a 4-byte big-endian length and that many bytes
//! of JSON. A request is `{"version":1,"id":…,"ask":{…}}`, its answer `{"id":…,"answer":{…}}`.
//! Answers may come in any order.
//! Unknown fields are refused: this process is root and is asked by its own runtime only, so a
//! field that it does not know is a wish that it would otherwise drop in silence.

mod client;
mod server;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use client::{HelperClient, connect};
pub use server::{serve, serve_only};

use crate::error::EngineError;
use crate::log::{LogCursor, LogPage};
use crate::runtime::{
    EngineInfo, ImageArchive, ImageImported, ImageState, LogQuery, ModuleCreated, ModuleSpec,
    ModuleState,
};

/// Version of the protocol. Both ends come from one binary, so another one is refused.
const VERSION: u32 = 1;
/// Longest frame, in bytes.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most requests of a connection at work at once; further ones are refused.
const REQUESTS_MAX: usize = 64;
/// Most connections at once: one, and older ones of it that are ending.
const CONNECTIONS_MAX: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    version: u32,
    id: u64,
    ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Response {
    id: u64,
    answer: Result<Answer, EngineError>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Ask {
    Info,
    List,
    Import(ImageArchive),
    Images,
    Prepare(String),
    Create(ModuleSpec),
    Start(String),
    Stop {
        name: String,
        grace: Duration,
    },
    Remove(String),
    ReadLog {
        name: String,
        query: LogQuery,
        cursor: Option<LogCursor>,
    },
    /// Answered when the fingerprint is not `seen` any more, or after a while.
    Changed {
        seen: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Answer {
    Info(EngineInfo),
    Modules(Vec<ModuleState>),
    Imported(ImageImported),
    Images(Vec<ImageState>),
    Image(ImageState),
    Created(ModuleCreated),
    Done,
    Page(LogPage),
    Fingerprint(u64),
}

#[cfg(test)]
mod tests;
