//! The launcher's clock; everything else takes time from its `World`.
#![expect(clippy::disallowed_methods, reason = "this is the clock")]

use std::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}
