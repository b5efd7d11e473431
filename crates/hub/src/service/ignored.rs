//! What requests said and nobody here knows, counted by field.
//!
//! An SDK that sends more than this hub takes is not refused for it, as Azure does not; but an
//! operator whose `stauts` did nothing finds it in the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tracing::info;

/// Most names that are counted each by itself.
const IGNORED_NAMES_MAX: usize = 256;
/// Longest name that is kept, in characters; the rest is cut off.
const IGNORED_NAME_LEN_MAX: usize = 64;
/// What further names are counted as.
const OTHERS: &str = "(others)";

/// How often each field was left aside since the start.
#[derive(Debug, Default)]
pub(crate) struct IgnoredFields {
    counts: Mutex<BTreeMap<String, u64>>,
}

impl IgnoredFields {
    /// Counts `field` of a request to `what`, and tells the log at the first time, the second,
    /// the fourth and so on: a client that sends it always does not fill the log.
    pub(crate) fn note(&self, what: &str, field: &str) {
        let count = self.count(what, field);
        if count.is_power_of_two() {
            let field = field.escape_debug().to_string();
            info!(what, field, count, "a request says what this hub does not know; left aside");
        }
    }

    fn count(&self, what: &str, field: &str) -> u64 {
        let name: String = format!("{what} {field}").chars().take(IGNORED_NAME_LEN_MAX).collect();
        // Counts are whole after every step, so a panic elsewhere leaves them usable.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = counts.len() >= IGNORED_NAMES_MAX && !counts.contains_key(&name);
        let count = counts.entry(if is_full { OTHERS.to_owned() } else { name }).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_by_name_up_to_a_bound() {
        let ignored = IgnoredFields::default();
        assert_eq!(ignored.count("device", "x"), 1);
        assert_eq!(ignored.count("device", "x"), 2);
        assert_eq!(ignored.count("module", "x"), 1);
        for n in 0..2 * IGNORED_NAMES_MAX {
            ignored.count("device", &format!("x{n}"));
        }
        let long = "y".repeat(10 * IGNORED_NAME_LEN_MAX);
        ignored.count("device", &long);
        let counts = ignored.counts.lock().unwrap();
        // One more than the names themselves: what the further ones are counted as.
        assert_eq!(counts.len(), IGNORED_NAMES_MAX + 1);
        assert!(counts[OTHERS] > IGNORED_NAMES_MAX as u64);
        assert!(counts.keys().all(|name| name.chars().count() <= IGNORED_NAME_LEN_MAX));
    }

    #[test]
    fn a_long_name_is_cut() {
        let ignored = IgnoredFields::default();
        let long = "ü".repeat(10 * IGNORED_NAME_LEN_MAX);
        assert_eq!(ignored.count("device", &long), 1);
        let counts = ignored.counts.lock().unwrap();
        assert_eq!(counts.keys().next().unwrap().chars().count(), IGNORED_NAME_LEN_MAX);
    }
}
