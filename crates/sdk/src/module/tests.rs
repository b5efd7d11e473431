//! A module over a scripted session: events are played, requests are written down.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use model::id::IdentityId;
use model::method::{MethodCallId, MethodRequest, MethodResponse};
use model::time::{Tick, WallTime};
use model::waist::{
    Batch, Claim, CloseReason, Completion, Credit, Delivery, DeliveryToken, DeviceEvent, Epoch,
    Full, Outcome,
};
use model::world::Boxed;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::*;
use crate::method::{STATUS_BUSY, STATUS_DROPPED, STATUS_NO_JSON, STATUS_UNKNOWN};

/// Longest wait of a test, on the real clock of the test's runtime.
const TEST_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Played {
    events: VecDeque<DeviceEvent>,
    told: Vec<String>,
    twin: TwinDocument,
    /// Refuse that many requests from now on.
    refuse: usize,
    credit: u16,
    /// Requests that are taken before there is no room; none means always room.
    room: Option<usize>,
    /// Who asked last whether there is room.
    waits: Option<Waker>,
    waker: Option<Waker>,
}

/// Answers as a server would that always says the same.
struct Script {
    identity: IdentityId,
    played: Mutex<Played>,
    news: Notify,
}

impl Script {
    fn played(&self) -> MutexGuard<'_, Played> {
        self.played.lock().unwrap()
    }

    fn play(&self, event: DeviceEvent) {
        let mut played = self.played();
        played.events.push_back(event);
        let waker = played.waker.take();
        drop(played);
        waker.into_iter().for_each(Waker::wake);
    }

    fn make_room(&self) {
        let mut played = self.played();
        played.room = Some(1);
        let waits = played.waits.take();
        drop(played);
        waits.into_iter().for_each(Waker::wake);
    }

    /// Waits until `count` requests were told, and gives them all.
    async fn told(&self, count: usize) -> Vec<String> {
        let enough = async {
            loop {
                let news = self.news.notified();
                if self.played().told.len() >= count {
                    return self.played().told.clone();
                }
                news.await;
            }
        };
        let told = tokio::time::timeout(TEST_TIMEOUT, enough).await;
        told.unwrap_or_else(|_| panic!("fewer than {count}: {:?}", self.played().told))
    }
}

fn words(request: &DeviceRequest) -> String {
    match request {
        DeviceRequest::SendTelemetry(message) => {
            let output = message.system.output_name.as_deref().unwrap_or_default();
            format!("send {output} {}", String::from_utf8_lossy(&message.body))
        }
        DeviceRequest::ReadTwin => "read".into(),
        DeviceRequest::PatchReported { patch, .. } => {
            format!("report {}", Value::Object(patch.0.clone()))
        }
        DeviceRequest::Subscribe(set) => {
            let filters: Vec<&str> = set.iter().map(|one| &*one.filter).collect();
            format!("subscribe {}", filters.join(" "))
        }
        DeviceRequest::Settle { token, outcome } => format!("settle {} {outcome:?}", token.0),
        DeviceRequest::AnswerMethod { call, response: MethodResponse { status, .. } } => {
            format!("answer {} {status}", call.0)
        }
        other => format!("{other:?}"),
    }
}

impl DeviceSession for Script {
    fn identity(&self) -> &IdentityId {
        &self.identity
    }

    fn epoch(&self) -> Epoch {
        Epoch::default()
    }

    fn submit(&self, batch: Batch, _: Tick) -> Result<Completion, Full> {
        let mut played = self.played();
        match &mut played.room {
            Some(0) => return Err(Full(batch)),
            Some(room) => *room -= 1,
            None => {}
        }
        let mut answers = Vec::new();
        for request in batch.0 {
            played.told.push(words(&request));
            answers.push(match request {
                _ if played.refuse > 0 => {
                    played.refuse -= 1;
                    Err(Refusal::new(RefusalKind::Unavailable, "not now"))
                }
                DeviceRequest::Settle { outcome: Outcome::Reject, .. } => {
                    Err(Refusal::new(RefusalKind::InvalidRequest, "MQTT cannot reject"))
                }
                DeviceRequest::ReadTwin => Ok(Answer::Twin(Box::new(played.twin.clone()))),
                DeviceRequest::PatchReported { .. } => Ok(Answer::Patched(Version(5))),
                DeviceRequest::Subscribe(set) => Ok(Answer::Subscribed(set)),
                _ => Ok(Answer::Accepted),
            });
        }
        drop(played);
        self.news.notify_waiters();
        Ok(Completion::ready(answers))
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut played = self.played();
        if played.room != Some(0) {
            return Poll::Ready(());
        }
        played.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        let mut played = self.played();
        played.credit = credit.messages;
        let at = played.events.iter().position(|event| credit.allows(event));
        if let Some(event) = at.and_then(|at| played.events.remove(at)) {
            return Poll::Ready(event);
        }
        played.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn renew(&self, _: Claim, _: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        Box::pin(async { Err(Refusal::new(RefusalKind::InvalidRequest, "no")) })
    }

    fn close(&self, how: Leave) {
        self.played().told.push(format!("close {how:?}"));
        self.news.notify_waiters();
        self.play(DeviceEvent::Closed(CloseReason::Disconnected));
    }
}

struct Bench {
    script: Arc<Script>,
    module: Module,
    link: watch::Sender<Link>,
}

fn bench() -> Bench {
    let script = Arc::new(Script {
        identity: "d/m".parse().unwrap(),
        played: Mutex::default(),
        news: Notify::new(),
    });
    let (link, news) = watch::channel(Link::Connecting);
    let world = net::world::system(tokio::runtime::Handle::current());
    let session: Arc<dyn DeviceSession> = Arc::<Script>::clone(&script);
    Bench { module: Module::over(session, news, world), script, link }
}

fn message(token: u64) -> DeviceEvent {
    let mut message = Message { body: "x".into(), ..Message::default() };
    message.system.input_name = Some("in".into());
    DeviceEvent::Message(Box::new(Delivery { token: DeliveryToken(token), message }))
}

fn method(call: u64, payload: &str) -> DeviceEvent {
    let request = MethodRequest {
        name: "ping".into(),
        payload: payload.to_owned().into(),
        response_timeout: Duration::from_secs(5),
        connect_timeout: Duration::ZERO,
    };
    DeviceEvent::Method { call: MethodCallId(call), request, deadline: Tick::NEVER }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn set_twin(bench: &Bench, desired: Value, version: u64) {
    bench.script.played().twin = TwinDocument {
        desired: object(desired),
        desired_version: Version(version),
        ..TwinDocument::default()
    };
}

#[tokio::test]
async fn a_message_leaves_by_its_output_and_is_answered() {
    let bench = bench();
    let message = json_message(&json!({ "a": 1 })).unwrap();
    assert_eq!(message.system.content_type.as_deref(), Some("application/json"));
    bench.module.send("out", message.clone()).await.unwrap();
    assert_eq!(bench.script.told(1).await, [r#"send out {"a":1}"#]);
    bench.script.played().refuse = 1;
    let refusal = bench.module.send("out", message.clone()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    let refusal = bench.module.send("", message).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    let large = Message { body: vec![0; MESSAGE_BYTES_MAX + 1].into(), ..Message::default() };
    let refusal = bench.module.send("out", large).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    assert_eq!(bench.script.told(2).await.len(), 2, "the last two were not sent");
}

#[tokio::test]
async fn messages_handed_over_by_many_tasks_wait_for_room_in_order_and_none_is_forgotten() {
    let bench = bench();
    bench.script.make_room();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let module = bench.module.clone();
        tasks.spawn(async move {
            let message = Message { body: format!("{number}").into(), ..Message::default() };
            module.hand_over("out", message).await?.await
        });
        // The task has run as far as it can before the next is made.
        tokio::task::yield_now().await;
    }
    for told in 1..=50 {
        bench.script.told(told).await;
        bench.script.make_room();
    }
    while let Some(sent) = tasks.join_next().await {
        sent.unwrap().unwrap();
    }
    let expected: Vec<String> = (0..50).map(|number| format!("send out {number}")).collect();
    assert_eq!(bench.script.told(50).await, expected);
}

#[tokio::test]
async fn inputs_are_settled_once_however_they_end() {
    let bench = bench();
    let mut inputs = bench.module.inputs();
    (1..=3).for_each(|token| bench.script.play(message(token)));
    let first = inputs.next().await.unwrap();
    assert_eq!((first.name(), &*first.message().body), ("in", &b"x"[..]));
    first.complete().await.unwrap();
    inputs.next().await.unwrap().reject().await.unwrap();
    drop(inputs.next().await.unwrap());
    let told = bench.script.told(5).await;
    assert_eq!(
        told.iter().filter(|told| told.starts_with("settle")).collect::<Vec<_>>(),
        ["settle 1 Complete", "settle 2 Reject", "settle 2 Complete", "settle 3 Abandon"]
    );
    assert!(told.contains(&"subscribe devices/d/modules/m/inputs/#".to_owned()), "{told:?}");
}

#[tokio::test]
async fn no_more_inputs_are_taken_than_may_be_unsettled() {
    let bench = bench();
    (0..100).for_each(|token| bench.script.play(message(token)));
    bench.script.play(method(1, "1"));
    // The method overtakes: nobody listens to inputs yet.
    assert_eq!(bench.script.told(1).await, [format!("answer 1 {STATUS_UNKNOWN}")]);
    assert_eq!(bench.script.played().events.len(), 100);
    let mut inputs = bench.module.inputs();
    let mut held = Vec::new();
    for _ in 0..UNSETTLED_MAX {
        held.push(inputs.next().await.unwrap());
    }
    bench.script.play(method(2, "1"));
    bench.script.told(3).await;
    assert_eq!(bench.script.played().events.len(), 100 - usize::from(UNSETTLED_MAX));
    assert_eq!(bench.script.played().credit, 0);
    held.pop().unwrap().complete().await.unwrap();
    inputs.next().await.unwrap();
}

#[tokio::test]
async fn every_method_call_gets_one_answer() {
    let bench = bench();
    let mut methods = bench.module.methods();
    bench.script.told(1).await;
    bench.script.play(method(1, r#"{"a":1}"#));
    bench.script.play(method(2, "{"));
    bench.script.play(method(3, ""));
    let call = methods.next().await.unwrap();
    assert_eq!((call.name(), call.payload()), ("ping", &json!({ "a": 1 })));
    call.answer(200, &json!("pong")).await.unwrap();
    let call = methods.next().await.unwrap();
    assert_eq!(call.payload(), &Value::Null);
    drop(call);
    let mut told = bench.script.told(4).await;
    told.sort();
    let expected = [
        "answer 1 200".to_owned(),
        format!("answer 2 {STATUS_NO_JSON}"),
        format!("answer 3 {STATUS_DROPPED}"),
        "subscribe $iothub/methods/POST/#".to_owned(),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn calls_beyond_those_that_may_wait_are_told_so() {
    let bench = bench();
    let methods = bench.module.methods();
    bench.script.told(1).await;
    let over = WAITING_MAX as u64 + 1;
    (1..=over).for_each(|call| bench.script.play(method(call, "1")));
    assert_eq!(bench.script.told(2).await[1], format!("answer {over} {STATUS_BUSY}"));
    drop(methods);
    bench.script.play(method(99, "1"));
    let last = bench.script.told(3 + WAITING_MAX).await.pop().unwrap();
    assert_eq!(last, format!("answer 99 {STATUS_UNKNOWN}"));
}

#[tokio::test]
async fn desired_properties_are_told_whole_and_read_again_when_a_connection_was_new() {
    let bench = bench();
    set_twin(&bench, json!({ "a": 1, "b": 1 }), 4);
    let mut desired = bench.module.desired();
    let first = desired.next().await.unwrap();
    assert_eq!(
        (&first.properties, first.version),
        (&object(json!({ "a": 1, "b": 1 })), Version(4))
    );
    let patch = TwinPatch(object(json!({ "b": null })));
    bench.script.play(DeviceEvent::Desired { patch, version: Version(5) });
    assert_eq!(desired.next().await.unwrap().properties, object(json!({ "a": 1 })));
    // Changed while there was no connection.
    set_twin(&bench, json!({ "a": 9 }), 8);
    bench.link.send_replace(Link::Up { resumed: true });
    assert_eq!(desired.next().await.unwrap().version, Version(8));
    // A change that does not follow: the twin has the truth.
    set_twin(&bench, json!({ "a": 12 }), 12);
    let patch = TwinPatch(object(json!({ "a": 12 })));
    bench.script.play(DeviceEvent::Desired { patch, version: Version(12) });
    assert_eq!(desired.next().await.unwrap().properties, object(json!({ "a": 12 })));
    // A second listener learns at once what the first knows.
    assert_eq!(bench.module.desired().next().await.unwrap().version, Version(12));
    let told = bench.script.told(4).await;
    assert_eq!(told[0], "subscribe $iothub/twin/PATCH/properties/desired/#");
    assert_eq!(told.iter().filter(|told| *told == "read").count(), 3, "{told:?}");
}

#[tokio::test]
async fn a_twin_is_read_and_reported_to() {
    let bench = bench();
    set_twin(&bench, json!({ "a": 1 }), 2);
    assert_eq!(bench.module.twin().await.unwrap().desired_version, Version(2));
    let patch = TwinPatch(object(json!({ "x": 1 })));
    assert_eq!(bench.module.report(patch).await.unwrap(), Version(5));
}

#[tokio::test(start_paused = true)]
async fn a_report_that_may_wait_is_tried_again_together_with_later_ones() {
    let bench = bench();
    bench.script.played().refuse = 1;
    bench.module.report_soon(TwinPatch(object(json!({ "a": 1, "b": { "c": 1 } }))));
    bench.script.told(1).await;
    bench.module.report_soon(TwinPatch(object(json!({ "a": 2, "b": { "d": 1 } }))));
    let told = bench.script.told(2).await;
    assert_eq!(told[1], r#"report {"a":2,"b":{"c":1,"d":1}}"#);
}

#[tokio::test]
async fn closing_ends_all_listeners() {
    let bench = bench();
    let (mut inputs, mut methods) = (bench.module.inputs(), bench.module.methods());
    let mut desired = bench.module.desired();
    desired.next().await.unwrap();
    bench.module.close().await;
    assert!(inputs.next().await.is_none() && methods.next().await.is_none());
    assert!(desired.next().await.is_none());
    assert!(bench.script.told(1).await.contains(&"close Asked".to_owned()));
    // Listeners of a closed module end at once.
    assert!(bench.module.inputs().next().await.is_none());
    assert!(bench.module.desired().next().await.is_none());
    bench.module.close().await;
}
