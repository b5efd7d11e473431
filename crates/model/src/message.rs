//! Telemetry, cloud-to-device and module messages: one shape for all three.

use std::borrow::Cow;

use bytes::Bytes;
use thiserror::Error;

use crate::time::WallTime;

/// Largest device-to-cloud message, body and properties together, in bytes.
/// Source: IoT Hub quotas.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Application properties, still encoded as `key=value&key=value` with each side
/// percent-encoded. Checked once at the door, parsed only when something names a property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PropertyBag(pub Bytes);

impl PropertyBag {
    /// Whether there is no property.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes an encoded bag after checking all of it. `+` is a plus, not a blank.
    ///
    /// # Errors
    /// [`InvalidPropertyBag`] names the first fault; nothing was stored.
    pub fn parse(_encoded: Bytes) -> Result<Self, InvalidPropertyBag> {
        todo!()
    }

    /// Encodes `pairs` of key and value.
    pub fn from_pairs<'p>(_pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Self {
        todo!()
    }

    /// The decoded pairs of key and value, in order; a bare key has the value `""`.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        std::iter::empty()
    }

    /// The decoded value of `key`, compared without case as Azure does; the exact case wins.
    pub fn get(&self, _key: &str) -> Option<Cow<'_, str>> {
        todo!()
    }
}

/// Why bytes are not a property bag.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidPropertyBag {
    /// A `%` without two hexadecimal digits behind it.
    #[error("a percent sign at byte {0} is not followed by two hexadecimal digits")]
    Escape(usize),
    /// A key or value that is not UTF-8 when decoded.
    #[error("the property at byte {0} is not UTF-8")]
    Utf8(usize),
    /// A property without a name.
    #[error("the property at byte {0} has no name")]
    NoKey(usize),
    /// The bag alone is larger than a message may be.
    #[error("the properties have {0} bytes, a message has at most {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
}

/// What the protocol and the platform say about a message; absent means "not said".
///
/// Texts are decoded. Names and meanings: IoT Hub, "Create and read IoT Hub messages".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemProperties {
    /// `$.mid`
    pub message_id: Option<Box<str>>,
    /// `$.cid`
    pub correlation_id: Option<Box<str>>,
    /// `$.uid`
    pub user_id: Option<Box<str>>,
    /// `$.to`
    pub to: Option<Box<str>>,
    /// `$.ct`
    pub content_type: Option<Box<str>>,
    /// `$.ce`
    pub content_encoding: Option<Box<str>>,
    /// `$.exp`: the message is worthless after this.
    pub expiry: Option<WallTime>,
    /// `$.ctime`: when the sender made it.
    pub creation_time: Option<WallTime>,
    /// `$.on`: the output of the module that sent it.
    pub output_name: Option<Box<str>>,
    /// The input of the module that gets it.
    pub input_name: Option<Box<str>>,
    /// `$.cdid`: the device that sent it, proven.
    pub connection_device_id: Option<Box<str>>,
    /// `$.cmid`: the module that sent it, proven.
    pub connection_module_id: Option<Box<str>>,
    /// The generation of the sender's identity.
    pub connection_generation_id: Option<Box<str>>,
    /// How the sender proved who it is, as Azure's JSON text.
    pub connection_auth_method: Option<Box<str>>,
    /// `$.ifid`
    pub interface_id: Option<Box<str>>,
    /// `$.sub` = `dt-subject`: the plug-and-play component.
    pub component: Option<Box<str>>,
    /// `$.schema`
    pub schema: Option<Box<str>>,
    /// `dt-dataschema`: the model id given at connect.
    pub model_id: Option<Box<str>>,
    /// `iothub-ack`: which feedback the sender wants.
    pub ack: Option<Box<str>>,
    /// When the platform took it.
    pub enqueued_time: Option<WallTime>,
    /// Its place in the queue it was read from.
    pub sequence_number: Option<u64>,
    /// How often it was handed out before.
    pub delivery_count: Option<u8>,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The payload, opaque.
    pub body: Bytes,
    /// What the application attached.
    pub properties: PropertyBag,
    /// What protocol and platform say.
    pub system: SystemProperties,
}
