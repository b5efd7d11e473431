//! The value of a checked tree over [`Fields`].
//!
//! Logic is three-valued (true, false, undefined), and null stays null where it can: it decides
//! an AND and is nothing to an OR. In arithmetic null is zero; what is no number is undefined.
//!
//! What a body or twin holds is known only when it is looked at. So a comparison for equality
//! with it always has an answer: values of two types are not equal, and what the document does
//! not have is null. Only objects and lists, and a message whose body nobody can read, give none.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;

use super::ast::{Node, Operator, Root, Step};
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
        Node::System(name) => fields.system(name.strip_prefix('$').unwrap_or(name)),
        Node::Path(root, path) => within(document(*root, fields), path),
        Node::Hidden(name, meant) => match fields.property(name) {
            Value::Undefined => evaluate(meant, fields),
            property => property,
        },
        Node::Changed(path) => match fields.body() {
            None => Value::Undefined,
            body => Value::Bool(!matches!(within(body, path), Value::Undefined)),
        },
        Node::Negate(of) => match evaluate(of, fields) {
            Value::Number(number) => Value::Number(-number),
            Value::Null => Value::Number(0.0),
            _ => Value::Undefined,
        },
        Node::Not(of) => match evaluate(of, fields) {
            Value::Bool(value) => Value::Bool(!value),
            Value::Null => Value::Bool(true),
            _ => Value::Undefined,
        },
        Node::And(all) => and(all, fields),
        Node::Or(all) => or(all, fields),
        Node::Coalesce(all) => all
            .iter()
            .map(|node| evaluate(node, fields))
            .find(|value| !matches!(value, Value::Undefined | Value::Null))
            .unwrap_or(Value::Undefined),
        Node::Binary(operator, left, right) => binary(*operator, left, right, fields),
        Node::Call(function, arguments) => {
            let values: Vec<_> = arguments.iter().map(|node| evaluate(node, fields)).collect();
            defined(function.apply(&values))
        }
    }
}

fn document(root: Root, fields: &dyn Fields) -> Option<&Json> {
    match root {
        Root::Body => fields.body(),
        Root::Twin => fields.twin(),
    }
}

/// What is no number is undefined.
fn defined(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Number(number) if number.is_nan() => Value::Undefined,
        value => value,
    }
}

fn and<'a>(all: &'a [Node], fields: &'a dyn Fields) -> Value<'a> {
    let mut result = Value::Bool(true);
    for (at, node) in all.iter().enumerate() {
        match evaluate(node, fields) {
            Value::Bool(true) => {}
            Value::Null => return Value::Null,
            Value::Bool(false) => {
                let rest = all.get(at + 1..).unwrap_or_default();
                return if rest.iter().any(is_null) { Value::Null } else { Value::Bool(false) };
            }
            _ => result = Value::Undefined,
        }
    }
    result
}

/// Whether `node` is null whatever the message.
fn is_null(node: &Node) -> bool {
    match node {
        Node::Null => true,
        Node::And(all) => all.iter().any(is_null),
        Node::Or(all) => all.iter().all(is_null),
        _ => false,
    }
}

fn or<'a>(all: &'a [Node], fields: &'a dyn Fields) -> Value<'a> {
    let mut result = Value::Null;
    for node in all {
        match (evaluate(node, fields), &result) {
            (Value::Bool(true), _) => return Value::Bool(true),
            (Value::Bool(false), Value::Null) => result = Value::Bool(false),
            (Value::Null | Value::Bool(false), _) => {}
            _ => result = Value::Undefined,
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
            let answer = match (open_root(left), open_root(right)) {
                (None, None) => {
                    let x = if is_number(&y) { converted(x, left) } else { x };
                    let y = if is_number(&x) { converted(y, right) } else { y };
                    compare(operator, &x, &y)
                }
                (of_left, of_right) => {
                    let read = |value, of: Option<Root>| match of {
                        Some(root) => document(root, fields).map(|_| present(value)),
                        None => Some(value),
                    };
                    let both = read(x, of_left).zip(read(y, of_right));
                    both.and_then(|(x, y)| compare_open(operator, &x, &y))
                }
            };
            answer.map_or(Value::Undefined, Value::Bool)
        }
    }
}

/// The document that decides about the type of `node`, if one does.
fn open_root(node: &Node) -> Option<Root> {
    match node {
        Node::Path(root, _) => Some(*root),
        Node::Hidden(_, meant) => open_root(meant),
        Node::Coalesce(all) => all.iter().find_map(open_root),
        _ => None,
    }
}

/// What a document does not have is null.
fn present(value: Value<'_>) -> Value<'_> {
    if value == Value::Undefined { Value::Null } else { value }
}

/// A comparison with what a document holds.
fn compare_open(operator: Operator, x: &Value<'_>, y: &Value<'_>) -> Option<bool> {
    let comparable = |value: &Value<'_>| !matches!(value, Value::Json(_) | Value::Undefined);
    if !comparable(x) || !comparable(y) {
        return None;
    }
    let alike = std::mem::discriminant(x) == std::mem::discriminant(y);
    match operator {
        Operator::Equal if !alike => Some(false),
        Operator::NotEqual if !alike => Some(true),
        _ => compare(operator, x, y),
    }
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Number(_))
}

/// A property beside a number becomes a number if it spells one.
fn converted<'a>(value: Value<'a>, node: &Node) -> Value<'a> {
    match (&value, node) {
        (Value::Text(text), Node::Property(_) | Node::System(_) | Node::Hidden(..)) => {
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
    defined(Value::Number(match operator {
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::Modulo => x % y,
        Operator::Subtract => x - y,
        _ => x + y,
    }))
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
    let ordering = ordering?;
    Some(match operator {
        Operator::Less => ordering.is_lt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::Greater => ordering.is_gt(),
        Operator::GreaterOrEqual => ordering.is_ge(),
        Operator::NotEqual => ordering.is_ne(),
        _ => ordering.is_eq(),
    })
}
