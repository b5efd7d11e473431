//! What browsers see live: one stream of server-sent events each, over any number of topics.
//!
//! Each topic has one pump, however many watch it; a pump runs only while somebody does. What a
//! pump says is offered to every watcher's own bounded queue, so that a slow one loses updates
//! of its own, counted, and nobody else's. `topic`, `queue`, `tail`, `logs` and `pipeline` are
//! cores; `shell` owns streams and pumps, `http` serves. Decision record 0021.

pub(crate) mod logs;
pub(crate) mod pipeline;
pub(crate) mod queue;
pub(crate) mod tail;
pub(crate) mod topic;

pub(crate) mod http;
pub(crate) mod shell;
