//! The names of what can be watched. Pure.

use model::id::{DeviceId, IdentityId, ModuleName};
use model::query::{Expression, QueryError};
use percent_encoding::percent_decode_str;
use thiserror::Error;

use super::queue::Kind;
use crate::access::Rights;

/// Longest name of a topic, in bytes: ids and a whole condition.
const TOPIC_BYTES_MAX: usize = 9 * 1024;

/// Something to watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Topic {
    /// `overview`: the fleet in numbers.
    Overview,
    /// `changes`: the change feed.
    Changes,
    /// `device:{d}`: one device whole.
    Device(DeviceId),
    /// `telemetry:{d}[/{m}][?condition]`: messages as they come.
    Telemetry { device: DeviceId, module: Option<ModuleName>, condition: Expression },
    /// `logs:{d}/{m}`: a module's log.
    Logs(IdentityId),
    /// `pipeline:{d}`: what a device's router does.
    Pipeline(DeviceId),
}

/// Why a text names no topic.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum InvalidTopic {
    #[error("a topic has at most {TOPIC_BYTES_MAX} bytes")]
    Long,
    #[error(
        "{0:?} is no topic; known are overview, changes, device:ID, telemetry:ID[/MODULE][?CONDITION], \
         logs:ID/MODULE, pipeline:ID"
    )]
    Unknown(String),
    #[error("topic {0:?}: {1}")]
    Id(String, String),
    #[error("the condition of the topic, {0}")]
    Condition(#[from] QueryError),
}

impl Topic {
    /// Reads a topic's name.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidTopic> {
        if text.len() > TOPIC_BYTES_MAX {
            return Err(InvalidTopic::Long);
        }
        let unknown = || InvalidTopic::Unknown(text.to_owned());
        match text {
            "overview" => return Ok(Self::Overview),
            "changes" => return Ok(Self::Changes),
            _ => {}
        }
        let (kind, rest) = text.split_once(':').ok_or_else(unknown)?;
        match kind {
            "device" => Ok(Self::Device(id(text, rest)?)),
            "pipeline" => Ok(Self::Pipeline(id(text, rest)?)),
            "logs" => {
                let (device, module) = rest.split_once('/').ok_or_else(unknown)?;
                let (device, module): (_, ModuleName) = (id(text, device)?, id(text, module)?);
                Ok(Self::Logs(IdentityId::module(&device, &module)))
            }
            "telemetry" => {
                let (path, condition) = rest.split_once('?').unwrap_or((rest, ""));
                let (device, module) = match path.split_once('/') {
                    Some((device, module)) => (device, Some(id(text, module)?)),
                    None => (path, None),
                };
                let (device, condition) = (id(text, device)?, Expression::parse(condition)?);
                Ok(Self::Telemetry { device, module, condition })
            }
            _ => Err(unknown()),
        }
    }

    /// What a caller must be allowed.
    pub(crate) fn rights(&self) -> Rights {
        match self {
            Self::Overview => Rights::REGISTRY_READ,
            Self::Device(_) => Rights::REGISTRY_READ.and(Rights::SERVICE),
            Self::Changes | Self::Telemetry { .. } | Self::Logs(_) | Self::Pipeline(_) => {
                Rights::SERVICE
            }
        }
    }

    /// How its updates are kept.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Overview | Self::Device(_) | Self::Pipeline(_) => Kind::State,
            Self::Changes | Self::Telemetry { .. } | Self::Logs(_) => Kind::Lines,
        }
    }
}

fn id<T: std::str::FromStr<Err = model::id::InvalidId>>(
    topic: &str,
    encoded: &str,
) -> Result<T, InvalidTopic> {
    let wrong = |words: String| InvalidTopic::Id(topic.to_owned(), words);
    let text =
        percent_decode_str(encoded).decode_utf8().map_err(|error| wrong(error.to_string()))?;
    text.parse().map_err(|error: model::id::InvalidId| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_with_ids_of_any_sign() {
        let check = |text: &str, expected: &Topic| {
            assert_eq!(&Topic::parse(text).unwrap(), expected, "{text}");
        };
        check("overview", &Topic::Overview);
        check("changes", &Topic::Changes);
        check("device:a%3Ab%3Fc", &Topic::Device("a:b?c".parse().unwrap()));
        check("pipeline:d", &Topic::Pipeline("d".parse().unwrap()));
        check("logs:d/%24edgeAgent", &Topic::Logs("d/$edgeAgent".parse().unwrap()));
        let condition = Expression::parse("level = 'a?b' AND $body.x > 1").unwrap();
        let module = "m".parse().ok();
        let expected = Topic::Telemetry { device: "d".parse().unwrap(), module, condition };
        check("telemetry:d/m?level = 'a?b' AND $body.x > 1", &expected);
        let condition = Expression::default();
        let expected = Topic::Telemetry { device: "d".parse().unwrap(), module: None, condition };
        check("telemetry:d", &expected);
    }

    #[test]
    fn wrong_topics_are_refused_with_the_reason() {
        let check = |text: &str, words: &str| {
            let said = Topic::parse(text).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        };
        check("fleet", "known are overview");
        check("other:d", "known are overview");
        check("logs:d", "known are overview");
        check("device:", "device:");
        check("device:a/b", "device:a/b");
        check("device:%ff", "device:%ff");
        check("telemetry:d?x >", "at position 3");
        check(&format!("device:{}", "x".repeat(10_000)), "at most 9216 bytes");
    }

    #[test]
    fn a_topic_may_be_as_long_as_its_limit_and_no_longer() {
        let of = |bytes: usize| {
            let start = "telemetry:d?x = 1";
            format!("{start}{}", " ".repeat(bytes - start.len()))
        };
        // The condition in it has a limit of its own, which a shorter topic reaches first.
        let long = Topic::parse(&of(TOPIC_BYTES_MAX + 1)).unwrap_err().to_string();
        assert!(long.contains(&format!("at most {TOPIC_BYTES_MAX} bytes")), "{long}");
        let within = Topic::parse(&of(TOPIC_BYTES_MAX)).unwrap_err().to_string();
        assert!(within.contains("at most 8192 fit"), "{within}");
    }
}
