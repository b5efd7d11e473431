//! Merge patches: doing one, doing two as one, and finding the one between two sections.
//!
//! Source: RFC 7396, as IoT Hub uses it: a null deletes, an object merges, all else replaces.

use serde_json::{Map, Value};

/// Merges `patch` into `target`.
pub fn apply(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, change) in patch {
        match change {
            Value::Null => drop(target.shift_remove(key)),
            Value::Object(inner) => apply(object_at(target, key), inner),
            other => drop(target.insert(key.clone(), other.clone())),
        }
    }
}

/// Makes `first` do what `first` and then `second` do. `None` if no patch can: a key that was
/// deleted or set, then given an object, would keep the members it had before.
#[must_use]
pub fn compose(
    first: &Map<String, Value>,
    second: &Map<String, Value>,
) -> Option<Map<String, Value>> {
    let mut both = first.clone();
    for (key, change) in second {
        let change = match (both.get(key), change) {
            (Some(Value::Object(held)), Value::Object(more)) => Value::Object(compose(held, more)?),
            (Some(_), Value::Object(_)) => return None,
            (_, change) => change.clone(),
        };
        both.insert(key.clone(), change);
    }
    Some(both)
}

/// The patch that leads from `before` to `after`; neither may hold a null outside arrays, and
/// no section does.
pub fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in after {
        let change = match (before.get(key), value) {
            (Some(old), new) if old == new => continue,
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(difference(old, new)),
            (_, new) => new.clone(),
        };
        patch.insert(key.clone(), change);
    }
    patch
}

/// The patch that makes every section that has at most the keys of `before` into `after`: all
/// of `after`, and a null for each key that is gone. Who replaces instead of merging reads the
/// same from it.
pub fn replacement(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut patch: Map<String, Value> = gone.map(|key| (key.clone(), Value::Null)).collect();
    for (key, value) in after {
        let change = match (before.get(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(replacement(old, new)),
            (_, new) => new.clone(),
        };
        patch.insert(key.clone(), change);
    }
    patch
}

/// The object at `key`, which replaces whatever else was there.
pub(super) fn object_at<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object just above")
}
