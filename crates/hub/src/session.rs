//! Sessions: one identity, open, on the hub's side of the waist.
//!
//! `state` is the core: what a session holds and how it ends. `shell` joins it to the stores
//! and to wakers.

pub(crate) mod answers;
pub(crate) mod budget;
pub(crate) mod effect;
pub(crate) mod requests;
pub(crate) mod shell;
pub(crate) mod state;
