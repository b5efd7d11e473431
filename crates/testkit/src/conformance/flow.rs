//! Telemetry, batches, and methods.

use std::time::Duration;

use bytes::Bytes;
use model::feature::Feature;
use model::message::{MESSAGE_BYTES_MAX, Message, PropertyBag};
use model::method::{MethodRequest, MethodResponse};
use model::refusal::RefusalKind;
use model::twin::{TwinPatch, Version};
use model::waist::{Answer, Batch, Credit, DeviceEvent, DeviceRequest, DeviceSession};
use serde_json::json;

use super::{Bench, patch};

/// Answers come one by one in order, one bad message harms no neighbour, and the cloud reads
/// what was accepted, in order, with its sender proven.
pub(super) async fn telemetry_is_accepted_in_order(bench: &Bench) {
    let identity = bench.identity("telemetry").await;
    let opened = bench.open(&identity, true).await;
    let message = |body: Bytes| Message {
        body,
        properties: PropertyBag(Bytes::from_static(b"kind=test")),
        ..Message::default()
    };
    for batch in 0..3 {
        let bodies = (0..10).map(|at| Bytes::from(format!("{batch}-{at}")));
        let mut requests: Vec<_> =
            bodies.map(|body| DeviceRequest::SendTelemetry(Box::new(message(body)))).collect();
        let large = Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX + 1]);
        requests.insert(5, DeviceRequest::SendTelemetry(Box::new(message(large))));
        let submitted = opened.session.submit(Batch(requests), bench.deadline());
        let mut answers = submitted.expect("an idle session has room");
        for at in 0..11 {
            match answers.next().await.expect("one answer per request") {
                Ok(answer) => assert!(at != 5 && answer == Answer::Accepted, "{at}: {answer:?}"),
                Err(refusal) => assert!(at == 5 && refusal.kind == RefusalKind::TooLarge),
            }
        }
        assert_eq!(answers.next().await, None, "no more answers than requests");
    }
    let read = bench.cloud.telemetry(identity.clone()).await;
    let expected = (0..3).flat_map(|batch| (0..10).map(move |at| format!("{batch}-{at}")));
    let bodies: Vec<_> = read.iter().map(|m| String::from_utf8_lossy(&m.body)).collect();
    assert_eq!(bodies, expected.collect::<Vec<_>>());
    for message in read {
        assert_eq!(message.system.connection_device_id.as_deref(), Some(identity.device_str()));
        assert_eq!(message.system.connection_module_id.as_deref(), identity.module_str());
        assert_eq!(message.properties.get("kind").as_deref(), Some("test"));
    }
}

/// A session takes only so much at once; what it gives back is whole and fits later.
pub(super) async fn a_full_session_gives_the_batch_back(bench: &Bench) {
    let identity = bench.identity("full").await;
    let opened = bench.open(&identity, true).await;
    let batch = || {
        let body = Bytes::from(vec![b'x'; 64 * 1024]);
        let message = Message { body, ..Message::default() };
        Batch((0..8).map(|_| DeviceRequest::SendTelemetry(Box::new(message.clone()))).collect())
    };
    let mut accepted = Vec::new();
    let back = loop {
        match opened.session.submit(batch(), bench.deadline()) {
            Ok(answers) => accepted.push(answers),
            Err(full) => break full.0,
        }
        assert!(accepted.len() < 10_000, "a session without an end takes the machine down");
    };
    assert_eq!(back.0.len(), 8, "the batch comes back untouched");
    let ready = std::future::poll_fn(|cx| opened.session.poll_ready(cx));
    tokio::time::timeout(super::PATIENCE, ready).await.expect("room comes again");
    let again = opened.session.submit(back, bench.deadline());
    accepted.push(again.unwrap_or_else(|_| unreachable!("there is room after poll_ready")));
    let sent = accepted.len() * 8;
    for mut answers in accepted {
        while let Some(answer) = answers.next().await {
            assert_eq!(answer, Ok(Answer::Accepted));
        }
    }
    assert_eq!(bench.cloud.telemetry(identity).await.len(), sent);
}

/// Offline and unsubscribed are refused at once; an answer finds its caller; silence ends in
/// a time-out; a caller may wait for the device to come.
pub(super) async fn methods_are_called_and_answered(bench: &Bench) {
    let identity = bench.identity("methods").await;
    let request = |connect_timeout| MethodRequest {
        name: "reboot".to_owned(),
        payload: Bytes::from_static(b"{\"when\":1}"),
        response_timeout: Duration::from_secs(10),
        connect_timeout,
    };
    let now = request(Duration::ZERO);
    let offline = bench.cloud.invoke(identity.clone(), now.clone()).await;
    assert_eq!(offline.expect_err("nobody is there").kind, RefusalKind::TargetOffline);
    let opened = bench.open(&identity, true).await;
    let deaf = bench.cloud.invoke(identity.clone(), now.clone()).await;
    assert_eq!(deaf.expect_err("nobody listens").kind, RefusalKind::TargetOffline);

    let waiting = bench.cloud.invoke(identity.clone(), request(Duration::from_mins(1)));
    let listen = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        bench.subscribe(&*opened.session, &[Feature::Methods]).await;
        let DeviceEvent::Method { call, request, .. } = bench.event(&*opened.session).await else {
            unreachable!("only methods are subscribed");
        };
        assert_eq!((request.name.as_str(), &request.payload[..]), ("reboot", &b"{\"when\":1}"[..]));
        let response = MethodResponse { status: 404, payload: Bytes::from_static(b"[1]") };
        let answered = DeviceRequest::AnswerMethod { call, response };
        assert_eq!(bench.ask(&*opened.session, answered).await, Ok(Answer::Accepted));
    };
    let (result, ()) = tokio::join!(waiting, listen);
    let expected = MethodResponse { status: 404, payload: Bytes::from_static(b"[1]") };
    assert_eq!(result, Ok(expected), "the device's own status is a successful call");

    let silent = bench.cloud.invoke(identity, now).await;
    assert_eq!(silent.expect_err("silence").kind, RefusalKind::TargetTimedOut);
}

/// Without credit nothing comes but the end; each kind waits for its own credit, and comes in
/// order once it is there.
pub(super) async fn without_credit_nothing_comes_and_what_waited_comes_in_order(bench: &Bench) {
    let identity = bench.identity("credit").await;
    let opened = bench.open(&identity, true).await;
    let session = &*opened.session;
    bench.subscribe(session, &[Feature::Methods, Feature::DesiredChanges]).await;
    let call = |name: &str| {
        let request = MethodRequest {
            name: name.to_owned(),
            payload: Bytes::from_static(b"{}"),
            response_timeout: Duration::from_mins(1),
            // Behind a gateway the hub learns a moment later who listens.
            connect_timeout: Duration::from_mins(1),
        };
        bench.cloud.invoke(identity.clone(), request)
    };
    let calls = async {
        let late = async |name| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            call(name).await
        };
        tokio::join!(call("first"), late("second"))
    };
    let listen = async {
        bench.cloud.patch_desired(identity.clone(), patch(json!({"a": 1, "b": 1}))).await;
        let last = bench.cloud.patch_desired(identity.clone(), patch(json!({"a": 2}))).await;
        bench.quiet_with(session, Credit::NONE, "there is no credit").await;
        take_desired(bench, session, last).await;
        let credit = Credit { methods: 1, ..Credit::NONE };
        for name in ["first", "second"] {
            let event = bench.event_with(session, credit).await;
            let DeviceEvent::Method { call, request, .. } = event else {
                unreachable!("there is credit for methods only, not for {event:?}");
            };
            assert_eq!(request.name, name, "calls come in the order they were made");
            let response = MethodResponse { status: 200, payload: Bytes::from_static(b"1") };
            let answered = DeviceRequest::AnswerMethod { call, response };
            assert_eq!(bench.ask(session, answered).await, Ok(Answer::Accepted));
        }
    };
    let ((first, second), ()) = tokio::join!(calls, listen);
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    let _newer = bench.open(&identity, true).await;
    let end = bench.event_with(session, Credit::NONE).await;
    assert!(matches!(end, DeviceEvent::Closed(_)), "the end needs no credit: {end:?}");
}

/// Takes changes of desired properties until `last` is told; together they are all of them.
async fn take_desired(bench: &Bench, session: &dyn DeviceSession, last: Version) {
    let credit = Credit { desired: 1, ..Credit::NONE };
    let mut told = patch(json!({}));
    loop {
        let event = bench.event_with(session, credit).await;
        let DeviceEvent::Desired { patch, version } = event else {
            unreachable!("there is credit for desired changes only, not for {event:?}");
        };
        told = model::twin::patch::compose(&told.0, &patch.0).map(TwinPatch).expect("one patch");
        if version == last {
            break;
        }
    }
    assert_eq!(told, patch(json!({"a": 2, "b": 1})), "nothing of what waited is lost");
}
