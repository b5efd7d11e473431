//! What the desired properties set: `windowSeconds`, `history`, `threshold`, `metrics`.

use std::ops::RangeInclusive;
use std::time::Duration;

use sdk::property::Acknowledgements;
use sdk::{TwinPatch, Version};
use serde_json::{Map, Value, json};

use crate::history::{SCORE_MAX, VALUES_MIN};

/// Length of a window, in seconds.
pub const WINDOW_SECONDS: &str = "windowSeconds";
/// How many values of a metric a new one is compared with.
pub const HISTORY: &str = "history";
/// The score above which a value is an anomaly.
pub const THRESHOLD: &str = "threshold";
/// Which metrics count: whole paths or their beginnings (`cpu` means all below `cpu`).
pub const METRICS: &str = "metrics";

/// Accepted lengths of a window.
pub const WINDOW_SECONDS_RANGE: RangeInclusive<u64> = 1..=3600;
/// Accepted lengths of the history; fewer values than the least give no score.
pub const HISTORY_RANGE: RangeInclusive<u64> = VALUES_MIN as u64..=3600;
/// Most names in `metrics`.
pub const NAMES_MAX: usize = 64;
/// Longest name in `metrics`, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// What is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    window_seconds: u64,
    history: u64,
    threshold: f64,
    metrics: Option<Vec<Box<str>>>,
}

impl Default for Settings {
    fn default() -> Self {
        // 3.5 is what Iglewicz and Hoaglin recommend.
        Self { window_seconds: 10, history: 60, threshold: 3.5, metrics: None }
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

impl Settings {
    /// Length of a window.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.window_seconds)
    }

    /// How many values of a metric a new one is compared with.
    pub fn history(&self) -> usize {
        usize::try_from(self.history).unwrap_or(usize::MAX)
    }

    /// The score above which a value is an anomaly.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Whether the metric of this path counts.
    pub fn chooses(&self, path: &str) -> bool {
        let Some(names) = &self.metrics else { return true };
        names.iter().any(|name| {
            path.strip_prefix(&**name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// Takes over what can be taken of `desired`; a property that cannot keeps its value. Each
    /// property is answered in the patch to report.
    pub fn apply(&mut self, desired: &Map<String, Value>, version: Version) -> Applied {
        let mut answers = Acknowledgements::of(version);
        let default = Self::default();
        let fields = Fields { desired, answers: &mut answers };
        fields
            .take(WINDOW_SECONDS, &mut self.window_seconds, default.window_seconds, |value| {
                whole(value, WINDOW_SECONDS_RANGE)
            })
            .take(HISTORY, &mut self.history, default.history, |value| whole(value, HISTORY_RANGE))
            .take(THRESHOLD, &mut self.threshold, default.threshold, threshold)
            .take(METRICS, &mut self.metrics, default.metrics, |value| names(value).map(Some));
        Applied { refused: answers.refusals().to_vec(), patch: answers.into_patch(desired) }
    }
}

struct Fields<'a> {
    desired: &'a Map<String, Value>,
    answers: &'a mut Acknowledgements,
}

impl Fields<'_> {
    fn take<T: serde::Serialize>(
        self,
        name: &'static str,
        in_force: &mut T,
        default: T,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Self {
        match self.desired.get(name) {
            None | Some(Value::Null) => {
                *in_force = default;
                self.answers.default_applies(name, json!(in_force));
            }
            Some(value) => match parse(value) {
                Ok(value) => {
                    *in_force = value;
                    self.answers.accepted(name, json!(in_force));
                }
                Err(reason) => self.answers.refused(name, json!(in_force), reason),
            },
        }
        self
    }
}

fn whole(value: &Value, range: RangeInclusive<u64>) -> Result<u64, String> {
    value
        .as_u64()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("not a whole number from {} to {}", range.start(), range.end()))
}

fn threshold(value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|number| *number > 0.0 && *number <= SCORE_MAX)
        .ok_or_else(|| format!("not a number above 0 and up to {SCORE_MAX}"))
}

fn names(value: &Value) -> Result<Vec<Box<str>>, String> {
    let items = value.as_array().ok_or("not a list of names")?;
    if items.is_empty() || items.len() > NAMES_MAX {
        return Err(format!("not 1 to {NAMES_MAX} names; null means all metrics"));
    }
    items.iter().enumerate().map(|(index, item)| name(index, item)).collect()
}

fn name(index: usize, item: &Value) -> Result<Box<str>, String> {
    let name = item.as_str().ok_or_else(|| format!("name {index} is no text"))?;
    if name.len() > NAME_BYTES_MAX || name.split('.').any(str::is_empty) {
        return Err(format!("name {index} is no path of a metric such as cpu.percent"));
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(settings: &mut Settings, desired: &Value) -> Applied {
        settings.apply(desired.as_object().unwrap(), Version(4))
    }

    #[test]
    fn without_desired_properties_the_defaults_are_in_force_and_reported() {
        let mut settings = Settings::default();
        let answers = Value::Object(apply(&mut settings, &json!({})).patch.0);
        let default = |value: Value| json!({ "value": value, "ac": 203, "av": 4, "ad": null });
        let expected = json!({
            "windowSeconds": default(json!(10)),
            "history": default(json!(60)),
            "threshold": default(json!(3.5)),
            "metrics": default(json!(null)),
            "unknownProperties": null,
        });
        assert_eq!(answers, expected);
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn each_property_is_applied_or_refused_by_itself() {
        let mut settings = Settings::default();
        let desired =
            json!({ "windowSeconds": 30, "history": 9, "threshold": 5, "metrics": "cpu" });
        let applied = apply(&mut settings, &desired);
        assert_eq!((settings.window(), settings.threshold()), (Duration::from_secs(30), 5.0));
        assert_eq!((settings.history(), settings.chooses("anything")), (60, true));
        let expected = [
            ("history", "not a whole number from 10 to 3600".to_owned()),
            ("metrics", "not a list of names".to_owned()),
        ];
        assert_eq!(applied.refused, expected);
        let history = json!({ "value": 60, "ac": 400, "av": 4, "ad": expected[0].1 });
        assert_eq!(applied.patch.0["history"], history);
        assert_eq!(applied.patch.0["windowSeconds"]["ac"], 200);
        apply(&mut settings, &json!({ "windowSeconds": null }));
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn values_out_of_range_or_kind_are_refused_with_a_reason() {
        let many = vec!["x"; NAMES_MAX + 1];
        for (name, value, words) in [
            ("windowSeconds", json!(0), "from 1 to 3600"),
            ("windowSeconds", json!(3601), "from 1 to 3600"),
            ("windowSeconds", json!("10"), "whole number"),
            ("windowSeconds", json!(2.5), "whole number"),
            ("history", json!(3601), "from 10 to 3600"),
            ("threshold", json!(0), "above 0"),
            ("threshold", json!(-1.0), "above 0"),
            ("threshold", json!(1.1e6), "up to 1000000"),
            ("threshold", json!("x"), "not a number"),
            ("metrics", json!([]), "1 to 64"),
            ("metrics", json!(many), "1 to 64"),
            ("metrics", json!(["cpu", 5]), "name 1 is no text"),
            ("metrics", json!(["cpu..x"]), "name 0 is no path"),
            ("metrics", json!([""]), "name 0 is no path"),
            ("metrics", json!(["x".repeat(NAME_BYTES_MAX + 1)]), "name 0 is no path"),
        ] {
            let mut settings = Settings::default();
            let applied = apply(&mut settings, &json!({ name: value }));
            let [(refused, reason)] = &*applied.refused else { panic!("{applied:?}") };
            assert!(*refused == name && reason.contains(words), "{reason}");
            assert_eq!(settings, Settings::default());
        }
    }

    #[test]
    fn metrics_are_chosen_by_whole_parts_of_their_path() {
        let mut settings = Settings::default();
        apply(&mut settings, &json!({ "metrics": ["cpu", "memory.usedPercent"] }));
        for (path, expected) in [
            ("cpu", true),
            ("cpu.percent", true),
            ("cpu.cores.0", true),
            ("cpus", false),
            ("memory", false),
            ("memory.usedPercent", true),
            ("memory.usedPercentage", false),
        ] {
            assert_eq!(settings.chooses(path), expected, "{path}");
        }
    }
}
