//! The simulator: the real hub and real device runtimes with their listeners and clients,
//! simulated devices, modules and engines, one virtual clock.
//!
//! One current-thread tokio runtime with paused time holds all hosts. The network is pipes in
//! memory, the journals lie on simulated disks, `SQLite` runs real with faults at its commits,
//! and the fake engine stands in for containers. A seed decides everything; the same seed gives
//! the same transcript. Start reading at [`scenario`].

pub mod pipes;
pub mod skewed;
pub mod strikes;

pub mod cloud;
pub mod device;
pub mod listener;
pub mod owed;
pub mod program;
pub mod properties;
pub mod reports;

pub mod edge_site;
pub mod hub_site;

pub mod filler;
pub mod operator;
pub mod oracle;
pub mod sentence;
pub mod totals;

pub mod scenario;
pub mod seeds;

#[cfg(test)]
mod generation;
