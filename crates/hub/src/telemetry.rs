//! Telemetry: how a message lies in the journal, and which lane it is in.
//!
//! One record is a version byte, then fields `tag u8, length, bytes`, then tag 0 and the body to
//! the end. A length has seven bits in each byte, the lowest first, and the eighth where more
//! follow; in version 1, which is still read, it is a u32 LE. Version 2 has no tags beyond 20.
//! Tags are never used twice; a reader refuses what it does not know. Fleets send small messages,
//! so each byte here counts: a time that is written as we write it takes eight.
//!
//! | tag | field | tag | field |
//! |---|---|---|---|
//! | 1 | properties, encoded | 10 | output name |
//! | 2 | message id | 11 | connection device id |
//! | 3 | correlation id | 12 | connection module id |
//! | 4 | user id | 13 | generation id |
//! | 5 | to | 14 | auth method |
//! | 6 | content type | 15 | interface id |
//! | 7 | content encoding | 16 | component |
//! | 8 | expiry, i64 LE ms | 17 | schema |
//! | 9 | creation time, i64 LE ms | 18 | model id |
//! | 19 | generation id that is a number, u64 LE | 20 | auth method, place in `METHODS` |
//! | 21 | expiry, as the sender wrote it | 22 | creation time, as the sender wrote it |
//! | 23 | feedback wanted | | |

pub(crate) mod http;
pub(crate) mod shell;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::time::WallTime;
use thiserror::Error;

use crate::access::{BY_DEVICE_KEY, BY_MODULE_KEY, BY_POLICY, BY_THUMBPRINT};

/// The version that is written.
const VERSION: u8 = 3;
/// The older ones that are read as well.
const VERSION_WITHOUT_TEXT_TIMES: u8 = 2;
const VERSION_LONG: u8 = 1;
/// Texts of tag 20. What stands in one place stays there.
const METHODS: [&str; 4] = [BY_DEVICE_KEY, BY_MODULE_KEY, BY_THUMBPRINT, BY_POLICY];

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadRecord {
    #[error("version {0} of a telemetry record is not known")]
    Version(u8),
    #[error("tag {0} of a telemetry record is not known")]
    Tag(u8),
    #[error("authentication method {0} of a telemetry record is not known")]
    Method(u8),
    #[error("a telemetry record ends too early")]
    Short,
    #[error("a text in a telemetry record is not UTF-8")]
    Text,
}

/// The lane of `device` among `partitions`: FNV-1a, so that it never changes.
pub(crate) fn partition_of(device: &str, partitions: u16) -> u16 {
    let hash = device.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u16::try_from(hash % u64::from(partitions.max(1))).unwrap_or(0)
}

/// Bytes that `message` takes here, as it is encoded.
pub(crate) fn size_of(message: &Message) -> usize {
    message.body.len() + message.properties.0.len() + message.system.size()
}

/// Who proved to have sent a message; what the message itself says about that is not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) identity: &'a IdentityId,
    pub(crate) generation_id: &'a str,
    /// Azure's text for `connectionAuthMethod`.
    pub(crate) method: &'a str,
}

/// The record of `message`; `enqueued_time` and what only queues know are left out.
pub(crate) fn encode(message: &Message, sender: Sender<'_>) -> Bytes {
    let system = &message.system;
    let mut out = BytesMut::with_capacity(size_of(message) + 256);
    out.put_u8(VERSION);
    if !message.properties.is_empty() {
        put(&mut out, 1, &message.properties.0);
    }
    let texts = [
        (2, &system.message_id),
        (3, &system.correlation_id),
        (4, &system.user_id),
        (5, &system.to),
        (6, &system.content_type),
        (7, &system.content_encoding),
        (10, &system.output_name),
        (15, &system.interface_id),
        (16, &system.component),
        (17, &system.schema),
        (18, &system.model_id),
        (23, &system.ack),
    ];
    for (tag, text) in texts {
        if let Some(text) = text {
            put(&mut out, tag, text.as_bytes());
        }
    }
    put(&mut out, 11, sender.identity.device_str().as_bytes());
    if let Some(module) = sender.identity.module_str() {
        put(&mut out, 12, module.as_bytes());
    }
    put_generation(&mut out, sender.generation_id);
    match METHODS.iter().position(|known| *known == sender.method).map(u8::try_from) {
        Some(Ok(place)) => put(&mut out, 20, &[place]),
        _ => put(&mut out, 14, sender.method.as_bytes()),
    }
    for (tags, time) in [((8, 21), &system.expiry), ((9, 22), &system.creation_time)] {
        if let Some(time) = time {
            put_time(&mut out, tags, time);
        }
    }
    out.put_u8(0);
    out.put_slice(&message.body);
    out.freeze()
}

/// As a number if that gives the same text back.
fn put_generation(out: &mut BytesMut, generation: &str) {
    match generation.parse::<u64>() {
        Ok(number) if number.to_string() == generation => put(out, 19, &number.to_le_bytes()),
        _ => put(out, 13, generation.as_bytes()),
    }
}

/// As a number if that gives the same text back; readers get what the sender wrote.
fn put_time(out: &mut BytesMut, (as_number, as_text): (u8, u8), text: &str) {
    match WallTime::parse_rfc3339(text).filter(|time| time.to_string() == text) {
        Some(time) => put(out, as_number, &time.0.to_le_bytes()),
        None => put(out, as_text, text.as_bytes()),
    }
}

fn put(out: &mut BytesMut, tag: u8, bytes: &[u8]) {
    out.put_u8(tag);
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

/// Longest length in bytes that [`put`] writes: a message is far smaller than 2^28 bytes.
const LENGTH_BYTES_MAX: u32 = 4;

fn take_length(record: &mut Bytes, version: u8) -> Result<usize, BadRecord> {
    if version == VERSION_LONG {
        return record.try_get_u32_le().map(|it| it as usize).map_err(|_| BadRecord::Short);
    }
    let mut length = 0;
    for place in 0..LENGTH_BYTES_MAX {
        let byte = record.try_get_u8().map_err(|_| BadRecord::Short)?;
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(length);
        }
    }
    Err(BadRecord::Short)
}

/// The message in `record`.
pub(crate) fn decode(mut record: Bytes) -> Result<Message, BadRecord> {
    let version = match record.try_get_u8() {
        Ok(known @ (VERSION | VERSION_WITHOUT_TEXT_TIMES | VERSION_LONG)) => known,
        Ok(other) => return Err(BadRecord::Version(other)),
        Err(_) => return Err(BadRecord::Short),
    };
    let mut message = Message::default();
    loop {
        let tag = record.try_get_u8().map_err(|_| BadRecord::Short)?;
        if tag == 0 {
            message.body = record;
            return Ok(message);
        }
        let length = take_length(&mut record, version)?;
        if length > record.len() {
            return Err(BadRecord::Short);
        }
        let bytes = record.split_to(length);
        if tag == 1 {
            message.properties = PropertyBag(bytes);
        } else {
            take(&mut message.system, tag, &bytes)?;
        }
    }
}

fn take(system: &mut SystemProperties, tag: u8, bytes: &[u8]) -> Result<(), BadRecord> {
    let slot = match tag {
        8 | 9 => {
            let millis = bytes.try_into().map_err(|_| BadRecord::Short)?;
            let time = WallTime(i64::from_le_bytes(millis)).to_string();
            let slot = if tag == 8 { &mut system.expiry } else { &mut system.creation_time };
            *slot = Some(time.into());
            return Ok(());
        }
        19 => {
            let number = bytes.try_into().map_err(|_| BadRecord::Short)?;
            let text = u64::from_le_bytes(number).to_string();
            system.connection_generation_id = Some(text.into());
            return Ok(());
        }
        20 => {
            let place = bytes.first().copied().ok_or(BadRecord::Short)?;
            let method = METHODS.get(usize::from(place)).ok_or(BadRecord::Method(place))?;
            system.connection_auth_method = Some((*method).into());
            return Ok(());
        }
        2 => &mut system.message_id,
        3 => &mut system.correlation_id,
        4 => &mut system.user_id,
        5 => &mut system.to,
        6 => &mut system.content_type,
        7 => &mut system.content_encoding,
        10 => &mut system.output_name,
        11 => &mut system.connection_device_id,
        12 => &mut system.connection_module_id,
        13 => &mut system.connection_generation_id,
        14 => &mut system.connection_auth_method,
        15 => &mut system.interface_id,
        16 => &mut system.component,
        17 => &mut system.schema,
        18 => &mut system.model_id,
        21 => &mut system.expiry,
        22 => &mut system.creation_time,
        23 => &mut system.ack,
        other => return Err(BadRecord::Tag(other)),
    };
    *slot = Some(std::str::from_utf8(bytes).map_err(|_| BadRecord::Text)?.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            body: Bytes::from_static(b"{\"seq\":7}"),
            properties: PropertyBag(Bytes::from_static(b"a=b")),
            system: SystemProperties {
                message_id: Some("m1".into()),
                expiry: Some("1970-01-01T00:00:00.005Z".into()),
                connection_device_id: Some("somebody else".into()),
                ..SystemProperties::default()
            },
        }
    }

    /// What a reader finds of [`message`], sent by module `m` of `d1`.
    fn sent(generation: &str, method: &str) -> Message {
        let mut message = message();
        let system = &mut message.system;
        system.connection_device_id = Some("d1".into());
        system.connection_module_id = Some("m".into());
        system.connection_generation_id = Some(generation.into());
        system.connection_auth_method = Some(method.into());
        message
    }

    fn record(generation_id: &str, method: &str) -> Bytes {
        let identity: IdentityId = "d1/m".parse().unwrap();
        encode(&message(), Sender { identity: &identity, generation_id, method })
    }

    #[test]
    fn a_record_gives_back_the_message_and_its_bytes_never_change() {
        let golden = b"\x03\x01\x03a=b\x02\x02m1\x0b\x02d1\x0c\x01m\
                       \x13\x08\x09\0\0\0\0\0\0\0\x14\x01\x01\
                       \x08\x08\x05\0\0\0\0\0\0\0\0{\"seq\":7}";
        assert_eq!(&record("9", BY_MODULE_KEY)[..], &golden[..]);
        assert_eq!(decode(Bytes::from_static(golden)), Ok(sent("9", BY_MODULE_KEY)));
    }

    #[test]
    fn every_method_and_every_generation_comes_back_as_it_went() {
        for method in METHODS.into_iter().chain(["{}", ""]) {
            for generation in ["0", "18446744073709551615", "18446744073709551616", "007", "g", ""]
            {
                let found = decode(record(generation, method));
                assert_eq!(found, Ok(sent(generation, method)), "{generation} {method}");
            }
        }
        // They stand in stored messages.
        assert_eq!(METHODS, [BY_DEVICE_KEY, BY_MODULE_KEY, BY_THUMBPRINT, BY_POLICY]);
    }

    #[test]
    fn times_come_back_as_they_were_written_and_ours_take_eight_bytes() {
        let identity: IdentityId = "d1".parse().unwrap();
        let sender = Sender { identity: &identity, generation_id: "1", method: BY_POLICY };
        let check = |text: &str, bytes: usize| {
            let mut sent = Message::default();
            let without = encode(&sent, sender).len();
            sent.system.creation_time = Some(text.into());
            let record = encode(&sent, sender);
            assert_eq!(record.len(), without + 2 + bytes, "{text}");
            let found = decode(record).unwrap().system;
            assert_eq!(found.creation_time.as_deref(), Some(text));
            sent.system = SystemProperties { expiry: Some(text.into()), ..Default::default() };
            let found = decode(encode(&sent, sender)).unwrap().system;
            assert_eq!(found.expiry.as_deref(), Some(text));
        };
        check("2023-09-05T18:53:42.150Z", 8);
        check("2023-09-05T18:53:42.1509021Z", 28);
        check("2023-09-05T18:53:42Z", 20);
        check("2023-09-05T20:53:42.150+02:00", 29);
        check("1795844700000", 13);
        check("soon", 4);
    }

    #[test]
    fn a_record_of_version_two_is_still_read() {
        let old = b"\x02\x01\x03a=b\x02\x02m1\x0b\x02d1\x0c\x01m\
                    \x13\x08\x09\0\0\0\0\0\0\0\x14\x01\x01\
                    \x08\x08\x05\0\0\0\0\0\0\0\0{\"seq\":7}";
        assert_eq!(decode(Bytes::from_static(old)), Ok(sent("9", BY_MODULE_KEY)));
    }

    #[test]
    fn lengths_of_any_size_come_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 250_000] {
            let mut long = message();
            long.system.message_id = Some("x".repeat(length).into());
            let identity: IdentityId = "d1".parse().unwrap();
            let sender = Sender { identity: &identity, generation_id: "1", method: BY_POLICY };
            let found = decode(encode(&long, sender)).unwrap();
            assert_eq!(found.system.message_id, long.system.message_id);
            assert_eq!(found.body, long.body);
        }
    }

    #[test]
    fn a_record_of_version_one_is_still_read() {
        let old = b"\x01\x01\x03\0\0\0a=b\x02\x02\0\0\0m1\x0b\x02\0\0\0d1\x0c\x01\0\0\0m\
                    \x0d\x01\0\0\09\x0e\x02\0\0\0{}\x08\x08\0\0\0\x05\0\0\0\0\0\0\0\0{\"seq\":7}";
        assert_eq!(decode(Bytes::from_static(old)), Ok(sent("9", "{}")));
    }

    #[test]
    fn damaged_records_are_refused() {
        let check = |bytes: &'static [u8], expected: BadRecord| {
            assert_eq!(decode(Bytes::from_static(bytes)), Err(expected), "{bytes:?}");
        };
        check(b"", BadRecord::Short);
        check(b"\x04\0", BadRecord::Version(4));
        check(b"\x01\x63\0\0\0\0\0", BadRecord::Tag(0x63));
        check(b"\x01\x02\xFF\0\0\0m", BadRecord::Short);
        check(b"\x01\x02\x01\0\0\0\xFF\0", BadRecord::Text);
        check(b"\x02\x02\x7Fm", BadRecord::Short);
        check(b"\x02\x02\xFF\xFF\xFF\xFF\x01m", BadRecord::Short);
        check(b"\x02\x02\x80", BadRecord::Short);
        check(b"\x02\x13\x02ab\0", BadRecord::Short);
        check(b"\x02\x14\x01\x63\0", BadRecord::Method(0x63));
        check(b"\x02\x14\0\0", BadRecord::Short);
    }

    #[test]
    fn a_device_stays_in_its_partition_forever() {
        assert_eq!(["d1", "d2", "sensor", ""].map(|id| partition_of(id, 4)), PLACES);
        assert_eq!(partition_of("d1", 1), 0);
    }

    /// Written down once; another value here would tear a device's order apart.
    const PLACES: [u16; 4] = [2, 3, 3, 1];
}
