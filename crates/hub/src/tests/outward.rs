//! What goes out: it is bounded, ends with the right to it, and tells no will that is not one.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::Request;
use model::message::Message;
use model::time::Tick;
use model::twin::limits::PROPERTIES_BYTES_MAX;
use model::waist::{
    ANSWER_BYTES, Answer, Batch, Claim, CloseReason, Completion, Credit, DeviceEvent,
    DeviceRequest, DeviceSession, Full, Leave, LinkKind, SESSION_ANSWER_BYTES_MAX, ask,
};
use serde_json::{Value, json};
use testkit::world::Host;
use tower::ServiceExt as _;

use super::{Machine, NAME, Running, conformance, token};

const CLEAN: LinkKind = LinkKind::Mqtt { clean: true };

fn read() -> Batch {
    Batch::from(DeviceRequest::ReadTwin)
}

async fn fill_twin(r: &Running, device: &str) {
    let values: Vec<String> = (0..8).map(|_| "x".repeat(PROPERTIES_BYTES_MAX / 9)).collect();
    let patch = json!({"properties": {"desired": {"values": values}}});
    assert_eq!(r.call("PATCH", &format!("/twins/{device}"), patch).await.0, 200);
}

/// Asks for the twin until there is no room.
fn ask_until_full(session: &dyn DeviceSession) -> Vec<Completion> {
    let mut asked = Vec::new();
    while let Ok(completion) = session.submit(read(), Tick::NEVER) {
        asked.push(completion);
        assert!(asked.len() < 10_000, "a session without an end takes the machine down");
    }
    asked
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_no_answers_is_given_few_and_goes_on_sending() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    fill_twin(&r, "d1").await;
    let session = r.api.open(claim, CLEAN, Tick::NEVER).await.unwrap().session;
    let asked = ask_until_full(&*session);
    let most = (SESSION_ANSWER_BYTES_MAX / ANSWER_BYTES) as usize;
    assert!(asked.len() <= most, "{} twins wait for one device", asked.len());
    let message = DeviceRequest::SendTelemetry(Box::default());
    assert_eq!(ask(&*session, message, Tick::NEVER).await, Ok(Answer::Accepted));
    let ready = || std::future::poll_fn(|cx| session.poll_ready(cx));
    let early = tokio::time::timeout(Duration::from_secs(5), ready()).await;
    assert!(early.is_err(), "there is no room while nothing is taken");
    let taking = async {
        Host::sleep(Duration::from_secs(1)).await;
        for completion in asked {
            assert!(matches!(completion.only().await, Ok(Answer::Twin(_))));
        }
    };
    tokio::join!(ready(), taking);
    assert!(session.submit(read(), Tick::NEVER).is_ok());
    // Whoever goes without its answers leaves nothing behind.
    let lost = ask_until_full(&*session);
    drop((lost, session));
    Host::sleep(Duration::from_secs(1)).await;
    assert!(r.hub.core.answers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_awaits_no_end_any_more() {
    let machine = Machine::new();
    let r = machine.start(1);
    let before = r.hub.core.connections.expiries();
    let claim = r.device("d1").await;
    for _ in 0..100 {
        let opened = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap();
        opened.session.close(Leave::Asked);
    }
    let older = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    let newer = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    newer.renew(claim, Tick::NEVER).await.unwrap();
    assert_eq!(r.hub.core.connections.expiries(), before + 1);
    drop((older, newer));
    for _ in 0..100 {
        drop(stream(&r, Duration::from_hours(1), None).await);
    }
    assert_eq!(r.hub.core.connections.expiries(), before);
}

fn will() -> Leave {
    let will = Message { body: "gone".into(), ..Message::default() };
    Leave::Lost { will: Some(Box::new(will)) }
}

#[tokio::test(start_paused = true)]
async fn a_will_is_published_for_a_lost_device_and_not_when_the_hub_goes() {
    let machine = Machine::new();
    let r = machine.start(1);
    let (lost, stays) = (r.device("lost").await, r.device("stays").await);
    r.api.open(lost, CLEAN, Tick::NEVER).await.unwrap().session.close(will());
    let session = r.api.open(stays, CLEAN, Tick::NEVER).await.unwrap().session;
    let leaving = async move {
        let credit = Credit::of_messages(1);
        let end = std::future::poll_fn(|cx| session.poll_event(cx, credit)).await;
        assert_eq!(end, DeviceEvent::Closed(CloseReason::ShuttingDown));
        session.close(will());
    };
    tokio::join!(r.hub.close(), leaving);
    r.kill().await;
    let r = machine.start(2);
    for (device, wills) in [("lost", 1), ("stays", 0)] {
        assert_eq!(conformance::telemetry(&r, device).await.len(), wills, "{device}");
    }
}

async fn stream(r: &Running, life: Duration, last: Option<&str>) -> axum::body::BodyDataStream {
    let key = r.hub.policy_key("service").unwrap();
    let token = token(&r.world(), NAME, Some("service"), &key, life);
    let mut request = Request::get("/api/v1/telemetry/stream?from=now")
        .header("authorization", token.expose_str().unwrap());
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    let response = r.service.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().into_data_stream()
}

/// The fields of an event, of the text of a stream.
fn field<'t>(event: &'t str, name: &str) -> Option<&'t str> {
    event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_telemetry_ends_with_its_token_and_says_where_to_go_on() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let life = Duration::from_mins(30);
    let start = r.world().now().tick;
    let mut body = stream(&r, life, None).await;
    send(&r, &claim, "before").await;
    let mut text = String::new();
    while let Some(chunk) = body.next().await {
        text += std::str::from_utf8(&chunk.unwrap()).unwrap();
    }
    let span = r.world().now().tick.since(start);
    // Clocks may differ by five minutes, and the wheel is coarse.
    assert!(span >= life && span < life + Duration::from_mins(7), "{span:?}");
    let events: Vec<&str> = text.split("\n\n").filter(|it| it.contains("event:")).collect();
    let [message, bye] = &events[..] else { panic!("{events:?}") };
    assert!(message.contains("before"));
    assert_eq!(field(bye, "event:"), Some("bye"));
    assert_eq!(field(bye, "data:"), Some(r#"{"reason":"expired"}"#));
    send(&r, &claim, "meanwhile").await;
    let mut body = stream(&r, life, field(bye, "id:")).await;
    let chunk = body.next().await.unwrap().unwrap();
    let again = std::str::from_utf8(&chunk).unwrap();
    let data: Value = serde_json::from_str(field(again, "data:").unwrap()).unwrap();
    assert_eq!(data["body"], "meanwhile", "nothing is lost and nothing comes twice");
}

async fn send(r: &Running, claim: &Claim, body: &'static str) {
    let session = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await;
    let Ok(opened) = session else { panic!("the claim holds an hour") };
    let message = Message { body: body.into(), ..Message::default() };
    let mut batch = Batch::from(DeviceRequest::SendTelemetry(Box::new(message)));
    loop {
        match opened.session.submit(batch, Tick::NEVER) {
            Ok(completion) => break assert_eq!(completion.only().await, Ok(Answer::Accepted)),
            Err(Full(back)) => batch = back,
        }
    }
}
