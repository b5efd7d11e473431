//! One expression engine: conditions of edge routes, message routing in the hub, and later the
//! `WHERE` of twin queries.
//!
//! An [`Expression`] is parsed and type-checked once and evaluated often. Names are resolved
//! through [`Fields`], so the engine knows neither messages nor twins. Evaluation never fails:
//! what makes no sense at run time is [`Value::Undefined`], and undefined never holds.
//! Source: Azure IoT Hub, "IoT Hub message routing query syntax".

use std::borrow::Cow;

use thiserror::Error;

/// Longest expression or route, in bytes.
pub const QUERY_BYTES_MAX: usize = 8192;
/// Deepest nesting of parentheses, calls and operators in one expression.
pub const QUERY_DEPTH_MAX: usize = 64;

/// Why a text is not an expression or a route: where, and what is wrong there.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("at position {position}: {message}")]
pub struct QueryError {
    /// Offset into the text, in bytes from 0; at most the text's length.
    pub position: usize,
    /// What was expected or what is wrong, for the person who wrote the text.
    pub message: String,
}

/// A value during evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Not there, or the result of an operation that makes no sense.
    Undefined,
    /// JSON's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A number; all numbers are doubles, as in the reference.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A JSON object or array; only defined, never compared.
    Json(&'a serde_json::Value),
}

/// Where an expression finds the things it names. Absent is [`Value::Undefined`].
pub trait Fields {
    /// The application property `name`, or for twin queries the top-level path `name`.
    fn property(&self, name: &str) -> Value<'_>;
    /// The system property `name`, without its `$`.
    fn system(&self, name: &str) -> Value<'_>;
    /// The JSON body, if there is one that may be queried.
    fn body(&self) -> Option<&serde_json::Value>;
    /// The JSON twin of the sender, if the implementer offers `$twin`.
    fn twin(&self) -> Option<&serde_json::Value> {
        None
    }
}

/// A parsed and checked expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression(());

impl Expression {
    /// Parses and checks `text`. Empty or blank text is `true`.
    ///
    /// # Errors
    /// [`QueryError`] with the position of the first fault.
    pub fn parse(_text: &str) -> Result<Self, QueryError> {
        todo!()
    }

    /// The value of the expression over `fields`.
    pub fn evaluate<'a>(&'a self, _fields: &'a dyn Fields) -> Value<'a> {
        todo!()
    }

    /// Whether the expression is true over `fields`; null and undefined are not.
    pub fn holds(&self, _fields: &dyn Fields) -> bool {
        todo!()
    }
}
