//! The desired properties, kept whole.
//!
//! The edge hub tells changes only; a module mostly wants to know what is desired now. So a
//! copy is kept: read when connected, merged with every change, read again when a change does
//! not follow the copy.

use std::sync::Arc;

use model::twin::{TwinDocument, TwinPatch, Version};
use serde_json::{Map, Value};
use tokio::sync::watch;

/// All desired properties of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredProperties {
    /// The properties, without `$version`.
    pub properties: Map<String, Value>,
    /// Their version.
    pub version: Version,
}

/// Tells the desired properties whenever they changed. Changes coalesce; the newest counts.
#[derive(Clone, Debug)]
pub struct Desired(pub(crate) watch::Receiver<Option<Arc<DesiredProperties>>>);

impl Desired {
    /// The desired properties: at first as they are, then whenever they are others. Waits
    /// while there is no news; `None` once the module is closed.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Arc<DesiredProperties>> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(desired) = self.0.borrow_and_update().clone() {
                return Some(desired);
            }
        }
    }
}

/// What the copy needs after it was told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing; it says the same as before.
    Nothing,
    /// To be told on; it changed.
    Tell,
    /// To be read again; what was told does not follow it.
    Read,
}

/// The copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    held: Option<DesiredProperties>,
    /// The last read was older than the copy.
    doubt: bool,
}

impl Copy {
    pub(crate) fn held(&self) -> Option<&DesiredProperties> {
        self.held.as_ref()
    }

    /// A twin was read. One that is older than the copy was overtaken by a change; if it is
    /// so twice, the identity was made anew and counts from the start.
    pub(crate) fn handle_twin(&mut self, twin: TwinDocument) -> Need {
        let read = DesiredProperties { properties: twin.desired, version: twin.desired_version };
        let older = self.held.as_ref().is_some_and(|held| held.version > read.version);
        if older && !self.doubt {
            self.doubt = true;
            return Need::Read;
        }
        self.doubt = false;
        if self.held.as_ref() == Some(&read) {
            return Need::Nothing;
        }
        self.held = Some(read);
        Need::Tell
    }

    /// A change was told. Several may have been merged into one, so a version that is skipped
    /// is nothing strange; but merging what is missing would be guessing.
    pub(crate) fn handle_change(&mut self, patch: TwinPatch, version: Version) -> Need {
        let Some(held) = &mut self.held else { return Need::Read };
        if version <= held.version {
            return Need::Nothing;
        }
        if version.0 != held.version.0 + 1 {
            return Need::Read;
        }
        apply(&mut held.properties, patch.0);
        held.version = version;
        Need::Tell
    }
}

/// Merges `patch` into `properties`; nulls delete. Source: RFC 7396.
fn apply(properties: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match (value, properties.get_mut(&name)) {
            (Value::Null, _) => {
                properties.remove(&name);
            }
            (Value::Object(patch), Some(Value::Object(below))) => apply(below, patch),
            (Value::Object(patch), _) => {
                let mut below = Map::new();
                apply(&mut below, patch);
                properties.insert(name, Value::Object(below));
            }
            (value, _) => {
                properties.insert(name, value);
            }
        }
    }
}

/// Joins `later` to `patch`, so that applying the result is applying both; nulls stay.
pub(crate) fn join(patch: &mut Map<String, Value>, later: Map<String, Value>) {
    for (name, value) in later {
        match (value, patch.get_mut(&name)) {
            (Value::Object(later), Some(Value::Object(earlier))) => join(earlier, later),
            (value, _) => {
                patch.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn twin(desired: Value, version: u64) -> TwinDocument {
        TwinDocument {
            desired: object(desired),
            desired_version: Version(version),
            ..TwinDocument::default()
        }
    }

    fn change(copy: &mut Copy, patch: Value, version: u64) -> Need {
        copy.handle_change(TwinPatch(object(patch)), Version(version))
    }

    fn held(copy: &Copy) -> (Value, u64) {
        let held = copy.held().unwrap();
        (Value::Object(held.properties.clone()), held.version.0)
    }

    #[test]
    fn a_change_that_follows_is_merged_and_any_other_is_not() {
        let mut copy = Copy::default();
        assert_eq!(change(&mut copy, json!({ "a": 1 }), 1), Need::Read);
        let read = twin(json!({ "a": { "b": 1, "c": 2 }, "d": 1 }), 4);
        assert_eq!(copy.handle_twin(read.clone()), Need::Tell);
        assert_eq!(copy.handle_twin(read), Need::Nothing);
        assert_eq!(change(&mut copy, json!({ "d": 9 }), 4), Need::Nothing);
        let patch = json!({ "a": { "b": null, "e": { "f": null, "g": 1 } }, "d": [1] });
        assert_eq!(change(&mut copy, patch, 5), Need::Tell);
        let expected = json!({ "a": { "c": 2, "e": { "g": 1 } }, "d": [1] });
        assert_eq!(held(&copy), (expected.clone(), 5));
        assert_eq!(change(&mut copy, json!({ "d": 1 }), 7), Need::Read);
        assert_eq!(held(&copy), (expected, 5));
    }

    #[test]
    fn a_read_that_was_overtaken_is_repeated_once() {
        let mut copy = Copy::default();
        copy.handle_twin(twin(json!({ "a": 1 }), 7));
        assert_eq!(copy.handle_twin(twin(json!({ "a": 0 }), 6)), Need::Read);
        assert_eq!(copy.handle_twin(twin(json!({ "a": 1 }), 7)), Need::Nothing);
        assert_eq!(held(&copy), (json!({ "a": 1 }), 7));
    }

    #[test]
    fn an_identity_made_anew_counts_from_the_start() {
        let mut copy = Copy::default();
        copy.handle_twin(twin(json!({ "a": 1 }), 7));
        assert_eq!(copy.handle_twin(twin(json!({}), 1)), Need::Read);
        assert_eq!(copy.handle_twin(twin(json!({}), 1)), Need::Tell);
        assert_eq!(held(&copy), (json!({}), 1));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0..3).prop_map(|it| json!(it))];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    fn object_tree() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[ab]", tree(), 0..3).prop_map(|map| map.into_iter().collect())
    }

    /// A document has no nulls, and an object where a patch has none is replaced.
    fn document(patch: Map<String, Value>) -> Map<String, Value> {
        let mut properties = Map::new();
        apply(&mut properties, patch);
        properties
    }

    fn sorted(value: &Map<String, Value>) -> Value {
        let entries: std::collections::BTreeMap<_, _> = value
            .iter()
            .map(|(name, value)| {
                let value = value.as_object().map_or_else(|| value.clone(), sorted);
                (name.clone(), value)
            })
            .collect();
        Value::Object(entries.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_was_merged_from_nothing_has_no_nulls_and_merging_it_again_changes_nothing(
            patch in object_tree(),
        ) {
            let once = document(patch.clone());
            prop_assert!(!Value::Object(once.clone()).to_string().contains("null"));
            let mut twice = once.clone();
            apply(&mut twice, patch);
            prop_assert_eq!(sorted(&once), sorted(&twice));
        }

        #[test]
        fn joined_patches_do_what_both_do_unless_the_first_deletes_or_replaces_an_object(
            start in object_tree(), first in object_tree(), second in object_tree(),
        ) {
            // Merge patches cannot say "replace this object"; so only patches of leaves over
            // leaves are compared, which is what modules report.
            let flat = |map: Map<String, Value>| -> Map<String, Value> {
                map.into_iter().filter(|(_, value)| !value.is_object()).collect()
            };
            let (start, first, second) = (flat(document(start)), flat(first), flat(second));
            let mut one_by_one = start.clone();
            apply(&mut one_by_one, first.clone());
            apply(&mut one_by_one, second.clone());
            let mut joined = first;
            join(&mut joined, second);
            let mut at_once = start;
            apply(&mut at_once, joined);
            prop_assert_eq!(sorted(&one_by_one), sorted(&at_once));
        }
    }
}
