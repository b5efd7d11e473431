//! The durable segmented log: append with group commit, cursors, lanes, expiry, recovery.
//!
//! It knows bytes, not devices. The core has no thread, clock or executor: callers pass `now`
//! in milliseconds of UTC and call [`log::Log::commit`] from a worker of their own.
//!
//! Start with [`log`] (segments, retention, readers), then [`queue`] (lanes with cursors), then
//! [`worker`] (many senders, one commit). [`disk`] is the seam to the file system.

// The fuzzer's target is a user of the crate, and its seeds are run by a test in it.
#[cfg(test)]
extern crate self as journal;

mod planted;

pub mod disk;
pub mod log;
pub mod queue;
pub mod worker;

#[cfg(test)]
mod tests;
