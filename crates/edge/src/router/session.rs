//! One open session of a module: what it asks and what it gets.

pub(crate) mod shell;

use std::time::Duration;

/// Most requests of one session that wait for something but the journal.
pub(crate) const OPERATIONS_MAX: usize = 512;
/// Most method calls that wait for one module.
pub(crate) const METHODS_MAX: usize = 32;
/// Most messages handed to one module and not settled.
pub(crate) const UNSETTLED_MAX: usize = 512;
/// Most payload bytes that one look into the lanes of a module brings.
pub(crate) const FETCH_BYTES: usize = 1024 * 1024;
/// How long one module may keep another waiting for the answer to a method, at most.
pub(crate) const INVOKE_MAX: Duration = Duration::from_mins(5);
