//! The stop watch of the benchmarks.
#![expect(clippy::disallowed_methods, reason = "this is the clock")]

use std::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}
