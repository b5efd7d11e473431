use proptest::prelude::*;

use super::*;
use crate::history::SCORE_MAX;

fn reading(run: &str, seq: u64, seconds: i64, metrics: &[(&str, f64)]) -> Reading {
    Reading {
        seq,
        run: run.into(),
        time: WallTime::from_unix_seconds(seconds),
        metrics: metrics.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
        dropped: 0,
    }
}

fn desired(detector: &mut Detector, properties: Value) -> Vec<Output> {
    detector.handle_desired(properties.as_object().unwrap(), Version(1)).1
}

/// What came out, one short text each.
fn told(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .map(|output| {
            let json = output.to_json();
            match output {
                Output::Window(_) => {
                    format!("window {}-{} x{}", json["firstSeq"], json["lastSeq"], json["count"])
                }
                Output::Anomaly(_) => format!("anomaly {} {}", json["seq"], json["metric"]),
            }
        })
        .collect()
}

#[test]
fn a_window_ends_with_the_first_reading_after_it_and_has_the_promised_shape() {
    let mut detector = Detector::default();
    for (seq, seconds, value) in [(1, 12, 3.0), (2, 15, 1.0), (3, 19, 5.0)] {
        assert!(detector.handle_reading(&reading("r", seq, seconds, &[("x", value)])).is_empty());
    }
    let outputs = detector.handle_reading(&reading("r", 4, 20, &[("x", 9.0)]));
    let [output] = &*outputs else { panic!("{outputs:?}") };
    assert_eq!(output.name(), "windows");
    let expected = json!({
        "start": "1970-01-01T00:00:10.000Z",
        "end": "1970-01-01T00:00:20.000Z",
        "run": "r",
        "firstSeq": 1,
        "lastSeq": 3,
        "count": 3,
        "metrics": { "x": { "min": 1.0, "mean": 3.0, "max": 5.0, "count": 3 } },
    });
    assert_eq!(output.to_json(), expected);
}

#[test]
fn a_clock_set_back_and_a_new_run_end_the_window() {
    let mut detector = Detector::default();
    let mut check = |run: &str, seq, seconds, expected: &[&str]| {
        assert_eq!(told(&detector.handle_reading(&reading(run, seq, seconds, &[]))), expected);
    };
    check("a", 1, 100, &[]);
    check("a", 2, 50, &["window 1-1 x1"]);
    check("a", 3, 51, &[]);
    check("b", 1, 52, &["window 2-3 x2"]);
    check("b", 1, 99, &[]);
    check("b", 2, 60, &["window 1-1 x1"]);
}

#[test]
fn a_silent_sensor_does_not_hold_its_window_back() {
    let mut detector = Detector::default();
    assert_eq!((detector.due(), detector.poll(WallTime(i64::MAX))), (None, None));
    detector.handle_reading(&reading("r", 1, 12, &[]));
    let due = detector.due().unwrap();
    assert_eq!(due, WallTime(20_000).after(LATENESS_MAX));
    assert_eq!(detector.poll(WallTime(24_999)), None);
    assert!(detector.poll(due).is_some());
    assert_eq!((detector.due(), detector.finish()), (None, None));
    detector.handle_reading(&reading("r", 2, 13, &[]));
    assert!(detector.finish().is_some());
}

/// Twenty readings that go up and down between 8 and 12.
fn warmed() -> Detector {
    let mut detector = Detector::default();
    for (seq, value) in (1..=20).zip([8.0, 9.0, 10.0, 11.0, 12.0].into_iter().cycle()) {
        assert!(detector.handle_reading(&reading("r", seq, 0, &[("x", value)])).is_empty());
    }
    detector
}

#[test]
fn an_outlier_is_told_with_all_that_judged_it() {
    let outputs = warmed().handle_reading(&reading("r", 21, 1, &[("x", 40.0), ("y", 40.0)]));
    let [output] = &*outputs else { panic!("{outputs:?}") };
    assert_eq!(output.name(), "anomalies");
    let mut json = output.to_json();
    let score = json.as_object_mut().unwrap().remove("score").unwrap().as_f64().unwrap();
    assert!((score - 30.0 / 1.4826).abs() < 1e-9, "{score}");
    let expected = json!({
        "seq": 21,
        "run": "r",
        "time": "1970-01-01T00:00:01.000Z",
        "metric": "x",
        "value": 40.0,
        "median": 10.0,
        "mad": 1.0,
        "spread": "median",
        "threshold": 3.5,
    });
    assert_eq!(json, expected);
}

#[test]
fn what_comes_twice_counts_once() {
    let mut detector = warmed();
    let outlier = reading("r", 21, 1, &[("x", 40.0)]);
    assert_eq!(told(&detector.handle_reading(&outlier)), ["anomaly 21 \"x\""]);
    assert!(detector.handle_reading(&outlier).is_empty());
    assert_eq!(detector.finish().unwrap().to_json()["count"], 21);
}

#[test]
fn a_new_threshold_applies_to_the_next_reading() {
    let mut detector = warmed();
    desired(&mut detector, json!({ "threshold": 100 }));
    assert!(detector.handle_reading(&reading("r", 21, 1, &[("x", 40.0)])).is_empty());
    desired(&mut detector, json!({ "threshold": 1 }));
    let outputs = detector.handle_reading(&reading("r", 22, 1, &[("x", 12.0)]));
    assert_eq!(told(&outputs), ["anomaly 22 \"x\""]);
    // The greatest threshold silences everything: no score lies above it.
    desired(&mut detector, json!({ "threshold": SCORE_MAX }));
    assert!(detector.handle_reading(&reading("r", 23, 1, &[("x", 1e300)])).is_empty());
}

#[test]
fn a_shorter_history_forgets_the_oldest_at_once() {
    let mut detector = warmed();
    for seq in 21..=30 {
        detector.handle_reading(&reading("r", seq, 0, &[("x", 1000.0)]));
    }
    let back = reading("r", 31, 0, &[("x", 10.0)]);
    assert!(detector.clone().handle_reading(&back).is_empty());
    desired(&mut detector, json!({ "history": 10 }));
    assert_eq!(told(&detector.handle_reading(&back)), ["anomaly 31 \"x\""]);
}

#[test]
fn a_new_length_ends_the_open_window_and_a_refused_one_does_not() {
    let mut detector = Detector::default();
    detector.handle_reading(&reading("r", 1, 12, &[]));
    assert!(desired(&mut detector, json!({ "windowSeconds": 0 })).is_empty());
    assert!(desired(&mut detector, json!({ "windowSeconds": 10, "threshold": 2 })).is_empty());
    assert_eq!(told(&desired(&mut detector, json!({ "windowSeconds": 2 }))), ["window 1-1 x1"]);
    detector.handle_reading(&reading("r", 2, 12, &[]));
    let outputs = detector.handle_reading(&reading("r", 3, 14, &[]));
    assert_eq!(told(&outputs), ["window 2-2 x1"]);
}

#[test]
fn metrics_that_are_not_chosen_are_neither_judged_nor_summed_up() {
    let mut detector = warmed();
    desired(&mut detector, json!({ "metrics": ["y"] }));
    assert!(detector.handle_reading(&reading("r", 21, 20, &[("x", 40.0), ("y", 1.0)])).len() == 1);
    let window = detector.finish().unwrap().to_json();
    assert_eq!(window["metrics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["y"]);
    // Chosen again, it starts anew and has no score yet.
    desired(&mut detector, json!({ "metrics": null }));
    assert!(detector.handle_reading(&reading("r", 22, 20, &[("x", 40.0)])).is_empty());
}

#[test]
fn a_sensor_that_invents_names_fills_no_memory() {
    let mut detector = Detector::default();
    for seq in 1..=(METRICS_MAX as u64 + 50) {
        detector.handle_reading(&reading("r", seq, 0, &[(&format!("x{seq}"), 1.0)]));
    }
    assert_eq!(detector.histories.len(), METRICS_MAX);
}

proptest! {
    /// Every new reading is in exactly one window, whatever the clock does.
    #[test]
    fn windows_hold_every_reading_once(
        times in prop::collection::vec(0_i64..60, 1..80),
        length in 1_u64..20,
    ) {
        let mut detector = Detector::default();
        desired(&mut detector, json!({ "windowSeconds": length }));
        let mut windows = Vec::new();
        for (seq, seconds) in (1..).zip(&times) {
            windows.extend(detector.handle_reading(&reading("r", seq, *seconds, &[])));
        }
        windows.extend(detector.finish());
        let mut next = 1;
        for window in windows {
            let json = window.to_json();
            prop_assert_eq!(json["firstSeq"].as_u64().unwrap(), next);
            next = json["lastSeq"].as_u64().unwrap() + 1;
            prop_assert_eq!(json["count"].as_u64().unwrap(), next - json["firstSeq"].as_u64().unwrap());
        }
        prop_assert_eq!(next, times.len() as u64 + 1);
    }
}
