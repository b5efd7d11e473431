//! Opening, ending, and who may.

use std::time::Duration;

use bytes::Bytes;
use model::id::IdentityId;
use model::message::Message;
use model::refusal::RefusalKind;
use model::waist::{
    Answer, CloseReason, DeviceEvent, DeviceRequest, DeviceSession, Leave, LinkKind,
};

use super::{Bench, event_now};

fn message(body: &'static str) -> DeviceRequest {
    let body = Bytes::from_static(body.as_bytes());
    DeviceRequest::SendTelemetry(Box::new(Message { body, ..Message::default() }))
}

/// A wrong key and an unknown identity get the same answer.
pub async fn a_bad_claim_is_refused(bench: &Bench) {
    let known = bench.device("bad-claim").await;
    let unknown: IdentityId = "nobody-has-this-name".parse().expect("a good name");
    let mut told = Vec::new();
    for identity in [known, unknown] {
        let claim = bench.cloud.wrong_claim(identity);
        let refusal = bench.try_open(claim, LinkKind::Mqtt { clean: true }).await;
        told.push(refusal.expect_err("a bad claim opens nothing"));
    }
    assert!(told.iter().all(|refusal| refusal.kind == RefusalKind::Unauthenticated), "{told:?}");
    assert!(told.windows(2).all(|pair| pair.first() == pair.last()), "it must not tell who exists");
}

/// The newer session works, the older one refuses and is told why.
pub async fn an_older_session_is_taken_over(bench: &Bench) {
    let device = bench.device("takeover").await;
    let older = bench.open(&device, false).await;
    let newer = bench.open(&device, false).await;
    assert!(older.session.epoch() < newer.session.epoch(), "epochs ascend");
    let event = bench.event(&*older.session).await;
    assert_eq!(event, DeviceEvent::Closed(CloseReason::TakenOver));
    let refused = bench.ask(&*older.session, message("late")).await;
    let kind = refused.expect_err("a session that was taken over does nothing").kind;
    assert_eq!(kind, RefusalKind::TakenOver);
    assert_eq!(bench.ask(&*newer.session, message("new")).await, Ok(Answer::Accepted));
    drop(older);
    assert_eq!(bench.ask(&*newer.session, message("still")).await, Ok(Answer::Accepted));
    let bodies: Vec<_> =
        bench.cloud.telemetry(device).await.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies, ["new", "still"]);
}

/// After a close nothing is done, and the identity can open again.
pub async fn closing_ends_a_session(bench: &Bench) {
    let device = bench.device("close").await;
    let first = bench.open(&device, true).await;
    first.session.close(Leave::Asked);
    let refused = bench.ask(&*first.session, DeviceRequest::ReadTwin).await;
    assert!(refused.is_err(), "a closed session does nothing");
    let second = bench.open(&device, true).await;
    assert!(bench.ask(&*second.session, DeviceRequest::ReadTwin).await.is_ok());
}

/// The claim's end is told at open and is the session's end, unless it is renewed.
pub async fn sessions_end_when_their_claim_does(bench: &Bench) {
    let device = bench.device("expiry").await;
    let short = bench.cloud.claim(device.clone(), Duration::from_secs(100)).await;
    let opened = bench.try_open(short, LinkKind::Mqtt { clean: true }).await;
    let opened = opened.expect("a short claim opens a session");
    let until = opened.valid_until.expect("a token has an end");
    let left = until.since(bench.world.now().wall);
    assert!(left <= Duration::from_secs(100) && left > Duration::from_secs(90), "{left:?}");
    let fresh = bench.cloud.claim(device.clone(), Duration::from_secs(200)).await;
    let later = opened.session.renew(fresh, bench.deadline()).await;
    assert!(later.expect("a fresh claim renews") > until, "renewal prolongs");
    tokio::time::sleep(Duration::from_secs(105)).await;
    assert_eq!(event_now(&*opened.session), None, "the renewed session goes on");
    let asked = bench.ask(&*opened.session, DeviceRequest::ReadTwin).await;
    assert!(asked.is_ok(), "the renewed session works: {asked:?}");
    let wrong = bench.cloud.wrong_claim(device);
    assert!(
        opened.session.renew(wrong, bench.deadline()).await.is_err(),
        "a bad claim renews nothing"
    );
    let event = bench.event(&*opened.session).await;
    assert_eq!(event, DeviceEvent::Closed(CloseReason::Expired));
    let refused = bench.ask(&*opened.session, DeviceRequest::ReadTwin).await;
    assert_eq!(refused.expect_err("expired").kind, RefusalKind::Unauthenticated);
}

/// A disabled device is thrown out and cannot come back.
pub async fn disabling_revokes_open_sessions(bench: &Bench) {
    let device = bench.device("disable").await;
    let opened = bench.open(&device, true).await;
    if !bench.cloud.disable(device.clone()).await {
        return;
    }
    let event = bench.event(&*opened.session).await;
    assert_eq!(event, DeviceEvent::Closed(CloseReason::Revoked));
    let claim = bench.cloud.claim(device, Duration::from_hours(1)).await;
    let refused = bench.try_open(claim, LinkKind::Mqtt { clean: true }).await;
    assert_eq!(refused.expect_err("disabled").kind, RefusalKind::Unauthenticated);
    assert!(closed_for_good(&*opened.session), "after Closed nothing follows");
}

fn closed_for_good(session: &dyn DeviceSession) -> bool {
    event_now(session).is_none()
}
