//! The web console's door: its files, one-time links, and the sessions of browsers.
//!
//! `sessions` is the core: tokens, sessions, what ends them. `assets` chooses and dresses a
//! file. `shell` owns the sessions of a running hub, `http` serves. Decision record 0020.

pub(crate) mod assets;
pub(crate) mod sessions;

pub(crate) mod http;
pub(crate) mod shell;
