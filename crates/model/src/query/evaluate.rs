//! The value of a checked tree over [`Fields`].
//!
//! Logic is three-valued (true, false, undefined). As in the reference, null counts as false in
//! logic and as zero in arithmetic, and compares with nothing but itself.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;

use super::ast::{Node, Operator, Step};
use super::function::as_number;
use super::{Fields, Value};

/// The value of `node`; recursion is bounded by the height of the tree.
pub(crate) fn evaluate<'a>(node: &'a Node, fields: &'a dyn Fields) -> Value<'a> {
    match node {
        Node::Undefined => Value::Undefined,
        Node::Null => Value::Null,
        Node::Bool(value) => Value::Bool(*value),
        Node::Number(value) => Value::Number(*value),
        Node::Text(text) => Value::Text(Cow::Borrowed(text)),
        Node::Property(name) => fields.property(name),
        Node::System { name, forced: true } => fields.system(name),
        Node::System { name, forced: false } => match fields.property(&format!("${name}")) {
            Value::Undefined => fields.system(name),
            property => property,
        },
        Node::Body(path) => within(fields.body(), path),
        Node::Twin(path) => within(fields.twin(), path),
        Node::Changed(path) => match fields.body() {
            None => Value::Undefined,
            body => Value::Bool(!matches!(within(body, path), Value::Undefined)),
        },
        Node::Negate(of) => match evaluate(of, fields) {
            Value::Number(number) => Value::Number(-number),
            Value::Null => Value::Number(0.0),
            _ => Value::Undefined,
        },
        Node::Not(of) => truth(&evaluate(of, fields)).map_or(Value::Undefined, |t| Value::Bool(!t)),
        Node::And(all) => decide(all, fields, false),
        Node::Or(all) => decide(all, fields, true),
        Node::Coalesce(all) => all
            .iter()
            .map(|node| evaluate(node, fields))
            .find(|value| !matches!(value, Value::Undefined | Value::Null))
            .unwrap_or(Value::Undefined),
        Node::Binary(operator, left, right) => binary(*operator, left, right, fields),
        Node::Call(function, arguments) => {
            let values: Vec<_> = arguments.iter().map(|node| evaluate(node, fields)).collect();
            function.apply(&values)
        }
    }
}

fn truth(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Null => Some(false),
        _ => None,
    }
}

/// `deciding` if one member is that, else undefined if one is undefined, else the opposite.
fn decide<'a>(all: &'a [Node], fields: &'a dyn Fields, deciding: bool) -> Value<'a> {
    let mut result = Value::Bool(!deciding);
    for node in all {
        match truth(&evaluate(node, fields)) {
            Some(value) if value == deciding => return Value::Bool(deciding),
            Some(_) => {}
            None => result = Value::Undefined,
        }
    }
    result
}

fn within<'a>(root: Option<&'a Json>, path: &[Step]) -> Value<'a> {
    let found = path.iter().try_fold(root, |at, step| {
        Some(match step {
            Step::Key(key) => Some(at?.get(&**key)?),
            Step::Index(index) => Some(at?.get(*index)?),
        })
    });
    found.flatten().map_or(Value::Undefined, Value::from)
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => number.as_f64().map_or(Self::Undefined, Self::Number),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(_) | Json::Object(_) => Self::Json(json),
        }
    }
}

fn binary<'a>(
    operator: Operator,
    left: &'a Node,
    right: &'a Node,
    fields: &'a dyn Fields,
) -> Value<'a> {
    let (x, y) = (evaluate(left, fields), evaluate(right, fields));
    match operator {
        Operator::Multiply
        | Operator::Divide
        | Operator::Modulo
        | Operator::Add
        | Operator::Subtract => arithmetic(operator, &x, &y),
        Operator::Concat => match (x, y) {
            (Value::Text(x), Value::Text(y)) => Value::Text(x + y),
            _ => Value::Undefined,
        },
        _ => {
            let x = if is_number(&y) { converted(x, left) } else { x };
            let y = if is_number(&x) { converted(y, right) } else { y };
            compare(operator, &x, &y).map_or(Value::Undefined, Value::Bool)
        }
    }
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Number(_))
}

/// A property beside a number becomes a number if it spells one.
fn converted<'a>(value: Value<'a>, node: &Node) -> Value<'a> {
    match (&value, node) {
        (Value::Text(text), Node::Property(_) | Node::System { .. }) => {
            as_number(text).map_or(Value::Undefined, Value::Number)
        }
        _ => value,
    }
}

fn arithmetic<'a>(operator: Operator, x: &Value<'_>, y: &Value<'_>) -> Value<'a> {
    let number = |value: &Value<'_>| match value {
        Value::Number(number) => Some(*number),
        Value::Null => Some(0.0),
        _ => None,
    };
    let (Some(x), Some(y)) = (number(x), number(y)) else { return Value::Undefined };
    Value::Number(match operator {
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::Modulo => x % y,
        Operator::Subtract => x - y,
        _ => x + y,
    })
}

fn compare(operator: Operator, x: &Value<'_>, y: &Value<'_>) -> Option<bool> {
    let ordering = match (x, y) {
        (Value::Number(x), Value::Number(y)) => x.partial_cmp(y),
        (Value::Text(x), Value::Text(y)) => Some(x.cmp(y)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(x), Value::Bool(y)) => match operator {
            Operator::Equal | Operator::NotEqual => Some(x.cmp(y)),
            _ => return None,
        },
        _ => return None,
    };
    // Not-a-number is not equal to anything and has no place in an order.
    let Some(ordering) = ordering else { return Some(operator == Operator::NotEqual) };
    Some(match operator {
        Operator::Less => ordering.is_lt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::Greater => ordering.is_gt(),
        Operator::GreaterOrEqual => ordering.is_ge(),
        Operator::NotEqual => ordering.is_ne(),
        _ => ordering.is_eq(),
    })
}
