//! What a twin may hold. Source: IoT Hub, "Understand and use device twins", limits.

use serde_json::{Map, Value};
use thiserror::Error;

/// Most bytes of tags: keys and values.
pub(crate) const TAGS_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of desired or of reported properties.
pub(crate) const PROPERTIES_BYTES_MAX: usize = 32 * 1024;
/// Deepest nesting of objects and arrays.
const DEPTH_MAX: usize = 10;
/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest string value, in bytes.
const STRING_BYTES_MAX: usize = 4 * 1024;
/// Largest integer either way.
const INTEGER_MAX: u64 = 4_503_599_627_370_495;

/// Why a section cannot be written.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TwinFault {
    #[error("key {0:?} is longer than {KEY_BYTES_MAX} bytes")]
    KeyLong(String),
    #[error("key {0:?} contains a control character, '.', '$' or a space, or is empty")]
    KeySigns(String),
    #[error("the text at {0:?} is longer than {STRING_BYTES_MAX} bytes")]
    TextLong(String),
    #[error("the integer at {0:?} is beyond ±{INTEGER_MAX}")]
    Integer(String),
    #[error("{0:?} lies deeper than {DEPTH_MAX} levels")]
    Deep(String),
    #[error("{section} would take {bytes} bytes, more than {most}")]
    Large { section: &'static str, bytes: usize, most: usize },
}

/// Checks the shape of `patch`: keys, depth, texts, numbers.
pub(crate) fn check_shape(patch: &Map<String, Value>) -> Result<(), TwinFault> {
    check_object(patch, 1)
}

/// Checks the size of a whole section after a change.
pub(crate) fn check_size(
    section: &'static str,
    values: &Map<String, Value>,
    most: usize,
) -> Result<(), TwinFault> {
    let bytes = object_bytes(values);
    if bytes > most { Err(TwinFault::Large { section, bytes, most }) } else { Ok(()) }
}

fn check_object(object: &Map<String, Value>, depth: usize) -> Result<(), TwinFault> {
    for (key, value) in object {
        if key.len() > KEY_BYTES_MAX {
            return Err(TwinFault::KeyLong(key.chars().take(40).collect()));
        }
        let bad = |c: char| c.is_control() || matches!(c, '.' | '$' | ' ');
        if key.is_empty() || key.contains(bad) {
            return Err(TwinFault::KeySigns(key.clone()));
        }
        check_value(key, value, depth)?;
    }
    Ok(())
}

fn check_value(key: &str, value: &Value, depth: usize) -> Result<(), TwinFault> {
    match value {
        Value::Object(_) | Value::Array(_) if depth >= DEPTH_MAX => {
            Err(TwinFault::Deep(key.into()))
        }
        Value::Object(inner) => check_object(inner, depth + 1),
        Value::Array(items) => items.iter().try_for_each(|item| check_value(key, item, depth + 1)),
        Value::String(text) if text.len() > STRING_BYTES_MAX => {
            Err(TwinFault::TextLong(key.into()))
        }
        Value::Number(number) if !number.is_f64() => match number.as_i64() {
            Some(integer) if integer.unsigned_abs() <= INTEGER_MAX => Ok(()),
            _ => Err(TwinFault::Integer(key.into())),
        },
        _ => Ok(()),
    }
}

/// Keys and texts count their bytes, numbers 8, booleans 4, null 0.
pub(crate) fn object_bytes(object: &Map<String, Value>) -> usize {
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
    use super::*;

    #[test]
    fn keys_texts_numbers_and_depth_have_limits() {
        let check = |text: &str, expected: Result<(), TwinFault>| {
            let map = serde_json::from_str(text).unwrap();
            assert_eq!(check_shape(&map), expected, "{text}");
        };
        let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        check("{}", Ok(()));
        check(&nested(10), Ok(()));
        check(&nested(11), Err(TwinFault::Deep("a".into())));
        check(r#"{"a.b":1}"#, Err(TwinFault::KeySigns("a.b".into())));
        check(r#"{"a":{"$b":1}}"#, Err(TwinFault::KeySigns("$b".into())));
        check(r#"{"a b":1}"#, Err(TwinFault::KeySigns("a b".into())));
        check(r#"{"":1}"#, Err(TwinFault::KeySigns(String::new())));
        check(r#"{"n":4503599627370495}"#, Ok(()));
        check(r#"{"n":4503599627370496}"#, Err(TwinFault::Integer("n".into())));
        check(r#"{"n":-4503599627370496}"#, Err(TwinFault::Integer("n".into())));
        check(r#"{"n":[1.5e300]}"#, Ok(()));
        check(&format!(r#"{{"t":"{}"}}"#, "x".repeat(4096)), Ok(()));
        check(
            &format!(r#"{{"t":["{}"]}}"#, "x".repeat(4097)),
            Err(TwinFault::TextLong("t".into())),
        );
    }

    #[test]
    fn size_counts_keys_and_values() {
        let map = serde_json::from_str(r#"{"ab":1,"c":{"d":true,"e":"xyz"}}"#).unwrap();
        let bytes = 2 + 8 + 1 + (1 + 4) + (1 + 3);
        assert_eq!(check_size("tags", &map, bytes), Ok(()));
        let fault = TwinFault::Large { section: "tags", bytes, most: bytes - 1 };
        assert_eq!(check_size("tags", &map, bytes - 1), Err(fault));
    }
}
