//! Reads tables of cases that several rooms are held against, the console's among them.
//!
//! The tables lie in `crates/model/cases`. Tests of `model` and `wire`, which know no testkit,
//! include this file by its path.

use serde_json::{Map, Value};

/// One line of `twin-limits.txt`.
#[derive(Clone, Debug)]
pub struct TwinCase {
    /// The rule that is broken, if one is.
    pub fault: Option<&'static str>,
    /// `any`, `tags`, `desired` or `reported`.
    pub section: &'static str,
    /// The line's values as written, for messages.
    pub text: &'static str,
    /// What they stand for.
    pub values: Map<String, Value>,
}

impl TwinCase {
    /// Whether the case says something about `section`.
    pub fn is_of(&self, section: &str) -> bool {
        self.section == "any" || self.section == section
    }
}

/// The lines of `twin-limits.txt`.
///
/// # Panics
/// If a line is malformed.
pub fn twin_limits() -> Vec<TwinCase> {
    lines(include_str!("../../model/cases/twin-limits.txt"))
        .map(|line| {
            let (fault, rest) = word(line);
            let (section, text) = word(rest);
            let values = serde_json::from_str(&expanded(text)).expect(text);
            TwinCase { fault: (fault != "ok").then_some(fault), section, text, values }
        })
        .collect()
}

/// One line of `message-properties.txt`.
#[derive(Clone, Debug)]
pub struct MessageCase {
    /// How many properties are left out.
    pub lost: u32,
    /// The end of the topic, as a client sends it.
    pub bag: &'static str,
    /// Application properties as readers see them.
    pub properties: Map<String, Value>,
    /// System properties as readers see them, by the names they have there.
    pub system: Map<String, Value>,
}

/// The lines of `message-properties.txt`.
///
/// # Panics
/// If a line is malformed.
pub fn message_properties() -> Vec<MessageCase> {
    lines(include_str!("../../model/cases/message-properties.txt"))
        .map(|line| {
            let (lost, rest) = word(line);
            let (bag, text) = word(rest);
            let mut seen: Value = serde_json::from_str(text).expect(text);
            let mut part = |name: &str| match seen.get_mut(name).map(Value::take) {
                Some(Value::Object(part)) => part,
                _ => Map::new(),
            };
            let (properties, system) = (part("properties"), part("system"));
            MessageCase { lost: lost.parse().expect(line), bag, properties, system }
        })
        .collect()
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The first word of `line`, and what follows it.
fn word(line: &'static str) -> (&'static str, &'static str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word, rest.trim_start())
}

/// `text` with `<T*n>` replaced by `T`, n times.
fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let inner = after.split_once('>').and_then(|(inner, tail)| {
            let (unit, times) = inner.rsplit_once('*')?;
            Some((unit.repeat(times.parse().ok()?), tail))
        });
        if let Some((repeated, tail)) = inner {
            out.push_str(&repeated);
            rest = tail;
        } else {
            out.push('<');
            rest = after;
        }
    }
    out + rest
}
