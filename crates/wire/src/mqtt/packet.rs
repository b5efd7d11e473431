//! The MQTT 3.1.1 codec: all fourteen packets, decoded by borrowing from what was read.
//!
//! Strict where leniency would hide damage: reserved flags, UTF-8, lengths, packet id 0,
//! bytes left over. Lenient in one point: wildcards in topic names, because Azure's ids may
//! contain `+` and `#`; the topics that exist are checked by [`crate::topics`] anyway.

mod decode;
mod encode;

use std::num::NonZeroU16;

use bytes::BytesMut;
use model::message::MESSAGE_BYTES_MAX;
use thiserror::Error;

/// What a packet may hold beyond a message's body: its topic with the encoded property bag.
pub const TOPIC_MARGIN: usize = 128 * 1024;
/// Largest remaining length accepted, in bytes.
pub const REMAINING_LEN_MAX: usize = MESSAGE_BYTES_MAX + TOPIC_MARGIN;
/// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
pub const FILTERS_MAX: usize = 64;
/// The protocol level of MQTT 3.1.1.
pub const LEVEL: u8 = 4;

/// How often a publish arrives at most and at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// At most once.
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once; Azure has none of it, but the codec knows it.
    ExactlyOnce = 2,
}

impl Qos {
    /// The level with this number.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Names a packet until it is acknowledged.
pub type PacketId = NonZeroU16;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server, first.
    Connect(Connect<'a>),
    /// The answer to it.
    ConnAck {
        /// Whether state of an earlier session exists.
        session_present: bool,
        /// 0 accepts, 1 to 5 refuse.
        code: u8,
    },
    /// A message.
    Publish(Publish<'a>),
    /// Acknowledges a `QoS` 1 publish.
    PubAck(PacketId),
    /// `QoS` 2, first answer.
    PubRec(PacketId),
    /// `QoS` 2, release.
    PubRel(PacketId),
    /// `QoS` 2, complete.
    PubComp(PacketId),
    /// Asks for messages.
    Subscribe {
        /// For the SUBACK.
        id: PacketId,
        /// Filters and the quality asked for, in order; at least one.
        filters: Vec<(&'a str, Qos)>,
    },
    /// The answer, one code per filter: 0 to 2 granted, 0x80 refused.
    SubAck {
        /// Of the SUBSCRIBE.
        id: PacketId,
        /// One code per filter.
        codes: &'a [u8],
    },
    /// Ends subscriptions.
    Unsubscribe {
        /// For the UNSUBACK.
        id: PacketId,
        /// Filters, in order; at least one.
        filters: Vec<&'a str>,
    },
    /// The answer.
    UnsubAck(PacketId),
    /// Are you there?
    PingReq,
    /// Yes.
    PingResp,
    /// Goodbye.
    Disconnect,
}

/// The body of a CONNECT of level 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Who connects.
    pub client_id: &'a str,
    /// Whether earlier state is to be forgotten.
    pub clean: bool,
    /// Longest silence of the client, in seconds; 0 for any.
    pub keep_alive: u16,
    /// Sent by the server if the connection breaks.
    pub will: Option<Will<'a>>,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password; only with a user name.
    pub password: Option<&'a [u8]>,
}

/// A will message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// What it says.
    pub body: &'a [u8],
    /// With which quality.
    pub qos: Qos,
    /// With the retain flag.
    pub retain: bool,
}

/// A PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// What it says.
    pub body: &'a [u8],
    /// Its quality; [`Publish::id`] is there unless it is 0.
    pub qos: Qos,
    /// Present for `QoS` 1 and 2.
    pub id: Option<PacketId>,
    /// Sent before.
    pub dup: bool,
    /// To be kept by the server.
    pub retain: bool,
}

/// What the start of some bytes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole packet that takes `len` bytes.
    Whole {
        /// The packet.
        packet: Packet<'a>,
        /// Its length with the fixed header, in bytes.
        len: usize,
    },
    /// Not a whole packet yet; it needs at least `len` bytes in all.
    Partial {
        /// Bytes needed, from the start of the packet.
        len: usize,
    },
}

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidPacket {
    /// The packet type is 0 or 15.
    #[error("packet type {0} does not exist")]
    Type(u8),
    /// The flags of the fixed header are not those of the type.
    #[error("flags {flags:#06b} are not allowed in packet type {kind}")]
    Flags {
        /// The type.
        kind: u8,
        /// The flags.
        flags: u8,
    },
    /// The remaining length takes more than four bytes.
    #[error("the remaining length has more than four bytes")]
    LengthEncoding,
    /// The remaining length is over [`REMAINING_LEN_MAX`].
    #[error("a packet of {0} bytes is longer than {REMAINING_LEN_MAX}")]
    TooLong(usize),
    /// The packet ends inside a field.
    #[error("the packet ends inside a field")]
    Short,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// A text is not UTF-8 or contains U+0000.
    #[error("a text is not UTF-8 or contains U+0000")]
    Text,
    /// A packet id is 0 where one is needed.
    #[error("a packet id is zero")]
    PacketId,
    /// `QoS` 3.
    #[error("quality of service 3 does not exist")]
    Qos,
    /// The protocol name is not `MQTT`.
    #[error("the protocol name is not MQTT")]
    ProtocolName,
    /// The protocol level is not [`LEVEL`]; answered by CONNACK code 1.
    #[error("protocol level {0} is not supported")]
    ProtocolLevel(u8),
    /// The connect flags contradict each other.
    #[error("the connect flags are invalid")]
    ConnectFlags,
    /// No filter, or more than [`FILTERS_MAX`].
    #[error("a subscription needs 1 to {FILTERS_MAX} filters")]
    Filters,
    /// A code of SUBACK or CONNACK that does not exist.
    #[error("return code {0} does not exist")]
    Code(u8),
}

/// Looks at the start of `bytes`.
///
/// # Errors
/// [`InvalidPacket`] as soon as the bytes seen cannot start a packet; the fixed header alone is
/// enough to refuse one that would be too long.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, InvalidPacket> {
    decode::frame(bytes)
}

/// Appends `packet` to `out`.
///
/// Texts and binary fields longer than 65,535 bytes cannot be said in MQTT; callers bound them.
/// They are cut at that length rather than written as a packet that nobody can read.
pub fn encode(packet: &Packet<'_>, out: &mut BytesMut) {
    encode::packet(packet, out);
}

#[cfg(test)]
mod tests;
