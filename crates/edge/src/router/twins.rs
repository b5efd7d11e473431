//! Copies of twins for children, and the reported patches that wait for the hub. Pure.

use model::twin::{TwinDocument, TwinPatch, Version};
use serde_json::{Map, Value};

/// The copy of one twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinCopy {
    /// As last read upstream, later desired changes included; `None` if never.
    pub known: Option<TwinDocument>,
    /// Reported patches not yet accepted upstream, merged; nulls delete.
    pub pending: TwinPatch,
    /// Rises with each change of `pending`, so that a push knows what it pushed.
    pub generation: u64,
}

/// What to do about a desired change that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesiredNews {
    /// It followed what was known: pass it on.
    Applied,
    /// It is old: forget it.
    Stale,
    /// Something between is missing: read the whole twin.
    Gap,
}

impl TwinCopy {
    /// The twin as its owner sees it: what is known with what it reported since.
    pub fn view(&self) -> Option<TwinDocument> {
        let mut view = self.known.clone()?;
        apply(&mut view.reported, &self.pending.0);
        Some(view)
    }

    /// A twin was read upstream.
    pub fn handle_read(&mut self, read: TwinDocument) {
        // A read that started before a change came must not bring the old values back.
        if self.known.as_ref().is_none_or(|known| known.desired_version <= read.desired_version) {
            self.known = Some(read);
        }
    }

    /// Desired properties changed upstream.
    pub fn handle_desired(&mut self, patch: &TwinPatch, version: Version) -> DesiredNews {
        let Some(known) = &mut self.known else { return DesiredNews::Gap };
        if version <= known.desired_version {
            return DesiredNews::Stale;
        }
        if version.0 > known.desired_version.0 + 1 {
            return DesiredNews::Gap;
        }
        apply(&mut known.desired, &patch.0);
        known.desired_version = version;
        DesiredNews::Applied
    }

    /// The owner reports; gives the version it is told.
    pub fn handle_reported(&mut self, patch: &TwinPatch) -> Version {
        compose(&mut self.pending.0, &patch.0);
        self.generation += 1;
        self.known.as_mut().map_or(Version(self.generation), |known| {
            known.reported_version.0 += 1;
            known.reported_version
        })
    }

    /// What is pending at `generation` was accepted upstream as `version`.
    pub fn handle_pushed(&mut self, generation: u64, pushed: &TwinPatch, version: Version) {
        if let Some(known) = &mut self.known {
            apply(&mut known.reported, &pushed.0);
            known.reported_version = known.reported_version.max(version);
        }
        // Newer patches came meanwhile: all of it is pushed once more, which changes nothing.
        if self.generation == generation {
            self.pending.0.clear();
        }
    }
}

/// Applies a merge patch: nulls delete, objects merge, all else replaces.
pub fn apply(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.shift_remove(name)),
            Value::Object(inner) => {
                let slot = target.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    apply(slot, inner);
                }
            }
            other => drop(target.insert(name.clone(), other.clone())),
        }
    }
}

/// Merges a later patch into an earlier one, so that applying the result is applying both in
/// turn, but for an object that follows a deletion of the same name.
pub fn compose(earlier: &mut Map<String, Value>, later: &Map<String, Value>) {
    for (name, value) in later {
        match (earlier.get_mut(name), value) {
            (Some(Value::Object(slot)), Value::Object(inner)) => compose(slot, inner),
            // Known limit: a deletion followed by an object cannot be said in one merge patch.
            // The object is kept, so members it does not name survive upstream.
            _ => drop(earlier.insert(name.clone(), value.clone())),
        }
    }
}

/// The patch that leads from one desired section to another, for those who missed changes.
pub fn difference(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        match (from.get(name), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(name.clone(), Value::Object(difference(old, new)));
            }
            _ => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn known(version: u64) -> TwinCopy {
        let desired = map(&json!({ "a": 1 }));
        let document =
            TwinDocument { desired, desired_version: Version(version), ..TwinDocument::default() };
        TwinCopy { known: Some(document), ..TwinCopy::default() }
    }

    #[test]
    fn desired_changes_apply_in_order_and_gaps_are_seen() {
        let patch = TwinPatch(map(&json!({ "a": null, "b": 2 })));
        let check = |version, expected| {
            assert_eq!(known(4).handle_desired(&patch, Version(version)), expected);
        };
        check(4, DesiredNews::Stale);
        check(5, DesiredNews::Applied);
        check(6, DesiredNews::Gap);
        assert_eq!(TwinCopy::default().handle_desired(&patch, Version(1)), DesiredNews::Gap);
    }

    #[test]
    fn what_was_reported_offline_is_seen_at_once_and_forgotten_when_pushed() {
        let mut copy = known(1);
        let first = TwinPatch(map(&json!({ "x": { "y": 1, "z": 1 } })));
        let second = TwinPatch(map(&json!({ "x": { "y": null } })));
        assert_eq!(copy.handle_reported(&first), Version(1));
        assert_eq!(copy.handle_reported(&second), Version(2));
        assert_eq!(Value::Object(copy.view().unwrap().reported), json!({ "x": { "z": 1 } }));
        let (pushed, generation) = (copy.pending.clone(), copy.generation);
        copy.handle_reported(&TwinPatch(map(&json!({ "q": 1 }))));
        copy.handle_pushed(generation, &pushed, Version(9));
        assert!(!copy.pending.0.is_empty(), "a newer patch still waits");
        copy.handle_pushed(copy.generation, &copy.pending.clone(), Version(10));
        assert!(copy.pending.0.is_empty());
        let view = copy.view().unwrap();
        assert_eq!(Value::Object(view.reported), json!({ "x": { "z": 1 }, "q": 1 }));
    }

    #[test]
    fn a_read_that_was_overtaken_brings_nothing_back() {
        let mut copy = known(5);
        copy.handle_read(known(4).known.unwrap());
        assert_eq!(copy.known.unwrap().desired_version, Version(5));
    }

    fn tree() -> impl Strategy<Value = Map<String, Value>> {
        let leaf =
            prop_oneof![any::<u8>().prop_map(Value::from), any::<bool>().prop_map(Value::from)];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|all| Value::Object(all.into_iter().collect()))
        });
        proptest::collection::btree_map("[a-c]", value, 0..4)
            .prop_map(|all| all.into_iter().collect())
    }

    proptest! {
        #[test]
        fn the_difference_leads_from_one_to_the_other(from in tree(), to in tree()) {
            let mut moved = from.clone();
            apply(&mut moved, &difference(&from, &to));
            prop_assert_eq!(moved, to);
        }
    }
}
