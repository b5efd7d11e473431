//! Twins and subscriptions.

use model::feature::Feature;
use model::refusal::RefusalKind;
use model::twin::{TwinPatch, Version};
use model::waist::{Answer, DeviceEvent, DeviceRequest, Leave, Opened};
use serde_json::json;

use super::{Ability, Bench, METHODS, features, patch};

/// Patches merge, raise the version by one each, and fail whole when a precondition fails.
pub(super) async fn reported_patches_raise_the_version(bench: &Bench) {
    let identity = bench.identity("reported").await;
    let opened = bench.open(&identity, true).await;
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
pub(super) async fn desired_changes_are_told_and_coalesce(bench: &Bench) {
    let identity = bench.identity("desired").await;
    let opened = bench.open(&identity, true).await;
    bench.cloud.patch_desired(identity.clone(), patch(json!({"old": 1}))).await;
    bench.quiet(&*opened.session, "nothing is told without a subscription").await;
    bench.subscribe(&*opened.session, &[Feature::DesiredChanges]).await;
    let version = bench.cloud.patch_desired(identity.clone(), patch(json!({"a": 1}))).await;
    let event = bench.event(&*opened.session).await;
    assert_eq!(event, DeviceEvent::Desired { patch: patch(json!({"a": 1})), version });
    let changes = [json!({"a": 2, "b": {"x": 1}}), json!({"a": null, "b": {"y": 2}})];
    let mut last = version;
    for change in changes {
        last = bench.cloud.patch_desired(identity.clone(), patch(change)).await;
    }
    assert_eq!(last, Version(version.0 + 2));
    let mut told = patch(json!({}));
    loop {
        let DeviceEvent::Desired { patch, version } = bench.event(&*opened.session).await else {
            unreachable!("only desired changes are subscribed");
        };
        told = model::twin::patch::compose(&told.0, &patch.0).map(TwinPatch).expect("one patch");
        if version == last {
            break;
        }
    }
    assert_eq!(told, patch(json!({"a": null, "b": {"x": 1, "y": 2}})));
    bench.quiet(&*opened.session, "nothing is told twice").await;
}

/// Who merges what it is told loses what a replacement took away.
pub(super) async fn a_replacement_tells_what_is_gone(bench: &Bench) {
    let identity = bench.identity("replacement").await;
    let opened = bench.open(&identity, true).await;
    bench.subscribe(&*opened.session, &[Feature::DesiredChanges]).await;
    let first = json!({"gone": 1, "kept": 1, "inside": {"gone": 1, "kept": 1}});
    bench.cloud.patch_desired(identity.clone(), patch(first.clone())).await;
    let mut held = first;
    let DeviceEvent::Desired { .. } = bench.event(&*opened.session).await else {
        unreachable!("only desired changes are subscribed");
    };
    let second = patch(json!({"kept": 1, "inside": {"kept": 2}, "new": []}));
    let version = bench.cloud.replace_desired(identity, second.clone()).await;
    let event = bench.event(&*opened.session).await;
    let DeviceEvent::Desired { patch: told, version: at } = event else {
        unreachable!("only desired changes are subscribed");
    };
    let held = held.as_object_mut().expect("made as an object");
    model::twin::patch::apply(held, &told.0);
    assert_eq!((&*held, at), (&second.0, version), "told was {told:?}");
}

/// Clean = false gives subscriptions back and they still work; clean = true wipes them.
pub(super) async fn subscriptions_outlive_sessions_until_wiped(bench: &Bench) {
    let identity = bench.identity("subscriptions").await;
    let wanted = [Feature::DesiredChanges, Feature::Methods, Feature::TwinAnswers];
    let check = |opened: &Opened, resumed: bool, left: &[Feature]| {
        assert_eq!(opened.resumed, resumed, "whether the session was present");
        if bench.has(Ability::Features) {
            assert_eq!(opened.features, features(&identity, left));
        }
    };
    let first = bench.open(&identity, false).await;
    check(&first, false, &[]);
    bench.subscribe(&*first.session, &wanted).await;
    let unsubscribe = DeviceRequest::Unsubscribe(vec![METHODS.into()]);
    assert_eq!(bench.ask(&*first.session, unsubscribe).await, Ok(Answer::Accepted));
    first.session.close(Leave::Lost { will: None });

    let second = bench.open(&identity, false).await;
    check(&second, true, &[Feature::DesiredChanges, Feature::TwinAnswers]);
    let version = bench.cloud.patch_desired(identity.clone(), patch(json!({"n": 1}))).await;
    let event = bench.event(&*second.session).await;
    assert_eq!(event, DeviceEvent::Desired { patch: patch(json!({"n": 1})), version });

    let third = bench.open(&identity, true).await;
    check(&third, false, &[]);
    bench.cloud.patch_desired(identity.clone(), patch(json!({"n": 2}))).await;
    bench.quiet(&*third.session, "clean = true wipes").await;
    third.session.close(Leave::Asked);
    let fourth = bench.open(&identity, false).await;
    check(&fourth, false, &[]);
}

/// What a clean session switches on works while it lives, and ends with it.
pub(super) async fn subscriptions_of_a_clean_session_end_with_it(bench: &Bench) {
    let identity = bench.identity("clean-subscriptions").await;
    let first = bench.open(&identity, true).await;
    bench.subscribe(&*first.session, &[Feature::DesiredChanges, Feature::TwinAnswers]).await;
    bench.subscribe(&*first.session, &[Feature::Methods]).await;
    let unsubscribe = DeviceRequest::Unsubscribe(vec![METHODS.into()]);
    assert_eq!(bench.ask(&*first.session, unsubscribe).await, Ok(Answer::Accepted));
    let version = bench.cloud.patch_desired(identity.clone(), patch(json!({"n": 1}))).await;
    let event = bench.event(&*first.session).await;
    assert_eq!(event, DeviceEvent::Desired { patch: patch(json!({"n": 1})), version });
    first.session.close(Leave::Lost { will: None });

    let second = bench.open(&identity, false).await;
    assert!(!second.resumed, "a clean session leaves nothing that could be resumed");
    if bench.has(Ability::Features) {
        assert_eq!(second.features, features(&identity, &[]), "a clean session leaves nothing");
    }
    bench.cloud.patch_desired(identity.clone(), patch(json!({"n": 2}))).await;
    bench.quiet(&*second.session, "what a clean session switched on ended with it").await;
}
