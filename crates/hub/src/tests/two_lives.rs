//! Subscriptions have two lives: those of a durable session, and those that end with theirs.

use model::feature::{Feature, FeatureSet, SUBSCRIPTIONS_MAX, Subscription};
use model::refusal::RefusalKind;
use model::time::Tick;
use model::waist::{Answer, Claim, DeviceRequest, LinkKind, Opened, ask};
use rusqlite::Connection;

use super::{Machine, Running};

const CLEAN: LinkKind = LinkKind::Mqtt { clean: true };
const KEPT: LinkKind = LinkKind::Mqtt { clean: false };

fn one(feature: Feature, filter: &str) -> FeatureSet {
    [Subscription { feature, qos: 1, filter: filter.into() }].into_iter().collect()
}

async fn open(r: &Running, claim: &Claim, link: LinkKind) -> Opened {
    r.api.open(claim.clone(), link, Tick::NEVER).await.unwrap()
}

fn rows(machine: &Machine) -> (u32, u32) {
    let db = Connection::open(machine.path().join("hub.db")).unwrap();
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        db.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    (count("session"), count("subscription"))
}

#[tokio::test(start_paused = true)]
async fn only_a_durable_session_has_rows() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d").await;
    for (link, expected) in [
        (CLEAN, (0, 0)),
        (LinkKind::Amqp, (0, 0)),
        (LinkKind::Local, (0, 0)),
        (LinkKind::Https, (0, 0)),
        (KEPT, (1, 1)),
        (CLEAN, (0, 0)),
    ] {
        let opened = open(&r, &claim, link).await;
        let wanted = one(Feature::Methods, "$iothub/methods/POST/#");
        let subscribe = DeviceRequest::Subscribe(wanted.clone());
        let granted = ask(&*opened.session, subscribe, Tick::NEVER).await;
        assert_eq!(granted, Ok(Answer::Subscribed(wanted)), "{link:?}");
        assert_eq!(rows(&machine), expected, "{link:?}");
    }
    // Also over a restart.
    r.kill().await;
    let r = machine.start(2);
    let opened = open(&r, &claim, KEPT).await;
    assert!(!opened.resumed && opened.features.is_empty());
}

/// An older hub wrote a clean session's subscriptions; they come back for nobody.
#[tokio::test(start_paused = true)]
async fn what_an_older_hub_left_of_a_clean_session_is_forgotten() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d").await;
    let db = Connection::open(machine.path().join("hub.db")).unwrap();
    let left = "INSERT INTO subscription (ord, filter, feature, qos) SELECT ord, 'f', 3, 1 \
                FROM identity";
    assert_eq!(db.execute(left, []).unwrap(), 1);
    let opened = open(&r, &claim, KEPT).await;
    assert!(!opened.resumed && opened.features.is_empty(), "{:?}", opened.features);
    assert_eq!(rows(&machine), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn each_session_has_its_own_bound() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d").await;
    for link in [CLEAN, KEPT] {
        let opened = open(&r, &claim, link).await;
        let wanted: FeatureSet = (0..=SUBSCRIPTIONS_MAX)
            .map(|n| Subscription {
                feature: Feature::Methods,
                qos: 0,
                filter: n.to_string().into(),
            })
            .collect();
        let answer = ask(&*opened.session, DeviceRequest::Subscribe(wanted), Tick::NEVER).await;
        let Ok(Answer::Subscribed(granted)) = answer else { panic!("{link:?}: {answer:?}") };
        assert_eq!(granted.len(), SUBSCRIPTIONS_MAX, "{link:?}");
        let more = DeviceRequest::Subscribe(one(Feature::Methods, "more"));
        let answer = ask(&*opened.session, more, Tick::NEVER).await;
        assert_eq!(answer, Ok(Answer::Subscribed(FeatureSet::new())), "{link:?}");
        let unsubscribe = DeviceRequest::Unsubscribe(vec!["0".into(), "1".into()]);
        ask(&*opened.session, unsubscribe, Tick::NEVER).await.unwrap();
        let more = one(Feature::Methods, "more");
        let subscribe = DeviceRequest::Subscribe(more.clone());
        let answer = ask(&*opened.session, subscribe, Tick::NEVER).await;
        assert_eq!(answer, Ok(Answer::Subscribed(more)), "{link:?}");
    }
}

/// The older session's request was accepted before it was taken over, and runs behind the opening
/// of the newer one, in the same turn of the writer.
#[tokio::test(start_paused = true)]
async fn a_late_request_of_an_older_session_changes_nothing_of_a_newer_one() {
    for (older, newer) in [(KEPT, CLEAN), (CLEAN, CLEAN), (CLEAN, KEPT)] {
        let machine = Machine::new();
        let r = machine.start(1);
        let claim = r.device("d").await;
        let old = open(&r, &claim, older).await.session;
        let late = DeviceRequest::Subscribe(one(Feature::Methods, "late"));
        let (opened, answered) =
            tokio::join!(biased; open(&r, &claim, newer), ask(&*old, late, Tick::NEVER));
        if older == KEPT {
            let refused = answered.unwrap_err();
            assert_eq!(refused.kind, RefusalKind::TakenOver, "it was wiped: {refused:?}");
        }
        assert_eq!(rows(&machine).1, 0, "{older:?} {newer:?}");
        let call = serde_json::json!({ "methodName": "m", "responseTimeoutInSeconds": 5 });
        let (status, answer) = r.call("POST", "/twins/d/methods", call).await;
        assert_eq!(status.as_u16(), 404, "{older:?} {newer:?}: {answer}");
        drop(opened);
        let kept = open(&r, &claim, KEPT).await;
        assert!(kept.features.is_empty(), "{older:?} {newer:?}: {:?}", kept.features);
    }
}
