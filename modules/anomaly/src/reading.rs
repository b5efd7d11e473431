//! Cleaning: from the bytes of a message to numbers that can be reckoned with.

use std::collections::VecDeque;

use sdk::WallTime;
use serde_json::{Map, Value};
use thiserror::Error;

/// Largest reading, in bytes.
pub const READING_BYTES_MAX: usize = 64 * 1024;
/// Most metrics of one reading; more are cut off and counted.
pub const METRICS_MAX: usize = 512;
/// Numbers beyond this are faults of a sensor; sums and differences of the rest cannot overflow.
pub const VALUE_ABS_MAX: f64 = 1e300;
/// Longest name of a run, in bytes.
pub const RUN_BYTES_MAX: usize = 128;
/// How many runs are remembered, to recognise what comes twice.
pub const RUNS_MAX: usize = 16;

/// Why a message is no reading.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UnusableReading {
    /// It is larger than readings are.
    #[error("a reading has at most {READING_BYTES_MAX} bytes, this one has {0}")]
    TooLarge(usize),
    /// It is not a JSON object.
    #[error("not a JSON object")]
    Form,
    /// A property that every reading has is missing or of another kind.
    #[error("{0:?} is missing or of the wrong kind")]
    Property(&'static str),
}

/// A clean reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its number within the run.
    pub seq: u64,
    /// Which run of the sensor.
    pub run: Box<str>,
    /// When it was taken.
    pub time: WallTime,
    /// The numbers, by dotted path, sorted.
    pub metrics: Vec<(Box<str>, f64)>,
    /// Numbers that were dropped: absurd ones, and those past [`METRICS_MAX`].
    pub dropped: usize,
}

/// Reads the body of a message.
///
/// Every number below the top counts as a metric, named by its path (`cpu.cores.3`), except
/// `seq`. Texts, truth values and nulls are no metrics.
///
/// # Errors
/// [`UnusableReading`] if it can never be used, however often it comes.
pub fn parse(body: &[u8]) -> Result<Reading, UnusableReading> {
    if body.len() > READING_BYTES_MAX {
        return Err(UnusableReading::TooLarge(body.len()));
    }
    let object: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| UnusableReading::Form)?;
    let text = |name: &'static str| {
        object.get(name).and_then(Value::as_str).ok_or(UnusableReading::Property(name))
    };
    let seq = object.get("seq").and_then(Value::as_u64).ok_or(UnusableReading::Property("seq"))?;
    let time = WallTime::parse_rfc3339(text("time")?).ok_or(UnusableReading::Property("time"))?;
    let run = text("run")?;
    if run.len() > RUN_BYTES_MAX {
        return Err(UnusableReading::Property("run"));
    }
    let mut numbers = Numbers::default();
    for (name, value) in object.iter().filter(|(name, _)| *name != "seq") {
        numbers.collect(name, value);
    }
    let Numbers { mut metrics, dropped } = numbers;
    metrics.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Reading { seq, run: run.into(), time, metrics, dropped })
}

#[derive(Default)]
struct Numbers {
    metrics: Vec<(Box<str>, f64)>,
    dropped: usize,
}

impl Numbers {
    // The depth is bounded by the JSON reader, at 128.
    fn collect(&mut self, path: &str, value: &Value) {
        match value {
            Value::Number(number) => self.take(path, number.as_f64()),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.collect(&format!("{path}.{index}"), item);
                }
            }
            Value::Object(entries) => {
                for (name, item) in entries {
                    self.collect(&format!("{path}.{name}"), item);
                }
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    fn take(&mut self, path: &str, number: Option<f64>) {
        match number.filter(|number| number.abs() <= VALUE_ABS_MAX) {
            // Adding zero turns the negative zero into the positive one.
            Some(number) if self.metrics.len() < METRICS_MAX => {
                self.metrics.push((path.into(), number + 0.0));
            }
            _ => self.dropped += 1,
        }
    }
}

/// Recognises readings that came before. Delivery is at least once, so that they do is normal.
#[derive(Clone, Debug, Default)]
pub struct Seen(VecDeque<(Box<str>, u64)>);

impl Seen {
    /// Whether `reading` is new; it counts as seen from now on. Of the runs beyond
    /// [`RUNS_MAX`] the one not seen for longest is forgotten.
    pub fn is_new(&mut self, reading: &Reading) -> bool {
        let known = self.0.iter().position(|(run, _)| *run == reading.run);
        let last = known.and_then(|at| self.0.remove(at)).map(|(_, seq)| seq);
        let is_new = last.is_none_or(|last| reading.seq > last);
        let highest = last.map_or(reading.seq, |last| last.max(reading.seq));
        self.0.push_back((reading.run.clone(), highest));
        if self.0.len() > RUNS_MAX {
            self.0.pop_front();
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_metrics_by_path_and_the_rest_does_not() {
        let body = br#"{"seq":3,"run":"r","time":"1970-01-01T00:00:01Z","cpu":{"percent":12.5,
            "cores":[1,null,-0.0]},"ok":true,"name":"x","z":1e301,"a":-7}"#;
        let reading = parse(body).unwrap();
        let metrics: Vec<(&str, f64)> =
            reading.metrics.iter().map(|(name, value)| (&**name, *value)).collect();
        assert_eq!(
            metrics,
            [("a", -7.0), ("cpu.cores.0", 1.0), ("cpu.cores.2", 0.0), ("cpu.percent", 12.5)]
        );
        assert!(reading.metrics[2].1.is_sign_positive());
        assert_eq!((reading.seq, reading.time, reading.dropped), (3, WallTime(1000), 1));
    }

    #[test]
    fn what_is_no_reading_is_refused_with_the_reason() {
        let check = |body: &str, expected: UnusableReading| {
            assert_eq!(parse(body.as_bytes()).unwrap_err(), expected, "{body}");
        };
        check("", UnusableReading::Form);
        check("[1]", UnusableReading::Form);
        check(r#"{"seq":1"#, UnusableReading::Form);
        check(
            r#"{"seq":1,"run":"r","time":"1970-01-01T00:00:00Z","x":1e999}"#,
            UnusableReading::Form,
        );
        check(r#"{"run":"r","time":"1970-01-01T00:00:00Z"}"#, UnusableReading::Property("seq"));
        check(r#"{"seq":-1,"run":"r"}"#, UnusableReading::Property("seq"));
        check(r#"{"seq":1,"run":"r","time":"noon"}"#, UnusableReading::Property("time"));
        check(
            r#"{"seq":1,"run":5,"time":"1970-01-01T00:00:00Z"}"#,
            UnusableReading::Property("run"),
        );
        let long = format!(
            r#"{{"seq":1,"run":"{}","time":"1970-01-01T00:00:00Z"}}"#,
            "r".repeat(RUN_BYTES_MAX + 1)
        );
        check(&long, UnusableReading::Property("run"));
        let large = "x".repeat(READING_BYTES_MAX + 1);
        check(&large, UnusableReading::TooLarge(READING_BYTES_MAX + 1));
    }

    #[test]
    fn values_beyond_the_limit_are_dropped_on_both_sides() {
        let body = format!(
            r#"{{"seq":1,"run":"r","time":"1970-01-01T00:00:00Z","a":{VALUE_ABS_MAX:e},"b":-{VALUE_ABS_MAX:e},
            "c":{0:e},"d":-{0:e}}}"#,
            VALUE_ABS_MAX * 1.01
        );
        let reading = parse(body.as_bytes()).unwrap();
        let names: Vec<&str> = reading.metrics.iter().map(|(name, _)| &**name).collect();
        assert_eq!((names.as_slice(), reading.dropped), (["a", "b"].as_slice(), 2));
    }

    #[test]
    fn metrics_past_the_limit_are_dropped_and_counted() {
        let numbers = vec!["1"; METRICS_MAX + 3].join(",");
        let body =
            format!(r#"{{"seq":1,"run":"r","time":"1970-01-01T00:00:00Z","x":[{numbers}]}}"#);
        let reading = parse(body.as_bytes()).unwrap();
        assert_eq!((reading.metrics.len(), reading.dropped), (METRICS_MAX, 3));
    }

    fn numbered(run: &str, seq: u64) -> Reading {
        Reading { seq, run: run.into(), time: WallTime(0), metrics: vec![], dropped: 0 }
    }

    #[test]
    fn a_reading_that_came_before_is_recognised_per_run() {
        let mut seen = Seen::default();
        let mut check = |run: &str, seq, expected| {
            assert_eq!(seen.is_new(&numbered(run, seq)), expected, "{run} {seq}");
        };
        check("a", 1, true);
        check("a", 1, false);
        check("a", 5, true);
        check("a", 4, false);
        check("b", 1, true);
        check("a", 5, false);
        check("a", 6, true);
    }

    #[test]
    fn the_oldest_run_is_forgotten_first() {
        let mut seen = Seen::default();
        for run in 0..RUNS_MAX {
            assert!(seen.is_new(&numbered(&run.to_string(), 1)));
        }
        assert!(!seen.is_new(&numbered("0", 1)));
        assert!(seen.is_new(&numbered("new", 1)));
        assert!(!seen.is_new(&numbered("0", 1)), "seen a moment ago");
        assert!(seen.is_new(&numbered("1", 1)), "forgotten for the new one");
    }
}
