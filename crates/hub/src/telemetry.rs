//! Telemetry: how a message lies in the journal, and which lane it is in.
//!
//! One record is a version byte, then fields `tag u8, length u32 LE, bytes`, then tag 0 and the
//! body to the end. Tags are never used twice; a reader refuses what it does not know.
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

pub(crate) mod http;
pub(crate) mod shell;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use model::id::IdentityId;
use model::message::{Message, PropertyBag, SystemProperties};
use model::time::WallTime;
use thiserror::Error;

const VERSION: u8 = 1;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadRecord {
    #[error("version {0} of a telemetry record is not known")]
    Version(u8),
    #[error("tag {0} of a telemetry record is not known")]
    Tag(u8),
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

/// Bytes that `message` counts against limits: body and properties.
pub(crate) fn size_of(message: &Message) -> usize {
    message.body.len() + message.properties.0.len()
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
    put(&mut out, 13, sender.generation_id.as_bytes());
    put(&mut out, 14, sender.method.as_bytes());
    for (tag, time) in [(8, system.expiry), (9, system.creation_time)] {
        if let Some(time) = time {
            put(&mut out, tag, &time.0.to_le_bytes());
        }
    }
    out.put_u8(0);
    out.put_slice(&message.body);
    out.freeze()
}

fn put(out: &mut BytesMut, tag: u8, bytes: &[u8]) {
    out.put_u8(tag);
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// The message in `record`.
pub(crate) fn decode(mut record: Bytes) -> Result<Message, BadRecord> {
    match record.try_get_u8() {
        Ok(VERSION) => {}
        Ok(other) => return Err(BadRecord::Version(other)),
        Err(_) => return Err(BadRecord::Short),
    }
    let mut message = Message::default();
    loop {
        let tag = record.try_get_u8().map_err(|_| BadRecord::Short)?;
        if tag == 0 {
            message.body = record;
            return Ok(message);
        }
        let length = record.try_get_u32_le().map_err(|_| BadRecord::Short)? as usize;
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
            let time = Some(WallTime(i64::from_le_bytes(millis)));
            let slot = if tag == 8 { &mut system.expiry } else { &mut system.creation_time };
            *slot = time;
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
        other => return Err(BadRecord::Tag(other)),
    };
    *slot = Some(std::str::from_utf8(bytes).map_err(|_| BadRecord::Text)?.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_the_message_and_its_bytes_never_change() {
        let mut message = Message {
            body: Bytes::from_static(b"{\"seq\":7}"),
            properties: PropertyBag(Bytes::from_static(b"a=b")),
            system: SystemProperties {
                message_id: Some("m1".into()),
                expiry: Some(WallTime(5)),
                connection_device_id: Some("somebody else".into()),
                ..SystemProperties::default()
            },
        };
        let identity: IdentityId = "d1/m".parse().unwrap();
        let record =
            encode(&message, Sender { identity: &identity, generation_id: "9", method: "{}" });
        let golden = b"\x01\x01\x03\0\0\0a=b\x02\x02\0\0\0m1\x0b\x02\0\0\0d1\x0c\x01\0\0\0m\
                       \x0d\x01\0\0\09\x0e\x02\0\0\0{}\x08\x08\0\0\0\x05\0\0\0\0\0\0\0\0{\"seq\":7}";
        assert_eq!(&record[..], &golden[..]);
        let system = &mut message.system;
        system.connection_device_id = Some("d1".into());
        system.connection_module_id = Some("m".into());
        system.connection_generation_id = Some("9".into());
        system.connection_auth_method = Some("{}".into());
        assert_eq!(decode(record), Ok(message));
    }

    #[test]
    fn damaged_records_are_refused() {
        let check = |bytes: &'static [u8], expected: BadRecord| {
            assert_eq!(decode(Bytes::from_static(bytes)), Err(expected), "{bytes:?}");
        };
        check(b"", BadRecord::Short);
        check(b"\x02\0", BadRecord::Version(2));
        check(b"\x01\x63\0\0\0\0\0", BadRecord::Tag(0x63));
        check(b"\x01\x02\xFF\0\0\0m", BadRecord::Short);
        check(b"\x01\x02\x01\0\0\0\xFF\0", BadRecord::Text);
    }

    #[test]
    fn a_device_stays_in_its_partition_forever() {
        assert_eq!(["d1", "d2", "sensor", ""].map(|id| partition_of(id, 4)), PLACES);
        assert_eq!(partition_of("d1", 1), 0);
    }

    /// Written down once; another value here would tear a device's order apart.
    const PLACES: [u16; 4] = [2, 3, 3, 1];
}
