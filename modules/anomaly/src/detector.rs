//! The machine: readings and settings in, windows and anomalies out.

use std::collections::BTreeMap;
use std::time::Duration;

use sdk::{Version, WallTime};
use serde_json::{Map, Value, json};

use crate::history::{History, Score};
use crate::reading::{METRICS_MAX, Reading, Seen};
use crate::settings::{Applied, Settings};
use crate::window::Window;

/// How long an open window waits for readings after its end, by the clock of this machine.
pub const LATENESS_MAX: Duration = Duration::from_secs(5);

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A finished window, for the output `windows`.
    Window(Window),
    /// A value far from those before, for the output `anomalies`.
    Anomaly(Anomaly),
}

/// A value far from those before.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    seq: u64,
    run: Box<str>,
    time: WallTime,
    metric: Box<str>,
    value: f64,
    score: Score,
    threshold: f64,
}

impl Anomaly {
    /// The message about it.
    pub fn to_json(&self) -> Value {
        let Score { median, mad, spread, score } = self.score;
        json!({
            "seq": self.seq,
            "run": self.run,
            "time": self.time.to_string(),
            "metric": self.metric,
            "value": self.value,
            "median": median,
            "mad": mad,
            "spread": spread.word(),
            "score": score,
            "threshold": self.threshold,
        })
    }
}

impl Output {
    /// The output it goes to.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Window(_) => "windows",
            Self::Anomaly(_) => "anomalies",
        }
    }

    /// The message about it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Window(window) => window.to_json(),
            Self::Anomaly(anomaly) => anomaly.to_json(),
        }
    }
}

/// Open window, histories, and what was seen.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    settings: Settings,
    seen: Seen,
    window: Option<Window>,
    histories: BTreeMap<Box<str>, History>,
}

impl Detector {
    /// Takes over desired properties. A window that is open when its length changes ends here;
    /// metrics that no longer count are forgotten.
    pub fn handle_desired(
        &mut self,
        desired: &Map<String, Value>,
        version: Version,
    ) -> (Applied, Vec<Output>) {
        let length = self.settings.window();
        let applied = self.settings.apply(desired, version);
        let ended = if self.settings.window() == length { None } else { self.window.take() };
        let settings = &self.settings;
        self.histories.retain(|metric, _| settings.chooses(metric));
        for history in self.histories.values_mut() {
            history.shorten(settings.history());
        }
        (applied, ended.map(Output::Window).into_iter().collect())
    }

    /// Takes a reading in. One that came before changes nothing.
    pub fn handle_reading(&mut self, reading: &Reading) -> Vec<Output> {
        if !self.seen.is_new(reading) {
            return Vec::new();
        }
        let metrics: Vec<(Box<str>, f64)> = reading
            .metrics
            .iter()
            .filter(|(name, _)| self.settings.chooses(name))
            .cloned()
            .collect();
        let ended = self.put_in_window(reading, &metrics);
        let mut outputs: Vec<Output> = ended.map(Output::Window).into_iter().collect();
        for (metric, value) in metrics {
            outputs.extend(self.judge(reading, metric, value).map(Output::Anomaly));
        }
        outputs
    }

    fn put_in_window(&mut self, reading: &Reading, metrics: &[(Box<str>, f64)]) -> Option<Window> {
        match &mut self.window {
            Some(window) if window.holds(reading) => {
                window.add(reading, metrics);
                None
            }
            other => other.replace(Window::open(reading, metrics, self.settings.window())),
        }
    }

    /// Compares with the values before, then remembers. An outlier is remembered too: should
    /// it be the new normal, it stops being one when half of the history says so.
    fn judge(&mut self, reading: &Reading, metric: Box<str>, value: f64) -> Option<Anomaly> {
        let threshold = self.settings.threshold();
        if !self.histories.contains_key(&metric) && self.histories.len() >= METRICS_MAX {
            // A sensor that invents names forever. Its newest are in windows only.
            return None;
        }
        let history = self.histories.entry(metric.clone()).or_default();
        let score = history.score(value).filter(|score| score.score > threshold);
        history.push(value, self.settings.history());
        score.map(|score| Anomaly {
            seq: reading.seq,
            run: reading.run.clone(),
            time: reading.time,
            metric,
            value,
            score,
            threshold,
        })
    }

    /// Ends the open window if it is over by the clock of this machine, so that a sensor that
    /// fell silent does not hold its last window back.
    pub fn poll(&mut self, now: WallTime) -> Option<Output> {
        let due = self.due()?;
        if now < due {
            return None;
        }
        self.window.take().map(Output::Window)
    }

    /// When to poll next; `None` while no window is open.
    pub fn due(&self) -> Option<WallTime> {
        self.window.as_ref().map(|window| window.end().after(LATENESS_MAX))
    }

    /// Ends the open window because the module stops.
    pub fn finish(&mut self) -> Option<Output> {
        self.window.take().map(Output::Window)
    }
}

#[cfg(test)]
mod tests;
