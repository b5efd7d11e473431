//! The last values of one metric, and how far a new value lies from them.
//!
//! Median and median absolute deviation (MAD) instead of mean and standard deviation: up to
//! half of the values may be outliers before they move. Source: Iglewicz and Hoaglin, "How to
//! Detect and Handle Outliers" (1993); Leys et al., "Detecting outliers" (2013).

use std::collections::VecDeque;

/// Makes the MAD of normally distributed values their standard deviation.
pub const MAD_SCALE: f64 = 1.4826;
/// Makes the mean absolute deviation of normally distributed values their standard deviation.
pub const MEAN_DEVIATION_SCALE: f64 = 1.253_314;
/// Fewer values than this tell nothing; there is no score before.
pub const VALUES_MIN: usize = 10;
/// The greatest score; JSON has no infinity.
pub const SCORE_MAX: f64 = 1e6;

/// By what a distance is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// The MAD: the usual case.
    Median(f64),
    /// More than half of the values are the same, so the MAD is zero and would make a grain of
    /// dust infinitely far; the mean absolute deviation tells what the others do.
    Mean(f64),
    /// All values are the same. Another value is as far as can be, [`SCORE_MAX`].
    Constant,
}

impl Spread {
    /// Its word in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Median(_) => "median",
            Self::Mean(_) => "mean",
            Self::Constant => "constant",
        }
    }
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The middle of the values before.
    pub median: f64,
    /// Their median absolute deviation, unscaled.
    pub mad: f64,
    /// What the distance was measured by.
    pub spread: Spread,
    /// The distance from the median in (estimated) standard deviations, 0 to [`SCORE_MAX`].
    pub score: f64,
}

/// The last values of one metric; all are finite.
#[derive(Clone, Debug, Default)]
pub struct History {
    by_age: VecDeque<f64>,
    // The same values; keeping them in order makes the median a look-up.
    by_size: Vec<f64>,
}

impl History {
    /// Takes `value` in, which must be finite, and forgets the oldest beyond `length`.
    pub fn push(&mut self, value: f64, length: usize) {
        debug_assert!(value.is_finite(), "cleaning lets nothing else through");
        self.by_age.push_back(value);
        let at = self.position(value);
        self.by_size.insert(at, value);
        self.shorten(length);
    }

    /// Forgets the oldest values beyond `length`.
    pub fn shorten(&mut self, length: usize) {
        while self.by_age.len() > length {
            let Some(oldest) = self.by_age.pop_front() else { return };
            let at = self.position(oldest);
            self.by_size.remove(at);
        }
    }

    /// The first position whose value is not less.
    fn position(&self, value: f64) -> usize {
        self.by_size.partition_point(|held| held.total_cmp(&value).is_lt())
    }

    /// Where `value` lies among the values held; `None` while they are fewer than
    /// [`VALUES_MIN`].
    pub fn score(&self, value: f64) -> Option<Score> {
        if self.by_size.len() < VALUES_MIN {
            return None;
        }
        let median = self.median()?;
        let mad = self.median_deviation(median)?;
        let spread = self.spread(median, mad);
        let distance = (value - median).abs();
        let score = match spread {
            Spread::Median(mad) => distance / (MAD_SCALE * mad),
            Spread::Mean(deviation) => distance / (MEAN_DEVIATION_SCALE * deviation),
            Spread::Constant if distance > 0.0 => SCORE_MAX,
            Spread::Constant => 0.0,
        };
        Some(Score { median, mad, spread, score: score.min(SCORE_MAX) })
    }

    fn spread(&self, median: f64, mad: f64) -> Spread {
        if mad > 0.0 {
            return Spread::Median(mad);
        }
        let (mut mean, mut count) = (0.0, 0.0);
        for value in &self.by_size {
            count += 1.0;
            mean += ((value - median).abs() - mean) / count;
        }
        if mean > 0.0 { Spread::Mean(mean) } else { Spread::Constant }
    }

    /// The middle value, or the mean of the two middle ones; `None` if there are none.
    pub fn median(&self) -> Option<f64> {
        let upper = *self.by_size.get(self.by_size.len() / 2)?;
        if self.by_size.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *self.by_size.get(self.by_size.len() / 2 - 1)?;
        Some(between(lower, upper))
    }

    /// The median of the distances from `median`.
    ///
    /// Distances grow outwards on both sides, so the two sides are merged from the middle and
    /// nothing is sorted or stored.
    pub fn median_deviation(&self, median: f64) -> Option<f64> {
        let count = self.by_size.len();
        let split = self.position(median);
        let mut left = self.by_size.get(..split)?.iter().rev().map(|value| median - value);
        let mut right = self.by_size.get(split..)?.iter().map(|value| value - median);
        let (mut near_left, mut near_right) = (left.next(), right.next());
        let (mut last, mut before) = (None, None);
        for _ in 0..=count / 2 {
            before = last;
            let take_left = match (near_left, near_right) {
                (Some(left), Some(right)) => left <= right,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if take_left {
                last = std::mem::replace(&mut near_left, left.next());
            } else {
                last = std::mem::replace(&mut near_right, right.next());
            }
        }
        if count % 2 == 1 { last } else { Some(between(before?, last?)) }
    }
}

/// Halves first, so that the sum cannot overflow.
fn between(lower: f64, upper: f64) -> f64 {
    lower / 2.0 + upper / 2.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn history(values: &[f64]) -> History {
        let mut history = History::default();
        for value in values {
            history.push(*value, usize::MAX);
        }
        history
    }

    #[test]
    fn median_and_deviation_are_the_textbook_ones() {
        let check = |values: &[f64], median: f64, mad: f64| {
            let history = history(values);
            assert_eq!(history.median(), Some(median), "{values:?}");
            assert_eq!(history.median_deviation(median), Some(mad), "{values:?}");
        };
        check(&[5.0], 5.0, 0.0);
        check(&[1.0, 3.0], 2.0, 1.0);
        check(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0], 2.0, 1.0);
        check(&[9.0, 1.0, 4.0, 1.0, 6.0, 2.0], 3.0, 2.0);
        check(&[3.0, 3.0, 3.0, 100.0], 3.0, 0.0);
        check(&[-1e300, 1e300], 0.0, 1e300);
        assert_eq!(history(&[]).median(), None);
        assert_eq!(history(&[]).median_deviation(0.0), None);
    }

    #[test]
    fn the_score_is_the_distance_in_deviations() {
        let steady: Vec<f64> = (0..11).map(f64::from).collect();
        let score = history(&steady).score(5.0 + 3.0 * MAD_SCALE * 7.0).unwrap();
        assert_eq!((score.median, score.mad, score.spread), (5.0, 3.0, Spread::Median(3.0)));
        assert!((score.score - 7.0).abs() < 1e-12, "{}", score.score);
        assert_eq!(history(&steady).score(5.0).map(|it| it.score), Some(0.0));
    }

    #[test]
    fn few_values_give_no_score() {
        assert_eq!(history(&[1.0; VALUES_MIN - 1]).score(9.0), None);
        assert!(history(&[1.0; VALUES_MIN]).score(9.0).is_some());
    }

    #[test]
    fn a_zero_mad_falls_back_to_the_mean_deviation() {
        let mut values = vec![0.0; 9];
        values.push(10.0);
        let score = history(&values).score(2.0).unwrap();
        assert_eq!((score.median, score.mad, score.spread), (0.0, 0.0, Spread::Mean(1.0)));
        assert!((score.score - 2.0 / MEAN_DEVIATION_SCALE).abs() < 1e-12);
        assert_eq!(history(&values).score(0.0).map(|it| it.score), Some(0.0));
    }

    #[test]
    fn after_a_constant_every_other_value_is_as_far_as_can_be() {
        let constant = history(&[7.0; 20]);
        let score = |value| constant.score(value).map(|it| (it.score, it.spread.word()));
        assert_eq!(score(7.0), Some((0.0, "constant")));
        assert_eq!(score(7.000_001), Some((SCORE_MAX, "constant")));
        assert_eq!(score(-1e300), Some((SCORE_MAX, "constant")));
    }

    #[test]
    fn scores_have_an_end() {
        let mut values = vec![0.0; 19];
        values.push(f64::MIN_POSITIVE);
        assert_eq!(history(&values).score(1e300).map(|it| it.score), Some(SCORE_MAX));
    }

    fn naive_median(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            sorted[middle - 1] / 2.0 + sorted[middle] / 2.0
        }
    }

    /// Few different values, so that ties are common, and now and then any value.
    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![(-4_i8..4).prop_map(f64::from), -1e300_f64..1e300]
    }

    proptest! {
        #[test]
        fn median_and_deviation_match_the_naive_way_while_the_window_slides(
            values in prop::collection::vec(value(), 1..120),
            length in 1_usize..40,
        ) {
            let mut history = History::default();
            for (index, value) in values.iter().enumerate() {
                history.push(*value, length);
                let held = &values[(index + 1).saturating_sub(length)..=index];
                let median = naive_median(held);
                let distances: Vec<f64> =
                    held.iter().map(|value| (value - median).abs()).collect();
                prop_assert_eq!(history.median(), Some(median));
                prop_assert_eq!(history.median_deviation(median), Some(naive_median(&distances)));
            }
        }

        #[test]
        fn shortening_keeps_the_newest(
            values in prop::collection::vec(value(), 1..60),
            length in 1_usize..60,
        ) {
            let mut shortened = history(&values);
            shortened.shorten(length);
            let newest = &values[values.len().saturating_sub(length)..];
            prop_assert_eq!(shortened.median(), Some(naive_median(newest)));
        }

        #[test]
        fn a_score_is_a_number_in_range(
            values in prop::collection::vec(value(), VALUES_MIN..40),
            new in value(),
        ) {
            let score = history(&values).score(new).unwrap().score;
            prop_assert!((0.0..=SCORE_MAX).contains(&score), "{score}");
        }
    }
}
