//! Bytes → packets.

use super::{
    Connect, FILTERS_MAX, Frame, InvalidPacket, LEVEL, Packet, PacketId, Publish, Qos,
    REMAINING_LEN_MAX, Will,
};

type Result<T> = std::result::Result<T, InvalidPacket>;

/// Reads fields off the front of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(InvalidPacket::Short)?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8> {
        let (head, tail) = self.0.split_first().ok_or(InvalidPacket::Short)?;
        self.0 = tail;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u16> {
        let (head, tail) = self.0.split_first_chunk().ok_or(InvalidPacket::Short)?;
        self.0 = tail;
        Ok(u16::from_be_bytes(*head))
    }

    fn id(&mut self) -> Result<PacketId> {
        PacketId::new(self.number()?).ok_or(InvalidPacket::PacketId)
    }

    fn binary(&mut self) -> Result<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::from(len))
    }

    fn text(&mut self) -> Result<&'a str> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| InvalidPacket::Text)?;
        if text.contains('\0') { Err(InvalidPacket::Text) } else { Ok(text) }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(InvalidPacket::Trailing) }
    }
}

/// The fixed header: remaining length and where it ends; `None` while it is not complete.
fn remaining_len(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        if at > 4 {
            return Err(InvalidPacket::LengthEncoding);
        }
        value |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return if value > REMAINING_LEN_MAX {
                Err(InvalidPacket::TooLong(value))
            } else {
                Ok(Some((value, at + 1)))
            };
        }
    }
    if bytes.len() > 4 { Err(InvalidPacket::LengthEncoding) } else { Ok(None) }
}

pub(super) fn frame(bytes: &[u8]) -> Result<Frame<'_>> {
    let Some(&first) = bytes.first() else { return Ok(Frame::Partial { len: 2 }) };
    check_flags(first >> 4, first & 0x0f)?;
    let Some((body_len, header_len)) = remaining_len(bytes)? else {
        return Ok(Frame::Partial { len: bytes.len() + 1 });
    };
    let len = header_len + body_len;
    let Some(body) = bytes.get(header_len..len) else { return Ok(Frame::Partial { len }) };
    Ok(Frame::Whole { packet: packet(first, body)?, len })
}

fn check_flags(kind: u8, flags: u8) -> Result<()> {
    let allowed = match kind {
        1 | 2 | 4 | 5 | 7 | 9 | 11..=14 => flags == 0,
        3 => flags & 0b0110 != 0b0110,
        6 | 8 | 10 => flags == 0b0010,
        _ => return Err(InvalidPacket::Type(kind)),
    };
    match (allowed, kind) {
        (true, _) => Ok(()),
        (false, 3) => Err(InvalidPacket::Qos),
        (false, _) => Err(InvalidPacket::Flags { kind, flags }),
    }
}

fn packet(first: u8, body: &[u8]) -> Result<Packet<'_>> {
    let mut fields = Fields(body);
    let packet = match first >> 4 {
        1 => Packet::Connect(connect(&mut fields)?),
        2 => connack(&mut fields)?,
        3 => Packet::Publish(publish(first & 0x0f, &mut fields)?),
        4 => Packet::PubAck(fields.id()?),
        5 => Packet::PubRec(fields.id()?),
        6 => Packet::PubRel(fields.id()?),
        7 => Packet::PubComp(fields.id()?),
        8 => subscribe(&mut fields)?,
        9 => suback(&mut fields)?,
        10 => unsubscribe(&mut fields)?,
        11 => Packet::UnsubAck(fields.id()?),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        14 => Packet::Disconnect,
        kind => return Err(InvalidPacket::Type(kind)),
    };
    fields.end()?;
    Ok(packet)
}

fn connect<'a>(fields: &mut Fields<'a>) -> Result<Connect<'a>> {
    if fields.text()? != "MQTT" {
        return Err(InvalidPacket::ProtocolName);
    }
    // The level comes before everything that another version may encode differently.
    match fields.byte()? {
        LEVEL => {}
        other => return Err(InvalidPacket::ProtocolLevel(other)),
    }
    let flags = fields.byte()?;
    let has = |bit: u8| flags & bit != 0;
    let will_qos = Qos::from_bits(flags >> 3 & 0b11).ok_or(InvalidPacket::ConnectFlags)?;
    let will_extras = flags & 0b0011_1000 != 0;
    if has(0x01) || (!has(0x04) && will_extras) || (has(0x40) && !has(0x80)) {
        return Err(InvalidPacket::ConnectFlags);
    }
    let keep_alive = fields.number()?;
    let client_id = fields.text()?;
    let will = if has(0x04) {
        let (topic, body) = (fields.text()?, fields.binary()?);
        Some(Will { topic, body, qos: will_qos, retain: has(0x20) })
    } else {
        None
    };
    let user_name = if has(0x80) { Some(fields.text()?) } else { None };
    let password = if has(0x40) { Some(fields.binary()?) } else { None };
    Ok(Connect { client_id, clean: has(0x02), keep_alive, will, user_name, password })
}

fn connack<'a>(fields: &mut Fields<'a>) -> Result<Packet<'a>> {
    let (flags, code) = (fields.byte()?, fields.byte()?);
    match (flags, code) {
        (0 | 1, 0..=5) => Ok(Packet::ConnAck { session_present: flags == 1, code }),
        (0 | 1, _) => Err(InvalidPacket::Code(code)),
        _ => Err(InvalidPacket::Flags { kind: 2, flags }),
    }
}

fn publish<'a>(flags: u8, fields: &mut Fields<'a>) -> Result<Publish<'a>> {
    let qos = Qos::from_bits(flags >> 1 & 0b11).ok_or(InvalidPacket::Qos)?;
    let topic = fields.text()?;
    let id = if qos == Qos::AtMostOnce { None } else { Some(fields.id()?) };
    let body = fields.rest();
    Ok(Publish { topic, body, qos, id, dup: flags & 0b1000 != 0, retain: flags & 1 != 0 })
}

fn subscribe<'a>(fields: &mut Fields<'a>) -> Result<Packet<'a>> {
    let id = fields.id()?;
    let mut filters = Vec::new();
    while !fields.0.is_empty() {
        let filter = fields.text()?;
        filters.push((filter, Qos::from_bits(fields.byte()?).ok_or(InvalidPacket::Qos)?));
    }
    check_count(filters.len())?;
    Ok(Packet::Subscribe { id, filters })
}

fn suback<'a>(fields: &mut Fields<'a>) -> Result<Packet<'a>> {
    let id = fields.id()?;
    let codes = fields.rest();
    check_count(codes.len())?;
    match codes.iter().find(|code| !matches!(code, 0..=2 | 0x80)) {
        Some(code) => Err(InvalidPacket::Code(*code)),
        None => Ok(Packet::SubAck { id, codes }),
    }
}

fn unsubscribe<'a>(fields: &mut Fields<'a>) -> Result<Packet<'a>> {
    let id = fields.id()?;
    let mut filters = Vec::new();
    while !fields.0.is_empty() {
        filters.push(fields.text()?);
    }
    check_count(filters.len())?;
    Ok(Packet::Unsubscribe { id, filters })
}

fn check_count(count: usize) -> Result<()> {
    if (1..=FILTERS_MAX).contains(&count) { Ok(()) } else { Err(InvalidPacket::Filters) }
}
