use model::feature::Feature;
use model::twin::Version;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn bytes_of(packets: &[Packet<'_>]) -> BytesMut {
    let mut out = BytesMut::new();
    packets.iter().for_each(|one| packet::encode(one, &mut out));
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
