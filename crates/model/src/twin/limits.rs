//! What a twin may hold. Source: IoT Hub, "Understand and use device twins", limits.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::refusal::{Refusal, RefusalKind};

/// Most bytes of tags: keys and values.
pub const TAGS_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of desired or of reported properties.
pub const PROPERTIES_BYTES_MAX: usize = 32 * 1024;
/// Most levels of objects below a section; the values of the last are no objects.
pub const OBJECT_LEVELS_MAX: usize = 10;
/// The deepest level at which a list may stand, counted as those of objects.
pub const LIST_LEVELS_MAX: usize = 9;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest string value, in bytes.
pub const STRING_BYTES_MAX: usize = 4 * 1024;
/// Smallest integer: −2^52.
pub const INTEGER_MIN: i64 = -(1 << 52);
/// Largest integer: 2^52 − 1.
pub const INTEGER_MAX: i64 = (1 << 52) - 1;

/// Why a section cannot be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TwinFault {
    /// A key is too long; here is its beginning.
    #[error("key {0:?} is longer than {KEY_BYTES_MAX} bytes")]
    KeyLong(String),
    /// A key has a character that keys cannot have, or none at all.
    #[error("key {0:?} contains a control character, '.', '$', '#' or a space, or is empty")]
    KeySigns(String),
    /// The text at this key is too long.
    #[error("the text at {0:?} is longer than {STRING_BYTES_MAX} bytes")]
    TextLong(String),
    /// The integer at this key is too large either way.
    #[error("the integer at {0:?} is not between {INTEGER_MIN} and {INTEGER_MAX}")]
    Integer(String),
    /// The object or list at this key lies too deep.
    #[error("{0:?} lies deeper than {OBJECT_LEVELS_MAX} levels")]
    Deep(String),
    /// There is a null in a list, under this key. Only directly in an object a null deletes.
    #[error("the value of {0:?} cannot be null: it stands in a list, where null deletes nothing")]
    NullInList(String),
    /// The section as a whole is too large.
    #[error("{section} would take {bytes} bytes, more than {most}")]
    Large {
        /// Which section.
        section: &'static str,
        /// What it would take.
        bytes: usize,
        /// What it may take.
        most: usize,
    },
}

impl From<TwinFault> for Refusal {
    fn from(fault: TwinFault) -> Self {
        let kind = match fault {
            TwinFault::Large { .. } => RefusalKind::TooLarge,
            _ => RefusalKind::InvalidRequest,
        };
        Self::new(kind, fault.to_string())
    }
}

/// Checks the shape of `patch`: keys, depth, texts, numbers.
///
/// # Errors
/// [`TwinFault`] names the first key that is at fault.
pub fn check_shape(patch: &Map<String, Value>) -> Result<(), TwinFault> {
    check_object(patch, 1, In::Objects)
}

/// Checks the size of a whole section after a change: at most `most` bytes.
///
/// # Errors
/// [`TwinFault::Large`].
pub fn check_size(
    section: &'static str,
    values: &Map<String, Value>,
    most: usize,
) -> Result<(), TwinFault> {
    let bytes = object_bytes(values);
    if bytes > most { Err(TwinFault::Large { section, bytes, most }) } else { Ok(()) }
}

/// Whether what is checked stands in a list, however deep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    Objects,
    List,
}

/// `level` is that of the object's members: 1 for those of the section.
fn check_object(object: &Map<String, Value>, level: usize, inside: In) -> Result<(), TwinFault> {
    for (key, value) in object {
        if key.len() > KEY_BYTES_MAX {
            return Err(TwinFault::KeyLong(key.chars().take(40).collect()));
        }
        let bad = |c: char| c.is_control() || matches!(c, '.' | '$' | '#' | ' ');
        if key.is_empty() || key.contains(bad) {
            return Err(TwinFault::KeySigns(key.clone()));
        }
        check_value(key, value, level, inside)?;
    }
    Ok(())
}

fn check_value(key: &str, value: &Value, level: usize, inside: In) -> Result<(), TwinFault> {
    match value {
        Value::Object(_) if level > OBJECT_LEVELS_MAX => Err(TwinFault::Deep(key.into())),
        Value::Array(_) if level > LIST_LEVELS_MAX => Err(TwinFault::Deep(key.into())),
        Value::Object(inner) => check_object(inner, level + 1, inside),
        Value::Array(items) => {
            items.iter().try_for_each(|item| check_value(key, item, level + 1, In::List))
        }
        Value::Null if inside == In::List => Err(TwinFault::NullInList(key.into())),
        Value::String(text) if text.len() > STRING_BYTES_MAX => {
            Err(TwinFault::TextLong(key.into()))
        }
        Value::Number(number) if !number.is_f64() => match number.as_i64() {
            Some(INTEGER_MIN..=INTEGER_MAX) => Ok(()),
            _ => Err(TwinFault::Integer(key.into())),
        },
        _ => Ok(()),
    }
}

/// Keys and texts count their bytes, numbers 8, booleans 4, null 0.
pub fn object_bytes(object: &Map<String, Value>) -> usize {
    object.iter().map(|(key, value)| key.len() + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(inner) => object_bytes(inner),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("{value} is no object") };
        map
    }

    #[test]
    fn keys_and_texts_may_be_as_long_as_their_limits_and_no_longer() {
        let check = |key: usize, text: usize, expected: Result<(), TwinFault>| {
            let patch = map(json!({ "k".repeat(key): "x".repeat(text) }));
            assert_eq!(check_shape(&patch), expected, "{key} {text}");
        };
        check(KEY_BYTES_MAX, STRING_BYTES_MAX, Ok(()));
        let long = TwinFault::TextLong("k".repeat(KEY_BYTES_MAX));
        check(KEY_BYTES_MAX, STRING_BYTES_MAX + 1, Err(long));
        check(KEY_BYTES_MAX + 1, 1, Err(TwinFault::KeyLong("k".repeat(40))));
    }

    /// A section of exactly `bytes`, in texts that are short enough.
    fn section(bytes: usize) -> Map<String, Value> {
        let (whole, rest) = ((bytes - 1) / STRING_BYTES_MAX, (bytes - 1) % STRING_BYTES_MAX);
        let mut texts = vec!["x".repeat(STRING_BYTES_MAX); whole];
        texts.push("x".repeat(rest));
        map(json!({ "k": texts }))
    }

    #[test]
    fn sections_may_be_as_large_as_their_limits_and_no_larger() {
        for (name, most) in [("tags", TAGS_BYTES_MAX), ("desired", PROPERTIES_BYTES_MAX)] {
            assert_eq!(check_size(name, &section(most), most), Ok(()));
            let large = TwinFault::Large { section: name, bytes: most + 1, most };
            assert_eq!(check_size(name, &section(most + 1), most), Err(large));
        }
    }
}
