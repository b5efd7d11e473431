use bytes::{Buf, BytesMut};
use model::message::Message;
use model::method::{MethodCallId, MethodRequest};
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{Delivery, DeliveryToken, DeviceEvent, Leave};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use wire::mqtt::packet::{self, Frame, Packet, PacketId, Publish, Qos};
use wire::mqtt::server::{IN_FLIGHT_MAX, OUTPUT_BYTES_MAX};

use super::*;
use crate::gate::UNPROVEN_BYTES_MAX;
use crate::network::{Address, ByteStream, Network};
use crate::testbed::{Cloud, Pipes, seat_proven, until, world};

struct Bench {
    cloud: Cloud,
    pipes: Pipes,
    server: MqttServer,
    hub: Address,
}

async fn bench() -> Bench {
    let (cloud, pipes, hub) = (Cloud::new(), Pipes::default(), Address::Memory("hub".into()));
    let incoming = pipes.listen(&hub).await.unwrap();
    let server = MqttServer::start(incoming, None, Arc::new(cloud.clone()), &world());
    Bench { cloud, pipes, server, hub }
}

impl Bench {
    async fn dial(&self) -> Raw {
        let stream = self.pipes.dial(&self.hub).await.unwrap().stream;
        Raw { stream, bytes: BytesMut::new() }
    }

    /// A client whose CONNECT was accepted.
    async fn connect(&self) -> Raw {
        let mut raw = self.dial().await;
        raw.send(&[connect(b"good")]).await;
        assert_eq!(raw.next().await, "ConnAck { session_present: false, code: 0 }");
        raw
    }
}

/// A client that speaks packets.
struct Raw {
    stream: Box<dyn ByteStream>,
    bytes: BytesMut,
}

impl Raw {
    async fn send(&mut self, packets: &[Packet<'_>]) {
        let mut out = BytesMut::new();
        for one in packets {
            packet::encode(one, &mut out);
        }
        // What a closed connection no longer takes shows in `next`.
        self.stream.write_all(&out).await.ok();
    }

    /// The next packet as text; `end` when the server has closed.
    async fn next(&mut self) -> String {
        loop {
            if let Frame::Whole { packet, len } = packet::decode(&self.bytes).unwrap() {
                let text = format!("{packet:?}");
                self.bytes.advance(len);
                return text;
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => return "end".into(),
                Ok(_) => {}
            }
        }
    }
}

fn connect(token: &[u8]) -> Packet<'_> {
    Packet::Connect(packet::Connect {
        client_id: "d",
        clean: false,
        keep_alive: 60,
        will: None,
        user_name: Some("hub/d/?api-version=1"),
        password: Some(token),
    })
}

fn publish(id: u16) -> Packet<'static> {
    Packet::Publish(Publish {
        topic: "devices/d/messages/events/",
        body: b"0123456789",
        qos: Qos::AtLeastOnce,
        id: PacketId::new(id),
        dup: false,
        retain: false,
    })
}

fn acknowledged(id: u16) -> String {
    format!("{:?}", Packet::PubAck(PacketId::new(id).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn bad_properties_are_counted_and_the_messages_around_them_are_acknowledged() {
    let bench = bench().await;
    let mut raw = bench.connect().await;
    let bags = ["=nameless", "%24.ctime=1630000000", "a=%zz", "%24.mid=1&%24.mid=2", "good=1"];
    for (at, bag) in bags.into_iter().enumerate() {
        let id = u16::try_from(at + 1).unwrap();
        let topic = format!("devices/d/messages/events/{bag}");
        let Packet::Publish(plain) = publish(id) else { panic!() };
        raw.send(&[Packet::Publish(Publish { topic: &topic, ..plain })]).await;
        assert_eq!(raw.next().await, acknowledged(id), "{bag}");
    }
    assert_eq!(bench.server.lost_properties(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_announced_once_and_one_that_is_none_is_counted_and_costs_no_connection() {
    let bench = bench().await;
    for (model, announced, lost) in [("dtmi:com:example:T;1", 1, 0), ("no model", 1, 1)] {
        let name = format!("hub/d/?api-version=1&model-id={model}");
        let Packet::Connect(plain) = connect(b"good") else { panic!() };
        let mut raw = bench.dial().await;
        let packet = packet::Connect { user_name: Some(&name), clean: true, ..plain };
        raw.send(&[Packet::Connect(packet), publish(1)]).await;
        assert_eq!(raw.next().await, "ConnAck { session_present: false, code: 0 }");
        assert_eq!(raw.next().await, acknowledged(1), "{model}");
        let calls = bench.cloud.calls();
        assert_eq!(calls.iter().filter(|call| *call == "AnnounceModel").count(), announced);
        assert_eq!(bench.server.lost_models(), lost, "{model}");
    }
    // Who is not believed writes nothing into the log.
    let Packet::Connect(plain) = connect(b"bad") else { panic!() };
    let packet = packet::Connect { user_name: Some("hub/d/?model-id=none"), ..plain };
    let mut raw = bench.dial().await;
    raw.send(&[Packet::Connect(packet)]).await;
    assert!(raw.next().await.starts_with("ConnAck { session_present: false, code: "));
    assert_eq!(bench.server.lost_models(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_read_is_one_batch_and_one_commit_is_one_write() {
    let bench = bench().await;
    let mut raw = bench.connect().await;
    bench.cloud.hold(100);
    raw.send(&[publish(1), publish(2), publish(3)]).await;
    until(|| bench.cloud.held() == 3).await;
    assert_eq!(bench.cloud.batches(), [3]);
    bench.cloud.release();
    let count = raw.stream.read_buf(&mut raw.bytes).await.unwrap();
    assert_eq!(count, 3 * 4, "three PUBACKs of four bytes in one read");
    for id in 1..=3 {
        assert_eq!(raw.next().await, acknowledged(id));
    }
}

#[tokio::test(start_paused = true)]
async fn without_room_the_socket_is_not_read_and_nothing_is_lost() {
    let bench = bench().await;
    let raw = bench.connect().await;
    bench.cloud.hold(2);
    let (mut reader, mut writer) = tokio::io::split(raw.stream);
    let sending = Handle::current().spawn(async move {
        for id in 1..=2000 {
            let mut out = BytesMut::new();
            packet::encode(&publish(id), &mut out);
            writer.write_all(&out).await.unwrap();
        }
        writer
    });
    until(|| bench.cloud.held() >= 2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!sending.is_finished(), "the client is held back");
    assert!(bench.cloud.held() < 300, "{} were taken without room", bench.cloud.held());
    bench.cloud.release();
    let mut bytes = BytesMut::new();
    for id in 1..=2000 {
        while bytes.len() < 4 {
            assert_ne!(reader.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let Frame::Whole { packet, len } = packet::decode(&bytes).unwrap() else { panic!() };
        assert_eq!(format!("{packet:?}"), acknowledged(id));
        bytes.advance(len);
    }
    assert_eq!(bench.cloud.bodies().len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_read_either() {
    let bench = bench().await;
    let Raw { mut stream, .. } = bench.connect().await;
    let mut out = BytesMut::new();
    (1..=5000).for_each(|id| packet::encode(&publish(id), &mut out));
    let mut sent = 0;
    // Five thousand acknowledgements do not fit the pipe; the server must stop somewhere.
    for _ in 0..4 {
        let mut all = Vec::new();
        (0..20).for_each(|_| all.extend_from_slice(&out));
        let wrote = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&all)).await;
        if wrote.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 4, "the server swallowed 400,000 publishes without an answer read");
}

#[tokio::test(start_paused = true)]
async fn events_reach_the_client_and_takeover_ends_the_older_connection() {
    let bench = bench().await;
    let mut raw = bench.connect().await;
    let filters = [
        ("$iothub/methods/POST/#", Qos::AtMostOnce),
        ("$iothub/twin/PATCH/properties/desired/#", Qos::AtMostOnce),
    ];
    raw.send(&[Packet::Subscribe { id: PacketId::new(9).unwrap(), filters: filters.to_vec() }])
        .await;
    assert!(raw.next().await.starts_with("SubAck"));
    assert_eq!(bench.server.subscribes(), 1);
    let request = MethodRequest {
        name: "go".into(),
        payload: "1".into(),
        response_timeout: Duration::from_secs(9),
        connect_timeout: Duration::ZERO,
    };
    let call = MethodCallId(0x1f);
    bench.cloud.push("d", DeviceEvent::Method { call, request, deadline: Tick::NEVER });
    let method = raw.next().await;
    assert!(method.contains("$iothub/methods/POST/go/?$rid=1f"), "{method}");
    let patch = TwinPatch(serde_json::from_str(r#"{"a":null}"#).unwrap());
    bench.cloud.push("d", DeviceEvent::Desired { patch, version: Version(7) });
    let desired = raw.next().await;
    assert!(desired.contains("desired/?$version=7"), "{desired}");

    let mut newer = bench.dial().await;
    newer.send(&[connect(b"good")]).await;
    assert_eq!(newer.next().await, "ConnAck { session_present: true, code: 0 }");
    assert_eq!(raw.next().await, "end");
    newer.send(&[publish(1)]).await;
    assert_eq!(newer.next().await, acknowledged(1));
}

#[tokio::test(start_paused = true)]
async fn the_waist_hears_how_a_client_left() {
    let bench = bench().await;
    let mut polite = bench.connect().await;
    polite.send(&[publish(1), Packet::Disconnect]).await;
    until(|| !bench.cloud.leaves().is_empty()).await;
    assert_eq!(bench.cloud.leaves(), [Leave::Asked]);
    assert_eq!(bench.cloud.bodies().len(), 1, "what came before the goodbye counts");

    let mut raw = bench.dial().await;
    raw.send(&[connect(b"good")]).await;
    assert!(raw.next().await.starts_with("ConnAck"));
    bench.pipes.cut();
    until(|| bench.cloud.leaves().len() == 2).await;
    assert_eq!(bench.cloud.leaves()[1], Leave::Lost { will: None });
    until(|| bench.server.open() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_silence_and_expiry_end_a_connection() {
    let bench = bench().await;
    let mut wrong = bench.dial().await;
    wrong.send(&[connect(b"bad")]).await;
    assert_eq!(wrong.next().await, "ConnAck { session_present: false, code: 5 }");
    assert_eq!(wrong.next().await, "end");

    // No CONNECT at all.
    assert_eq!(bench.dial().await.next().await, "end");

    // A CONNECT, and then nothing for one and a half keep-alives.
    let world = world();
    let mut quiet = bench.connect().await;
    let start = world.now().tick;
    assert_eq!(quiet.next().await, "end");
    let span = world.now().tick.since(start);
    assert!(span >= Duration::from_secs(90) && span < Duration::from_secs(100), "{span:?}");

    // A claim that holds until an hour after the bench's start.
    bench.cloud.live_for(Duration::from_hours(1));
    let mut raw = bench.dial().await;
    raw.send(&[connect(b"good")]).await;
    assert!(raw.next().await.starts_with("ConnAck"));
    let start = world.now().tick;
    loop {
        raw.send(&[Packet::PingReq]).await;
        if raw.next().await == "end" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    let span = world.now().tick.since(start);
    assert!(span > Duration::from_mins(57) && span < Duration::from_mins(62), "{span:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_closes_every_connection_and_cuts_none_short() {
    let bench = bench().await;
    let mut raw = bench.connect().await;
    raw.send(&[publish(1)]).await;
    assert_eq!(raw.next().await, acknowledged(1));
    let idle = bench.dial().await;
    until(|| bench.server.open() == 2).await;
    bench.server.shut_down(Duration::from_mins(1)).await;
    assert_eq!(raw.next().await, "end");
    assert_eq!(bench.server.open(), 0);
    drop(idle);
}

#[tokio::test]
async fn an_idle_connection_is_a_small_future() {
    let bench = bench().await;
    let connected = bench.pipes.dial(&bench.hub).await.unwrap();
    let (api, counts) = (Arc::new(bench.cloud.clone()), Arc::new(Counts::default()));
    let shared = Arc::new(Shared { tls: None, api, world: world(), counts });
    let seat = Gate::seat(&Arc::new(Gate::new(SeatLimits::of(1))), None).unwrap();
    let size = size_of_val(&serve(connected.into(), shared, seat)) + size_of::<Connection>();
    assert!(size < 1024, "the future of a connection has {size} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_deaf_connection_is_cut_when_patience_ends_and_a_dropped_server_cuts_at_once() {
    let bench = bench().await;
    let raw = bench.connect().await;
    bench.cloud.hold(100);
    // Ten thousand acknowledgements that nobody reads.
    let (_reader, mut writer) = tokio::io::split(raw.stream);
    let sending = Handle::current().spawn(async move {
        for id in 1..=10_000 {
            let mut out = BytesMut::new();
            packet::encode(&publish(id), &mut out);
            if writer.write_all(&out).await.is_err() {
                return;
            }
        }
    });
    until(|| bench.cloud.held() >= 100).await;
    bench.server.shut_down(Duration::from_secs(1)).await;
    assert_eq!(bench.server.open(), 0);
    until(|| sending.is_finished()).await;

    let bench = self::bench().await;
    let mut raw = bench.connect().await;
    drop(bench.server);
    assert_eq!(raw.next().await, "end");
}

#[tokio::test(start_paused = true)]
async fn half_a_connect_is_paid_from_a_budget_that_has_an_end() {
    let bench = bench().await;
    // CONNECT packets that announce 260 KiB and bring almost as much.
    let mut half = vec![0x10, 0x80, 0xa0, 0x10];
    half.resize(256 * 1024, b'x');
    let count = UNPROVEN_BYTES_MAX / half.len() + 8;
    let mut held = Vec::new();
    for _ in 0..count {
        let mut raw = bench.dial().await;
        let half = half.clone();
        Handle::current().spawn(async move {
            raw.stream.write_all(&half).await.ok();
            raw.stream.read_u8().await.ok();
            drop(raw);
        });
        held.push(());
    }
    until(|| bench.server.watch().totals("").too_large > 0).await;
    let totals = bench.server.watch().totals("mqtt");
    assert!(totals.too_large <= 8 + 1, "{totals:?}");
    // It is theirs alone.
    let mut raw = bench.connect().await;
    raw.send(&[publish(1)]).await;
    assert_eq!(raw.next().await, acknowledged(1));
}

#[tokio::test(start_paused = true)]
async fn silent_peers_give_way_and_a_session_does_not() {
    let (cloud, pipes, hub) = (Cloud::new(), Pipes::default(), Address::Memory("hub".into()));
    let incoming = pipes.listen(&hub).await.unwrap();
    let limits = SeatLimits { seats: 8, unproven: 4 };
    let api = Arc::new(cloud.clone());
    let server = MqttServer::start_within(limits, incoming, None, api, &world());
    let bench = Bench { cloud, pipes, server, hub };
    let mut session = bench.connect().await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(bench.dial().await);
    }
    until(|| bench.server.accepted() == 41).await;
    session.send(&[publish(1)]).await;
    assert_eq!(session.next().await, acknowledged(1));
    // The same device once more, so its first session ends.
    let mut late = bench.dial().await;
    late.send(&[connect(b"good"), publish(2)]).await;
    assert_eq!(late.next().await, "ConnAck { session_present: true, code: 0 }");
    assert_eq!(late.next().await, acknowledged(2));
    let totals = bench.server.watch().totals("mqtt");
    assert!(totals.gave_way >= 36, "{totals:?}");
    assert!(totals.open <= 9, "{totals:?}");
}

fn read(id: u16) -> Packet<'static> {
    let topic = "$iothub/twin/GET/?$rid=1";
    let Packet::Publish(one) = publish(id) else { panic!() };
    Packet::Publish(Publish { topic, body: b"", ..one })
}

/// Bytes of the twin that the cloud answers with.
const TWIN_BYTES: usize = 60 * 1024;

impl Bench {
    /// A client that asks for its twin many times and reads nothing but the first greetings.
    async fn deaf(&self) -> Raw {
        let mut raw = self.connect().await;
        let filters = vec![("$iothub/twin/res/#", Qos::AtMostOnce)];
        raw.send(&[Packet::Subscribe { id: PacketId::MIN, filters }]).await;
        assert!(raw.next().await.starts_with("SubAck"));
        let mut out = BytesMut::new();
        (1..=400).for_each(|id| packet::encode(&read(id), &mut out));
        let sent = raw.stream.write_all(&out);
        // The pipe holds less than that: the rest is not read, and must not be waited for.
        tokio::time::timeout(Duration::from_secs(1), sent).await.ok();
        raw
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_pins_little_and_is_cut_off_when_patience_ends() {
    let bench = bench().await;
    bench.cloud.fill_twins(TWIN_BYTES);
    let world = world();
    let start = world.now().tick;
    let mut raw = bench.deaf().await;
    let most = OUTPUT_BYTES_MAX + TWIN_BYTES + 1024;
    let unread = bench.server.unread_bytes();
    assert!(unread >= OUTPUT_BYTES_MAX && unread < most, "{unread} bytes wait");
    until(|| bench.server.open() == 0).await;
    let span = world.now().tick.since(start);
    assert!(span >= WRITE_PATIENCE && span < 2 * WRITE_PATIENCE, "{span:?}");
    assert_eq!((bench.server.watch().totals("").deaf, bench.server.unread_bytes()), (1, 0));
    assert_eq!(bench.cloud.leaves(), [Leave::Lost { will: None }]);
    while raw.next().await != "end" {}
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_takes_something_is_not_cut_off() {
    let bench = bench().await;
    bench.cloud.fill_twins(TWIN_BYTES);
    let mut raw = bench.deaf().await;
    for _ in 0..20 {
        tokio::time::sleep(WRITE_PATIENCE * 9 / 10).await;
        assert_ne!(raw.stream.read_buf(&mut raw.bytes).await.unwrap(), 0);
        raw.bytes.clear();
    }
    assert_eq!((bench.server.open(), bench.server.watch().totals("").deaf), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn over_the_budget_of_a_listener_only_who_has_read_everything_is_answered() {
    let bench = bench().await;
    bench.cloud.fill_twins(TWIN_BYTES);
    let clients = connection::UNREAD_BYTES_MAX / OUTPUT_BYTES_MAX + 50;
    let mut deaf = Vec::new();
    for at in 0..clients {
        let mut raw = bench.dial().await;
        let (name, user) = (format!("d{at}"), format!("hub/d{at}/?api-version=1"));
        let Packet::Connect(asked) = connect(b"good") else { panic!() };
        let asked =
            packet::Connect { client_id: &name, user_name: Some(&user), keep_alive: 0, ..asked };
        let filters = vec![("$iothub/twin/res/#", Qos::AtMostOnce)];
        let subscribe = Packet::Subscribe { id: PacketId::MIN, filters };
        raw.send(&[Packet::Connect(asked), subscribe]).await;
        for _ in 0..10 {
            raw.send(&[read(1)]).await;
        }
        deaf.push(raw);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (held, one) = (bench.server.unread_bytes(), TWIN_BYTES + 1024);
    assert!(held >= connection::UNREAD_BYTES_MAX, "only {held} bytes wait: nothing is shown");
    let most = connection::UNREAD_BYTES_MAX + clients * one;
    assert!(held < most, "{held} bytes wait for {clients} clients");
    let mut honest = bench.connect().await;
    let filters = vec![("$iothub/twin/res/#", Qos::AtMostOnce)];
    honest.send(&[Packet::Subscribe { id: PacketId::MIN, filters }]).await;
    assert!(honest.next().await.starts_with("SubAck"));
    for _ in 0..3 {
        honest.send(&[read(1)]).await;
        assert_eq!(honest.next().await, acknowledged(1));
        assert!(honest.next().await.contains("$iothub/twin/res/200"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_publishes_no_will_and_a_broken_connection_does() {
    for orderly in [true, false] {
        let bench = bench().await;
        let mut raw = bench.dial().await;
        let Packet::Connect(asked) = connect(b"good") else { panic!() };
        let topic = "devices/d/messages/events/";
        let will = packet::Will { topic, body: b"gone", qos: Qos::AtMostOnce, retain: false };
        raw.send(&[Packet::Connect(packet::Connect { will: Some(will), ..asked })]).await;
        assert!(raw.next().await.starts_with("ConnAck"));
        if orderly {
            bench.server.shut_down(Duration::from_secs(5)).await;
        } else {
            bench.pipes.cut();
        }
        until(|| bench.cloud.leaves().len() == 1).await;
        let leaves = bench.cloud.leaves();
        let [Leave::Lost { will }] = &leaves[..] else { panic!("{leaves:?}") };
        assert_eq!(will.is_none(), orderly);
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_seats_of_a_listener_a_connection_is_closed_at_once() {
    let bench = bench().await;
    let mut seats = seat_proven(&bench.server.gate, MQTT_CONNECTIONS_MAX);
    let mut beyond = bench.dial().await;
    assert_eq!(beyond.next().await, "end");
    assert_eq!((bench.server.open(), bench.server.refused()), (MQTT_CONNECTIONS_MAX, 1));
    // One who leaves makes room for one.
    seats.pop();
    let mut raw = bench.connect().await;
    raw.send(&[publish(1)]).await;
    assert_eq!(raw.next().await, acknowledged(1));
    assert_eq!((bench.server.open(), bench.server.refused()), (MQTT_CONNECTIONS_MAX, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_does_not_read_its_refusal_is_cut() {
    let bench = bench().await;
    let (near, far) = tokio::io::duplex(1);
    let connected = Connected { stream: Box::new(far), peer: crate::network::Peer::Memory };
    let (api, counts) = (Arc::new(bench.cloud.clone()), Arc::clone(&bench.server.counts));
    let shared = Arc::new(Shared { tls: None, api, world: world(), counts });
    let seat = Gate::seat(&bench.server.gate, None).unwrap();
    let serving = Handle::current().spawn(serve(connected.into(), shared, seat));
    let mut raw = Raw { stream: Box::new(near), bytes: BytesMut::new() };
    raw.send(&[connect(b"bad")]).await;
    let world = world();
    let told = world.now().tick;
    serving.await.unwrap();
    let (took, most) = (world.now().tick.since(told), connection::FLUSH_TIMEOUT);
    assert!(took >= most && took < most + Duration::from_secs(1), "{took:?}");
    // The pipe held one byte of the CONNACK.
    let mut rest = Vec::new();
    raw.stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!((&rest[..], bench.server.open()), (&[0x20][..], 0));
}

#[tokio::test(start_paused = true)]
async fn over_the_budget_of_requests_only_who_waits_for_nothing_is_read() {
    let bench = bench().await;
    let mut busy = bench.connect().await;
    bench.cloud.hold(100);
    busy.send(&[publish(1)]).await;
    until(|| bench.cloud.held() == 1).await;
    let others = connection::Charge::new(&bench.server.counts, connection::UNANSWERED_BYTES_MAX);
    busy.send(&[publish(2)]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.cloud.bodies().len(), 1, "it is read over the budget");
    let mut idle = bench.dial().await;
    let Packet::Connect(asked) = connect(b"good") else { panic!() };
    let asked =
        packet::Connect { client_id: "e", user_name: Some("hub/e/?api-version=1"), ..asked };
    idle.send(&[Packet::Connect(asked)]).await;
    assert!(idle.next().await.starts_with("ConnAck"));
    let Packet::Publish(one) = publish(1) else { panic!() };
    idle.send(&[Packet::Publish(Publish { topic: "devices/e/messages/events/", ..one })]).await;
    until(|| bench.cloud.bodies().len() == 2).await;
    // The answer to the first wakes the connection, which waits for nothing then.
    bench.cloud.release();
    assert_eq!(busy.next().await, acknowledged(1));
    assert_eq!(busy.next().await, acknowledged(2));
    assert_eq!(idle.next().await, acknowledged(1));
    drop(others);
}

/// What else is on its way while a client asks for its twin.
#[derive(Clone, Copy, Debug)]
enum Meeting {
    ChangeBefore,
    ChangeInTheSameTurn,
    ChangeBehind,
    AcknowledgementBefore,
    AcknowledgementBehind,
}

impl Bench {
    fn change(&self) {
        let patch = TwinPatch(serde_json::from_str(r#"{"a":1}"#).unwrap());
        self.cloud.push("d", DeviceEvent::Desired { patch, version: Version(7) });
    }

    async fn meet(&self, meeting: Meeting, raw: &mut Raw) {
        let acknowledgement = Packet::PubAck(PacketId::MIN);
        match meeting {
            Meeting::ChangeBefore => {
                self.change();
                raw.send(&[read(9)]).await;
            }
            Meeting::ChangeInTheSameTurn => {
                self.cloud.hold(8);
                raw.send(&[read(9)]).await;
                until(|| self.cloud.held() == 1).await;
                self.change();
                self.cloud.release();
            }
            Meeting::ChangeBehind => {
                raw.send(&[read(9)]).await;
                self.change();
            }
            Meeting::AcknowledgementBefore => {
                self.change();
                raw.send(&[acknowledgement, read(9)]).await;
            }
            Meeting::AcknowledgementBehind => {
                self.change();
                raw.send(&[read(9), acknowledgement]).await;
            }
        }
    }
}

/// A client that has `messages` in flight, or as many as may be, and never acknowledges more
/// than one gets its answer and the change.
async fn twin_meets(meeting: Meeting, messages: u64) {
    let bench = bench().await;
    let mut raw = bench.connect().await;
    let filters = vec![
        ("$iothub/twin/res/#", Qos::AtMostOnce),
        ("$iothub/twin/PATCH/properties/desired/#", Qos::AtMostOnce),
        ("devices/d/messages/devicebound/#", Qos::AtLeastOnce),
    ];
    raw.send(&[Packet::Subscribe { id: PacketId::MIN, filters }]).await;
    assert!(raw.next().await.starts_with("SubAck"));
    for token in (0..messages).map(DeliveryToken) {
        let message = Message { body: "down".into(), ..Message::default() };
        bench.cloud.push("d", DeviceEvent::Message(Box::new(Delivery { token, message })));
    }
    for _ in 0..messages.min(IN_FLIGHT_MAX as u64) {
        assert!(raw.next().await.contains("devicebound"));
    }
    bench.meet(meeting, &mut raw).await;
    let mut missing = vec![acknowledged(9), "twin/res/200".into(), "desired/?$version=7".into()];
    while !missing.is_empty() {
        let next = tokio::time::timeout(Duration::from_secs(5), raw.next()).await;
        let next = next.unwrap_or_else(|_| panic!("{meeting:?}, {messages}: no {missing:?}"));
        assert_ne!(next, "end", "{meeting:?}, {messages}");
        missing.retain(|one| !next.contains(one.as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_twin_is_answered_whatever_else_is_on_its_way() {
    for messages in [0, 1, IN_FLIGHT_MAX as u64 + 1] {
        for meeting in [
            Meeting::ChangeBefore,
            Meeting::ChangeInTheSameTurn,
            Meeting::ChangeBehind,
            Meeting::AcknowledgementBefore,
            Meeting::AcknowledgementBehind,
        ] {
            twin_meets(meeting, messages).await;
        }
    }
}
