//! What the desired properties set: `intervalSeconds`.

use std::time::Duration;

use sdk::property::Acknowledgements;
use sdk::{TwinPatch, Version};
use serde_json::{Map, Value, json};

/// The desired property.
pub const INTERVAL_SECONDS: &str = "intervalSeconds";
/// Seconds between readings that are accepted.
pub const INTERVAL_SECONDS_RANGE: std::ops::RangeInclusive<u64> = 1..=3600;
/// Seconds between readings when nothing is desired.
const INTERVAL_SECONDS_DEFAULT: u64 = 1;

/// What is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    interval_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval_seconds: INTERVAL_SECONDS_DEFAULT }
    }
}

impl Settings {
    /// Time between readings.
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.interval_seconds)
    }

    /// Takes over what can be taken of `desired`, and says what became of each property: the
    /// patch to report, and the refusals for the log.
    pub fn apply(&mut self, desired: &Map<String, Value>, version: Version) -> Applied {
        let mut answers = Acknowledgements::of(version);
        match desired.get(INTERVAL_SECONDS) {
            None | Some(Value::Null) => {
                *self = Self::default();
                answers.default_applies(INTERVAL_SECONDS, json!(self.interval_seconds));
            }
            Some(value) => {
                let seconds = value.as_u64().filter(|it| INTERVAL_SECONDS_RANGE.contains(it));
                if let Some(seconds) = seconds {
                    self.interval_seconds = seconds;
                    answers.accepted(INTERVAL_SECONDS, json!(seconds));
                } else {
                    let (least, most) = INTERVAL_SECONDS_RANGE.into_inner();
                    let reason = format!("not a whole number from {least} to {most}");
                    answers.refused(INTERVAL_SECONDS, json!(self.interval_seconds), reason);
                }
            }
        }
        Applied { refused: answers.refusals().to_vec(), patch: answers.into_patch(desired) }
    }
}

/// What became of desired properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The patch to report.
    pub patch: TwinPatch,
    /// Name and reason of each refused property.
    pub refused: Vec<(&'static str, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(settings: &mut Settings, desired: Value) -> Value {
        let applied = settings.apply(desired.as_object().unwrap(), Version(3));
        assert_eq!(applied.refused.is_empty(), applied.patch.0[INTERVAL_SECONDS]["ac"] != 400);
        Value::Object(applied.patch.0)
    }

    #[test]
    fn the_interval_is_applied_refused_or_the_default_and_always_answered() {
        let mut settings = Settings { interval_seconds: 9 };
        let reason = "not a whole number from 1 to 3600";
        for (desired, in_force, code, words) in [
            (json!(1), 1, 200, Value::Null),
            (json!(3600), 3600, 200, Value::Null),
            (json!(0), 3600, 400, json!(reason)),
            (json!(3601), 3600, 400, json!(reason)),
            (json!(-1), 3600, 400, json!(reason)),
            (json!(1.5), 3600, 400, json!(reason)),
            (json!("5"), 3600, 400, json!(reason)),
            (json!(null), 1, 203, Value::Null),
        ] {
            let got = answer(&mut settings, json!({ "intervalSeconds": desired }));
            let expected = json!({
                "intervalSeconds": { "value": in_force, "ac": code, "av": 3, "ad": words },
                "unknownProperties": null,
            });
            assert_eq!(got, expected, "{desired}");
            assert_eq!(settings.interval(), Duration::from_secs(in_force));
        }
    }

    #[test]
    fn properties_that_do_not_exist_are_told() {
        let got = answer(&mut Settings::default(), json!({ "interval": 5 }));
        assert_eq!(got["unknownProperties"], json!(["interval"]));
    }
}
