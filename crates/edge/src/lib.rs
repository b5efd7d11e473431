//! The device runtime: makes modules run as the cloud desires, and carries their messages.
//!
//! What it is: the edge agent (`$edgeAgent`), the edge hub's router (`$edgeHub`), the access
//! rules of one device, and the workload interface that modules speak.
//! What it is not: it opens no sockets and speaks no protocol (the binary joins it to `net`),
//! and it starts no containers (`engine` does). Its upstream is some
//! [`DeviceApi`](model::waist::DeviceApi).
//! So far it holds the rules, without the loops that act on them: nothing here starts a module
//! or forwards a message yet.
//! Start reading at [`agent::plan`], then [`router::pump`].

pub mod provisioning;
pub mod settings;

pub mod agent;
pub mod router;

pub mod access;
pub mod workload;

pub(crate) mod storage;
pub(crate) mod upstream;
