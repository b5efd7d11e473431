use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

fn bytes_of(packet: &Packet<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, &mut out);
    out
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn telemetry(body: &[u8]) -> Packet<'_> {
    let topic = "devices/d/messages/events/";
    let qos = Qos::AtLeastOnce;
    Packet::Publish(Publish { topic, body, qos, id: Some(id(7)), dup: false, retain: false })
}

#[test]
fn every_packet_survives_encoding_and_decoding() {
    let will = Will { topic: "t", body: b"gone", qos: Qos::AtLeastOnce, retain: true };
    let connect = Connect {
        client_id: "d/m",
        clean: false,
        keep_alive: 60,
        will: Some(will),
        user_name: Some("hub/d/m/?api-version=2021-04-12"),
        password: Some(b"SharedAccessSignature sr=x"),
    };
    let bare =
        Connect { will: None, user_name: None, password: None, clean: true, ..connect.clone() };
    let publish = Publish {
        topic: "$iothub/twin/GET/?$rid=1",
        body: b" ",
        qos: Qos::AtMostOnce,
        id: None,
        dup: false,
        retain: true,
    };
    for packet in [
        Packet::Connect(connect),
        Packet::Connect(bare),
        Packet::ConnAck { session_present: true, code: 0 },
        Packet::ConnAck { session_present: false, code: 5 },
        Packet::Publish(publish.clone()),
        Packet::Publish(Publish { qos: Qos::ExactlyOnce, id: Some(id(9)), dup: true, ..publish }),
        telemetry(&vec![b'x'; 70_000]),
        Packet::PubAck(id(1)),
        Packet::PubRec(id(2)),
        Packet::PubRel(id(3)),
        Packet::PubComp(id(65535)),
        Packet::Subscribe {
            id: id(4),
            filters: vec![("a/#", Qos::AtLeastOnce), ("b", Qos::AtMostOnce)],
        },
        Packet::SubAck { id: id(4), codes: &[1, 0x80] },
        Packet::Unsubscribe { id: id(5), filters: vec!["a/#", "b"] },
        Packet::UnsubAck(id(5)),
        Packet::PingReq,
        Packet::PingResp,
        Packet::Disconnect,
    ] {
        let bytes = bytes_of(&packet);
        assert_eq!(decode(&bytes), Ok(Frame::Whole { packet, len: bytes.len() }));
    }
}

#[test]
fn damaged_packets_are_refused_with_the_reason() {
    use InvalidPacket as I;
    let check = |bytes: &[u8], expected: I| assert_eq!(decode(bytes), Err(expected), "{bytes:x?}");
    check(&[0x00], I::Type(0));
    check(&[0xf0, 0], I::Type(15));
    check(&[0x11], I::Flags { kind: 1, flags: 1 });
    check(&[0x80, 0], I::Flags { kind: 8, flags: 0 });
    check(&[0x36, 0], I::Qos);
    check(&[0x30, 0xff, 0xff, 0xff, 0xff], I::LengthEncoding);
    check(&[0x30, 0xff, 0xff, 0xff, 0x7f], I::TooLong(268_435_455));
    check(&[0x30, 1, 0], I::Short);
    check(&[0x30, 3, 0, 2, b'a'], I::Short);
    check(&[0x30, 3, 0, 1, 0xff], I::Text);
    check(&[0x30, 3, 0, 1, 0], I::Text);
    check(&[0x32, 5, 0, 1, b'a', 0, 0], I::PacketId);
    check(&[0x40, 2, 0, 0], I::PacketId);
    check(&[0x40, 3, 0, 1, 0], I::Trailing);
    check(&[0xc0, 1, 0], I::Trailing);
    check(&[0x82, 2, 0, 1], I::Filters);
    check(&[0x82, 6, 0, 1, 0, 1, b'a', 3], I::Qos);
    check(&[0x90, 3, 0, 1, 3], I::Code(3));
    check(&[0x20, 2, 0, 6], I::Code(6));
    check(&[0x10, 8, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p'], I::ProtocolName);
    // Level 5 puts properties where level 4 has the client id; the level must be seen first.
    check(&[0x10, 11, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0], I::ProtocolLevel(5));
    check(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x01, 0, 0, 0, 0], I::ConnectFlags);
    check(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x40, 0, 0, 0, 0], I::ConnectFlags);
    check(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x18, 0, 0, 0, 0], I::ConnectFlags);
}

#[test]
fn a_packet_longer_than_the_limit_is_refused_by_its_header_alone() {
    let largest = vec![0; REMAINING_LEN_MAX - 30];
    let bytes = bytes_of(&telemetry(&largest));
    assert!(matches!(decode(&bytes), Ok(Frame::Whole { .. })));
    let larger = vec![0; REMAINING_LEN_MAX];
    let bytes = bytes_of(&telemetry(&larger));
    assert!(matches!(decode(&bytes[..4]), Err(InvalidPacket::TooLong(_))));
}

#[test]
fn a_field_too_long_for_mqtt_is_cut_on_a_character() {
    let topic = "ä".repeat(40_000);
    let packet = Publish {
        topic: &topic,
        body: b"",
        qos: Qos::AtMostOnce,
        id: None,
        dup: false,
        retain: false,
    };
    let bytes = bytes_of(&Packet::Publish(packet));
    let Ok(Frame::Whole { packet: Packet::Publish(read), .. }) = decode(&bytes) else { panic!() };
    assert_eq!(read.topic.len(), encode::FIELD_LEN_MAX - 1, "ä has two bytes");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Frame::Whole { packet, len }) = decode(&bytes) {
            // What was read says the same when written; only the length's spelling may differ.
            let again = bytes_of(&packet);
            prop_assert_eq!(decode(&again), Ok(Frame::Whole { packet, len: again.len() }));
            prop_assert!(len <= bytes.len());
        }
    }

    #[test]
    fn every_prefix_is_partial_and_asks_for_no_more_than_the_packet(size in 0usize..400) {
        let body = vec![b'x'; size];
        let bytes = bytes_of(&telemetry(&body));
        for end in 0..bytes.len() {
            let Ok(Frame::Partial { len }) = decode(&bytes[..end]) else { panic!("{end}") };
            prop_assert!(end < len && len <= bytes.len());
        }
    }
}

#[test]
fn a_subscription_may_have_so_many_filters_and_no_more() {
    let check = |count: usize, good: bool| {
        let filters = vec![("a", Qos::AtMostOnce); count];
        let bytes = bytes_of(&Packet::Subscribe { id: id(1), filters });
        let read = decode(&bytes);
        assert_eq!(read.is_ok(), good, "{count}: {read:?}");
        let bytes = bytes_of(&Packet::Unsubscribe { id: id(1), filters: vec!["a"; count] });
        assert_eq!(decode(&bytes).is_ok(), good, "{count}");
    };
    check(FILTERS_MAX, true);
    check(FILTERS_MAX + 1, false);
}
