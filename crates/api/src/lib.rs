//! HTTPS contracts: the shapes of the service API, its error bodies, and our own API.
//!
//! What it is: the JSON that Azure's SDKs and our command line send and read, as types, with
//! the paths and the error codes. What it is not: it decides nothing and does no I/O.
//! Shapes that an SDK fills from its caller's object are read by [`tolerant`]: what they do not
//! know is left aside and counted. Shapes that only our own clients fill refuse it.
//! Start reading at [`registry`].

pub mod registry;

pub mod twin;

pub mod method;

pub mod configuration;

pub mod statistics;

pub mod telemetry;

pub mod error;

pub mod health;

pub mod proof;

pub mod console;

pub mod fleet;

pub mod router;

pub mod tolerant;

pub mod version;

mod key;
mod path;

pub use key::Key;
pub use path::{PathFault, segments};

#[cfg(test)]
mod golden;
