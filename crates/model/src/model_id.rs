//! The id of a model: which plug-and-play model a device says it follows.

use std::fmt;
use std::str::FromStr;

/// Longest id of a model, in bytes. A limit of our own: the twin keeps it, and every message of a
/// session carries it.
pub const MODEL_ID_BYTES_MAX: usize = 2048;

const SCHEME: &str = "dtmi:";
/// Most digits of a version, and of the part behind its point.
const MAJOR_DIGITS_MAX: usize = 9;
const MINOR_DIGITS_MAX: usize = 6;

/// A Digital Twin Modeling Identifier: `dtmi:com:example:Thermostat;1`. Compared as written.
/// Source: the DTMI syntax of DTDL; a fragment (`#…`) names no model and is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelId(Box<str>);

/// Why a text is no [`ModelId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModelId {
    /// It is too long to be kept.
    #[error("the model id is longer than {MODEL_ID_BYTES_MAX} bytes")]
    TooLong,
    /// It does not follow the syntax.
    #[error("the model id is not of the form dtmi:<path>;<version>")]
    Syntax,
}

impl ModelId {
    /// As it was announced.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelId {
    type Err = InvalidModelId;

    fn from_str(text: &str) -> Result<Self, InvalidModelId> {
        if text.len() > MODEL_ID_BYTES_MAX {
            return Err(InvalidModelId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidModelId::Syntax)?;
        let (path, version) = rest.split_once(';').map_or((rest, None), |(a, b)| (a, Some(b)));
        let good = path.split(':').all(is_segment) && version.is_none_or(is_version);
        if good { Ok(Self(text.into())) } else { Err(InvalidModelId::Syntax) }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty()
        && text.bytes().all(is_word)
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.ends_with('_')
}

fn is_version(text: &str) -> bool {
    let (major, minor) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
    is_number(major, MAJOR_DIGITS_MAX)
        && minor.is_none_or(|minor| is_number(minor, MINOR_DIGITS_MAX))
}

fn is_number(text: &str, digits_max: usize) -> bool {
    (1..=digits_max).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_models_follow_the_syntax_of_dtmi() {
        for good in [
            "dtmi:com:example:Thermostat;1",
            "dtmi:azureiot:PhoneAsADevice;2",
            "dtmi:a;999999999.999999",
            "dtmi:a_b:c9",
            "dtmi:_system:x;1",
        ] {
            assert_eq!(good.parse::<ModelId>().map(|id| id.to_string()), Ok(good.into()));
        }
        for bad in [
            "",
            "Thermostat",
            "DTMI:a;1",
            "dtmi:",
            "dtmi:;1",
            "dtmi:a:;1",
            "dtmi:a::b;1",
            "dtmi:9a;1",
            "dtmi:a_;1",
            "dtmi:a;",
            "dtmi:a;0",
            "dtmi:a;01",
            "dtmi:a;1.0",
            "dtmi:a;1.",
            "dtmi:a;1;2",
            "dtmi:a;1#b",
            "dtmi:a b;1",
            "dtmi:\u{e4};1",
            "dtmi:a\u{0};1",
        ] {
            assert_eq!(bad.parse::<ModelId>(), Err(InvalidModelId::Syntax), "{bad:?}");
        }
    }

    #[test]
    fn versions_have_so_many_digits_and_no_more() {
        let of = |major: usize, minor: usize| {
            let text = format!("dtmi:a;{}.{}", "1".repeat(major), "2".repeat(minor));
            text.parse::<ModelId>().is_ok()
        };
        assert!(of(MAJOR_DIGITS_MAX, MINOR_DIGITS_MAX));
        assert!(!of(MAJOR_DIGITS_MAX + 1, 1) && !of(1, MINOR_DIGITS_MAX + 1));
    }

    #[test]
    fn an_id_may_have_model_id_bytes_max_and_no_byte_more() {
        let of = |bytes: usize| format!("dtmi:{}", "a".repeat(bytes - SCHEME.len()));
        assert!(of(MODEL_ID_BYTES_MAX).parse::<ModelId>().is_ok());
        let long = of(MODEL_ID_BYTES_MAX + 1).parse::<ModelId>();
        assert_eq!(long, Err(InvalidModelId::TooLong));
        assert!(long.unwrap_err().to_string().contains(&MODEL_ID_BYTES_MAX.to_string()));
    }
}
