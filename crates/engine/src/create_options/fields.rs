//! A JSON object whose fields are taken one by one, so that what is left can be named.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::EngineError;

/// The fields not taken yet, by lower-case name.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    left: BTreeMap<String, (String, Value)>,
}

/// Whether a value asks for nothing.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(empty),
    }
}

impl Fields {
    pub(super) fn of(path: &str, value: Value) -> Result<Self, EngineError> {
        let Value::Object(fields) = value else {
            return Err(EngineError::option(path, "must be an object"));
        };
        Self::from_map(path, fields)
    }

    fn from_map(path: &str, fields: Map<String, Value>) -> Result<Self, EngineError> {
        let mut left = BTreeMap::new();
        for (name, value) in fields {
            let lower = name.to_ascii_lowercase();
            if left.insert(lower, (name.clone(), value)).is_some() {
                let at = join(path, &name);
                return Err(EngineError::option(at, "is there twice, in different case"));
            }
        }
        Ok(Self { path: path.to_owned(), left })
    }

    pub(super) fn at(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// The value of `name`, unless it asks for nothing.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let (_, value) = self.left.remove(&name.to_ascii_lowercase())?;
        (!empty(&value)).then_some(value)
    }

    /// The value of `name`, also when it is zero, false or empty; not when it is null.
    pub(super) fn take_any(&mut self, name: &str) -> Option<Value> {
        let (_, value) = self.left.remove(&name.to_ascii_lowercase())?;
        (!value.is_null()).then_some(value)
    }

    fn wrong(&self, name: &str, want: &str) -> EngineError {
        EngineError::option(self.at(name), format!("must be {want}"))
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a string")),
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => {
                value.as_i64().map(Some).ok_or_else(|| self.wrong(name, "a whole number"))
            }
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, EngineError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A list of strings, each with its own path.
    pub(super) fn strings(
        &mut self,
        name: &str,
    ) -> Result<Option<Vec<(String, String)>>, EngineError> {
        let Some(items) = self.items(name)? else { return Ok(None) };
        let strings = items.into_iter().map(|(at, item)| match item {
            Value::String(text) if !text.contains('\0') => Ok((at, text)),
            _ => Err(EngineError::option(at, "must be a string")),
        });
        strings.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// A command: a list of strings, or one string, which Docker takes as a single word.
    pub(super) fn words(&mut self, name: &str) -> Result<Option<Vec<String>>, EngineError> {
        let lower = name.to_ascii_lowercase();
        if matches!(self.left.get(&lower), Some((_, Value::String(_)))) {
            return Ok(self.string(name)?.map(|word| vec![word]));
        }
        let words = self.strings(name)?;
        Ok(words.map(|words| words.into_iter().map(|(_, word)| word).collect()))
    }

    pub(super) fn items(
        &mut self,
        name: &str,
    ) -> Result<Option<Vec<(String, Value)>>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let path = self.at(name);
                let number = |(place, item)| (format!("{path}[{place}]"), item);
                Ok(Some(items.into_iter().enumerate().map(number).collect()))
            }
            Some(_) => Err(self.wrong(name, "a list")),
        }
    }

    pub(super) fn map(
        &mut self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, EngineError> {
        match self.take_any(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => {
                let text = |(key, value): (String, Value)| match value {
                    Value::String(value) => Ok((key, value)),
                    _ => Err(self.wrong(&format!("{name}.{key}"), "a string")),
                };
                fields.into_iter().map(text).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, EngineError> {
        match self.take_any(name) {
            None => Ok(None),
            Some(value) => Self::of(&self.at(name), value).map(Some),
        }
    }

    /// All fields, each an object or null.
    pub(super) fn objects(self) -> Result<Vec<(String, Self)>, EngineError> {
        let path = self.path;
        let each = self.left.into_values().map(|(name, value)| {
            let value = if value.is_null() { Value::Object(Map::new()) } else { value };
            let fields = Self::of(&join(&path, &name), value)?;
            Ok((name, fields))
        });
        each.collect()
    }

    pub(super) fn refuse(&mut self, name: &str, why: &str) -> Result<(), EngineError> {
        match self.take(name) {
            None => Ok(()),
            Some(_) => Err(EngineError::option(self.at(name), format!("not supported: {why}"))),
        }
    }

    pub(super) fn ignore(&mut self, name: &str, why: &str, warnings: &mut Vec<String>) {
        if self.take(name).is_some() {
            warnings.push(format!("{} has no effect: {why}", self.at(name)));
        }
    }

    /// What nobody took. Fields of `HostConfig` that stand beside it restrict or grant
    /// something the writer counts on, so those are refused.
    pub(super) fn finish(self, warnings: &mut Vec<String>) -> Result<(), EngineError> {
        for (lower, (name, value)) in &self.left {
            let at = self.at(name);
            if self.path.is_empty() && HOST_FIELDS.contains(&lower.as_str()) {
                let message = "stands beside HostConfig; it belongs inside";
                return Err(EngineError::option(at, message));
            }
            if !empty(value) {
                warnings.push(format!("{at} has no effect: no such field is known"));
            }
        }
        Ok(())
    }
}

/// Fields that are often written one level too high.
const HOST_FIELDS: &[&str] = &[
    "binds",
    "mounts",
    "portbindings",
    "privileged",
    "networkmode",
    "capadd",
    "capdrop",
    "memory",
    "nanocpus",
    "readonlyrootfs",
    "securityopt",
    "devices",
    "logconfig",
    "tmpfs",
    "extrahosts",
    "pidslimit",
    "ulimits",
    "cpusetcpus",
];

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
