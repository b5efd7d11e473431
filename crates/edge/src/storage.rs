//! What the device must remember: one small `SQLite` file of facts, written durably.
//!
//! Every fact has one owner that keeps it in memory, reads it once at start and writes it here
//! before it acts on it. Messages are not here; they lie in the journal.

pub(crate) mod schema;
pub(crate) mod store;
pub(crate) mod tables;
