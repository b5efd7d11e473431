//! Several changes of desired properties as one notification.

use model::twin::{TwinPatch, Version};
use serde_json::{Map, Value};

/// One accepted change of desired properties, with what was before and after it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredChange {
    /// The patch as applied, nulls kept; the whole section for a replacement.
    pub(crate) patch: Map<String, Value>,
    /// The section before.
    pub(crate) before: Map<String, Value>,
    /// The section after.
    pub(crate) after: Map<String, Value>,
    /// The version after.
    pub(crate) version: Version,
    /// Whether it replaced the section.
    pub(crate) replaced: bool,
}

/// The coalescing slot of a session.
#[derive(Debug)]
pub(crate) struct Slot {
    patch: Map<String, Value>,
    before: Map<String, Value>,
    version: Version,
}

impl Slot {
    /// A slot that holds one change.
    pub(crate) fn new(change: DesiredChange) -> Self {
        Self { patch: change.patch, before: change.before, version: change.version }
    }

    /// Takes one more change in.
    ///
    /// Where two merge patches have no common patch (a key deleted, then given an object), the
    /// difference between what the device knows and what is wanted now takes their place.
    pub(crate) fn add(&mut self, change: DesiredChange) {
        self.version = self.version.max(change.version);
        if change.replaced {
            self.patch = change.patch;
        } else if !compose(&mut self.patch, &change.patch) {
            self.patch = difference(&self.before, &change.after);
        }
    }

    /// What the device is told.
    pub(crate) fn into_event(self) -> (TwinPatch, Version) {
        (TwinPatch(self.patch), self.version)
    }
}

/// Makes `first` do what `first` and then `second` do; `false` if no patch can.
fn compose(first: &mut Map<String, Value>, second: &Map<String, Value>) -> bool {
    second.iter().all(|(key, change)| match (first.get_mut(key), change) {
        (Some(Value::Object(held)), Value::Object(more)) => compose(held, more),
        (Some(_), Value::Object(_)) => false,
        (_, change) => {
            first.insert(key.clone(), change.clone());
            true
        }
    })
}

/// The merge patch that leads from `before` to `after`.
fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in after {
        match (before.get(key), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(key.clone(), Value::Object(difference(old, new)));
            }
            (_, new) => {
                patch.insert(key.clone(), new.clone());
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{json_map, reference};
    use super::*;

    fn coalesce(start: &Map<String, Value>, patches: &[Map<String, Value>]) -> (Slot, Value) {
        let mut now = start.clone();
        let mut slot: Option<Slot> = None;
        for (at, patch) in patches.iter().enumerate() {
            let after = reference(&Value::Object(now.clone()), &Value::Object(patch.clone()));
            let after = after.as_object().cloned().unwrap();
            let change = DesiredChange {
                patch: patch.clone(),
                before: now,
                after: after.clone(),
                version: Version(at as u64 + 2),
                replaced: false,
            };
            match &mut slot {
                Some(slot) => slot.add(change),
                None => slot = Some(Slot::new(change)),
            }
            now = after;
        }
        (slot.unwrap(), Value::Object(now))
    }

    #[test]
    fn one_change_is_told_as_it_was_written() {
        let map = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let (slot, _) = coalesce(&map("{}"), &[map(r#"{"never":null,"a":1}"#)]);
        assert_eq!(slot.into_event(), (TwinPatch(map(r#"{"never":null,"a":1}"#)), Version(2)));
    }

    #[test]
    fn later_values_win_and_nulls_are_kept() {
        let map = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let patches = [map(r#"{"a":1,"b":{"x":1}}"#), map(r#"{"a":null,"b":{"y":2}}"#)];
        let (slot, _) = coalesce(&map("{}"), &patches);
        let expected = map(r#"{"a":null,"b":{"x":1,"y":2}}"#);
        assert_eq!(slot.into_event(), (TwinPatch(expected), Version(3)));
    }

    proptest! {
        #[test]
        fn a_device_that_applies_one_coalesced_patch_knows_what_it_would_from_all(
            seed in json_map(),
            patches in proptest::collection::vec(json_map(), 1..6),
        ) {
            let start = reference(&Value::Null, &Value::Object(seed));
            let start = start.as_object().cloned().unwrap();
            let (slot, end) = coalesce(&start, &patches);
            let (patch, version) = slot.into_event();
            let told = reference(&Value::Object(start), &Value::Object(patch.0));
            prop_assert_eq!(told, end);
            prop_assert_eq!(version.0, patches.len() as u64 + 1);
        }
    }
}
