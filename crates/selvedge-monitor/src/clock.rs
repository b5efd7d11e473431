//! The only place that asks the time.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Civil time as RFC 3339 in UTC with nanoseconds, as Docker writes it.
pub(crate) fn wall() -> String {
    format!("{:.9}", Timestamp::now())
}

/// The monotonic point `span` from now.
#[expect(clippy::disallowed_methods, reason = "this file is the clock")]
pub(crate) fn deadline(span: Duration) -> Instant {
    Instant::now() + span
}

/// How long ago `moment` was.
#[expect(clippy::disallowed_methods, reason = "this file is the clock")]
pub(crate) fn since(moment: Instant) -> Duration {
    Instant::now().saturating_duration_since(moment)
}

/// How long until `deadline`; zero if it has passed.
#[expect(clippy::disallowed_methods, reason = "this file is the clock")]
pub(crate) fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
