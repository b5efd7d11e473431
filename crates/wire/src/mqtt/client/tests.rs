use model::message::PropertyBag;
use model::method::{MethodRequest, MethodResponse};
use model::time::{Now, WallTime};
use model::twin::{TwinDocument, TwinPatch, Version};
use model::waist::{Batch, CloseReason, Delivery, Leave, ModuleOperation, Outcome};
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::mqtt::server;
use crate::topics::filter::Filter;

const SECOND: u64 = 1_000_000_000;
const LATER: Tick = Tick(50 * SECOND);

fn at(seconds: u64) -> Tick {
    Tick(seconds * SECOND)
}

fn now(tick: Tick) -> Now {
    Now { tick, wall: WallTime(0) }
}

fn id(text: &str) -> IdentityId {
    text.parse().unwrap()
}

fn telemetry(body: &str) -> DeviceRequest {
    let mut message =
        Message { body: Bytes::copy_from_slice(body.as_bytes()), ..Message::default() };
    message.properties = PropertyBag::from_pairs([("k", "a b")]);
    message.system.message_id = Some(body.into());
    DeviceRequest::SendTelemetry(Box::new(message))
}

fn map(value: serde_json::Value) -> Map<String, serde_json::Value> {
    value.as_object().unwrap().clone()
}

fn subscription(who: &IdentityId, filter: Filter) -> Subscription {
    Subscription { feature: filter.feature(), qos: 1, filter: filter.text(who).unwrap() }
}

fn subscribe(who: &IdentityId, filters: &[Filter]) -> DeviceRequest {
    DeviceRequest::Subscribe(filters.iter().map(|one| subscription(who, *one)).collect())
}

/// A hub of a dozen lines: it says yes, remembers, and can be told to stay silent or refuse.
#[derive(Default)]
struct Hub {
    seen: Vec<DeviceRequest>,
    features: FeatureSet,
    refuse: Option<RefusalKind>,
    silent: bool,
    user: Option<UserName>,
    open: Option<RefusalKind>,
    forgetful: bool,
}

impl Hub {
    fn answer(&mut self, request: &DeviceRequest) -> Result<Answer, Refusal> {
        if let Some(kind) = self.refuse {
            return Err(Refusal::new(kind, "because"));
        }
        Ok(match request {
            DeviceRequest::ReadTwin => Answer::Twin(Box::new(TwinDocument {
                desired: map(json!({"a": 1})),
                desired_version: Version(7),
                reported: map(json!({"b": {"c": null}})),
                reported_version: Version(8),
            })),
            DeviceRequest::PatchReported { .. } => Answer::Patched(Version(9)),
            DeviceRequest::Subscribe(asked) => {
                asked.iter().for_each(|one| self.features.insert(one.clone()));
                Answer::Subscribed(asked.clone())
            }
            DeviceRequest::Unsubscribe(filters) => {
                for one in filters {
                    self.features.remove(one);
                }
                Answer::Accepted
            }
            _ => Answer::Accepted,
        })
    }
}

/// Client and server, wired by hand.
struct Pair {
    client: Session,
    server: server::Session,
    hub: Hub,
    steps: Vec<Step>,
    ending: Option<server::Ending>,
    next: u64,
}

impl Pair {
    fn new(who: &str) -> Self {
        let mut pair = Self {
            client: Session::new(Options::new(id(who), "hub.example")),
            server: server::Session::new(Tick(0)),
            hub: Hub::default(),
            steps: Vec::new(),
            ending: None,
            next: 0,
        };
        pair.connect(Tick(0));
        pair
    }

    fn connect(&mut self, tick: Tick) {
        self.server = server::Session::new(tick);
        self.ending = None;
        let login = Login { password: Some(Secret::from("token")), ..Login::default() };
        self.client.connect(tick, &login).unwrap();
        self.run(tick);
    }

    fn cut(&mut self, tick: Tick) {
        self.client.handle_disconnected();
        self.run(tick);
    }

    /// Lets both work until nothing moves.
    fn run(&mut self, tick: Tick) {
        loop {
            let mut moved = false;
            while let Some(step) = self.client.poll(tick) {
                self.steps.push(step);
            }
            let up = self.client.output().to_vec();
            self.client.handle_written(up.len());
            if !up.is_empty() {
                self.server.handle_bytes(tick, &up);
                moved = true;
            }
            while let Some(step) = self.server.poll(now(tick)) {
                moved = true;
                self.handle_server(tick, step);
            }
            let down = self.server.output().to_vec();
            self.server.handle_written(down.len());
            if !down.is_empty() {
                // In two halves, for a packet may end anywhere.
                let (a, b) = down.split_at(down.len() / 2);
                self.client.handle_bytes(tick, a);
                self.client.handle_bytes(tick, b);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn handle_server(&mut self, tick: Tick, step: server::Step) {
        match step {
            server::Step::Connect(connect) => {
                self.hub.user = Some(connect.user);
                if let Some(kind) = self.hub.open {
                    return self.server.handle_refused(&Refusal::new(kind, "no"));
                }
                let known =
                    if self.hub.forgetful { FeatureSet::new() } else { self.hub.features.clone() };
                self.server.handle_opened(tick, !known.is_empty(), &known);
            }
            server::Step::Submit(Batch(requests)) => {
                for request in requests {
                    if !self.hub.silent {
                        let answer = self.hub.answer(&request);
                        self.server.handle_answer(now(tick), answer);
                    }
                    self.hub.seen.push(request);
                }
            }
            server::Step::Close(ending) => self.ending = Some(ending),
        }
    }

    fn request(&mut self, request: DeviceRequest) -> RequestId {
        self.next += 1;
        let name = RequestId(self.next);
        self.client.request(Tick(0), name, request, LATER).unwrap();
        name
    }

    fn ask(&mut self, request: DeviceRequest) -> Result<Answer, Refusal> {
        let name = self.request(request);
        self.run(Tick(0));
        self.answer(name).expect("an answer")
    }

    fn answer(&mut self, name: RequestId) -> Option<Result<Answer, Refusal>> {
        let at = self
            .steps
            .iter()
            .position(|one| matches!(one, Step::Answer { id, .. } if *id == name))?;
        match self.steps.remove(at) {
            Step::Answer { answer, .. } => Some(answer),
            _ => None,
        }
    }

    fn event(&mut self, event: DeviceEvent) -> Option<DeviceEvent> {
        self.server.handle_event(event);
        self.run(Tick(0));
        let at = self.steps.iter().position(|one| matches!(one, Step::Event(_)))?;
        match self.steps.remove(at) {
            Step::Event(event) => Some(event),
            _ => None,
        }
    }

    /// What the hub saw since the last call, in words.
    fn seen(&mut self) -> Vec<String> {
        let word = |request: DeviceRequest| match request {
            DeviceRequest::SendTelemetry(message) => {
                format!("telemetry {}", String::from_utf8_lossy(&message.body))
            }
            DeviceRequest::ReadTwin => "read".into(),
            DeviceRequest::PatchReported { .. } => "patch".into(),
            DeviceRequest::Subscribe(features) => format!("subscribe {}", features.len()),
            DeviceRequest::Unsubscribe(filters) => format!("unsubscribe {}", filters.len()),
            DeviceRequest::Settle { token, .. } => format!("settle {}", token.0),
            DeviceRequest::AnswerMethod { call, response } => {
                format!("answer {} {}", call.0, response.status)
            }
            _ => "other".into(),
        };
        std::mem::take(&mut self.hub.seen).into_iter().map(word).collect()
    }
}

fn kind(answer: Result<Answer, Refusal>) -> RefusalKind {
    answer.expect_err("a refusal").kind
}

#[test]
fn every_request_that_mqtt_can_say_is_answered() {
    let mut pair = Pair::new("d/m");
    assert!(matches!(pair.steps.remove(0), Step::Connected { resumed: false }));
    let user = pair.hub.user.clone().unwrap();
    assert_eq!((&*user.host, user.identity.as_str()), ("hub.example", "d/m"));
    assert_eq!(pair.ask(telemetry("one")), Ok(Answer::Accepted));
    let Ok(Answer::Twin(twin)) = pair.ask(DeviceRequest::ReadTwin) else { panic!() };
    assert_eq!((twin.desired_version, twin.reported_version), (Version(7), Version(8)));
    assert_eq!(twin.reported, map(json!({"b": {"c": null}})));
    let patch = TwinPatch(map(json!({"x": 1})));
    let patch = DeviceRequest::PatchReported { patch, if_version: Some(Version(8)) };
    assert_eq!(pair.ask(patch), Ok(Answer::Patched(Version(9))));
    let filters = [Filter::Methods, Filter::DesiredChanges, Filter::Inputs];
    let Ok(Answer::Subscribed(granted)) = pair.ask(subscribe(&id("d/m"), &filters)) else {
        panic!()
    };
    assert_eq!((granted.len(), pair.client.features().len()), (3, 4));
    let off = DeviceRequest::Unsubscribe(vec![Filter::Inputs.text(&id("d/m")).unwrap()]);
    assert_eq!(pair.ask(off), Ok(Answer::Accepted));
    assert_eq!(pair.client.features(), &pair.hub.features);
    let DeviceRequest::SendTelemetry(sent) = &pair.hub.seen[0] else { panic!() };
    assert_eq!(sent.properties.get("k").as_deref(), Some("a b"));
    assert_eq!(sent.system.message_id.as_deref(), Some("one"));
    let DeviceRequest::PatchReported { if_version, .. } = &pair.hub.seen[3] else { panic!() };
    assert_eq!(*if_version, Some(Version(8)));
    let expected =
        ["telemetry one", "subscribe 1", "read", "patch", "subscribe 3", "unsubscribe 1"];
    assert_eq!(pair.seen(), expected);
    assert_eq!(
        pair.ask(DeviceRequest::Subscribe(FeatureSet::new())),
        Ok(Answer::Subscribed(FeatureSet::new()))
    );
    assert_eq!(pair.ask(DeviceRequest::Unsubscribe(vec![])), Ok(Answer::Accepted));
    for foreign in [
        DeviceRequest::PullMessage { lock: Duration::ZERO },
        DeviceRequest::Modules(ModuleOperation::List),
        DeviceRequest::AnnounceModel("dtmi:a;1".parse().unwrap()),
    ] {
        assert_eq!(kind(pair.ask(foreign)), RefusalKind::InvalidRequest);
    }
    assert!(pair.steps.is_empty() && pair.seen().is_empty());
}

#[test]
fn what_the_server_refuses_of_a_subscription_is_missing_in_the_answer() {
    let mut pair = Pair::new("d");
    let mut asked: FeatureSet = [subscription(&id("d"), Filter::Methods)].into_iter().collect();
    let filter = "devices/other/#".into();
    asked.insert(Subscription { feature: model::feature::Feature::Inputs, qos: 1, filter });
    let Ok(Answer::Subscribed(granted)) = pair.ask(DeviceRequest::Subscribe(asked)) else {
        panic!()
    };
    assert_eq!(granted.len(), 1);
    assert!(granted.has(model::feature::Feature::Methods));
}

#[test]
fn events_reach_the_client_and_their_answers_come_back() {
    let mut pair = Pair::new("d");
    let filters = [Filter::Methods, Filter::DesiredChanges, Filter::CloudToDevice];
    pair.ask(subscribe(&id("d"), &filters)).unwrap();
    pair.seen();
    let patch = TwinPatch(map(json!({"a": null, "b": 2})));
    let desired = DeviceEvent::Desired { patch, version: Version(3) };
    assert_eq!(pair.event(desired.clone()), Some(desired));

    let request = MethodRequest {
        name: "reboot".into(),
        payload: Bytes::from_static(b"{\"in\":5}"),
        response_timeout: Duration::from_secs(5),
        connect_timeout: Duration::ZERO,
    };
    let call = MethodCallId(0xbeef);
    let asked = DeviceEvent::Method { call, request: request.clone(), deadline: LATER };
    let Some(DeviceEvent::Method { call, request: got, deadline }) = pair.event(asked) else {
        panic!()
    };
    assert_eq!((&got.name, &got.payload, deadline), (&request.name, &request.payload, at(300)));
    let response = MethodResponse { status: -7, payload: Bytes::from_static(b"{}") };
    let answer = || DeviceRequest::AnswerMethod { call, response: response.clone() };
    assert_eq!(pair.ask(answer()), Ok(Answer::Accepted));
    // A second answer finds nobody, and nothing is sent.
    assert_eq!(pair.ask(answer()), Ok(Answer::Accepted));
    assert_eq!(pair.seen(), [format!("answer {} -7", 0xbeef)]);

    let mut message = Message { body: Bytes::from_static(b"down"), ..Message::default() };
    message.system.correlation_id = Some("c&c".into());
    let delivery = Delivery { token: DeliveryToken(41), message: message.clone() };
    let Some(DeviceEvent::Message(got)) = pair.event(DeviceEvent::Message(Box::new(delivery)))
    else {
        panic!()
    };
    assert_eq!(got.message, message);
    let settle = |outcome| DeviceRequest::Settle { token: got.token, outcome };
    assert_eq!(kind(pair.ask(settle(Outcome::Reject))), RefusalKind::InvalidRequest);
    assert_eq!(pair.ask(settle(Outcome::Abandon)), Ok(Answer::Accepted));
    assert!(pair.seen().is_empty(), "it stays locked at the server");
    assert_eq!(pair.ask(settle(Outcome::Complete)), Ok(Answer::Accepted));
    assert_eq!(pair.seen(), ["settle 41"]);
    // Every settlement may come twice; nothing is said twice.
    assert_eq!(pair.ask(settle(Outcome::Complete)), Ok(Answer::Accepted));
    assert!(pair.seen().is_empty());
    pair.cut(at(1));
    pair.connect(at(2));
    assert_eq!(kind(pair.ask(settle(Outcome::Complete))), RefusalKind::NotFound);
}

#[test]
fn twin_refusals_keep_their_kind_as_far_as_a_status_can_say() {
    use RefusalKind as K;
    let check = |said: K, heard: K| {
        let mut pair = Pair::new("d");
        pair.ask(DeviceRequest::ReadTwin).unwrap();
        pair.hub.refuse = Some(said);
        let refusal = pair.ask(DeviceRequest::ReadTwin).unwrap_err();
        assert_eq!((refusal.kind, &*refusal.reason), (heard, "because"), "{said:?}");
        assert_eq!(pair.ending, None);
    };
    check(K::InvalidRequest, K::InvalidRequest);
    check(K::Unauthenticated, K::Unauthenticated);
    check(K::Forbidden, K::Unauthenticated);
    check(K::DeviceNotFound, K::NotFound);
    check(K::ModuleNotFound, K::NotFound);
    check(K::NotFound, K::NotFound);
    check(K::AlreadyExists, K::AlreadyExists);
    check(K::PreconditionFailed, K::PreconditionFailed);
    check(K::TooLarge, K::TooLarge);
    check(K::QuotaExceeded, K::QuotaExceeded);
    check(K::Throttled, K::Throttled);
    check(K::TargetOffline, K::NotFound);
    check(K::TargetTimedOut, K::TimedOut);
    check(K::TimedOut, K::TimedOut);
    check(K::TakenOver, K::InvalidRequest);
    check(K::Unavailable, K::Unavailable);
    check(K::Internal, K::Internal);
}

#[test]
fn a_refused_connection_says_whether_to_try_again() {
    let check = |said: RefusalKind, heard: RefusalKind| {
        let mut pair = Pair::new("d");
        pair.cut(Tick(0));
        pair.steps.clear();
        pair.hub.open = Some(said);
        pair.connect(Tick(0));
        assert_eq!(pair.ending, Some(server::Ending::NotOpened(said)));
        let [Step::Close(Ending::Refused(refusal))] = &pair.steps[..] else { panic!() };
        assert_eq!(refusal.kind, heard);
        assert!(!pair.client.is_connected());
    };
    check(RefusalKind::Unauthenticated, RefusalKind::Unauthenticated);
    check(RefusalKind::DeviceNotFound, RefusalKind::Unauthenticated);
    check(RefusalKind::Throttled, RefusalKind::Unavailable);
    check(RefusalKind::Unavailable, RefusalKind::Unavailable);
    check(RefusalKind::Internal, RefusalKind::Unavailable);
    for (code, heard) in [
        (1, RefusalKind::InvalidRequest),
        (2, RefusalKind::InvalidRequest),
        (4, RefusalKind::Unauthenticated),
    ] {
        assert_eq!(crate::topics::status::connack_refusal(code).kind, heard);
    }
}

#[test]
fn after_a_cut_the_client_sends_telemetry_again_and_no_subscribe() {
    let mut pair = Pair::new("d");
    pair.ask(subscribe(&id("d"), &[Filter::Methods])).unwrap();
    pair.ask(DeviceRequest::ReadTwin).unwrap();
    pair.hub.silent = true;
    let one = pair.request(telemetry("one"));
    let twin = pair.request(DeviceRequest::ReadTwin);
    let two = pair.request(telemetry("two"));
    pair.run(at(1));
    pair.seen();
    pair.cut(at(2));
    assert_eq!(pair.answer(twin).map(kind), Some(RefusalKind::TimedOut));
    let three = pair.request(telemetry("three"));
    let read = pair.request(DeviceRequest::ReadTwin);
    assert_eq!((pair.answer(one), pair.answer(three)), (None, None));
    pair.hub.silent = false;
    pair.steps.clear();
    pair.connect(at(3));
    assert!(matches!(pair.steps.remove(0), Step::Connected { resumed: true }));
    assert_eq!(pair.seen(), ["telemetry one", "telemetry two", "telemetry three", "read"]);
    for name in [one, two, three] {
        assert_eq!(pair.answer(name), Some(Ok(Answer::Accepted)));
    }
    assert!(matches!(pair.answer(read), Some(Ok(Answer::Twin(_)))));
}

#[test]
fn telemetry_sent_again_is_marked_and_keeps_its_packet_id() {
    let mut pair = Pair::new("d");
    pair.hub.silent = true;
    pair.request(telemetry("x"));
    let publish = |pair: &mut Pair| {
        while pair.client.poll(Tick(0)).is_some() {}
        let bytes = pair.client.output().to_vec();
        pair.client.handle_written(bytes.len());
        bytes
    };
    let first = publish(&mut pair);
    pair.client.handle_disconnected();
    pair.client.connect(Tick(0), &Login::default()).unwrap();
    publish(&mut pair);
    pair.client.handle_bytes(Tick(0), &[0x20, 2, 1, 0]);
    let again = publish(&mut pair);
    assert_eq!((first[0], again[0]), (0x32, 0x3a));
    assert_eq!(first[1..], again[1..]);
}

#[test]
fn what_was_lost_on_the_way_comes_before_what_was_never_sent() {
    let mut pair = Pair::new("d");
    pair.client.options.window = 2;
    for number in 1..=4 {
        pair.request(telemetry(&number.to_string()));
    }
    assert!(pair.client.poll(at(1)).is_none());
    assert_eq!(pair.client.pending.len(), 2);
    pair.cut(at(1));
    pair.connect(at(2));
    assert_eq!(pair.seen(), ["telemetry 1", "telemetry 2", "telemetry 3", "telemetry 4"]);
}

#[test]
fn a_packet_id_is_not_given_out_while_telemetry_waits_under_it() {
    let mut pair = Pair::new("d");
    pair.ask(subscribe(&id("d"), &[Filter::Methods])).unwrap();
    pair.hub.silent = true;
    pair.request(telemetry("x"));
    pair.run(at(1));
    pair.hub.forgetful = true;
    pair.cut(at(2));
    // As after 65,535 packets: the next id in line is the one in flight.
    pair.client.last_packet -= 1;
    pair.connect(at(3));
    let ids: Vec<_> = pair.client.pending.iter().map(|one| one.awaits.packet()).collect();
    assert_eq!(ids, [PacketId::new(3), PacketId::new(2)]);
}

#[test]
fn a_server_that_forgot_gets_the_subscriptions_again() {
    let mut pair = Pair::new("d");
    pair.ask(subscribe(&id("d"), &[Filter::Methods, Filter::DesiredChanges])).unwrap();
    pair.seen();
    pair.hub.forgetful = true;
    pair.cut(at(1));
    pair.connect(at(2));
    assert_eq!(pair.seen(), ["subscribe 2"]);
    assert_eq!(pair.client.features().len(), 2);
    // Cut before the SUBACK: it is said again, even if the server then claims to know us.
    pair.hub.silent = true;
    pair.cut(at(3));
    pair.connect(at(4));
    assert_eq!(pair.seen(), ["subscribe 2"]);
    pair.hub.silent = false;
    pair.hub.forgetful = false;
    pair.cut(at(5));
    pair.connect(at(6));
    assert_eq!(pair.seen(), ["subscribe 2"]);
    assert_eq!(pair.client.features().len(), 2);
    pair.cut(at(7));
    pair.connect(at(8));
    assert!(pair.seen().is_empty());
}

#[test]
fn what_was_not_sent_outlives_a_failed_connection() {
    let mut pair = Pair::new("d");
    pair.cut(at(1));
    let read = pair.request(DeviceRequest::ReadTwin);
    let token = DeliveryToken(1);
    let settle = pair.request(DeviceRequest::Settle { token, outcome: Outcome::Complete });
    pair.hub.open = Some(RefusalKind::Unavailable);
    pair.connect(at(2));
    pair.cut(at(3));
    assert_eq!(pair.answer(read), None);
    pair.hub.open = None;
    pair.connect(at(4));
    assert!(matches!(pair.answer(read), Some(Ok(Answer::Twin(_)))));
    assert_eq!(pair.answer(settle).map(kind), Some(RefusalKind::NotFound));
}

#[test]
fn features_known_from_an_earlier_session_count_only_if_the_server_knows_them_too() {
    let who = id("d");
    let known = [Filter::TwinAnswers, Filter::Methods].map(|one| subscription(&who, one));
    let known: FeatureSet = known.into_iter().collect();
    let check = |forgetful, expected: &[&str]| {
        let mut pair = Pair::new("d");
        pair.hub.features = known.clone();
        pair.hub.forgetful = forgetful;
        pair.client = Session::resume(Options::new(who.clone(), "h"), known.clone());
        pair.connect(Tick(0));
        pair.ask(DeviceRequest::ReadTwin).unwrap();
        assert_eq!(pair.seen(), expected);
    };
    check(false, &["read"]);
    check(true, &["subscribe 1", "read"]);
}

#[test]
fn window_and_queue_are_bounded_and_the_order_is_kept() {
    let mut pair = Pair::new("d");
    pair.client.options.window = 3;
    pair.client.options.queue = 4;
    pair.hub.silent = true;
    for at in 0..3 {
        pair.request(telemetry(&at.to_string()));
    }
    pair.run(Tick(0));
    for at in 3..7 {
        pair.request(telemetry(&at.to_string()));
    }
    pair.run(Tick(0));
    assert_eq!(pair.client.room(), 0);
    let full = pair.client.request(Tick(0), RequestId(99), DeviceRequest::ReadTwin, LATER);
    assert!(matches!(full, Err(Full(DeviceRequest::ReadTwin))));
    assert_eq!(pair.seen(), ["telemetry 0", "telemetry 1", "telemetry 2"]);
    pair.hub.silent = false;
    for _ in 0..3 {
        pair.server.handle_answer(now(Tick(0)), Ok(Answer::Accepted));
    }
    pair.run(Tick(0));
    let rest: Vec<String> = (3..7).map(|at| format!("telemetry {at}")).collect();
    assert_eq!(pair.seen(), rest);
    assert_eq!(pair.client.room(), 4);
    assert_eq!(
        pair.steps.iter().filter(|s| matches!(s, Step::Answer { answer: Ok(_), .. })).count(),
        7
    );
}

#[test]
fn output_that_nobody_writes_holds_further_requests_back() {
    let mut pair = Pair::new("d");
    let body = "x".repeat(100 * 1024);
    for _ in 0..5 {
        let body = Bytes::from(body.clone());
        let message = Message { body, ..Message::default() };
        pair.request(DeviceRequest::SendTelemetry(Box::new(message)));
    }
    assert!(pair.client.poll(Tick(0)).is_none());
    assert_eq!(pair.client.pending.len(), 3);
    pair.run(Tick(0));
    assert_eq!(pair.seen().len(), 5);
}

#[test]
fn what_waits_too_long_is_answered() {
    let mut pair = Pair::new("d");
    pair.hub.silent = true;
    let sent = pair.request(telemetry("sent"));
    pair.run(Tick(0));
    pair.client.options.window = 1;
    let waiting = pair.request(telemetry("waiting"));
    let settle = pair.request(DeviceRequest::ReadTwin);
    pair.run(Tick(0));
    assert_eq!(pair.client.poll_timeout(), at(45));
    pair.client.handle_timeout(at(49));
    pair.client.handle_bytes(at(49), &[0xd0, 0]);
    assert_eq!(pair.client.poll_timeout(), LATER);
    pair.client.handle_timeout(LATER);
    pair.run(LATER);
    assert_eq!(pair.answer(sent).map(kind), Some(RefusalKind::TimedOut));
    assert_eq!(pair.answer(waiting).map(kind), Some(RefusalKind::Unavailable));
    assert_eq!(pair.answer(settle).map(kind), Some(RefusalKind::Unavailable));
    assert!(pair.client.is_connected());
}

#[test]
fn an_idle_client_pings_and_gives_a_silent_server_up() {
    let mut pair = Pair::new("d");
    pair.steps.clear();
    for round in 1..4 {
        let due = pair.client.poll_timeout();
        assert_eq!(due, at(45 * round));
        pair.client.handle_timeout(due);
        pair.run(due);
    }
    assert!(pair.steps.is_empty());
    let due = pair.client.poll_timeout();
    pair.client.handle_timeout(due);
    assert_eq!(pair.client.output(), [0xc0, 0]);
    assert_eq!(pair.client.poll_timeout(), due.after(PING_TIMEOUT));
    pair.client.handle_timeout(due.after(PING_TIMEOUT));
    assert!(matches!(pair.client.poll(due), Some(Step::Close(Ending::Silent))));
    // Talking does not prove that somebody listens, nor does listening keep us known.
    let mut pair = Pair::new("d");
    pair.hub.silent = true;
    pair.request(telemetry("x"));
    pair.run(at(40));
    assert_eq!(pair.client.poll_timeout(), at(45));
    let mut pair = Pair::new("d");
    pair.client.handle_bytes(at(40), &[0xd0, 0]);
    assert_eq!(pair.client.poll_timeout(), at(45));
    let mut client = Session::new(Options::new(id("d"), "h"));
    assert_eq!(client.poll_timeout(), Tick::NEVER);
    client.connect(at(5), &Login::default()).unwrap();
    let due = at(5).after(CONNACK_TIMEOUT);
    assert_eq!(client.poll_timeout(), due);
    client.handle_timeout(due);
    assert!(matches!(client.poll(due), Some(Step::Close(Ending::Silent))));
}

#[test]
fn a_goodbye_discards_the_will_and_a_cut_publishes_it() {
    let check = |asked: bool| {
        let mut pair = Pair::new("d");
        pair.cut(Tick(0));
        pair.server = server::Session::new(Tick(0));
        let will = Message { body: Bytes::from_static(b"bye"), ..Message::default() };
        let login =
            Login { will: Some(Box::new(will)), password: Some("t".into()), ..Login::default() };
        pair.client.connect(Tick(0), &login).unwrap();
        pair.run(Tick(0));
        if asked {
            pair.steps.clear();
            pair.client.disconnect();
            pair.run(Tick(0));
            assert!(matches!(pair.steps[..], [Step::Close(Ending::Asked)]));
            assert_eq!(pair.ending, Some(server::Ending::Asked));
        }
        pair.server.leave()
    };
    assert_eq!(check(true), Leave::Asked);
    let Leave::Lost { will: Some(will) } = check(false) else { panic!() };
    assert_eq!(&will.body[..], b"bye");
}

#[test]
fn what_is_too_long_for_the_wire_is_refused_before_it_is_sent() {
    let mut pair = Pair::new("d");
    let long = "x".repeat(model::message::MESSAGE_BYTES_MAX + 1);
    assert_eq!(kind(pair.ask(telemetry(&long))), RefusalKind::TooLarge);
    let properties = PropertyBag::from_pairs([("k", &*"v".repeat(70_000))]);
    let message = Message { properties, ..Message::default() };
    let wide = DeviceRequest::SendTelemetry(Box::new(message));
    assert_eq!(kind(pair.ask(wide)), RefusalKind::TooLarge);
    // The limit is on the body and on names and values, however they are encoded: `k` and `+`.
    for (spare, fits) in [(2, true), (1, false)] {
        let body = vec![b'x'; model::message::MESSAGE_BYTES_MAX - spare].into();
        let properties = PropertyBag(Bytes::from_static(b"k=+"));
        let message = Message { body, properties, ..Message::default() };
        let answer = pair.ask(DeviceRequest::SendTelemetry(Box::new(message)));
        assert_eq!(answer.is_ok(), fits, "{spare}");
    }
    pair.seen();
    let filter: Box<str> = "f".repeat(outgoing::TEXT_BYTES_MAX + 1).into();
    assert_eq!(
        kind(pair.ask(DeviceRequest::Unsubscribe(vec![filter]))),
        RefusalKind::InvalidRequest
    );
    let patch = TwinPatch(map(json!({ "k": long })));
    let patch = DeviceRequest::PatchReported { patch, if_version: None };
    assert_eq!(kind(pair.ask(patch)), RefusalKind::TooLarge);
    assert_eq!(pair.seen(), ["subscribe 1"]);
    let login = Login { password: Some(Secret::new(vec![b'x'; 70_000])), ..Login::default() };
    let refused = pair.client.connect(Tick(0), &login).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::InvalidRequest);
}

#[test]
fn a_gateway_logs_in_for_a_child() {
    let mut pair = Pair::new("child");
    let auth_chain = vec![id("child"), id("gateway"), id("gateway/$edgeHub")];
    let login = Login { auth_chain: auth_chain.clone(), ..Login::default() };
    pair.server = server::Session::new(Tick(0));
    pair.client.connect(Tick(0), &login).unwrap();
    pair.run(Tick(0));
    assert_eq!(pair.hub.user.unwrap().auth_chain, auth_chain);
}

#[test]
fn what_comes_at_quality_1_is_acknowledged_at_once_unless_it_is_a_message() {
    let say = |pair: &mut Pair, topic: &str, body: &[u8], dup: bool| {
        let (qos, id) = (Qos::AtLeastOnce, PacketId::new(7));
        let mut bytes = BytesMut::new();
        let publish = packet::Publish { topic, body, qos, id, dup, retain: false };
        packet::encode(&Packet::Publish(publish), &mut bytes);
        pair.client.handle_bytes(Tick(0), &bytes);
        let mut events = 0;
        while let Some(step) = pair.client.poll(Tick(0)) {
            events += usize::from(matches!(step, Step::Event(_)));
        }
        let written = pair.client.output().to_vec();
        pair.client.handle_written(written.len());
        (events, written)
    };
    let mut pair = Pair::new("d");
    let acknowledged = vec![0x40, 2, 0, 7];
    let topic = "$iothub/twin/PATCH/properties/desired/?$version=1";
    assert_eq!(say(&mut pair, topic, b"{\"$version\":1}", false), (1, acknowledged.clone()));
    let topic = "$iothub/methods/POST/m/?$rid=1";
    assert_eq!(say(&mut pair, topic, b"", false), (1, acknowledged));
    let topic = "devices/d/messages/devicebound/";
    assert_eq!(say(&mut pair, topic, b"", false), (1, vec![]));
    // The same once more is not a second message while the first is being worked on.
    assert_eq!(say(&mut pair, topic, b"", true), (0, vec![]));
}

#[test]
fn what_no_hub_says_ends_the_connection() {
    let publish = |topic: &'static str, body: &'static [u8], qos| {
        let id = (qos != Qos::AtMostOnce).then_some(PacketId::MIN);
        Packet::Publish(packet::Publish { topic, body, qos, id, dup: false, retain: false })
    };
    let bad = [
        Packet::PingReq,
        Packet::ConnAck { session_present: false, code: 0 },
        publish("devices/other/messages/devicebound/", b"", Qos::AtMostOnce),
        publish("$iothub/twin/PATCH/properties/desired/?$version=1", b"[]", Qos::AtMostOnce),
        publish("devices/d/messages/devicebound/", b"", Qos::ExactlyOnce),
    ];
    for packet in bad {
        let mut pair = Pair::new("d");
        pair.steps.clear();
        let mut bytes = BytesMut::new();
        packet::encode(&packet, &mut bytes);
        pair.client.handle_bytes(Tick(0), &bytes);
        let step = pair.client.poll(Tick(0));
        assert!(matches!(step, Some(Step::Close(Ending::Protocol(_)))), "{packet:?} {step:?}");
        assert!(pair.client.poll(Tick(0)).is_none());
    }
}

#[test]
fn more_unsettled_messages_than_can_be_held_end_the_connection() {
    let mut pair = Pair::new("d");
    let mut bytes = BytesMut::new();
    let topic = "devices/d/messages/devicebound/";
    let one = packet::Publish {
        topic,
        body: b"",
        qos: Qos::AtMostOnce,
        id: None,
        dup: false,
        retain: false,
    };
    packet::encode(&Packet::Publish(one), &mut bytes);
    for _ in 0..HELD_MAX {
        pair.client.handle_bytes(Tick(0), &bytes);
    }
    assert!(pair.client.steps.iter().all(|one| !matches!(one, Step::Close(_))));
    pair.client.handle_bytes(Tick(0), &bytes);
    assert!(matches!(pair.client.steps.back(), Some(Step::Close(Ending::Protocol(_)))));
}

#[test]
fn the_oldest_of_too_many_method_calls_is_forgotten() {
    let mut pair = Pair::new("d");
    pair.ask(subscribe(&id("d"), &[Filter::Methods])).unwrap();
    pair.seen();
    let mut first = None;
    for number in 0..=CALLS_MAX {
        let request = MethodRequest {
            name: "m".into(),
            payload: Bytes::new(),
            response_timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
        };
        let call = MethodCallId(number as u64);
        let event = pair.event(DeviceEvent::Method { call, request, deadline: LATER });
        let Some(DeviceEvent::Method { call, .. }) = event else { panic!() };
        first.get_or_insert(call);
    }
    let response = MethodResponse { status: 1, payload: Bytes::new() };
    let answer = DeviceRequest::AnswerMethod { call: first.unwrap(), response };
    assert_eq!(pair.ask(answer), Ok(Answer::Accepted));
    assert!(pair.seen().is_empty());
}

#[test]
fn a_session_closed_by_the_server_tells_nothing_but_breaks_off() {
    let mut pair = Pair::new("d");
    pair.server.handle_event(DeviceEvent::Closed(CloseReason::TakenOver));
    pair.run(Tick(0));
    assert_eq!(pair.ending, Some(server::Ending::Closed(CloseReason::TakenOver)));
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let mut pair = Pair::new("d");
    for _ in 0..10 {
        pair.ask(telemetry("x")).unwrap();
    }
    let Session { rest, output, steps, queue, .. } = &pair.client;
    let held = rest.capacity() + output.capacity() + steps.capacity() + queue.capacity();
    assert_eq!(held, 0);
}

fn packetish() -> impl Strategy<Value = Vec<u8>> {
    let soup = proptest::collection::vec(any::<u8>(), 0..64);
    let framed = (0_u8..16, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(kind, flags, body)| {
            let flags = if flags & 0x30 == 0 { flags & 0xf } else { flags & 0x3 & kind };
            let mut bytes = vec![kind << 4 | flags, u8::try_from(body.len()).unwrap()];
            bytes.extend(body);
            bytes
        },
    );
    let topics = [
        "$iothub/twin/res/200/?$rid=1&$version=2",
        "$iothub/twin/res/x/?$rid=",
        "$iothub/methods/POST/m/?$rid=a",
        "$iothub/methods/res/200/?$rid=0",
        "$iothub/twin/GET/?$rid=1",
        "$iothub/twin/PATCH/properties/reported/?$rid=1",
        "$iothub/twin/PATCH/properties/desired/?$version=1",
        "devices/d/messages/events/a=b&%24.mid=1",
        "devices/d/messages/devicebound/%24.mid=1",
    ];
    let bodies: [&[u8]; 4] = [b"", b"{}", b"{\"$version\":3}", b"\xff\0"];
    let publish =
        (0..topics.len(), 0..bodies.len(), 0_u16..4).prop_map(move |(topic, body, id)| {
            let id = PacketId::new(id);
            let qos = if id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
            let (topic, body) = (topics[topic], bodies[body]);
            let mut bytes = BytesMut::new();
            let publish = packet::Publish { topic, body, qos, id, dup: false, retain: false };
            packet::encode(&Packet::Publish(publish), &mut bytes);
            bytes.to_vec()
        });
    let small = (any::<bool>(), 1_u16..4, any::<bool>()).prop_map(|(ack, id, odd)| {
        let id = PacketId::new(id).unwrap();
        let mut bytes = BytesMut::new();
        let codes: &[u8] = if odd { &[0, 0x80] } else { &[1] };
        let packet = if ack { Packet::PubAck(id) } else { Packet::SubAck { id, codes } };
        packet::encode(&packet, &mut bytes);
        bytes.to_vec()
    });
    prop_oneof![soup, framed, publish, small]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_make_the_client_panic(
        parts in proptest::collection::vec(packetish(), 0..12),
        cut in any::<bool>(),
    ) {
        let mut pair = Pair::new("d");
        pair.hub.silent = true;
        for request in [telemetry("t"), subscribe(&id("d"), &[Filter::Methods]), DeviceRequest::ReadTwin] {
            pair.request(request);
        }
        for (tick, part) in parts.iter().enumerate() {
            let tick = at(tick as u64);
            pair.client.handle_bytes(tick, part);
            while pair.client.poll(tick).is_some() {}
            pair.client.handle_timeout(tick);
        }
        if cut {
            pair.client.handle_disconnected();
            pair.client.connect(at(99), &Login::default()).unwrap();
            while pair.client.poll(at(99)).is_some() {}
        }
    }

    #[test]
    fn arbitrary_bytes_never_make_the_server_panic(
        parts in proptest::collection::vec(packetish(), 0..12),
        open in any::<bool>(),
    ) {
        let mut pair = Pair::new("d");
        if open {
            pair.ask(DeviceRequest::ReadTwin).unwrap();
            pair.ask(subscribe(&id("d"), &[Filter::Methods, Filter::CloudToDevice])).unwrap();
        } else {
            pair.server = server::Session::new(Tick(0));
        }
        for (tick, part) in parts.iter().enumerate() {
            let tick = at(tick as u64);
            pair.server.handle_bytes(tick, part);
            while let Some(step) = pair.server.poll(now(tick)) {
                pair.handle_server(tick, step);
            }
            pair.server.handle_timeout(tick);
        }
    }

    #[test]
    fn every_request_is_answered_exactly_once_however_often_the_connection_breaks(
        script in proptest::collection::vec(0_u8..6, 1..60),
    ) {
        let mut pair = Pair::new("d");
        let (mut asked, mut telemetries) = (Vec::new(), Vec::new());
        for (tick, action) in script.into_iter().enumerate() {
            let tick = Tick(tick as u64);
            match action {
                0 | 1 => {
                    let name = pair.request(telemetry(&pair.next.to_string()));
                    telemetries.push(name);
                }
                2 => asked.push(pair.request(DeviceRequest::ReadTwin)),
                3 => pair.hub.silent = !pair.hub.silent,
                4 => pair.run(tick),
                _ => {
                    pair.cut(tick);
                    pair.connect(tick);
                }
            }
        }
        pair.hub.silent = false;
        pair.cut(Tick(100));
        pair.connect(Tick(100));
        for name in telemetries {
            prop_assert_eq!(pair.answer(name), Some(Ok(Answer::Accepted)));
            prop_assert_eq!(pair.answer(name), None);
        }
        for name in asked {
            prop_assert!(pair.answer(name).is_some());
            prop_assert_eq!(pair.answer(name), None);
        }
        // Nothing was lost, and first arrivals came in order.
        let mut first = Vec::new();
        for word in pair.seen().into_iter().filter_map(|word| Some(word.strip_prefix("telemetry ")?.parse::<u64>().unwrap())) {
            if !first.contains(&word) {
                first.push(word);
            }
        }
        prop_assert!(first.is_sorted(), "{:?}", first);
    }
}
