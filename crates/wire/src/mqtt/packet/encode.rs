//! Packets → bytes.

use bytes::{BufMut, BytesMut};

use super::{Connect, LEVEL, Packet, PacketId, Publish, Qos};

pub(super) const FIELD_LEN_MAX: usize = u16::MAX as usize;

pub(super) fn packet(packet: &Packet<'_>, out: &mut BytesMut) {
    match packet {
        Packet::Connect(packet) => connect(packet, out),
        Packet::ConnAck { session_present, code } => {
            out.put_slice(&[0x20, 2, u8::from(*session_present), *code]);
        }
        Packet::Publish(packet) => publish(packet, out),
        Packet::PubAck(id) => acknowledgement(0x40, *id, out),
        Packet::PubRec(id) => acknowledgement(0x50, *id, out),
        Packet::PubRel(id) => acknowledgement(0x62, *id, out),
        Packet::PubComp(id) => acknowledgement(0x70, *id, out),
        Packet::Subscribe { id, filters } => {
            header(
                0x82,
                2 + filters.iter().map(|(text, _)| 3 + cut(text).len()).sum::<usize>(),
                out,
            );
            out.put_u16(id.get());
            for (text, qos) in filters {
                binary(cut(text), out);
                out.put_u8(*qos as u8);
            }
        }
        Packet::SubAck { id, codes } => {
            header(0x90, 2 + codes.len(), out);
            out.put_u16(id.get());
            out.put_slice(codes);
        }
        Packet::Unsubscribe { id, filters } => {
            header(0xa2, 2 + filters.iter().map(|text| 2 + cut(text).len()).sum::<usize>(), out);
            out.put_u16(id.get());
            for text in filters {
                binary(cut(text), out);
            }
        }
        Packet::UnsubAck(id) => acknowledgement(0xb0, *id, out),
        Packet::PingReq => out.put_slice(&[0xc0, 0]),
        Packet::PingResp => out.put_slice(&[0xd0, 0]),
        Packet::Disconnect => out.put_slice(&[0xe0, 0]),
    }
}

fn header(first: u8, mut remaining: usize, out: &mut BytesMut) {
    out.reserve(5 + remaining);
    out.put_u8(first);
    loop {
        let low = u8::try_from(remaining & 0x7f).unwrap_or_default();
        remaining >>= 7;
        out.put_u8(if remaining > 0 { low | 0x80 } else { low });
        if remaining == 0 {
            return;
        }
    }
}

/// The longest part of `text` that fits a field and is still UTF-8.
fn cut(text: &str) -> &[u8] {
    let end = text.floor_char_boundary(FIELD_LEN_MAX);
    text.as_bytes().get(..end).unwrap_or_default()
}

fn cut_bytes(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len().min(FIELD_LEN_MAX)).unwrap_or_default()
}

/// A field of at most [`FIELD_LEN_MAX`] bytes with its length before it.
fn binary(bytes: &[u8], out: &mut BytesMut) {
    out.put_u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    out.put_slice(bytes);
}

fn acknowledgement(first: u8, id: PacketId, out: &mut BytesMut) {
    out.put_slice(&[first, 2]);
    out.put_u16(id.get());
}

fn publish(packet: &Publish<'_>, out: &mut BytesMut) {
    let topic = cut(packet.topic);
    let id_len = if packet.qos == Qos::AtMostOnce { 0 } else { 2 };
    let flags = u8::from(packet.dup) << 3 | (packet.qos as u8) << 1 | u8::from(packet.retain);
    header(0x30 | flags, 2 + topic.len() + id_len + packet.body.len(), out);
    binary(topic, out);
    if id_len > 0 {
        out.put_u16(packet.id.map_or(1, PacketId::get));
    }
    out.put_slice(packet.body);
}

fn connect(packet: &Connect<'_>, out: &mut BytesMut) {
    let mut flags = u8::from(packet.clean) << 1;
    let mut fields: Vec<&[u8]> = vec![cut(packet.client_id)];
    if let Some(will) = &packet.will {
        flags |= 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
        fields.extend([cut(will.topic), cut_bytes(will.body)]);
    }
    if let Some(user_name) = packet.user_name {
        flags |= 0x80;
        fields.push(cut(user_name));
        // A password without a user name cannot be said in 3.1.1.
        if let Some(password) = packet.password {
            flags |= 0x40;
            fields.push(cut_bytes(password));
        }
    }
    header(0x10, 10 + fields.iter().map(|field| 2 + field.len()).sum::<usize>(), out);
    binary(b"MQTT", out);
    out.put_slice(&[LEVEL, flags]);
    out.put_u16(packet.keep_alive);
    for field in fields {
        binary(field, out);
    }
}
