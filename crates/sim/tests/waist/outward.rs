//! The router's bounds on what goes out, with the hub behind it.

use std::time::Duration;

use bytes::Bytes;
use model::feature::{Feature, Subscription};
use model::id::IdentityId;
use model::message::Message;
use model::method::{METHOD_PAYLOAD_BYTES_MAX, METHODS_WAITING_BYTES_MAX, MethodRequest};
use model::refusal::RefusalKind;
use model::time::Tick;
use model::waist::{
    ANSWER_BYTES, Answer, Batch, DeviceApi, DeviceRequest, DeviceSession, LinkKind,
    SESSION_ANSWER_BYTES_MAX, ask,
};
use std::sync::Arc;
use testkit::conformance::Cloud as _;

use super::house::{DEVICE, Edge, Hub};

/// A session of a fresh module.
async fn open(edge: &Edge, api: &dyn DeviceApi) -> (IdentityId, Arc<dyn DeviceSession>) {
    let identity: IdentityId = format!("{DEVICE}/outward").parse().unwrap();
    edge.create(identity.clone()).await;
    let claim = edge.claim(identity.clone(), Duration::from_hours(1)).await;
    let opened = api.open(claim, LinkKind::Mqtt { clean: true }, Tick::NEVER).await;
    (identity, opened.unwrap().session)
}

#[tokio::test(start_paused = true)]
async fn a_module_that_takes_no_answers_is_given_few_and_goes_on_sending() {
    let hub = Hub::start(12).await;
    let edge = Edge::start(&hub, hub.api()).await;
    let (_, session) = open(&edge, &*edge.runtime.device_api()).await;
    let read = || Batch::from(DeviceRequest::ReadTwin);
    let mut asked = Vec::new();
    while let Ok(completion) = session.submit(read(), Tick::NEVER) {
        asked.push(completion);
        assert!(asked.len() < 10_000, "a session without an end takes the machine down");
    }
    let most = (SESSION_ANSWER_BYTES_MAX / ANSWER_BYTES) as usize;
    assert!(asked.len() <= most, "{} twins wait for one module", asked.len());
    let message = DeviceRequest::SendTelemetry(Box::<Message>::default());
    assert_eq!(ask(&*session, message, Tick::NEVER).await, Ok(Answer::Accepted));
    let ready = || std::future::poll_fn(|cx| session.poll_ready(cx));
    let early = tokio::time::timeout(Duration::from_secs(5), ready()).await;
    assert!(early.is_err(), "there is no room while nothing is taken");
    let taking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for completion in asked {
            assert!(matches!(completion.only().await, Ok(Answer::Twin(_))));
        }
    };
    tokio::join!(ready(), taking);
    assert!(session.submit(read(), Tick::NEVER).is_ok());
    hub.stop().await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_a_module_does_not_take_are_bounded_by_their_payloads() {
    let hub = Hub::start(13).await;
    let edge = Edge::start(&hub, hub.api()).await;
    let (identity, session) = open(&edge, &*edge.runtime.device_api()).await;
    let filter = "$iothub/methods/POST/#".into();
    let methods = Subscription { feature: Feature::Methods, qos: 0, filter };
    let subscribe = DeviceRequest::Subscribe([methods].into_iter().collect());
    ask(&*session, subscribe, Tick::NEVER).await.unwrap();
    let invoke = || {
        let mut payload = vec![b'x'; METHOD_PAYLOAD_BYTES_MAX];
        let last = payload.len() - 1;
        (payload[0], payload[last]) = (b'"', b'"');
        let request = MethodRequest {
            name: "large".into(),
            payload: Bytes::from(payload),
            response_timeout: Duration::from_secs(10),
            connect_timeout: Duration::ZERO,
        };
        let target = identity.clone();
        let other = DeviceRequest::InvokeMethod { target, request };
        session.submit(Batch::from(other), Tick::NEVER)
    };
    // A module may call itself; the calls wait one after the other for the answer, so that the
    // next is made only when the one before it has timed out.
    let fit = METHODS_WAITING_BYTES_MAX / METHOD_PAYLOAD_BYTES_MAX;
    for at in 0..=fit {
        let completion = invoke().unwrap_or_else(|_| unreachable!("an idle session has room"));
        let kind = completion.only().await.expect_err("nobody answers").kind;
        let expected =
            if at < fit { RefusalKind::TargetTimedOut } else { RefusalKind::TargetOffline };
        assert_eq!(kind, expected, "call {at}");
    }
    hub.stop().await;
}
