//! One table of cases for merge patches, and a small reference model for everything else.

use std::collections::BTreeSet;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::limits::{
    INTEGER_MAX, INTEGER_MIN, KEY_BYTES_MAX, LIST_LEVELS_MAX, OBJECT_LEVELS_MAX,
    PROPERTIES_BYTES_MAX, STRING_BYTES_MAX, TAGS_BYTES_MAX, TwinFault, check_shape, check_size,
    object_bytes,
};
use super::patch::{apply, compose, difference, replacement};
use super::pending::PendingPatches;
use super::section::Section;
use super::slot::{DesiredChange, DesiredSlot};
use super::{TwinPatch, Version};
use crate::names::{METADATA, VERSION};
use crate::refusal::{Refusal, RefusalKind};
use crate::time::WallTime;

#[path = "../../../testkit/src/cases.rs"]
#[expect(unreachable_pub, dead_code, reason = "testkit shows the same file to other rooms")]
mod table;

type Properties = Map<String, Value>;

fn map(text: &str) -> Properties {
    serde_json::from_str(text).unwrap()
}

/// Before, patch, after. Every rule that merges is held against every line.
const CASES: &[(&str, &str, &str)] = &[
    (r#"{"a":1}"#, r#"{"b":2}"#, r#"{"a":1,"b":2}"#),
    (r#"{"a":1,"b":2}"#, r#"{"a":null}"#, r#"{"b":2}"#),
    (r#"{"a":1}"#, r#"{"missing":null}"#, r#"{"a":1}"#),
    (r#"{"a":{"x":1,"y":2}}"#, r#"{"a":{"x":null,"z":3}}"#, r#"{"a":{"y":2,"z":3}}"#),
    (r#"{"a":1}"#, r#"{"a":{"x":{"y":null,"z":1}}}"#, r#"{"a":{"x":{"z":1}}}"#),
    (r#"{"a":[1,2]}"#, r#"{"a":[3]}"#, r#"{"a":[3]}"#),
    (r#"{"a":[1]}"#, r#"{"a":[null,{"b":null}]}"#, r#"{"a":[null,{"b":null}]}"#),
    (r#"{"a":{"x":1}}"#, r#"{"a":7}"#, r#"{"a":7}"#),
    (r#"{"a":{"x":1}}"#, r#"{"a":{"x":null}}"#, r#"{"a":{}}"#),
    (r#"{"a":{"x":1}}"#, r#"{"a":{}}"#, r#"{"a":{"x":1}}"#),
    (r#"{"a":1}"#, r#"{"a":{}}"#, r#"{"a":{}}"#),
    (r#"{"a":false}"#, r#"{"a":""}"#, r#"{"a":""}"#),
    ("{}", "{}", "{}"),
];

#[test]
fn a_merge_deletes_by_null_merges_objects_and_replaces_the_rest() {
    for (before, patch, after) in CASES {
        let (start, patch, expected) = (map(before), map(patch), map(after));
        let mut values = start.clone();
        apply(&mut values, &patch);
        assert_eq!(values, expected, "{before} + {patch:?}");

        let mut section = Section { values: start.clone(), ..Section::new(WallTime(0)) };
        section.merge(&patch, WallTime(5));
        assert_eq!((section.values, section.version), (expected.clone(), Version(2)));

        let whole = Value::Object(start.clone());
        assert_eq!(reference(&whole, &Value::Object(patch)), Value::Object(expected.clone()));

        for lead in [difference, replacement] {
            let mut values = start.clone();
            apply(&mut values, &lead(&start, &expected));
            assert_eq!(values, expected, "the way from {before} to {after}");
        }
    }
}

#[test]
fn two_patches_are_one_where_one_can_say_both() {
    let check = |first: &str, second: &str, both: Option<&str>| {
        assert_eq!(compose(&map(first), &map(second)), both.map(map), "{first} then {second}");
    };
    check(r#"{"a":1}"#, r#"{"a":null}"#, Some(r#"{"a":null}"#));
    check(r#"{"a":{"x":1}}"#, r#"{"a":{"y":null}}"#, Some(r#"{"a":{"x":1,"y":null}}"#));
    check(r#"{"a":{"x":1}}"#, r#"{"a":2}"#, Some(r#"{"a":2}"#));
    check(r#"{"a":null}"#, r#"{"a":{"x":1}}"#, None);
    check(r#"{"a":{"x":1}}"#, r#"{"a":{"x":{"y":1}}}"#, None);
    check("{}", r#"{"a":{"x":1}}"#, Some(r#"{"a":{"x":1}}"#));
}

#[test]
fn a_replacement_names_what_goes_and_holds_all_that_is() {
    let patch = replacement(&map(r#"{"a":1,"b":{"x":1,"y":2}}"#), &map(r#"{"b":{"x":1},"c":3}"#));
    assert_eq!(patch, map(r#"{"a":null,"b":{"x":1,"y":null},"c":3}"#));
}

#[test]
fn metadata_tells_when_each_leaf_and_each_parent_of_a_deleted_key_changed() {
    let mut section = Section::new(WallTime(0));
    section.merge(&map(r#"{"a":{"x":1,"y":1}}"#), WallTime(1000));
    section.merge(&map(r#"{"a":{"x":null}}"#), WallTime(2000));
    let a = &section.metadata["a"];
    assert_eq!(a["$lastUpdated"], "1970-01-01T00:00:02.000Z");
    assert_eq!(a["$lastUpdatedVersion"], 3);
    assert_eq!(a["y"]["$lastUpdatedVersion"], 2);
    assert!(a.get("x").is_none());
    section.replace(map(r#"{"b":1}"#), WallTime(3000));
    assert!(section.metadata.get("a").is_none(), "a replacement forgets");
    assert_eq!(section.document()[METADATA]["b"]["$lastUpdatedVersion"], 4);
}

#[test]
fn a_new_section_has_version_one() {
    assert_eq!(Section::new(WallTime(0)).document()[VERSION], 1);
}

/// The word that the table of cases has for a fault.
fn word(fault: &TwinFault) -> &'static str {
    match fault {
        TwinFault::KeyLong(_) => "key-long",
        TwinFault::KeySigns(_) => "key",
        TwinFault::TextLong(_) => "text",
        TwinFault::Integer(_) => "integer",
        TwinFault::Deep(_) => "levels",
        TwinFault::NullInList(_) => "null",
        TwinFault::Large { .. } => "size",
    }
}

#[test]
fn sections_hold_what_the_table_of_cases_says() {
    let mut seen = BTreeSet::new();
    for case in table::twin_limits() {
        let shape = check_shape(&case.values);
        for (section, most) in [("tags", TAGS_BYTES_MAX), ("desired", PROPERTIES_BYTES_MAX)] {
            if case.section == "any" || case.is_of(section) {
                let checked = shape.clone().and_then(|()| check_size(section, &case.values, most));
                let found = checked.err().map(|fault| word(&fault));
                assert_eq!(found, case.fault, "{}", case.text);
                seen.extend(found);
            }
        }
    }
    let all = ["integer", "key", "key-long", "levels", "null", "size", "text"];
    assert!(seen.into_iter().eq(all), "the table reaches every limit");
}

#[test]
fn every_limit_is_reached_by_its_name_and_the_fault_names_the_key() {
    let check = |values: Value, expected: TwinFault| {
        let values = values.as_object().unwrap().clone();
        assert_eq!(check_shape(&values), Err(expected), "{values:?}");
    };
    let nested = |levels: usize, last: Value| {
        (0..levels).fold(json!({ "last": last }), |inner, _| json!({ "in": inner }))
    };
    assert_eq!(check_shape(nested(OBJECT_LEVELS_MAX, json!(1)).as_object().unwrap()), Ok(()));
    check(nested(OBJECT_LEVELS_MAX, json!({})), TwinFault::Deep("last".into()));
    check(nested(LIST_LEVELS_MAX, json!([])), TwinFault::Deep("last".into()));
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    check(json!({ long: 1 }), TwinFault::KeyLong("k".repeat(40)));
    check(json!({ "t": "x".repeat(STRING_BYTES_MAX + 1) }), TwinFault::TextLong("t".into()));
    check(json!({ "n": INTEGER_MAX + 1 }), TwinFault::Integer("n".into()));
    check(json!({ "n": INTEGER_MIN - 1 }), TwinFault::Integer("n".into()));
    check(json!({ "a": { "b": [{ "c": null }] } }), TwinFault::NullInList("c".into()));
    let words = TwinFault::NullInList("c".into()).to_string();
    assert!(words.contains("the value of \"c\" cannot be null"), "{words}");
}

#[test]
fn size_counts_keys_and_values() {
    let values = map(r#"{"ab":1,"c":{"d":true,"e":"xyz"},"f":null,"g":[1,"z"]}"#);
    let bytes = 2 + 8 + 1 + (1 + 4) + (1 + 3) + 1 + (1 + 8 + 1);
    assert_eq!(check_size("tags", &values, bytes), Ok(()));
    let fault = TwinFault::Large { section: "tags", bytes, most: bytes - 1 };
    assert_eq!(check_size("tags", &values, bytes - 1), Err(fault));
}

#[test]
fn who_writes_too_much_hears_another_refusal_than_who_writes_nonsense() {
    let large = TwinFault::Large { section: "tags", bytes: 2, most: 1 };
    assert_eq!(Refusal::from(large).kind, RefusalKind::TooLarge);
    assert_eq!(Refusal::from(TwinFault::Deep("a".into())).kind, RefusalKind::InvalidRequest);
}

/// How a section is written.
#[derive(Clone, Debug)]
enum Write {
    Merge(Properties),
    Replace(Properties),
}

/// Writes to a section one after the other, as one slot.
fn coalesce(start: &Properties, writes: &[Write]) -> (DesiredSlot, Properties) {
    let mut now = start.clone();
    let mut slot: Option<DesiredSlot> = None;
    for (at, write) in writes.iter().enumerate() {
        let before = now.clone();
        let patch = match write {
            Write::Merge(patch) => {
                apply(&mut now, patch);
                patch.clone()
            }
            Write::Replace(values) => {
                now = Properties::new();
                apply(&mut now, values);
                replacement(&before, &now)
            }
        };
        let version = Version(at as u64 + 2);
        let change = DesiredChange { patch, before, after: now.clone(), version };
        match &mut slot {
            Some(slot) => slot.add(change),
            None => slot = Some(DesiredSlot::new(change)),
        }
    }
    (slot.unwrap(), now)
}

#[test]
fn one_change_is_told_as_it_was_written() {
    let patch = map(r#"{"never":null,"a":1}"#);
    let (slot, _) = coalesce(&map("{}"), &[Write::Merge(patch.clone())]);
    assert_eq!(slot.into_event(), (TwinPatch(patch), Version(2)));
}

#[test]
fn later_values_win_and_nulls_are_kept() {
    let patches = [r#"{"a":1,"b":{"x":1}}"#, r#"{"a":null,"b":{"y":2}}"#];
    let (slot, _) = coalesce(&map("{}"), &patches.map(|text| Write::Merge(map(text))));
    let expected = map(r#"{"a":null,"b":{"x":1,"y":2}}"#);
    assert_eq!(slot.into_event(), (TwinPatch(expected), Version(3)));
}

/// RFC 7396 in ten lines, as the reference.
fn reference(target: &Value, patch: &Value) -> Value {
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

fn patches() -> impl Strategy<Value = Properties> {
    let leaf = prop_oneof![
        Just(Value::Null),
        (0..3i64).prop_map(|n| json!(n)),
        Just(json!("text")),
        Just(json!([1, null])),
    ];
    let value = leaf.prop_recursive(3, 16, 3, |inner| {
        btree_map("[a-c]", inner, 0..3).prop_map(|all| Value::Object(all.into_iter().collect()))
    });
    btree_map("[a-c]", value, 0..4).prop_map(|all| all.into_iter().collect())
}

/// A section: what is left when patches were merged into nothing.
fn sections() -> impl Strategy<Value = Properties> {
    patches().prop_map(|patch| {
        let mut values = Properties::new();
        apply(&mut values, &patch);
        values
    })
}

fn writes() -> impl Strategy<Value = Write> {
    prop_oneof![3 => patches().prop_map(Write::Merge), 1 => patches().prop_map(Write::Replace)]
}

fn merged(start: &Properties, patch: &Properties) -> Properties {
    let merged = reference(&Value::Object(start.clone()), &Value::Object(patch.clone()));
    merged.as_object().cloned().unwrap()
}

proptest! {
    #[test]
    fn merging_agrees_with_rfc_7396(all in vec(patches(), 0..6)) {
        let mut section = Section::new(WallTime(0));
        let mut expected = Properties::new();
        for patch in &all {
            section.merge(patch, WallTime(1));
            expected = merged(&expected, patch);
        }
        prop_assert_eq!(section.values, expected);
        prop_assert_eq!(section.version.0, 1 + all.len() as u64);
    }

    #[test]
    fn a_composed_patch_does_what_both_do(
        start in sections(),
        first in patches(),
        second in patches(),
    ) {
        if let Some(both) = compose(&first, &second) {
            prop_assert_eq!(merged(&start, &both), merged(&merged(&start, &first), &second));
        }
    }

    #[test]
    fn differences_and_replacements_lead_from_one_section_to_another(
        from in sections(),
        to in sections(),
    ) {
        prop_assert_eq!(&merged(&from, &difference(&from, &to)), &to);
        prop_assert_eq!(&merged(&from, &replacement(&from, &to)), &to);
    }

    #[test]
    fn a_device_that_applies_one_coalesced_patch_knows_what_it_would_from_all(
        start in sections(),
        all in vec(writes(), 1..6),
    ) {
        let (slot, end) = coalesce(&start, &all);
        let (patch, version) = slot.into_event();
        prop_assert_eq!(merged(&start, &patch.0), end);
        prop_assert_eq!(version.0, all.len() as u64 + 1);
    }

    #[test]
    fn pending_patches_say_what_all_of_them_said_also_when_some_were_taken_before(
        start in sections(),
        all in vec(patches(), 0..8),
        taken in 0..8_usize,
    ) {
        let mut pending = PendingPatches::default();
        let mut expected = start.clone();
        for patch in &all {
            pending.add(&TwinPatch(patch.clone()));
            expected = merged(&expected, patch);
        }
        // The hub took some and the answer was lost: everything is sent once more.
        let mut hub = start;
        for patch in pending.parts().iter().take(taken).chain(pending.parts()) {
            hub = merged(&hub, &patch.0);
        }
        prop_assert_eq!(hub, expected);
        prop_assert!(pending.parts().len() <= all.len());
        let bytes: usize = pending.parts().iter().map(|patch| object_bytes(&patch.0)).sum();
        prop_assert_eq!(pending.bytes(), bytes);
    }
}
