//! A message on the router's disk: who sent it, and the message, in one run of bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format version, [`VERSION`] |
//! | 2 + n | sender, `device/module`, length first |
//! | 1 | how many system properties follow |
//! | 1 + 4 + n each | tag, length, value: text as UTF-8, numbers as 8 bytes |
//! | 4 + n | application properties, encoded as they came |
//! | rest | body |
//!
//! Numbers are little endian. Tags are never used again for something else.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::time::WallTime;
use thiserror::Error;

/// The format that is written.
pub const VERSION: u8 = 1;

/// Why bytes from the disk are no message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DamagedRecord {
    /// Written by another version of this program.
    #[error("a stored message has format version {0}, known is {VERSION}")]
    Version(u8),
    /// It ends early.
    #[error("a stored message ends early")]
    Short,
    /// A text in it is not UTF-8, or the sender is no identity.
    #[error("a stored message has a text that is none")]
    Text,
    /// A system property that nobody knows.
    #[error("a stored message has an unknown property, tag {0}")]
    Tag(u8),
}

type Texts = fn(&mut SystemProperties) -> &mut Option<Box<str>>;

/// Tags of texts. The order is the order on disk.
const TEXTS: &[(u8, Texts)] = &[
    (1, |it| &mut it.message_id),
    (2, |it| &mut it.correlation_id),
    (3, |it| &mut it.user_id),
    (4, |it| &mut it.to),
    (5, |it| &mut it.content_type),
    (6, |it| &mut it.content_encoding),
    (7, |it| &mut it.output_name),
    (8, |it| &mut it.input_name),
    (9, |it| &mut it.connection_device_id),
    (10, |it| &mut it.connection_module_id),
    (11, |it| &mut it.connection_generation_id),
    (12, |it| &mut it.connection_auth_method),
    (13, |it| &mut it.interface_id),
    (14, |it| &mut it.component),
    (15, |it| &mut it.schema),
    (16, |it| &mut it.model_id),
    (17, |it| &mut it.ack),
];

type Times = fn(&mut SystemProperties) -> &mut Option<WallTime>;

/// Tags of times. `sequence_number` and `delivery_count` belong to one queue and are not kept.
const TIMES: &[(u8, Times)] = &[
    (64, |it| &mut it.expiry),
    (65, |it| &mut it.creation_time),
    (66, |it| &mut it.enqueued_time),
];

/// The bytes of `message` from `sender`.
pub fn encode(sender: &IdentityId, message: &Message) -> Bytes {
    let mut system = message.system.clone();
    let mut out = BytesMut::with_capacity(256 + message.properties.0.len() + message.body.len());
    out.put_u8(VERSION);
    let name = sender.as_str().as_bytes();
    out.put_u16_le(u16::try_from(name.len()).expect("an identity is short"));
    out.put_slice(name);
    let texts = TEXTS.iter().filter_map(|(tag, field)| Some((*tag, field(&mut system).take()?)));
    let texts: Vec<_> = texts.collect();
    let times = TIMES.iter().filter_map(|(tag, field)| Some((*tag, field(&mut system).take()?)));
    let times: Vec<_> = times.collect();
    out.put_u8(u8::try_from(texts.len() + times.len()).expect("the tables are short"));
    for (tag, text) in texts {
        out.put_u8(tag);
        put_long(&mut out, text.as_bytes());
    }
    for (tag, time) in times {
        out.put_u8(tag);
        put_long(&mut out, &time.0.to_le_bytes());
    }
    put_long(&mut out, &message.properties.0);
    out.put_slice(&message.body);
    out.freeze()
}

fn put_long(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("a message is small"));
    out.put_slice(bytes);
}

/// The sender and the message behind `bytes`.
///
/// # Errors
/// [`DamagedRecord`]; such a record is counted and passed over, never retried.
pub fn decode(mut bytes: Bytes) -> Result<(IdentityId, Message), DamagedRecord> {
    let version = bytes.try_get_u8().map_err(|_| DamagedRecord::Short)?;
    if version != VERSION {
        return Err(DamagedRecord::Version(version));
    }
    let len = bytes.try_get_u16_le().map_err(|_| DamagedRecord::Short)?;
    let sender = text(&take(&mut bytes, usize::from(len))?)?;
    let sender = sender.parse().map_err(|_| DamagedRecord::Text)?;
    let mut system = SystemProperties::default();
    let count = bytes.try_get_u8().map_err(|_| DamagedRecord::Short)?;
    for _ in 0..count {
        let tag = bytes.try_get_u8().map_err(|_| DamagedRecord::Short)?;
        let value = take_long(&mut bytes)?;
        if let Some((_, field)) = TEXTS.iter().find(|(known, _)| *known == tag) {
            *field(&mut system) = Some(text(&value)?);
        } else if let Some((_, field)) = TIMES.iter().find(|(known, _)| *known == tag) {
            let number = value.as_ref().try_into().map_err(|_| DamagedRecord::Short)?;
            *field(&mut system) = Some(WallTime(i64::from_le_bytes(number)));
        } else {
            return Err(DamagedRecord::Tag(tag));
        }
    }
    let properties = PropertyBag(take_long(&mut bytes)?);
    Ok((sender, Message { body: bytes, properties, system }))
}

fn take(bytes: &mut Bytes, len: usize) -> Result<Bytes, DamagedRecord> {
    if bytes.len() < len { Err(DamagedRecord::Short) } else { Ok(bytes.split_to(len)) }
}

fn take_long(bytes: &mut Bytes) -> Result<Bytes, DamagedRecord> {
    let len = bytes.try_get_u32_le().map_err(|_| DamagedRecord::Short)?;
    take(bytes, usize::try_from(len).map_err(|_| DamagedRecord::Short)?)
}

fn text(bytes: &[u8]) -> Result<Box<str>, DamagedRecord> {
    std::str::from_utf8(bytes).map(Into::into).map_err(|_| DamagedRecord::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> (IdentityId, Message) {
        let mut system = SystemProperties::default();
        for (tag, field) in TEXTS {
            *field(&mut system) = Some(format!("text {tag} ü").into());
        }
        for (tag, field) in TIMES {
            *field(&mut system) = Some(WallTime(-i64::from(*tag)));
        }
        let properties = PropertyBag(Bytes::from_static(b"a=1&b=%20"));
        let message = Message { body: Bytes::from_static(b"\0body\xff"), properties, system };
        ("d1/$edgeHub".parse().unwrap(), message)
    }

    #[test]
    fn a_message_comes_back_as_it_went() {
        let (sender, message) = full();
        assert_eq!(decode(encode(&sender, &message)), Ok((sender.clone(), message)));
        let empty = Message::default();
        assert_eq!(decode(encode(&sender, &empty)), Ok((sender, empty)));
    }

    #[test]
    fn every_cut_before_the_body_is_damage_and_none_panics() {
        let (sender, message) = full();
        let bytes = encode(&sender, &message);
        for len in 0..bytes.len() - message.body.len() {
            assert!(decode(bytes.slice(..len)).is_err(), "{len}");
        }
        assert_eq!(decode(Bytes::from_static(&[9])), Err(DamagedRecord::Version(9)));
    }

    #[test]
    fn version_one_keeps_its_form() {
        let message = Message {
            body: Bytes::from_static(b"B"),
            properties: PropertyBag(Bytes::from_static(b"k=v")),
            system: SystemProperties {
                message_id: Some("m".into()),
                expiry: Some(WallTime(1)),
                ..SystemProperties::default()
            },
        };
        let golden =
            b"\x01\x03\0d/m\x02\x01\x01\0\0\0m\x40\x08\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0k=vB";
        assert_eq!(encode(&"d/m".parse().unwrap(), &message), &golden[..]);
    }
}
