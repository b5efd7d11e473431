use model::feature::Feature;
use model::method::{MethodCallId, MethodRequest};
use model::model_id::MODEL_ID_BYTES_MAX;
use model::twin::Version;
use model::waist::{BATCH_BYTES_MAX, Delivery};

use super::*;
use crate::mqtt::packet::Will;

const SECOND: u64 = 1_000_000_000;

fn bytes_of(packets: &[Packet<'_>]) -> BytesMut {
    let mut out = BytesMut::new();
    for one in packets {
        packet::encode(one, &mut out);
    }
    out
}

fn connect(client_id: &str) -> Packet<'_> {
    Packet::Connect(packet::Connect {
        client_id,
        clean: false,
        keep_alive: 60,
        will: None,
        user_name: Some("hub/d/?api-version=1"),
        password: Some(b"t"),
    })
}

fn publish<'a>(topic: &'a str, id: u16, body: &'a [u8]) -> Packet<'a> {
    let (qos, id) = (Qos::AtLeastOnce, PacketId::new(id));
    Packet::Publish(Publish { topic, body, qos, id, dup: false, retain: false })
}

fn open(features: &FeatureSet) -> Session {
    let mut session = Session::new(Tick(0));
    session.handle_bytes(Tick(0), &bytes_of(&[connect("d")]));
    assert!(matches!(session.poll(Now::default()), Some(Step::Connect(_))));
    session.handle_opened(Tick(0), true, features);
    assert_eq!(
        written(&mut session),
        bytes_of(&[Packet::ConnAck { session_present: true, code: 0 }])
    );
    session
}

fn written(session: &mut Session) -> Vec<u8> {
    let bytes = session.output().to_vec();
    session.handle_written(bytes.len());
    bytes
}

/// Runs the session until it rests; answers every request; gives bodies seen and the ending.
fn run(session: &mut Session) -> (Vec<Bytes>, Option<Ending>) {
    let mut bodies = Vec::new();
    while let Some(step) = session.poll(Now::default()) {
        match step {
            Step::Connect(_) => session.handle_opened(Tick(0), false, &FeatureSet::new()),
            Step::Close(ending) => return (bodies, Some(ending)),
            Step::Submit(Batch(requests)) => {
                for request in requests {
                    let answer = match request {
                        DeviceRequest::SendTelemetry(message) => {
                            bodies.push(message.body);
                            Answer::Accepted
                        }
                        DeviceRequest::PatchReported { .. } => Answer::Patched(Version(4)),
                        DeviceRequest::Subscribe(features) => Answer::Subscribed(features),
                        _ => Answer::Accepted,
                    };
                    session.handle_answer(Now::default(), Ok(answer));
                }
            }
        }
    }
    (bodies, None)
}

#[test]
fn a_message_with_properties_that_nobody_can_read_costs_neither_itself_nor_the_connection() {
    let mut session = open(&FeatureSet::new());
    let bags = ["%24.exp=1795844700000", "a=%zz&b=%ff", "=x", "%24.mid=a&%24.mid=b", "k=v"];
    let (mut lost, mut acknowledged) = (0, Vec::new());
    for (at, bag) in bags.into_iter().enumerate() {
        let topic = format!("devices/d/messages/events/{bag}");
        let id = u16::try_from(at + 1).unwrap();
        session.handle_bytes(Tick(1), &bytes_of(&[publish(&topic, id, bag.as_bytes())]));
        lost += session.take_lost_properties();
        assert_eq!(run(&mut session), (vec![Bytes::from(bag)], None), "{bag}");
        acknowledged.extend(written(&mut session));
    }
    let all: Vec<_> = (1..=5).map(|id| Packet::PubAck(PacketId::new(id).unwrap())).collect();
    assert_eq!(acknowledged, bytes_of(&all));
    assert_eq!((lost, session.take_lost_properties()), (2, 0));
}

#[test]
fn a_model_id_is_announced_first_and_a_bad_one_costs_only_itself() {
    let long = format!("dtmi%3A{}%3B1", "a".repeat(MODEL_ID_BYTES_MAX));
    let thermostat = "dtmi:com:example:Thermostat;1";
    let table = [
        ("&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1", Some(thermostat), None),
        ("&DeviceClientType=x&MODEL-ID=dtmi:com:example:Thermostat;1", Some(thermostat), None),
        ("", None, None),
        ("&model-id=", None, None),
        ("&model-id=Thermostat", None, Some(InvalidModelId::Syntax)),
        ("&model-id=dtmi%3Aa%3B1%00", None, Some(InvalidModelId::Syntax)),
        ("&model-id=%ff%zz", None, Some(InvalidModelId::Syntax)),
        (&format!("&model-id={long}"), None, Some(InvalidModelId::TooLong)),
    ];
    for (query, model, fault) in table {
        let name = format!("hub/d/?api-version=2021-04-12{query}");
        let Packet::Connect(plain) = connect("d") else { panic!() };
        let packet = Packet::Connect(packet::Connect { user_name: Some(&name), ..plain });
        let mut session = Session::new(Tick(0));
        let sent = publish("devices/d/messages/events/", 1, b"x");
        session.handle_bytes(Tick(0), &bytes_of(&[packet, sent]));
        assert!(matches!(session.poll(Now::default()), Some(Step::Connect(_))), "{query}");
        session.handle_opened(Tick(0), false, &FeatureSet::new());
        let Some(Step::Submit(Batch(first))) = session.poll(Now::default()) else { panic!() };
        let mut asked = first.into_iter();
        let announced = model.and_then(|_| asked.next());
        assert_eq!(
            announced.map(|one| format!("{one:?}")),
            model.map(|id| format!("{:?}", DeviceRequest::AnnounceModel(id.parse().unwrap()))),
        );
        let rest = asked.next().unwrap_or_else(|| batch(&mut session).remove(0));
        let DeviceRequest::SendTelemetry(message) = rest else { panic!("{query}: {rest:?}") };
        assert_eq!(message.system.model_id.as_deref(), model, "{query}");
        assert_eq!((session.take_model_fault(), session.take_model_fault()), (fault, None));
        // Nobody is told of the announcement: the first acknowledgement is the message's.
        written(&mut session);
        if model.is_some() {
            let refused = Refusal::new(RefusalKind::Unavailable, "the disk is full");
            session.handle_answer(Now::default(), Err(refused));
            assert_eq!(written(&mut session), b"", "{query}");
        }
        session.handle_answer(Now::default(), Ok(Answer::Accepted));
        let acknowledged = Packet::PubAck(PacketId::new(1).unwrap());
        assert_eq!(written(&mut session), bytes_of(&[acknowledged]), "{query}");
    }
}

#[test]
fn a_restored_subscription_works_without_a_subscribe() {
    let filter = "$iothub/twin/res/#".into();
    let restored = Subscription { feature: Feature::TwinAnswers, qos: 1, filter };
    let mut session = open(&[restored].into_iter().collect());
    let topic = "$iothub/twin/PATCH/properties/reported/?$rid=r";
    let bad = publish(topic, 2, b"[1]");
    session.handle_bytes(Tick(1), &bytes_of(&[publish(topic, 1, b"{\"a\":1}"), bad]));
    assert_eq!(run(&mut session), (vec![], None));
    let text = String::from_utf8_lossy(&written(&mut session)).into_owned();
    assert!(text.starts_with("@\x02\0\x01"), "{text:?}");
    assert!(text.contains("$iothub/twin/res/204/?$rid=r&$version=4@\x02\0\x02"), "{text:?}");
    assert!(text.contains("$iothub/twin/res/400/?$rid=r{\"errorCode\":400004"), "{text:?}");
}

#[test]
fn bytes_may_be_split_anywhere_and_acknowledgements_keep_the_order() {
    let topic = "devices/d/messages/events/";
    let mut packets = vec![connect("d")];
    packets.extend((1..4).map(|id| publish(topic, id, b"body")));
    let foreign = [("a/#", Qos::AtMostOnce), ("$iothub/methods/POST/#", Qos::ExactlyOnce)];
    let subscribe = Packet::Subscribe { id: PacketId::MIN, filters: foreign.to_vec() };
    packets.extend([subscribe, Packet::PingReq]);
    let bytes = bytes_of(&packets);
    let acks = (1..4).map(|id| Packet::PubAck(PacketId::new(id).unwrap()));
    for at in 0..bytes.len() {
        let mut session = Session::new(Tick(0));
        let (mut bodies, mut seen) = (Vec::new(), Vec::new());
        for part in [&bytes[..at], &bytes[at..]] {
            session.handle_bytes(Tick(0), part);
            bodies.extend(run(&mut session).0);
            seen.extend(written(&mut session));
        }
        assert_eq!(bodies, vec!["body"; 3]);
        let seen = String::from_utf8_lossy(&seen).into_owned();
        let find = |one: &Packet<'_>| {
            let bytes = bytes_of(std::slice::from_ref(one));
            seen.find(&*String::from_utf8_lossy(&bytes)).expect("sent")
        };
        let places: Vec<_> = acks.clone().map(|ack| find(&ack)).collect();
        assert!(places.is_sorted(), "split at {at}: {places:?}");
        find(&Packet::SubAck { id: PacketId::MIN, codes: &[0x80, 1] });
        find(&Packet::PingResp);
    }
}

#[test]
fn what_azure_does_not_allow_ends_the_connection() {
    for bad in [
        publish("devices/e/messages/events/", 1, b""),
        connect("d"),
        Packet::PingResp,
        Packet::PubRec(PacketId::MIN),
    ] {
        let mut session = open(&FeatureSet::new());
        session.handle_bytes(Tick(1), &bytes_of(&[bad]));
        assert!(matches!(run(&mut session).1, Some(Ending::Protocol(_))));
    }
    let mut session = Session::new(Tick(0));
    session.handle_bytes(Tick(0), &bytes_of(&[connect("other")]));
    assert!(matches!(run(&mut session).1, Some(Ending::Protocol(_))));
    assert_eq!(written(&mut session), [0x20, 2, 0, 5]);
}

#[test]
fn silence_ends_the_connection_after_one_and_a_half_keep_alives() {
    let mut session = open(&FeatureSet::new());
    assert_eq!(session.poll_timeout(), Tick(90 * SECOND));
    session.handle_timeout(Tick(90 * SECOND - 1));
    assert!(session.poll(Now::default()).is_none());
    session.handle_timeout(Tick(90 * SECOND));
    assert_eq!(run(&mut session).1, Some(Ending::KeepAlive));
    assert_eq!(Session::new(Tick(0)).poll_timeout(), Tick(30 * SECOND));
}

#[test]
fn a_client_without_keep_alive_may_be_silent_for_so_long_and_no_longer() {
    let Packet::Connect(asked) = connect("d") else { panic!() };
    let asked = packet::Connect { keep_alive: 0, ..asked };
    let mut session = Session::new(Tick(0));
    session.handle_bytes(Tick(0), &bytes_of(&[Packet::Connect(asked)]));
    assert_eq!(run(&mut session).1, None);
    let most = Tick(0).after(SILENCE_MAX);
    assert_eq!(session.poll_timeout(), most);
    session.handle_timeout(most);
    assert_eq!(run(&mut session).1, Some(Ending::KeepAlive));
}

#[test]
fn answers_wait_where_they_were_made_while_the_peer_leaves_its_output_unread() {
    let mut session = open(&subscribed(&[Filter::TwinAnswers]));
    let read = publish("$iothub/twin/GET/?$rid=1", 1, b"");
    session.handle_bytes(Tick(0), &bytes_of(&vec![read; 100]));
    let value = serde_json::json!("x".repeat(100 * 1024));
    let twin = || {
        let mut twin = model::twin::TwinDocument::default();
        twin.desired.insert("k".into(), value.clone());
        Ok(Answer::Twin(Box::new(twin)))
    };
    let (mut asked, mut answered) = (0, 0);
    while let Some(Step::Submit(Batch(requests))) = session.poll(Now::default()) {
        assert!(
            requests.len() <= BATCH_BYTES_MAX / ANSWER_BYTES as usize,
            "{} reads",
            requests.len()
        );
        asked += requests.len();
        while answered < asked && session.wants_answers() {
            session.handle_answer(Now::default(), twin());
            answered += 1;
        }
    }
    assert!(answered < asked && asked < 100, "{answered} of {asked}");
    let most = OUTPUT_BYTES_MAX + 101 * 1024;
    assert!(session.output().len() < most, "{} bytes wait", session.output().len());
    written(&mut session);
    assert!(session.wants_answers());
}

#[test]
fn a_request_id_has_a_length_for_it_is_kept() {
    let topic = |len| format!("$iothub/twin/GET/?$rid={}", "r".repeat(len));
    let mut session = open(&FeatureSet::new());
    session.handle_bytes(Tick(0), &bytes_of(&[publish(&topic(RID_BYTES_MAX), 1, b"")]));
    assert_eq!(batch(&mut session).len(), 1);
    session.handle_bytes(Tick(0), &bytes_of(&[publish(&topic(RID_BYTES_MAX + 1), 1, b"")]));
    assert!(matches!(ended(&mut session), Some(Ending::Protocol(_))));
}

#[test]
fn only_packets_that_become_requests_are_charged() {
    let mut session = open(&FeatureSet::new());
    let one = publish("devices/d/messages/events/", 1, b"body");
    let len = bytes_of(std::slice::from_ref(&one)).len();
    for _ in 0..1000 {
        session.handle_bytes(Tick(0), &bytes_of(&[Packet::PingReq]));
        written(&mut session);
    }
    session.handle_bytes(Tick(0), &bytes_of(&[one, Packet::PingReq]));
    assert_eq!(batch(&mut session).len(), 1);
    assert_eq!((session.take_charge(), session.take_charge()), (len, 0));
}

#[test]
fn an_idle_session_is_small_and_holds_no_buffer() {
    assert!(size_of::<Session>() <= 400, "{} bytes", size_of::<Session>());
    let mut session = open(&FeatureSet::new());
    let part = publish("devices/d/messages/events/", 1, b"body");
    session.handle_bytes(Tick(0), &bytes_of(&[part]));
    run(&mut session);
    written(&mut session);
    let held = session.rest.capacity() + session.output.capacity() + session.owed.capacity();
    assert_eq!((held, session.batch.capacity()), (0, 0));
}

fn subscribed(filters: &[Filter]) -> FeatureSet {
    let who: IdentityId = "d".parse().unwrap();
    let one = |filter: &Filter| Subscription {
        feature: filter.feature(),
        qos: 1,
        filter: filter.text(&who).unwrap(),
    };
    filters.iter().map(one).collect()
}

/// The requests of the next batch.
fn batch(session: &mut Session) -> Vec<DeviceRequest> {
    match session.poll(Now::default()) {
        Some(Step::Submit(Batch(requests))) => requests,
        other => panic!("{other:?}"),
    }
}

fn ended(session: &mut Session) -> Option<Ending> {
    match session.poll(Now::default()) {
        Some(Step::Close(ending)) => Some(ending),
        _ => None,
    }
}

fn message(token: u64) -> DeviceEvent {
    let message = Message { body: Bytes::from_static(b"down"), ..Message::default() };
    DeviceEvent::Message(Box::new(Delivery { token: DeliveryToken(token), message }))
}

#[test]
fn what_a_device_is_not_told_for_want_of_a_value_is_counted() {
    let filter = "devices/d/messages/devicebound/#".into();
    let bound = Subscription { feature: Feature::CloudToDevice, qos: 1, filter };
    let mut session = open(&[bound].into_iter().collect());
    let properties = model::message::PropertyBag(Bytes::from_static(b"a=1&bare&empty=&b=2"));
    let message = Message { properties, ..Message::default() };
    let token = DeliveryToken(1);
    session.handle_event(DeviceEvent::Message(Box::new(Delivery { token, message })));
    let sent = String::from_utf8(written(&mut session)).unwrap();
    assert!(sent.contains("devicebound/a=1&b=2"), "{sent:?}");
    assert_eq!(session.take_lost_properties(), 2);
}

#[test]
fn a_broken_connection_leaves_the_will_and_a_goodbye_or_our_own_end_does_not() {
    let check = |goodbye: bool, closed: Option<CloseReason>| {
        let Packet::Connect(mut asked) = connect("d") else { panic!() };
        let topic = "devices/d/messages/events/k=v";
        asked.will = Some(Will { topic, body: b"gone", qos: Qos::AtMostOnce, retain: false });
        let mut session = Session::new(Tick(0));
        session.handle_bytes(Tick(0), &bytes_of(&[Packet::Connect(asked)]));
        run(&mut session);
        if goodbye {
            session.handle_bytes(Tick(0), &bytes_of(&[Packet::Disconnect]));
            assert_eq!(ended(&mut session), Some(Ending::Asked));
        }
        if let Some(reason) = closed {
            session.handle_event(DeviceEvent::Closed(reason));
        }
        session.leave()
    };
    assert_eq!(check(true, None), Leave::Asked);
    let orderly = check(false, Some(CloseReason::ShuttingDown));
    assert_eq!(orderly, Leave::Lost { will: None });
    for lost in [CloseReason::Expired, CloseReason::TakenOver] {
        assert!(matches!(check(false, Some(lost)), Leave::Lost { will: Some(_) }));
    }
    let Leave::Lost { will: Some(will) } = check(false, None) else { panic!() };
    assert_eq!(&will.properties.0[..], b"k=v");
    assert_eq!(&will.body[..], b"gone");
}

#[test]
fn a_will_with_a_foreign_topic_ends_the_connection() {
    let Packet::Connect(mut asked) = connect("d") else { panic!() };
    let topic = "devices/e/messages/events/";
    asked.will = Some(Will { topic, body: b"", qos: Qos::AtMostOnce, retain: false });
    let mut session = Session::new(Tick(0));
    session.handle_bytes(Tick(0), &bytes_of(&[Packet::Connect(asked)]));
    assert!(matches!(ended(&mut session), Some(Ending::Protocol(_))));
}

#[test]
fn a_retained_publish_becomes_a_property() {
    let mut session = open(&FeatureSet::new());
    let Packet::Publish(mut one) = publish("devices/d/messages/events/a=b", 1, b"") else {
        panic!()
    };
    one.retain = true;
    session.handle_bytes(Tick(0), &bytes_of(&[Packet::Publish(one)]));
    let requests = batch(&mut session);
    let [DeviceRequest::SendTelemetry(message)] = &requests[..] else { panic!() };
    assert_eq!(&message.properties.0[..], b"a=b&mqtt-retain=true");
}

#[test]
fn a_message_is_completed_by_its_acknowledgement_and_by_nothing_else() {
    let mut session = open(&subscribed(&[Filter::CloudToDevice]));
    session.handle_event(message(7));
    session.handle_event(message(8));
    assert_eq!(session.credit().messages, 62);
    let sent = written(&mut session);
    assert_eq!(sent[..4], [0x32, 39, 0, 31]);
    assert!(sent.ends_with(b"devices/d/messages/devicebound/\0\x02down"), "{sent:?}");
    let strange = PacketId::new(77).unwrap();
    session.handle_bytes(Tick(0), &bytes_of(&[Packet::PubAck(strange)]));
    assert!(session.poll(Now::default()).is_none());
    session.handle_bytes(Tick(0), &bytes_of(&[Packet::PubAck(PacketId::new(2).unwrap())]));
    let requests = batch(&mut session);
    let [DeviceRequest::Settle { token, outcome: Outcome::Complete }] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!((*token, session.credit().messages), (DeliveryToken(8), 63));
    // Nobody subscribed: it stays locked.
    let mut session = open(&FeatureSet::new());
    session.handle_event(message(9));
    assert!(session.output().is_empty() && session.poll(Now::default()).is_none());
}

#[test]
fn a_message_at_quality_0_is_completed_at_once() {
    let mut features = FeatureSet::new();
    for one in &subscribed(&[Filter::CloudToDevice]) {
        features.insert(Subscription { qos: 0, ..one.clone() });
    }
    let mut session = open(&features);
    session.handle_event(message(7));
    assert_eq!(written(&mut session)[0], 0x30);
    assert!(matches!(batch(&mut session)[..], [DeviceRequest::Settle { .. }]));
    assert_eq!(session.credit().messages, 64);
}

#[test]
fn methods_and_desired_changes_are_published_only_to_those_who_asked() {
    let call = DeviceEvent::Method {
        call: MethodCallId(0x1f),
        request: MethodRequest {
            name: "reboot".into(),
            payload: Bytes::from_static(b"null"),
            response_timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
        },
        deadline: Tick(9),
    };
    let patch = TwinPatch(serde_json::from_str("{\"a\":null}").unwrap());
    let desired = DeviceEvent::Desired { patch, version: Version(5) };
    let mut deaf = open(&FeatureSet::new());
    deaf.handle_event(call.clone());
    deaf.handle_event(desired.clone());
    assert!(deaf.output().is_empty());
    let mut session = open(&subscribed(&[Filter::Methods, Filter::DesiredChanges]));
    session.handle_event(call);
    assert_eq!(&written(&mut session)[4..], b"$iothub/methods/POST/reboot/?$rid=1fnull");
    session.handle_event(desired);
    let text = b"$iothub/twin/PATCH/properties/desired/?$version=5{\"a\":null,\"$version\":5}";
    assert_eq!(&written(&mut session)[4..], text);
    let answer = publish("$iothub/methods/res/404/?$rid=1f", 3, b"{}");
    session.handle_bytes(Tick(0), &bytes_of(&[answer]));
    let requests = batch(&mut session);
    let [DeviceRequest::AnswerMethod { call, response }] = &requests[..] else { panic!() };
    assert_eq!((call.0, response.status, &response.payload[..]), (0x1f, 404, &b"{}"[..]));
    // Too late is not the device's fault.
    let refusal = Refusal::new(RefusalKind::NotFound, "nobody waits");
    session.handle_answer(Now::default(), Err(refusal));
    assert_eq!(written(&mut session), [0x40, 2, 0, 3]);
}

#[test]
fn a_refused_open_has_a_code_that_says_whether_to_try_again() {
    let check = |kind, code| {
        let mut session = Session::new(Tick(0));
        session.handle_bytes(Tick(0), &bytes_of(&[connect("d")]));
        session.poll(Now::default());
        session.handle_refused(&Refusal::new(kind, "no"));
        assert_eq!(written(&mut session), [0x20, 2, 0, code]);
        assert_eq!(ended(&mut session), Some(Ending::NotOpened(kind)));
        assert_eq!(session.poll_timeout(), Tick::NEVER);
    };
    check(RefusalKind::Unauthenticated, 5);
    check(RefusalKind::Forbidden, 5);
    check(RefusalKind::Throttled, 3);
    check(RefusalKind::Unavailable, 3);
    check(RefusalKind::Internal, 3);
}

#[test]
fn a_client_of_mqtt_5_is_told_that_the_version_is_not_spoken() {
    let mut bytes = bytes_of(&[connect("d")]);
    assert_eq!(bytes[8], packet::LEVEL);
    bytes[8] = 5;
    let mut session = Session::new(Tick(0));
    session.handle_bytes(Tick(0), &bytes);
    assert_eq!(written(&mut session), [0x20, 2, 0, 1]);
    assert!(matches!(ended(&mut session), Some(Ending::Protocol(_))));
}

#[test]
fn refused_telemetry_ends_the_connection_at_quality_1_and_is_lost_at_quality_0() {
    let refuse = |session: &mut Session| {
        assert_eq!(batch(session).len(), 1);
        let refusal = Refusal::new(RefusalKind::Throttled, "slow down");
        session.handle_answer(Now::default(), Err(refusal));
        assert!(session.output().is_empty());
        ended(session)
    };
    let topic = "devices/d/messages/events/";
    let mut session = open(&FeatureSet::new());
    session.handle_bytes(Tick(0), &bytes_of(&[publish(topic, 1, b"")]));
    assert_eq!(refuse(&mut session), Some(Ending::Refused(RefusalKind::Throttled)));
    let mut session = open(&FeatureSet::new());
    let Packet::Publish(one) = publish(topic, 1, b"") else { panic!() };
    let one = Packet::Publish(Publish { qos: Qos::AtMostOnce, id: None, ..one });
    session.handle_bytes(Tick(0), &bytes_of(&[one]));
    assert_eq!(refuse(&mut session), None);
}

#[test]
fn too_many_unanswered_requests_stop_the_reading_until_answers_come() {
    let mut session = open(&FeatureSet::new());
    let one = bytes_of(&[publish("devices/d/messages/events/", 1, b"")]);
    let all = one.repeat(UNANSWERED_MAX + 5);
    session.handle_bytes(Tick(0), &all);
    let mut out = 0;
    while let Some(Step::Submit(Batch(requests))) = session.poll(Now::default()) {
        assert!(requests.len() <= BATCH_REQUESTS_MAX);
        out += requests.len();
    }
    assert_eq!((out, session.wants_bytes()), (UNANSWERED_MAX, false));
    session.handle_answer(Now::default(), Ok(Answer::Accepted));
    assert_eq!(batch(&mut session).len(), 1);
    for _ in 0..UNANSWERED_MAX {
        session.handle_answer(Now::default(), Ok(Answer::Accepted));
    }
    assert_eq!(batch(&mut session).len(), 4);
    assert!(session.wants_bytes());
}

#[test]
fn a_peer_that_reads_nothing_is_neither_read_nor_sent_messages() {
    let mut session = open(&subscribed(&[Filter::CloudToDevice, Filter::DesiredChanges]));
    let map = serde_json::from_value(serde_json::json!({ "k": "x".repeat(OUTPUT_BYTES_MAX) }));
    let patch = TwinPatch(map.unwrap());
    session.handle_event(DeviceEvent::Desired { patch, version: Version(1) });
    assert_eq!((session.wants_bytes(), session.credit()), (false, Credit::NONE));
    written(&mut session);
    assert_eq!((session.wants_bytes(), session.credit().messages), (true, 64));
    (0..64).for_each(|token| session.handle_event(message(token)));
    assert_eq!((session.wants_bytes(), session.credit().messages), (true, 0));
}

#[test]
fn silence_does_not_count_while_we_do_not_read_or_owe_answers() {
    let at = |seconds: u64| Now { tick: Tick(seconds * SECOND), ..Now::default() };
    let mut session = open(&FeatureSet::new());
    let one = publish("devices/d/messages/events/", 1, b"");
    session.handle_bytes(Tick(0), &bytes_of(&[one]));
    assert!(matches!(session.poll(at(0)), Some(Step::Submit(_))));
    // The answer takes 100 s: the time-out at 90 s is excused.
    session.handle_timeout(Tick(90 * SECOND));
    assert!(session.poll(at(90)).is_none());
    session.handle_answer(at(100), Ok(Answer::Accepted));
    assert!(session.poll(at(100)).is_none());
    assert_eq!(session.poll_timeout(), Tick(190 * SECOND));
    session.handle_timeout(Tick(190 * SECOND));
    assert_eq!(ended(&mut session), Some(Ending::KeepAlive));
}

#[test]
fn a_peer_that_takes_nothing_of_a_full_output_is_given_up_and_a_slow_one_is_not() {
    let mut session = open(&subscribed(&[Filter::DesiredChanges]));
    let map = serde_json::json!({ "k": "x".repeat(OUTPUT_BYTES_MAX + 100) });
    let patch = TwinPatch(serde_json::from_value(map).unwrap());
    session.handle_event(DeviceEvent::Desired { patch, version: Version(1) });
    session.handle_written(10);
    session.handle_timeout(Tick(90 * SECOND));
    assert!(session.poll(Now::default()).is_none());
    session.handle_timeout(Tick(180 * SECOND));
    assert_eq!(ended(&mut session), Some(Ending::KeepAlive));
}

#[test]
fn who_does_not_log_in_in_time_is_given_up() {
    let due = Tick(5).after(CONNECT_TIMEOUT);
    let mut session = Session::new(Tick(5));
    assert_eq!(session.poll_timeout(), due);
    // A drop now and then is no CONNECT: it does not buy time.
    session.handle_bytes(Tick(due.0 - 1), &[0x10]);
    session.handle_timeout(due);
    assert_eq!(run(&mut session).1, Some(Ending::ConnectTimeout));
}

#[test]
fn so_many_messages_are_in_flight_to_a_client_and_no_more() {
    let mut session = open(&subscribed(&[Filter::CloudToDevice]));
    let most = u16::try_from(IN_FLIGHT_MAX).unwrap();
    for token in 0..most {
        assert_eq!(session.credit().messages, most - token);
        session.handle_event(message(token.into()));
    }
    written(&mut session);
    assert_eq!(session.credit().messages, 0);
    session.handle_bytes(Tick(0), &bytes_of(&[Packet::PubAck(PacketId::MIN)]));
    assert!(matches!(batch(&mut session)[..], [DeviceRequest::Settle { .. }]));
    assert_eq!(session.credit().messages, 1);
}

#[test]
fn one_batch_has_so_many_bytes_and_no_more_than_one_message_beyond() {
    let mut session = open(&FeatureSet::new());
    let body = vec![b'x'; model::message::MESSAGE_BYTES_MAX - 100];
    let one = publish("devices/d/messages/events/", 1, &body);
    let fits = BATCH_BYTES_MAX.div_ceil(body.len());
    session.handle_bytes(Tick(0), &bytes_of(&vec![one; fits + 2]));
    assert_eq!(batch(&mut session).len(), fits);
    assert_eq!(batch(&mut session).len(), 2);
}
