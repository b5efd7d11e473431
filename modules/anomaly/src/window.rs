//! Windows of equal length, aligned to the clock of the readings.
//!
//! A reading that belongs to another window than the open one closes it, whether its time went
//! forwards or, after a correction of the clock, backwards. So nothing is lost or held back,
//! and two windows of the same start differ by their numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use sdk::WallTime;
use serde_json::{Value, json};

use crate::reading::Reading;

/// A finished or open window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    start: WallTime,
    length: Duration,
    run: Box<str>,
    first_seq: u64,
    last_seq: u64,
    count: u64,
    metrics: BTreeMap<Box<str>, Summary>,
}

/// What a window says about one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The least value.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The greatest value.
    pub max: f64,
    /// How many values there were.
    pub count: u32,
}

impl Summary {
    fn of(value: f64) -> Self {
        Self { min: value, mean: value, max: value, count: 1 }
    }

    fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        // A running mean, because a sum could overflow; rounding must not leave the range.
        self.mean += (value - self.mean) / f64::from(self.count);
        self.mean = self.mean.clamp(self.min, self.max);
    }
}

/// The start of the window of `length` that holds `time`.
pub fn start_of(time: WallTime, length: Duration) -> WallTime {
    let millis = i64::try_from(length.as_millis()).unwrap_or(i64::MAX).max(1);
    WallTime(time.0.saturating_sub(time.0.rem_euclid(millis)))
}

impl Window {
    /// A window opened by its first reading.
    pub fn open(reading: &Reading, metrics: &[(Box<str>, f64)], length: Duration) -> Self {
        let mut window = Self {
            start: start_of(reading.time, length),
            length,
            run: reading.run.clone(),
            first_seq: reading.seq,
            last_seq: reading.seq,
            count: 0,
            metrics: BTreeMap::new(),
        };
        window.add(reading, metrics);
        window
    }

    /// Whether `reading` belongs in here: same part of time, same run.
    pub fn holds(&self, reading: &Reading) -> bool {
        start_of(reading.time, self.length) == self.start && reading.run == self.run
    }

    /// Adds `metrics`, the chosen ones of `reading`.
    pub fn add(&mut self, reading: &Reading, metrics: &[(Box<str>, f64)]) {
        self.last_seq = reading.seq;
        self.count += 1;
        for (name, value) in metrics {
            self.metrics
                .entry(name.clone())
                .and_modify(|summary| summary.add(*value))
                .or_insert_with(|| Summary::of(*value));
        }
    }

    /// The first moment after it.
    pub fn end(&self) -> WallTime {
        self.start.after(self.length)
    }

    /// The message about it.
    pub fn to_json(&self) -> Value {
        let metrics = self.metrics.iter().map(|(name, summary)| {
            let Summary { min, mean, max, count } = *summary;
            (name.to_string(), json!({ "min": min, "mean": mean, "max": max, "count": count }))
        });
        json!({
            "start": self.start.to_string(),
            "end": self.end().to_string(),
            "run": self.run,
            "firstSeq": self.first_seq,
            "lastSeq": self.last_seq,
            "count": self.count,
            "metrics": metrics.collect::<serde_json::Map<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_are_aligned_also_before_the_epoch() {
        let check = |time: i64, seconds: u64, expected: i64| {
            assert_eq!(start_of(WallTime(time), Duration::from_secs(seconds)), WallTime(expected));
        };
        check(0, 10, 0);
        check(9_999, 10, 0);
        check(10_000, 10, 10_000);
        check(-1, 10, -10_000);
        check(3_599_999, 3600, 0);
    }

    proptest! {
        #[test]
        fn a_summary_is_what_the_naive_way_gives(
            values in prop::collection::vec(-1e6_f64..1e6, 1..50),
        ) {
            let mut summary = Summary::of(values[0]);
            values[1..].iter().for_each(|value| summary.add(*value));
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let count = u32::try_from(values.len()).unwrap();
            let mean = values.iter().sum::<f64>() / f64::from(count);
            prop_assert_eq!((summary.min, summary.max, summary.count), (least, most, count));
            prop_assert!((summary.mean - mean).abs() < 1e-6, "{} {}", summary.mean, mean);
        }

        #[test]
        fn a_mean_stays_finite_and_in_range(
            values in prop::collection::vec(-1e300_f64..1e300, 1..50),
        ) {
            let mut summary = Summary::of(values[0]);
            values[1..].iter().for_each(|value| summary.add(*value));
            prop_assert!(summary.min <= summary.mean && summary.mean <= summary.max);
        }
    }
}
