//! The checked tree of an expression, and its text.

use std::fmt;

use super::function::Function;

/// One step into a JSON document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A member of an object.
    Key(Box<str>),
    /// An element of an array, from 0.
    Index(usize),
}

/// The document that a path leads into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Body,
    Twin,
}

impl Root {
    pub(crate) const ALL: [Self; 2] = [Self::Body, Self::Twin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Body => "$body",
            Self::Twin => "$twin",
        }
    }
}

/// An operator with two operands that is not `AND`, `OR` or `??`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Multiply,
    Divide,
    Modulo,
    Add,
    Subtract,
    Concat,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Operator {
    pub(crate) fn of_sign(sign: &str) -> Option<Self> {
        Some(match sign {
            "*" => Self::Multiply,
            "/" => Self::Divide,
            "%" => Self::Modulo,
            "+" => Self::Add,
            "-" => Self::Subtract,
            "||" => Self::Concat,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            "=" => Self::Equal,
            "!=" | "<>" => Self::NotEqual,
            _ => return None,
        })
    }

    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Concat => "||",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "=",
            Self::NotEqual => "!=",
        }
    }
}

/// A node of the tree. Its height is at most `QUERY_DEPTH_MAX`, so walking it may recurse.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    /// A bare name.
    Property(Box<str>),
    /// `$name`, with its `$`.
    System(Box<str>),
    /// `$body.path`, or `$twin.path`.
    Path(Root, Vec<Step>),
    /// What an application property of the same name hides: a name with its `$`, and what it
    /// means if there is no such property. `{$name}` is never hidden.
    Hidden(Box<str>, Box<Self>),
    /// `twin_change_includes(path)`.
    Changed(Vec<Step>),
    Negate(Box<Self>),
    Not(Box<Self>),
    /// Two or more, as long chains must not make the tree high.
    And(Vec<Self>),
    Or(Vec<Self>),
    Coalesce(Vec<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
    Call(Function, Vec<Self>),
}

impl fmt::Display for Node {
    /// Text that parses to the same tree, with every operand in parentheses that is not a
    /// single value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.write_str("undefined"),
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            // `inf` would be a name.
            Self::Number(value) if value.is_infinite() => {
                f.write_str(if *value > 0.0 { "1e999" } else { "-1e999" })
            }
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => write_text(text, f),
            Self::Property(name) | Self::Hidden(name, _) => f.write_str(name),
            Self::System(name) => write!(f, "{{{name}}}"),
            Self::Path(root, path) => write_path(root.name(), path, f),
            Self::Changed(path) => {
                f.write_str("twin_change_includes")?;
                for (index, step) in path.iter().enumerate() {
                    f.write_str(if index == 0 { "(" } else { "." })?;
                    write!(f, "{step}")?;
                }
                f.write_str(")")
            }
            Self::Negate(of) => write!(f, "- {}", Operand(of)),
            Self::Not(of) => write!(f, "NOT {}", Operand(of)),
            Self::And(all) => write_chain(" AND ", all, f),
            Self::Or(all) => write_chain(" OR ", all, f),
            Self::Coalesce(all) => write_chain(" ?? ", all, f),
            Self::Binary(operator, left, right) => {
                write!(f, "{} {} {}", Operand(left), operator.sign(), Operand(right))
            }
            Self::Call(function, arguments) => {
                write!(f, "{}(", function.name())?;
                for (index, argument) in arguments.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write!(f, "{argument}")?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

struct Operand<'n>(&'n Node);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Node::Negate(_)
            | Node::Not(_)
            | Node::And(_)
            | Node::Or(_)
            | Node::Coalesce(_)
            | Node::Binary(..) => write!(f, "({})", self.0),
            _ => write!(f, "{}", self.0),
        }
    }
}

fn write_chain(between: &str, all: &[Node], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, node) in all.iter().enumerate() {
        f.write_str(if index == 0 { "" } else { between })?;
        write!(f, "{}", Operand(node))?;
    }
    Ok(())
}

fn write_path(root: &str, path: &[Step], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // A path with an index is no name, so nothing can hide it and it needs no braces.
    let plain = path.iter().any(|step| matches!(step, Step::Index(_)));
    f.write_str(if plain { "" } else { "{" })?;
    f.write_str(root)?;
    for step in path {
        let dot = if matches!(step, Step::Key(_)) { "." } else { "" };
        write!(f, "{dot}{step}")?;
    }
    f.write_str(if plain { "" } else { "}" })
}

fn write_text(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("'")?;
    for sign in text.chars() {
        let escape = if sign == '\'' || sign == '\\' { "\\" } else { "" };
        write!(f, "{escape}{sign}")?;
    }
    f.write_str("'")
}
