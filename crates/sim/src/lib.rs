//! The simulator: the real hub and its real listeners, simulated devices, a virtual clock.
//!
//! One current-thread tokio runtime with paused time holds all hosts. The network is pipes in
//! memory that delay, split and cut. A seed decides everything; the same seed gives the same
//! transcript. Start reading at [`scenario`].

pub mod pipes;

pub mod device;

pub mod cloud;

pub mod scenario;
