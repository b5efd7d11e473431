//! Acknowledging desired properties, one by one, in the reported properties.
//!
//! Each property gets `{"value", "ac", "av", "ad"}`: the value in force, a status code, the
//! desired version it answers, and words.
//! Source: IoT Plug and Play conventions, "Writable properties".

use std::collections::BTreeSet;

use model::twin::{TwinPatch, Version};
use serde_json::{Map, Value, json};

/// The desired value is in force.
const ACCEPTED: u16 = 200;
/// The hub wants nothing; the module's own default is in force.
const DEFAULT: u16 = 203;
/// The desired value is refused; the one before stays in force.
const REFUSED: u16 = 400;
/// Under this name a module reports which desired properties it does not know.
pub const UNKNOWN_PROPERTIES: &str = "unknownProperties";
/// Most unknown names that are told.
pub const UNKNOWN_NAMES_MAX: usize = 32;

/// Answers to the desired properties of one version.
#[derive(Clone, Debug)]
pub struct Acknowledgements {
    version: Version,
    patch: Map<String, Value>,
    refused: Vec<(&'static str, String)>,
}

impl Acknowledgements {
    /// Answers to desired properties of `version`.
    pub fn of(version: Version) -> Self {
        Self { version, patch: Map::new(), refused: Vec::new() }
    }

    /// The desired value of `name` is in force.
    pub fn accepted(&mut self, name: &'static str, in_force: Value) {
        self.put(name, in_force, ACCEPTED, None);
    }

    /// Nothing is desired of `name`; the module's default is in force.
    pub fn default_applies(&mut self, name: &'static str, in_force: Value) {
        self.put(name, in_force, DEFAULT, None);
    }

    /// The desired value of `name` is refused because of `reason`; `in_force` stays.
    pub fn refused(&mut self, name: &'static str, in_force: Value, reason: String) {
        self.put(name, in_force, REFUSED, Some(&reason));
        self.refused.push((name, reason));
    }

    fn put(&mut self, name: &str, in_force: Value, code: u16, reason: Option<&str>) {
        // Each part is always written, because reported properties are merged: a part left
        // out would keep what an older answer said.
        let answer = json!({ "value": in_force, "ac": code, "av": self.version.0, "ad": reason });
        self.patch.insert(name.to_owned(), answer);
    }

    /// What was refused, and why; for the log.
    pub fn refusals(&self) -> &[(&'static str, String)] {
        &self.refused
    }

    /// The patch to report. Names of `desired` that nothing was said about are told under
    /// [`UNKNOWN_PROPERTIES`], at most [`UNKNOWN_NAMES_MAX`] of them.
    pub fn into_patch(mut self, desired: &Map<String, Value>) -> TwinPatch {
        let unknown: BTreeSet<&str> = desired
            .iter()
            .filter(|(name, value)| !value.is_null() && !self.patch.contains_key(*name))
            .map(|(name, _)| name.as_str())
            .collect();
        let told = match unknown.len() {
            0 => Value::Null,
            _ => unknown.into_iter().take(UNKNOWN_NAMES_MAX).collect(),
        };
        self.patch.insert(UNKNOWN_PROPERTIES.to_owned(), told);
        TwinPatch(self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_gets_an_answer_and_unknown_ones_are_named() {
        let mut answers = Acknowledgements::of(Version(7));
        answers.accepted("a", json!(1));
        answers.default_applies("b", json!([]));
        answers.refused("c", json!(2), "too large".to_owned());
        assert_eq!(answers.refusals(), [("c", "too large".to_owned())]);
        let desired = json!({ "a": 1, "c": 9, "z": 1, "y": {}, "gone": null });
        let patch = answers.into_patch(desired.as_object().unwrap()).0;
        let expected = json!({
            "a": { "value": 1, "ac": 200, "av": 7, "ad": null },
            "b": { "value": [], "ac": 203, "av": 7, "ad": null },
            "c": { "value": 2, "ac": 400, "av": 7, "ad": "too large" },
            "unknownProperties": ["y", "z"],
        });
        assert_eq!(Value::Object(patch), expected);
    }

    #[test]
    fn unknown_names_disappear_once_they_are_no_longer_desired() {
        let patch = Acknowledgements::of(Version(1)).into_patch(&Map::new()).0;
        assert_eq!(Value::Object(patch), json!({ "unknownProperties": null }));
    }

    #[test]
    fn so_many_unknown_names_are_told_and_no_more() {
        let desired = (0..UNKNOWN_NAMES_MAX + 5).map(|at| (format!("u{at:03}"), json!(1)));
        let patch = Acknowledgements::of(Version(1)).into_patch(&desired.collect()).0;
        let told = patch[UNKNOWN_PROPERTIES].as_array().unwrap();
        assert_eq!(told.len(), UNKNOWN_NAMES_MAX);
    }
}
