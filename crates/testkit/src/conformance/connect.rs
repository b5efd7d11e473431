//! Opening, ending, and who may.

use std::time::Duration;

use bytes::Bytes;
use model::message::Message;
use model::refusal::RefusalKind;
use model::waist::{Answer, CloseReason, DeviceRequest, Leave, LinkKind};

use super::{Ability, Bench};

fn message(body: &'static str) -> DeviceRequest {
    let body = Bytes::from_static(body.as_bytes());
    DeviceRequest::SendTelemetry(Box::new(Message { body, ..Message::default() }))
}

/// A wrong key and an unknown identity get the same answer.
pub(super) async fn a_bad_claim_is_refused(bench: &Bench) {
    let known = bench.identity("bad-claim").await;
    let unknown = bench.name("nobody-has-this-name");
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
pub(super) async fn an_older_session_is_taken_over(bench: &Bench) {
    let identity = bench.identity("takeover").await;
    let older = bench.open(&identity, false).await;
    let newer = bench.open(&identity, false).await;
    assert!(older.session.epoch() < newer.session.epoch(), "epochs ascend");
    bench.ended(&*older.session, CloseReason::TakenOver, RefusalKind::TakenOver).await;
    let refused = bench.ask(&*older.session, message("late")).await;
    assert!(refused.is_err(), "a session that was taken over sends nothing");
    assert_eq!(bench.ask(&*newer.session, message("new")).await, Ok(Answer::Accepted));
    drop(older);
    assert_eq!(bench.ask(&*newer.session, message("still")).await, Ok(Answer::Accepted));
    let bodies: Vec<_> =
        bench.cloud.telemetry(identity).await.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies, ["new", "still"]);
}

/// After a close nothing is done, and the identity can open again.
pub(super) async fn closing_ends_a_session(bench: &Bench) {
    let identity = bench.identity("close").await;
    let first = bench.open(&identity, true).await;
    first.session.close(Leave::Asked);
    let refused = bench.ask(&*first.session, DeviceRequest::ReadTwin).await;
    assert!(refused.is_err(), "a closed session does nothing");
    let second = bench.open(&identity, true).await;
    assert!(bench.ask(&*second.session, DeviceRequest::ReadTwin).await.is_ok());
}

/// Every connect announces it, so the second time is as good as the first; whoever cannot say it
/// is refused, and the session goes on.
pub(super) async fn a_model_is_taken_as_often_as_it_is_announced(bench: &Bench) {
    let identity = bench.identity("model").await;
    let opened = bench.open(&identity, true).await;
    for text in ["dtmi:com:example:Thermostat;1"; 2] {
        let model = text.parse().expect("a good model id");
        let answer = bench.ask(&*opened.session, DeviceRequest::AnnounceModel(model)).await;
        if bench.has(Ability::Models) {
            assert_eq!(answer, Ok(Answer::Accepted));
        } else {
            assert_eq!(answer.expect_err("no words").kind, RefusalKind::InvalidRequest);
        }
    }
    assert_eq!(bench.ask(&*opened.session, message("after")).await, Ok(Answer::Accepted));
}

/// The claim's end is told at open and is the session's end, unless it is renewed.
pub(super) async fn sessions_end_when_their_claim_does(bench: &Bench) {
    let identity = bench.identity("expiry").await;
    let short = bench.cloud.claim(identity.clone(), Duration::from_secs(100)).await;
    let opened = bench.try_open(short, LinkKind::Mqtt { clean: true }).await;
    let opened = opened.expect("a short claim opens a session");
    if bench.has(Ability::Renewal) {
        let until = opened.valid_until.expect("a token has an end");
        let left = until.since(bench.world.now().wall).saturating_sub(bench.tolerance);
        assert!(left <= Duration::from_secs(100) && left > Duration::from_secs(90), "{left:?}");
        let fresh = bench.cloud.claim(identity.clone(), Duration::from_secs(200)).await;
        let later = opened.session.renew(fresh, bench.deadline()).await;
        assert!(later.expect("a fresh claim renews") > until, "renewal prolongs");
        tokio::time::sleep(bench.tolerance + Duration::from_secs(102)).await;
        bench.quiet(&*opened.session, "the renewed session goes on").await;
        let wrong = bench.cloud.wrong_claim(identity);
        let renewed = opened.session.renew(wrong, bench.deadline()).await;
        assert!(renewed.is_err(), "a bad claim renews nothing");
    } else {
        tokio::time::sleep(bench.tolerance + Duration::from_secs(80)).await;
    }
    let asked = bench.ask(&*opened.session, DeviceRequest::ReadTwin).await;
    assert!(asked.is_ok(), "a session works until its claim ends: {asked:?}");
    bench.ended(&*opened.session, CloseReason::Expired, RefusalKind::Unauthenticated).await;
}

/// Whoever is disabled or deleted is thrown out and cannot come back with an old claim.
pub(super) async fn who_lost_the_right_is_thrown_out(bench: &Bench) {
    let identity = bench.identity("revoked").await;
    let opened = bench.open(&identity, true).await;
    let claim = bench.cloud.claim(identity.clone(), Duration::from_hours(1)).await;
    bench.cloud.revoke(identity).await;
    bench.ended(&*opened.session, CloseReason::Revoked, RefusalKind::Unauthenticated).await;
    let refused = bench.try_open(claim, LinkKind::Mqtt { clean: true }).await;
    assert_eq!(refused.expect_err("no right").kind, RefusalKind::Unauthenticated);
}
