//! A message on the router's disk: who sent it, and the message, in one run of bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format version, [`VERSION`] |
//! | l + n | sender, `device/module`, length first |
//! | 1 | flags: 1 = the connection's device and module are the sender's, 2 = a generation |
//! | 8 | the connection's generation id, which is a number, if flagged |
//! | 1 | how many system properties follow |
//! | 1 + l + n each | tag, length, value: text as UTF-8, numbers as 8 bytes |
//! | l + n | application properties, encoded as they came |
//! | rest | body |
//!
//! Numbers are little endian. A length has seven bits in each byte, the lowest first, and the
//! eighth where more follow: modules send small messages, so each byte here counts. Tags are
//! never used again for something else.
//!
//! Version 2 is still read: it has no texts of times. And so is version 1: lengths have 4 bytes,
//! the sender's 2, and there are no flags.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::planted;
use model::time::WallTime;
use thiserror::Error;

/// The format that is written.
pub const VERSION: u8 = 3;
/// The older formats, which are read as well.
const VERSION_WITHOUT_TEXT_TIMES: u8 = 2;
const VERSION_LONG: u8 = 1;
/// The connection's device and module are the sender's and not written again.
const IS_SENDERS: u8 = 1;
/// The connection's generation id is written as a number.
const HAS_GENERATION: u8 = 2;
/// Longest length in bytes: a message is far smaller than 2^28 bytes.
const LENGTH_BYTES_MAX: u32 = 4;

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
    /// A flag that nobody knows.
    #[error("a stored message has unknown flags {0:#x}")]
    Flags(u8),
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
    (18, |it| &mut it.expiry),
    (19, |it| &mut it.creation_time),
];

type Times = fn(&mut SystemProperties) -> &mut Option<WallTime>;

/// Tags of times. `sequence_number` and `delivery_count` belong to one queue and are not kept.
const TIMES: &[(u8, Times)] = &[(66, |it| &mut it.enqueued_time)];

/// Tags of times that their senders wrote, where a number gives the same text back. They are
/// texts, and stand in [`TEXTS`] besides.
const WRITTEN: &[(u8, Texts)] = &[(64, |it| &mut it.expiry), (65, |it| &mut it.creation_time)];

/// The bytes of `message` from `sender`.
pub fn encode(sender: &IdentityId, message: &Message) -> Bytes {
    let mut system = message.system.clone();
    let mut out = BytesMut::with_capacity(256 + message.properties.0.len() + message.body.len());
    out.put_u8(VERSION);
    put_long(&mut out, sender.as_str().as_bytes());
    let is_senders = system.connection_device_id.as_deref() == Some(sender.device_str())
        && system.connection_module_id.as_deref() == sender.module_str();
    if is_senders {
        (system.connection_device_id, system.connection_module_id) = (None, None);
    }
    let generation = system.connection_generation_id.as_deref().and_then(number);
    let flags = if is_senders { IS_SENDERS } else { 0 };
    match generation {
        Some(number) => {
            system.connection_generation_id = None;
            out.put_u8(flags | HAS_GENERATION);
            out.put_u64_le(number);
        }
        None => out.put_u8(flags),
    }
    let written = WRITTEN.iter().filter_map(|(tag, field)| {
        let text = field(&mut system);
        let time = WallTime::parse_rfc3339(text.as_deref()?);
        let time = time.filter(|time| text.as_deref() == Some(time.to_string().as_str()))?;
        *text = None;
        Some((*tag, time))
    });
    let written: Vec<_> = written.collect();
    let texts = TEXTS.iter().filter_map(|(tag, field)| Some((*tag, field(&mut system).take()?)));
    let texts: Vec<_> = texts.collect();
    let times = TIMES.iter().filter_map(|(tag, field)| Some((*tag, field(&mut system).take()?)));
    let times: Vec<_> = written.into_iter().chain(times).collect();
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

/// `text` as a number, if that gives the same text back.
fn number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

fn put_long(out: &mut BytesMut, bytes: &[u8]) {
    let mut left = bytes.len();
    loop {
        let seven = u8::try_from(left & 0x7F).unwrap_or_default();
        left >>= 7;
        out.put_u8(if left > 0 { seven | 0x80 } else { seven });
        if left == 0 {
            break;
        }
    }
    out.put_slice(bytes);
}

/// The sender and the message behind `bytes`.
///
/// # Errors
/// [`DamagedRecord`]; such a record is counted and passed over, never retried.
pub fn decode(mut bytes: Bytes) -> Result<(IdentityId, Message), DamagedRecord> {
    let short = |_| DamagedRecord::Short;
    let version = bytes.try_get_u8().map_err(short)?;
    let mut system = SystemProperties::default();
    let sender: IdentityId = match version {
        VERSION | VERSION_WITHOUT_TEXT_TIMES => text(&take_long(&mut bytes, version)?)?,
        VERSION_LONG => {
            let len = bytes.try_get_u16_le().map_err(short)?;
            text(&take(&mut bytes, usize::from(len))?)?
        }
        other => return Err(DamagedRecord::Version(other)),
    }
    .parse()
    .map_err(|_| DamagedRecord::Text)?;
    if version != VERSION_LONG {
        take_flagged(&mut bytes, &sender, &mut system)?;
    }
    let count = bytes.try_get_u8().map_err(short)?;
    for _ in 0..count {
        let tag = bytes.try_get_u8().map_err(short)?;
        let value = take_long(&mut bytes, version)?;
        if let Some((_, field)) = TEXTS.iter().find(|(known, _)| *known == tag) {
            *field(&mut system) = Some(text(&value)?);
        } else if let Some((_, field)) = TIMES.iter().find(|(known, _)| *known == tag) {
            *field(&mut system) = Some(time(&value)?);
        } else if let Some((_, field)) = WRITTEN.iter().find(|(known, _)| *known == tag) {
            *field(&mut system) = Some(time(&value)?.to_string().into());
        } else {
            return Err(DamagedRecord::Tag(tag));
        }
    }
    let mut properties = PropertyBag(take_long(&mut bytes, version)?);
    // Planted: what the application attached is lost on the way.
    if planted::is("properties_lost") {
        properties = PropertyBag::default();
    }
    Ok((sender, Message { body: bytes, properties, system }))
}

fn take_flagged(
    bytes: &mut Bytes,
    sender: &IdentityId,
    system: &mut SystemProperties,
) -> Result<(), DamagedRecord> {
    let flags = bytes.try_get_u8().map_err(|_| DamagedRecord::Short)?;
    if flags & !(IS_SENDERS | HAS_GENERATION) != 0 {
        return Err(DamagedRecord::Flags(flags));
    }
    if flags & IS_SENDERS != 0 {
        system.connection_device_id = Some(sender.device_str().into());
        system.connection_module_id = sender.module_str().map(Into::into);
    }
    if flags & HAS_GENERATION != 0 {
        let number = bytes.try_get_u64_le().map_err(|_| DamagedRecord::Short)?;
        system.connection_generation_id = Some(number.to_string().into());
    }
    Ok(())
}

fn take(bytes: &mut Bytes, len: usize) -> Result<Bytes, DamagedRecord> {
    if bytes.len() < len { Err(DamagedRecord::Short) } else { Ok(bytes.split_to(len)) }
}

fn take_long(bytes: &mut Bytes, version: u8) -> Result<Bytes, DamagedRecord> {
    if version == VERSION_LONG {
        let len = bytes.try_get_u32_le().map_err(|_| DamagedRecord::Short)?;
        return take(bytes, usize::try_from(len).map_err(|_| DamagedRecord::Short)?);
    }
    let mut len = 0;
    for place in 0..LENGTH_BYTES_MAX {
        let byte = bytes.try_get_u8().map_err(|_| DamagedRecord::Short)?;
        len |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return take(bytes, len);
        }
    }
    Err(DamagedRecord::Short)
}

fn time(bytes: &[u8]) -> Result<WallTime, DamagedRecord> {
    let number = bytes.try_into().map_err(|_| DamagedRecord::Short)?;
    Ok(WallTime(i64::from_le_bytes(number)))
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

    fn small() -> Message {
        Message {
            body: Bytes::from_static(b"B"),
            properties: PropertyBag(Bytes::from_static(b"k=v")),
            system: SystemProperties {
                message_id: Some("m".into()),
                expiry: Some("1970-01-01T00:00:00.001Z".into()),
                ..SystemProperties::default()
            },
        }
    }

    #[test]
    fn the_record_keeps_its_form_and_version_two_is_still_read() {
        let mut message = small();
        message.system.connection_device_id = Some("d".into());
        message.system.connection_module_id = Some("m".into());
        message.system.connection_generation_id = Some("258".into());
        let golden: &[u8] = b"\x03\x03d/m\x03\x02\x01\0\0\0\0\0\0\x02\x01\x01m\
                              \x40\x08\x01\0\0\0\0\0\0\0\x03k=vB";
        let sender: IdentityId = "d/m".parse().unwrap();
        assert_eq!(encode(&sender, &message), golden);
        assert_eq!(decode(Bytes::from_static(golden)), Ok((sender.clone(), message.clone())));
        let old = [b"\x02", golden.get(1..).unwrap()].concat();
        assert_eq!(decode(old.into()), Ok((sender, message)));
    }

    #[test]
    fn every_message_of_the_table_comes_back_as_its_sender_meant_it() {
        let sender: IdentityId = "d/m".parse().unwrap();
        for case in testkit::cases::message_properties() {
            let message = testkit::messages::message_of(&case);
            let found = decode(encode(&sender, &message));
            assert_eq!(found, Ok((sender.clone(), message)), "{}", case.bag);
        }
    }

    #[test]
    fn times_come_back_as_they_were_written() {
        let sender: IdentityId = "d/m".parse().unwrap();
        for text in
            ["2023-09-05T18:53:42.150Z", "2023-09-05T18:53:42.1509021Z", "1795844700000", "soon"]
        {
            let mut message = small();
            message.system.expiry = Some(text.into());
            message.system.creation_time = Some(text.into());
            message.system.enqueued_time = Some(WallTime(7));
            assert_eq!(decode(encode(&sender, &message)), Ok((sender.clone(), message)));
        }
    }

    #[test]
    fn version_one_is_still_read() {
        let old: &[u8] =
            b"\x01\x03\0d/m\x02\x01\x01\0\0\0m\x40\x08\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0k=vB";
        let sender = "d/m".parse().unwrap();
        assert_eq!(decode(Bytes::from_static(old)), Ok((sender, small())));
    }

    #[test]
    fn whoever_the_connection_was_and_whatever_its_generation_comes_back() {
        let sender: IdentityId = "d/m".parse().unwrap();
        for (device, module) in
            [(Some("d"), Some("m")), (Some("d"), None), (None, Some("m")), (Some("e"), Some("m"))]
        {
            for generation in
                [None, Some("7"), Some("007"), Some("g"), Some("99999999999999999999")]
            {
                let mut message = small();
                message.system.connection_device_id = device.map(Into::into);
                message.system.connection_module_id = module.map(Into::into);
                message.system.connection_generation_id = generation.map(Into::into);
                let found = decode(encode(&sender, &message));
                assert_eq!(found, Ok((sender.clone(), message)));
            }
        }
    }

    #[test]
    fn long_texts_come_back_and_lengths_without_an_end_are_damage() {
        let sender: IdentityId = "d/m".parse().unwrap();
        for length in [127, 128, 16_383, 16_384, 250_000] {
            let mut message = small();
            message.system.message_id = Some("x".repeat(length).into());
            assert_eq!(decode(encode(&sender, &message)), Ok((sender.clone(), message)));
        }
        let endless = Bytes::from_static(b"\x03\xFF\xFF\xFF\xFF\x01d/m");
        assert_eq!(decode(endless), Err(DamagedRecord::Short));
        let flags = Bytes::from_static(b"\x03\x03d/m\x04\0\0B");
        assert_eq!(decode(flags), Err(DamagedRecord::Flags(4)));
    }
}
