//! The device runtime: makes modules run as the cloud desires, and carries their messages.
//!
//! What it is: the edge agent (`$edgeAgent`), the edge hub's router (`$edgeHub`), the access
//! rules of one device, and the interfaces that modules and operators speak.
//! What it is not: it opens no sockets and speaks no protocol (the binary joins it to `net`),
//! and it starts no containers (`engine` does). Its upstream is some
//! [`DeviceApi`](model::waist::DeviceApi).
//! Start reading at [`shell::Edge`], then [`agent::plan`] and [`router::pump`].

pub mod provisioning;
pub mod settings;

pub mod shell;
pub mod status;

pub mod agent;
pub mod router;

pub mod access;
pub mod identity;
pub mod workload;

pub(crate) mod management;
pub(crate) mod storage;
pub(crate) mod upstream;
