//! What a twin may hold. Source: IoT Hub, "Understand and use device twins", limits.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::refusal::{Refusal, RefusalKind};

/// Most bytes of tags: keys and values.
pub const TAGS_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of desired or of reported properties.
pub const PROPERTIES_BYTES_MAX: usize = 32 * 1024;
/// Deepest nesting of objects and arrays.
const DEPTH_MAX: usize = 10;
/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest string value, in bytes.
const STRING_BYTES_MAX: usize = 4 * 1024;
/// Largest integer either way.
const INTEGER_MAX: u64 = 4_503_599_627_370_495;

/// Why a section cannot be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TwinFault {
    /// A key is too long; here is its beginning.
    #[error("key {0:?} is longer than {KEY_BYTES_MAX} bytes")]
    KeyLong(String),
    /// A key has a character that keys cannot have, or none at all.
    #[error("key {0:?} contains a control character, '.', '$' or a space, or is empty")]
    KeySigns(String),
    /// The text at this key is too long.
    #[error("the text at {0:?} is longer than {STRING_BYTES_MAX} bytes")]
    TextLong(String),
    /// The integer at this key is too large either way.
    #[error("the integer at {0:?} is beyond ±{INTEGER_MAX}")]
    Integer(String),
    /// Objects and arrays below this key are nested too deep.
    #[error("{0:?} lies deeper than {DEPTH_MAX} levels")]
    Deep(String),
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
    check_object(patch, 1)
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
