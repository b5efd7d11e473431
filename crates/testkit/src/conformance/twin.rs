//! Twins and subscriptions.

use model::feature::Feature;
use model::refusal::RefusalKind;
use model::twin::Version;
use model::waist::{Answer, DeviceEvent, DeviceRequest, Leave};
use serde_json::json;

use super::{Bench, event_now, features, patch};

/// Patches merge, raise the version by one each, and fail whole when a precondition fails.
pub async fn reported_patches_raise_the_version(bench: &Bench) {
    let device = bench.device("reported").await;
    let opened = bench.open(&device, true).await;
    let send = |value, if_version| DeviceRequest::PatchReported { patch: patch(value), if_version };
    let Ok(Answer::Twin(twin)) = bench.ask(&*opened.session, DeviceRequest::ReadTwin).await else {
        unreachable!("a twin is answered with a twin");
    };
    let start = twin.reported_version;
    assert!(twin.reported.is_empty() && start >= Version(1), "{twin:?}");
    let first = send(json!({"a": 1, "b": {"c": 2, "d": 3}}), None);
    let next = Version(start.0 + 1);
    assert_eq!(bench.ask(&*opened.session, first).await, Ok(Answer::Patched(next)));
    let second = send(json!({"a": null, "b": {"c": [1]}}), Some(next));
    let next = Version(start.0 + 2);
    assert_eq!(bench.ask(&*opened.session, second).await, Ok(Answer::Patched(next)));
    let stale = bench.ask(&*opened.session, send(json!({"z": 1}), Some(start))).await;
    assert_eq!(stale.expect_err("stale").kind, RefusalKind::PreconditionFailed);
    let bad = bench.ask(&*opened.session, send(json!({"$z": 1}), None)).await;
    assert_eq!(bad.expect_err("bad key").kind, RefusalKind::InvalidRequest);
    let Ok(Answer::Twin(twin)) = bench.ask(&*opened.session, DeviceRequest::ReadTwin).await else {
        unreachable!("a twin is answered with a twin");
    };
    assert_eq!(twin.reported, patch(json!({"b": {"c": [1], "d": 3}})).0);
    assert_eq!(twin.reported_version, next);
}

/// Changes reach a subscriber; those it has not taken yet become one, nulls kept.
pub async fn desired_changes_are_told_and_coalesce(bench: &Bench) {
    let device = bench.device("desired").await;
    let opened = bench.open(&device, true).await;
    bench.cloud.patch_desired(device.clone(), patch(json!({"old": 1}))).await;
    assert_eq!(event_now(&*opened.session), None, "nothing is told without a subscription");
    bench.subscribe(&*opened.session, &[Feature::DesiredChanges]).await;
    let version = bench.cloud.patch_desired(device.clone(), patch(json!({"a": 1}))).await;
    let event = bench.event(&*opened.session).await;
    assert_eq!(event, DeviceEvent::Desired { patch: patch(json!({"a": 1})), version });
    let changes = [json!({"a": 2, "b": {"x": 1}}), json!({"a": null, "b": {"y": 2}})];
    let mut last = version;
    for change in changes {
        last = bench.cloud.patch_desired(device.clone(), patch(change)).await;
    }
    assert_eq!(last, Version(version.0 + 2));
    let mut told = patch(json!({}));
    loop {
        let DeviceEvent::Desired { patch, version } = bench.event(&*opened.session).await else {
            unreachable!("only desired changes are subscribed");
        };
        merge(&mut told.0, patch.0);
        if version == last {
            break;
        }
    }
    assert_eq!(told, patch(json!({"a": null, "b": {"x": 1, "y": 2}})));
    assert_eq!(event_now(&*opened.session), None, "nothing is told twice");
}

/// Later patches over earlier ones, one level deep, nulls kept.
fn merge(
    into: &mut serde_json::Map<String, serde_json::Value>,
    patch: serde_json::Map<String, serde_json::Value>,
) {
    for (key, value) in patch {
        match (into.get_mut(&key), value) {
            (Some(serde_json::Value::Object(held)), serde_json::Value::Object(more)) => {
                held.extend(more);
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Clean = false gives subscriptions back and they still work; clean = true wipes them.
pub async fn subscriptions_outlive_sessions_until_wiped(bench: &Bench) {
    let device = bench.device("subscriptions").await;
    let wanted = [Feature::DesiredChanges, Feature::Methods, Feature::TwinAnswers];
    let first = bench.open(&device, false).await;
    assert!(!first.resumed && first.features.is_empty(), "nothing persisted yet");
    bench.subscribe(&*first.session, &wanted).await;
    let gone = vec!["$iothub/methods/POST/#".into()];
    let unsubscribed = bench.ask(&*first.session, DeviceRequest::Unsubscribe(gone)).await;
    assert_eq!(unsubscribed, Ok(Answer::Accepted));
    first.session.close(Leave::Lost { will: None });

    let second = bench.open(&device, false).await;
    assert!(second.resumed, "the session is present");
    let left = features(&[Feature::DesiredChanges, Feature::TwinAnswers]);
    assert_eq!(second.features, left);
    let version = bench.cloud.patch_desired(device.clone(), patch(json!({"n": 1}))).await;
    let event = bench.event(&*second.session).await;
    assert_eq!(event, DeviceEvent::Desired { patch: patch(json!({"n": 1})), version });

    let third = bench.open(&device, true).await;
    assert!(!third.resumed && third.features.is_empty(), "clean = true wipes");
    bench.cloud.patch_desired(device.clone(), patch(json!({"n": 2}))).await;
    assert_eq!(event_now(&*third.session), None);
    drop(third);
    let fourth = bench.open(&device, false).await;
    assert!(!fourth.resumed && fourth.features.is_empty(), "what was wiped stays wiped");
}
