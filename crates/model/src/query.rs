//! One expression engine: conditions of edge routes, message routing in the hub, and later the
//! `WHERE` of twin queries.
//!
//! An [`Expression`] is parsed and type-checked once and evaluated often. Names are resolved
//! through [`Fields`], so the engine knows neither messages nor twins. Evaluation never fails:
//! what makes no sense at run time is [`Value::Undefined`], and undefined never holds.
//! Source: Azure IoT Hub, "IoT Hub message routing query syntax".

pub(crate) mod ast;
mod evaluate;
pub(crate) mod function;
pub(crate) mod lexer;
pub mod message;
pub(crate) mod parse;

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use ast::Node;
use lexer::Kind;
use parse::Parser;

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

impl QueryError {
    pub(crate) fn new(position: usize, message: impl Into<String>) -> Self {
        Self { position, message: message.into() }
    }
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

/// A parsed and checked expression. `Display` gives text that parses to an equal expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression(Node);

impl Expression {
    /// Parses and checks the condition `text`. Empty or blank text is `true`.
    ///
    /// # Errors
    /// [`QueryError`] with the position of the first fault.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        Self::parse_told(text).map(|(expression, _)| expression)
    }

    /// The same, with notices: what is taken here and Azure's own would refuse, each with its
    /// position.
    ///
    /// # Errors
    /// [`QueryError`] with the position of the first fault.
    pub fn parse_told(text: &str) -> Result<(Self, Vec<QueryError>), QueryError> {
        check_len(text)?;
        let tokens = lexer::tokens(text, 0)?;
        let mut parser = Parser::new(&tokens, false);
        if *parser.peek() == Kind::End {
            return Ok((Self::default(), Vec::new()));
        }
        let node = parser.condition()?;
        match parser.peek() {
            Kind::End => Ok((Self(node), parser.into_notices())),
            _ => Err(parser.expected("an operator or the end")),
        }
    }

    /// An expression that was parsed as part of something larger.
    pub(crate) fn from_node(node: Node) -> Self {
        Self(node)
    }

    /// The value of the expression over `fields`.
    pub fn evaluate<'a>(&'a self, fields: &'a dyn Fields) -> Value<'a> {
        evaluate::evaluate(&self.0, fields)
    }

    /// Whether the expression is true over `fields`; null and undefined are not.
    pub fn holds(&self, fields: &dyn Fields) -> bool {
        self.evaluate(fields) == Value::Bool(true)
    }

    /// Whether this is the constant `true`, as an empty condition is.
    pub fn always_holds(&self) -> bool {
        self.0 == Node::Bool(true)
    }
}

impl Default for Expression {
    /// The empty condition, which is `true`.
    fn default() -> Self {
        Self(Node::Bool(true))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Refuses text longer than [`QUERY_BYTES_MAX`].
pub(crate) fn check_len(text: &str) -> Result<(), QueryError> {
    if text.len() <= QUERY_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the text has {} bytes, at most {QUERY_BYTES_MAX} fit", text.len());
    Err(QueryError::new(QUERY_BYTES_MAX, message))
}

#[cfg(test)]
mod tests;
