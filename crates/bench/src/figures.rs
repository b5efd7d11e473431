//! Numbers of many rounds, and how they are written.

/// What the rounds of one thing gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn extend(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }

    /// The middle, or what lies between the two middles.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        let lower = middle.checked_sub(1).and_then(|place| sorted.get(place));
        match (sorted.get(middle), sorted.len() % 2, lower) {
            (Some(upper), 0, Some(lower)) => f64::midpoint(*upper, *lower),
            (Some(value), _, _) => *value,
            (None, _, _) => f64::NAN,
        }
    }

    /// The value that `share` percent of all do not exceed.
    pub(crate) fn percentile(&self, share: usize) -> f64 {
        let sorted = self.sorted();
        let place = (sorted.len().saturating_sub(1) * share).div_ceil(100);
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    /// `median (least–most)`, each with `digits` behind the point.
    pub(crate) fn text(&self, digits: usize) -> String {
        let at = |share| self.percentile(share);
        let median = self.median();
        match self.0.len() {
            0 => "–".to_owned(),
            1 => format!("{median:.digits$}"),
            _ => format!("{median:.digits$} ({:.digits$}–{:.digits$})", at(0), at(100)),
        }
    }

    /// Each round's value over the same round's value of `other`.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, peer)| own / peer).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Rounds {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of a report, far below 2^52")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Bytes in mebibytes.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    to_f64(bytes) / 1024.0 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Rounds {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let check = |values: &[f64], expected: f64| {
            assert!((rounds(values).median() - expected).abs() < 1e-9, "{values:?}");
        };
        check(&[3.0, 1.0, 2.0], 2.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5);
        check(&[7.0], 7.0);
        assert!(rounds(&[]).median().is_nan());
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let all = rounds(&[3.0, 1.0, 2.0, 5.0, 4.0]);
        let check = |share: usize, expected: f64| {
            assert!((all.percentile(share) - expected).abs() < 1e-9, "{share}");
        };
        check(0, 1.0);
        check(50, 3.0);
        check(95, 5.0);
        check(100, 5.0);
    }

    #[test]
    fn the_text_has_the_spread_only_where_there_is_one() {
        assert_eq!(rounds(&[2.0, 1.0, 4.5]).text(1), "2.0 (1.0–4.5)");
        assert_eq!(rounds(&[2.0]).text(2), "2.00");
        assert_eq!(rounds(&[]).text(2), "–");
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // Of the medians it would be 3.
        let ratios = rounds(&[1.0, 6.0, 9.0]).over(&rounds(&[2.0, 2.0, 1.0]));
        assert_eq!(ratios.text(1), "3.0 (0.5–9.0)");
        assert!((rounds(&[4.0]).over(&rounds(&[8.0])).median() - 0.5).abs() < 1e-9);
    }
}
