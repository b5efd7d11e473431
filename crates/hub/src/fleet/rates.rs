//! Messages over time, in steps. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use api::fleet::{Ingest, IngestStep};
use model::time::{Now, Tick};

/// Length of one step.
pub(crate) const STEP: Duration = Duration::from_secs(5);
/// Whole steps that are kept: ten minutes.
pub(crate) const STEPS_MAX: usize = 120;

/// How many messages came in each step.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Number of the newest step, and what came in it so far.
    newest: Option<(u64, u64)>,
    /// Whole steps, oldest first; the last is `newest - 1`.
    whole: VecDeque<u64>,
    total: u64,
}

impl Rates {
    /// `count` messages came.
    pub(crate) fn handle_messages(&mut self, count: u64, now: Tick) {
        self.advance(now);
        self.total += count;
        if let Some((_, messages)) = &mut self.newest {
            *messages += count;
        }
    }

    /// The series up to now.
    pub(crate) fn series(&mut self, now: Now) -> Ingest {
        self.advance(now.tick);
        let step_seconds = STEP.as_secs();
        let last = self.whole.back().copied().unwrap_or(0);
        let steps = self.whole.len();
        let into = Duration::from_nanos(now.tick.0 % nanos());
        let series = self.whole.iter().enumerate().map(|(at, messages)| {
            let back = u32::try_from(steps - at).unwrap_or(u32::MAX);
            let ago = STEP.saturating_mul(back).saturating_add(into);
            let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
            let began = model::time::WallTime(now.wall.0.saturating_sub(ago));
            IngestStep { at: began.to_string(), messages: *messages }
        });
        Ingest {
            messages_total: self.total,
            messages_per_second: f64::from(u32::try_from(last).unwrap_or(u32::MAX))
                / STEP.as_secs_f64(),
            step_seconds,
            series: series.collect(),
        }
    }

    fn advance(&mut self, now: Tick) {
        let step = now.0 / nanos();
        let Some((newest, messages)) = self.newest else {
            self.newest = Some((step, 0));
            return;
        };
        if step <= newest {
            return;
        }
        self.whole.push_back(messages);
        let silent = usize::try_from(step - newest - 1).unwrap_or(usize::MAX).min(STEPS_MAX);
        self.whole.extend(std::iter::repeat_n(0, silent));
        let over = self.whole.len().saturating_sub(STEPS_MAX);
        self.whole.drain(..over);
        self.newest = Some((step, 0));
    }
}

fn nanos() -> u64 {
    u64::try_from(STEP.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use model::time::WallTime;

    use super::*;

    fn at(seconds: u64) -> Now {
        let span = Duration::from_secs(seconds);
        Now { tick: Tick(0).after(span), wall: WallTime(0).after(span) }
    }

    #[test]
    fn messages_are_counted_by_step_and_silence_counts_too() {
        let mut rates = Rates::default();
        rates.handle_messages(3, at(1).tick);
        rates.handle_messages(4, at(4).tick);
        rates.handle_messages(10, at(5).tick);
        let ingest = rates.series(at(16));
        let counts: Vec<_> = ingest.series.iter().map(|step| step.messages).collect();
        assert_eq!(counts, [7, 10, 0]);
        assert_eq!(ingest.series[0].at, "1970-01-01T00:00:00.000Z");
        assert_eq!(ingest.series[2].at, "1970-01-01T00:00:10.000Z");
        assert_eq!((ingest.messages_total, ingest.messages_per_second), (17, 0.0));
        assert!((rates.series(at(9)).messages_per_second - 0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_rate_is_that_of_the_last_whole_step() {
        let mut rates = Rates::default();
        rates.handle_messages(50, at(0).tick);
        assert!((rates.series(at(5)).messages_per_second - 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_series_is_bounded_however_long_the_silence() {
        let mut rates = Rates::default();
        rates.handle_messages(1, at(0).tick);
        assert_eq!(rates.series(at(1_000_000)).series.len(), STEPS_MAX);
    }
}
