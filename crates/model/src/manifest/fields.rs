//! Reads a JSON object field by field, remembers which were read, and names the rest.

use serde_json::{Map, Value};

use super::{Fault, InvalidManifest, Manifest};

/// Most faults that one answer lists.
pub(super) const FAULTS_MAX: usize = 32;

/// Everything that is wrong so far.
#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, path: &str, words: &str) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault { path: path.to_owned(), words: words.to_owned() });
        }
    }

    pub(super) fn into_result(self, manifest: Manifest) -> Result<Manifest, InvalidManifest> {
        if self.0.is_empty() { Ok(manifest) } else { Err(InvalidManifest::Faults(self.0)) }
    }
}

/// One object, being read.
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    seen: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn root(map: &'a Map<String, Value>) -> Self {
        Self { path: String::new(), map, seen: Vec::new() }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The names of all fields, as given.
    pub(super) fn names(&self) -> Vec<String> {
        self.map.keys().cloned().collect()
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'a Value> {
        self.seen.push(name.to_owned());
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether `name` is there; it counts as read.
    pub(super) fn skip(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }

    pub(super) fn has_seen(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_string)
    }

    pub(super) fn object(&mut self, name: &str, faults: &mut Faults) -> Option<Self> {
        if self.map.get(name).is_none_or(Value::is_null) {
            self.seen.push(name.to_owned());
            faults.add(&self.path_of(name), "is missing");
            return None;
        }
        self.optional_object(name, faults)
    }

    pub(super) fn optional_object(&mut self, name: &str, faults: &mut Faults) -> Option<Self> {
        if let Value::Object(map) = self.take(name)? {
            return Some(Self { path: self.path_of(name), map, seen: Vec::new() });
        }
        faults.add(&self.path_of(name), "must be an object");
        None
    }

    pub(super) fn text(&mut self, name: &str, faults: &mut Faults) -> Option<Box<str>> {
        if self.map.get(name).is_none_or(Value::is_null) {
            self.seen.push(name.to_owned());
            faults.add(&self.path_of(name), "is missing");
            return None;
        }
        self.optional_text(name, faults)
    }

    pub(super) fn optional_text(&mut self, name: &str, faults: &mut Faults) -> Option<Box<str>> {
        if let Value::String(text) = self.take(name)? {
            return Some(text.as_str().into());
        }
        faults.add(&self.path_of(name), "must be text");
        None
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        known: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let text = self.text(name, faults)?;
        self.one_of(name, &text, known, faults)
    }

    pub(super) fn optional_word<T: Copy>(
        &mut self,
        name: &str,
        known: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let text = self.optional_text(name, faults)?;
        self.one_of(name, &text, known, faults)
    }

    fn one_of<T: Copy>(
        &self,
        name: &str,
        text: &str,
        known: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let found = known.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        if found.is_none() {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            faults.add(
                &self.path_of(name),
                &format!("{text:?} is unknown; known are {}", words.join(", ")),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// Every field that nobody read is a fault.
    pub(super) fn end(self, faults: &mut Faults) {
        for name in self.map.keys() {
            // `$version` and `$metadata` come with every twin section.
            let of_the_twin = self.path.is_empty() && name.starts_with('$');
            if !of_the_twin && !self.seen.iter().any(|seen| seen == name) {
                faults.add(&self.path_of(name), "is unknown");
            }
        }
    }
}
