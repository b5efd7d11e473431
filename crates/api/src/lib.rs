//! HTTPS contracts: the shapes of the service API, its error bodies, and our own API.
//!
//! What it is: the JSON that Azure's SDKs and our command line send and read, as types, with
//! the paths and the error codes. What it is not: it decides nothing and does no I/O.
//! Shapes that come in refuse unknown fields; fields that Azure allows but that a service
//! cannot set are listed in the shape and documented as ignored.
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

mod key;
mod path;

pub use key::Key;
pub use path::{PathFault, segments};

#[cfg(test)]
mod golden;
