//! Twins: sections of JSON, their versions and timestamps, and the rules of change.
//!
//! Pure except for `http.rs`. A merge never rewrites what the caller holds: it checks first,
//! then changes everything.

pub(crate) mod compose;
pub(crate) mod http;
pub(crate) mod limits;

use model::names::{METADATA, VERSION};
use model::time::WallTime;
use model::twin::Version;
use serde_json::{Map, Value, json};

const LAST_UPDATED: &str = "$lastUpdated";
const LAST_UPDATED_VERSION: &str = "$lastUpdatedVersion";

/// One section of a twin: values, version, and when what was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Section {
    /// The values.
    pub(crate) values: Map<String, Value>,
    /// Counts accepted changes.
    pub(crate) version: Version,
    /// `$lastUpdated` and `$lastUpdatedVersion` at every level.
    pub(crate) metadata: Map<String, Value>,
}

impl Section {
    /// A section as a new twin has it: empty, version 1.
    pub(crate) fn new(at: WallTime) -> Self {
        let mut section = Self { values: Map::new(), version: Version(1), metadata: Map::new() };
        stamp(&mut section.metadata, &at.to_string(), 1);
        section
    }

    /// Merges `patch`: nulls delete, objects merge, all else replaces. Raises the version even
    /// if no value changes, as Azure does.
    pub(crate) fn merge(&mut self, patch: &Map<String, Value>, at: WallTime) {
        self.version.0 += 1;
        let at = at.to_string();
        merge_into(&mut self.values, &mut self.metadata, patch, (&at, self.version.0));
    }

    /// Puts `values` in place of everything.
    pub(crate) fn replace(&mut self, values: Map<String, Value>, at: WallTime) {
        self.version.0 += 1;
        self.metadata = Map::new();
        self.values = Map::new();
        let at = at.to_string();
        merge_into(&mut self.values, &mut self.metadata, &values, (&at, self.version.0));
    }

    /// As the service reads it: values, `$metadata`, `$version`.
    pub(crate) fn document(&self) -> Map<String, Value> {
        let mut document = self.values.clone();
        document.insert(METADATA.into(), Value::Object(self.metadata.clone()));
        document.insert(VERSION.into(), json!(self.version.0));
        document
    }
}

type Stamp<'a> = (&'a str, u64);

fn stamp(metadata: &mut Map<String, Value>, at: &str, version: u64) {
    metadata.insert(LAST_UPDATED.into(), json!(at));
    metadata.insert(LAST_UPDATED_VERSION.into(), json!(version));
}

fn merge_into(
    values: &mut Map<String, Value>,
    metadata: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    (at, version): Stamp<'_>,
) {
    stamp(metadata, at, version);
    for (key, change) in patch {
        match change {
            Value::Null => {
                values.shift_remove(key);
                metadata.shift_remove(key);
            }
            Value::Object(inner) => {
                let below = object_at(values, key);
                let below_metadata = object_at(metadata, key);
                merge_into(below, below_metadata, inner, (at, version));
            }
            other => {
                values.insert(key.clone(), other.clone());
                let mut leaf = Map::new();
                stamp(&mut leaf, at, version);
                metadata.insert(key.clone(), Value::Object(leaf));
            }
        }
    }
}

/// The object at `key`, which replaces whatever else was there.
fn object_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object just above")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_merge_deletes_by_null_merges_objects_and_replaces_the_rest() {
        let check = |before: &str, patch: &str, after: &str| {
            let mut section = Section { values: map(before), ..Section::new(WallTime(0)) };
            section.merge(&map(patch), WallTime(5));
            assert_eq!(section.values, map(after), "{before} + {patch}");
            assert_eq!(section.version, Version(2));
        };
        check(r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a":1,"b":2}"#);
        check(r#"{"a":1,"b":2}"#, r#"{"a":null}"#, r#"{"b":2}"#);
        check(r#"{"a":1}"#, r#"{"missing":null}"#, r#"{"a":1}"#);
        check(r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"x":null,"z":3}}"#, r#"{"a":{"y":2,"z":3}}"#);
        check(r#"{"a":1}"#, r#"{"a":{"x":{"y":null,"z":1}}}"#, r#"{"a":{"x":{"z":1}}}"#);
        check(r#"{"a":[1,2]}"#, r#"{"a":[3]}"#, r#"{"a":[3]}"#);
        check(r#"{"a":{"x":1}}"#, r#"{"a":7}"#, r#"{"a":7}"#);
        check("{}", "{}", "{}");
    }

    #[test]
    fn metadata_tells_when_each_leaf_and_each_parent_of_a_deleted_key_changed() {
        let mut section = Section::new(WallTime(0));
        section.merge(&map(r#"{"a":{"x":1,"y":1}}"#), WallTime(1000));
        section.merge(&map(r#"{"a":{"x":null}}"#), WallTime(2000));
        let a = &section.metadata["a"];
        assert_eq!(a[LAST_UPDATED], "1970-01-01T00:00:02.000Z");
        assert_eq!(a[LAST_UPDATED_VERSION], 3);
        assert_eq!(a["y"][LAST_UPDATED_VERSION], 2);
        assert!(a.get("x").is_none());
    }

    #[test]
    fn a_new_section_has_version_one() {
        assert_eq!(Section::new(WallTime(0)).document()[VERSION], 1);
    }

    pub(crate) fn json_map() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3i64).prop_map(|n| json!(n)),
            Just(json!("text")),
            Just(json!([1, 2])),
        ];
        let value = leaf.prop_recursive(3, 16, 3, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..3)
                .prop_map(|all| Value::Object(all.into_iter().collect()))
        });
        proptest::collection::btree_map("[a-c]", value, 0..4)
            .prop_map(|all| all.into_iter().collect())
    }

    /// RFC 7396 in ten lines, as the reference.
    pub(crate) fn reference(target: &Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut result = target.as_object().cloned().unwrap_or_default();
        for (key, change) in patch {
            let old = result.get(key).cloned().unwrap_or(Value::Null);
            match change {
                Value::Null => drop(result.shift_remove(key)),
                change => drop(result.insert(key.clone(), reference(&old, change))),
            }
        }
        Value::Object(result)
    }

    proptest! {
        #[test]
        fn merging_agrees_with_rfc_7396(patches in proptest::collection::vec(json_map(), 0..6)) {
            let mut section = Section::new(WallTime(0));
            let mut expected = json!({});
            for patch in &patches {
                section.merge(patch, WallTime(1));
                expected = reference(&expected, &Value::Object(patch.clone()));
            }
            prop_assert_eq!(Value::Object(section.values), expected);
            prop_assert_eq!(section.version.0, 1 + patches.len() as u64);
        }
    }
}
