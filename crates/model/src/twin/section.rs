//! One section of a twin with its version and timestamps.

use serde_json::{Map, Value, json};

use super::Version;
use super::patch::object_at;
use crate::names::{METADATA, VERSION};
use crate::time::WallTime;

const LAST_UPDATED: &str = "$lastUpdated";
const LAST_UPDATED_VERSION: &str = "$lastUpdatedVersion";

/// One section of a twin: values, version, and when what was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The values.
    pub values: Map<String, Value>,
    /// Counts accepted changes.
    pub version: Version,
    /// `$lastUpdated` and `$lastUpdatedVersion` at every level.
    pub metadata: Map<String, Value>,
}

impl Section {
    /// A section as a new twin has it: empty, version 1.
    pub fn new(at: WallTime) -> Self {
        let mut section = Self { values: Map::new(), version: Version(1), metadata: Map::new() };
        stamp(&mut section.metadata, &at.to_string(), 1);
        section
    }

    /// Merges `patch`: nulls delete, objects merge, all else replaces. Raises the version even
    /// if no value changes, as Azure does.
    pub fn merge(&mut self, patch: &Map<String, Value>, at: WallTime) {
        self.version.0 += 1;
        let at = at.to_string();
        merge_into(&mut self.values, &mut self.metadata, patch, (&at, self.version.0));
    }

    /// Puts `values` in place of everything.
    pub fn replace(&mut self, values: Map<String, Value>, at: WallTime) {
        self.version.0 += 1;
        self.metadata = Map::new();
        self.values = Map::new();
        let at = at.to_string();
        merge_into(&mut self.values, &mut self.metadata, &values, (&at, self.version.0));
    }

    /// As the service reads it: values, `$metadata`, `$version`.
    pub fn document(&self) -> Map<String, Value> {
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
