//! The workload interface: what a module's SDK asks on the module's own Unix socket.
//!
//! `http.rs` has the handlers. One router per module: whoever reaches the socket of a module
//! may sign as that module only.

pub mod http;
