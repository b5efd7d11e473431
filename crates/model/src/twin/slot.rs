//! Several changes of desired properties as one notification.

use serde_json::{Map, Value};

use super::limits::{PROPERTIES_BYTES_MAX, object_bytes};
use super::patch::{compose, difference};
use super::{TwinPatch, Version};

/// Most bytes of changes that wait in one slot as they were made; beyond it only what differs
/// between what the device knows and what is wanted waits, which two sections bound.
pub const SLOT_BYTES_MAX: usize = 2 * PROPERTIES_BYTES_MAX;

/// One accepted change of desired properties, with what was before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredChange {
    /// A patch that leads from one to the other, nulls kept.
    pub patch: Map<String, Value>,
    /// The section before.
    pub before: Map<String, Value>,
    /// The section after.
    pub after: Map<String, Value>,
    /// The version after.
    pub version: Version,
}

/// The coalescing slot of a session.
#[derive(Debug)]
pub struct DesiredSlot {
    patch: Map<String, Value>,
    before: Map<String, Value>,
    version: Version,
}

impl DesiredSlot {
    /// A slot that holds one change.
    pub fn new(change: DesiredChange) -> Self {
        Self { patch: change.patch, before: change.before, version: change.version }
    }

    /// Takes one more change in.
    ///
    /// Where two merge patches have no common patch (a key deleted, then given an object), the
    /// difference between what the device knows and what is wanted now takes their place. So it
    /// does where they grow too large: keys that came and went leave nulls without end.
    pub fn add(&mut self, change: DesiredChange) {
        self.version = self.version.max(change.version);
        self.patch = compose(&self.patch, &change.patch)
            .filter(|patch| object_bytes(patch) <= SLOT_BYTES_MAX)
            .unwrap_or_else(|| difference(&self.before, &change.after));
    }

    /// What the device is told.
    pub fn into_event(self) -> (TwinPatch, Version) {
        (TwinPatch(self.patch), self.version)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => unreachable!("{other} is no object"),
        }
    }

    #[test]
    fn keys_that_come_and_go_do_not_fill_a_slot_that_nobody_takes() {
        let before = map(json!({"kept": 1, "gone": 1}));
        let after = map(json!({"kept": 2}));
        let first = map(json!({"kept": 2, "gone": null}));
        let version = Version(1);
        let change = |patch, version| DesiredChange {
            patch,
            before: before.clone(),
            after: after.clone(),
            version,
        };
        let mut slot = DesiredSlot::new(change(first, version));
        let mut largest = 0;
        for at in 0..10_000 {
            let key = format!("{at:0>40}");
            slot.add(change(map(json!({ key: null })), Version(at + 2)));
            largest = largest.max(object_bytes(&slot.patch));
        }
        assert!(largest > SLOT_BYTES_MAX / 2 && largest <= SLOT_BYTES_MAX, "{largest} bytes");
        let (patch, version) = slot.into_event();
        assert_eq!(version, Version(10_001));
        assert_eq!((&patch.0["kept"], &patch.0["gone"]), (&json!(2), &Value::Null));
    }
}
