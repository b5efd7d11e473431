//! The one place of the tool that asks the time.

use std::time::Instant;

/// Now, for the lengths of the gate's steps.
#[expect(clippy::disallowed_methods, reason = "the place that the lint names")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
