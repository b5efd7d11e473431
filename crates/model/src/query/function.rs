//! The functions of the language: names, signatures, and what they compute.

use std::borrow::Cow;

use super::{Value, lexer};

/// What is known of a value before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Only known at run time (paths into JSON).
    Any,
    /// A property: a text that a comparison with a number converts when it can.
    Property,
    Text,
    Number,
    Bool,
    Null,
    Undefined,
}

impl Type {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Property => "a property, which is a text",
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Bool => "true or false",
            Self::Null => "null",
            Self::Undefined => "undefined",
        }
    }
}

/// What a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Anything,
    /// Numbers only.
    Numbers,
    /// Texts only.
    Texts,
    /// A text, then numbers.
    TextThenNumbers,
    /// A text or a number.
    TextOrNumber,
}

/// Name, fewest and most arguments, their types, the type of the result.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) arguments: (usize, usize),
    pub(crate) takes: Takes,
    pub(crate) gives: Type,
}

macro_rules! functions {
    ($($variant:ident $name:literal $least:literal $most:literal $takes:ident $gives:ident;)*) => {
        /// A function of the language, by its name in snake case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Function { $($variant,)* }

        impl Function {
            /// Every function, in the order of the table.
            const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(crate) fn signature(self) -> Signature {
                match self {
                    $(Self::$variant => Signature {
                        name: $name,
                        arguments: ($least, $most),
                        takes: Takes::$takes,
                        gives: Type::$gives,
                    },)*
                }
            }
        }
    };
}

functions! {
    Abs "abs" 1 1 Numbers Number;
    Exp "exp" 1 1 Numbers Number;
    Power "power" 2 2 Numbers Number;
    Square "square" 1 1 Numbers Number;
    Ceiling "ceiling" 1 1 Numbers Number;
    Floor "floor" 1 1 Numbers Number;
    Sign "sign" 1 1 Numbers Number;
    Sqrt "sqrt" 1 1 Numbers Number;
    AsNumber "as_number" 1 1 TextOrNumber Number;
    IsArray "is_array" 1 1 Anything Bool;
    IsBool "is_bool" 1 1 Anything Bool;
    IsDefined "is_defined" 1 1 Anything Bool;
    IsNull "is_null" 1 1 Anything Bool;
    IsNumber "is_number" 1 1 Anything Bool;
    IsObject "is_object" 1 1 Anything Bool;
    IsPrimitive "is_primitive" 1 1 Anything Bool;
    IsString "is_string" 1 1 Anything Bool;
    Concat "concat" 2 64 Texts Text;
    Length "length" 1 1 Texts Number;
    Lower "lower" 1 1 Texts Text;
    Upper "upper" 1 1 Texts Text;
    Substring "substring" 2 3 TextThenNumbers Text;
    IndexOf "index_of" 2 2 Texts Number;
    StartsWith "starts_with" 2 2 Texts Bool;
    EndsWith "ends_with" 2 2 Texts Bool;
    Contains "contains" 2 2 Texts Bool;
}

impl Function {
    /// The function called `name`, in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.name().eq_ignore_ascii_case(name))
    }

    pub(crate) fn name(self) -> &'static str {
        self.signature().name
    }

    /// Applies the function; what does not fit gives undefined.
    pub(crate) fn apply<'a>(self, arguments: &[Value<'a>]) -> Value<'a> {
        if let [value] = arguments
            && let Some(answer) = self.asks(value)
        {
            return Value::Bool(answer);
        }
        let result = match arguments {
            [Value::Number(x)] => self.of_number(*x),
            [Value::Number(x), Value::Number(y)] if self == Self::Power => {
                Some(Value::Number(x.powf(*y)))
            }
            [Value::Text(text)] => self.of_text(text),
            [Value::Text(text), Value::Number(start)] => substring(text, *start, None),
            [Value::Text(text), Value::Number(start), Value::Number(len)] => {
                substring(text, *start, Some(*len))
            }
            [Value::Text(text), Value::Text(other)] if self != Self::Concat => {
                self.of_texts(text, other)
            }
            _ if self == Self::Concat => concat(arguments),
            _ => None,
        };
        result.unwrap_or(Value::Undefined)
    }

    /// The answer of the questions about a type; the only functions that take undefined.
    fn asks(self, value: &Value<'_>) -> Option<bool> {
        Some(match self {
            Self::IsArray => matches!(value, Value::Json(json) if json.is_array()),
            Self::IsBool => matches!(value, Value::Bool(_)),
            Self::IsDefined => !matches!(value, Value::Undefined),
            Self::IsNull => matches!(value, Value::Null),
            // The reference has infinities and does not count them as numbers.
            Self::IsNumber => matches!(value, Value::Number(number) if number.is_finite()),
            Self::IsObject => matches!(value, Value::Json(json) if json.is_object()),
            Self::IsPrimitive => !matches!(value, Value::Json(_) | Value::Undefined),
            Self::IsString => matches!(value, Value::Text(_)),
            _ => return None,
        })
    }

    fn of_number<'a>(self, x: f64) -> Option<Value<'a>> {
        Some(Value::Number(match self {
            Self::Abs => x.abs(),
            Self::Exp => x.exp(),
            Self::Square => x * x,
            Self::Ceiling => x.ceil(),
            Self::Floor => x.floor(),
            Self::Sign if x == 0.0 => 0.0,
            Self::Sign => x.signum(),
            Self::Sqrt => x.sqrt(),
            Self::AsNumber => x,
            _ => return None,
        }))
    }

    fn of_text<'a>(self, text: &str) -> Option<Value<'a>> {
        Some(match self {
            Self::AsNumber => Value::Number(as_number(text)?),
            Self::Length => Value::Number(count(text)),
            Self::Lower => Value::Text(Cow::Owned(text.to_lowercase())),
            Self::Upper => Value::Text(Cow::Owned(text.to_uppercase())),
            _ => return None,
        })
    }

    fn of_texts<'a>(self, text: &str, other: &str) -> Option<Value<'a>> {
        Some(match self {
            Self::IndexOf => Value::Number(match text.split_once(other) {
                Some((before, _)) => count(before),
                None => -1.0,
            }),
            Self::StartsWith => Value::Bool(text.starts_with(other)),
            Self::EndsWith => Value::Bool(text.ends_with(other)),
            Self::Contains => Value::Bool(text.contains(other)),
            _ => return None,
        })
    }
}

/// The number a property spells, blanks around it ignored.
pub(crate) fn as_number(text: &str) -> Option<f64> {
    lexer::number(text.trim())
}

#[expect(clippy::cast_precision_loss, reason = "texts are far shorter than 2^52 characters")]
fn count(text: &str) -> f64 {
    text.chars().count() as f64
}

fn concat<'a>(parts: &[Value<'a>]) -> Option<Value<'a>> {
    let mut joined = String::new();
    for part in parts {
        let Value::Text(text) = part else { return None };
        joined.push_str(text);
    }
    Some(Value::Text(Cow::Owned(joined)))
}

/// Characters from `start` (from 0), at most `len`; undefined outside the text.
fn substring<'a>(text: &str, start: f64, len: Option<f64>) -> Option<Value<'a>> {
    let all = count(text);
    let len = len.unwrap_or(all - start);
    let within = start >= 0.0 && len >= 0.0 && start + len <= all;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are between 0 and the length of the text"
    )]
    let (start, len) = within.then_some((start as usize, len as usize))?;
    Some(Value::Text(Cow::Owned(text.chars().skip(start).take(len).collect())))
}
