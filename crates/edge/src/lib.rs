//! The device runtime: makes modules run as the cloud desires, and carries their messages.
//!
//! What it is: the edge agent (`$edgeAgent`), the edge hub's router (`$edgeHub`), the access
//! rules, keys and certificates of one device, and the two HTTP interfaces that modules and
//! the command line speak.
//! What it is not: it opens no sockets and speaks no protocol (the binary joins it to `net`),
//! and it starts no containers (`engine` does). Its upstream is some
//! [`DeviceApi`](model::waist::DeviceApi).
//! Start reading at [`Edge`], then `agent/plan.rs` and `router/pump.rs`.

pub mod access;
pub mod agent;
pub mod provisioning;
pub mod router;
pub mod settings;
pub mod status;
pub mod workload;

mod shell;

pub use shell::{Edge, Parts, StartError};
