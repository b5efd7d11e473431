//! What a module reported of itself: two values under one key for each burst, so that both wait
//! at once where the hub is away, and of each key the newer must win.

use std::collections::BTreeMap;

use model::twin::TwinPatch;
use serde_json::{Value, json};

use crate::sentence::Sentence;

/// What was reported, by burst.
#[derive(Debug, Default)]
pub struct Reports(BTreeMap<u64, Report>);

#[derive(Clone, Copy, Debug, Default)]
struct Report {
    tried: u64,
    acknowledged: Option<u64>,
}

impl Reports {
    /// Another burst.
    pub fn begin(&mut self) -> u64 {
        let burst = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        self.0.insert(burst, Report::default());
        burst
    }

    /// `value` of `burst` is to be reported: how.
    pub fn handle_trying(&mut self, burst: u64, value: u64) -> TwinPatch {
        self.0.entry(burst).or_default().tried = value;
        TwinPatch(json!({ key(burst): value }).as_object().cloned().unwrap_or_default())
    }

    /// The edge hub took `value` of `burst`.
    pub fn handle_acknowledged(&mut self, burst: u64, value: u64) {
        self.0.entry(burst).or_default().acknowledged = Some(value);
    }

    /// How many were taken, counted by burst.
    pub fn count(&self) -> u64 {
        self.0.values().map(|report| u64::from(report.acknowledged.is_some())).sum()
    }

    /// Whether `twin` has the newest value of each burst. What was tried in vain may be there.
    ///
    /// # Errors
    /// What is not.
    pub fn judge(&self, module: &str, twin: &Value) -> anyhow::Result<()> {
        for (burst, report) in &self.0 {
            let Some(least) = report.acknowledged else { continue };
            let path = format!("/properties/reported/{}", key(*burst));
            let has = twin.pointer(&path).and_then(Value::as_u64);
            let holds = has.is_some_and(|has| (least..=report.tried).contains(&has));
            let words = || format!("{module} reported {report:?} of {}, not {has:?}", key(*burst));
            Sentence::Reported.check(holds, words)?;
        }
        Ok(())
    }
}

fn key(burst: u64) -> String {
    format!("burst{burst}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_values_the_older_must_not_win() {
        let mut reports = Reports::default();
        let burst = reports.begin();
        let patch = reports.handle_trying(burst, 1);
        assert_eq!(Value::Object(patch.0), json!({ "burst0": 1 }));
        let twin = |value: Value| json!({ "properties": { "reported": { "burst0": value } } });
        let holds = |reports: &Reports, value| reports.judge("m", &twin(value)).is_ok();
        assert!(holds(&reports, Value::Null), "nobody took it");
        reports.handle_acknowledged(burst, 1);
        assert!(!holds(&reports, Value::Null) && holds(&reports, json!(1)));
        drop(reports.handle_trying(burst, 2));
        assert!(holds(&reports, json!(1)) && holds(&reports, json!(2)));
        reports.handle_acknowledged(burst, 2);
        assert!(!holds(&reports, json!(1)) && holds(&reports, json!(2)));
        assert_eq!((reports.count(), reports.begin()), (1, 1));
    }
}
