//! The embedded stores: `SQLite` for what is looked up, the journal for telemetry.
//!
//! One writer worker owns the writing connection and commits many operations at once; a reader
//! worker serves looks. Nothing is answered before its commit.

pub(crate) mod feed;
pub(crate) mod fleet;
pub(crate) mod identities;
pub(crate) mod inbox;
pub(crate) mod reader;
pub(crate) mod rows;
pub(crate) mod schema;
pub(crate) mod trust;
pub(crate) mod twins;
pub(crate) mod words;
pub(crate) mod writer;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod power;
