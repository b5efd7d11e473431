//! Reads tables of cases that several rooms are held against, the console's among them.
//!
//! `model`'s own tests and `testkit` both include this file, for `model` knows no other room.

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
    lines(include_str!("twin-limits.txt"))
        .map(|line| {
            let (fault, rest) = word(line);
            let (section, text) = word(rest);
            let values = serde_json::from_str(&expanded(text)).expect(text);
            TwinCase { fault: (fault != "ok").then_some(fault), section, text, values }
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
        match inner {
            Some((repeated, tail)) => {
                out.push_str(&repeated);
                rest = tail;
            }
            None => {
                out.push('<');
                rest = after;
            }
        }
    }
    out + rest
}
