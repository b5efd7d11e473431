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
    /// [`InvalidPropertyBag`] names the first fault.
    pub fn parse(encoded: Bytes) -> Result<Self, InvalidPropertyBag> {
        if encoded.len() > MESSAGE_BYTES_MAX {
            return Err(InvalidPropertyBag::TooLong(encoded.len()));
        }
        let mut start = 0;
        for entry in encoded.split(|byte| *byte == b'&') {
            let (key, value) = halves(entry);
            if key.is_empty() && !entry.is_empty() {
                return Err(InvalidPropertyBag::NoKey(start));
            }
            check_escapes(entry, start)?;
            for half in [key, value] {
                String::from_utf8(unescaped(half)).map_err(|_| InvalidPropertyBag::Utf8(start))?;
            }
            start += entry.len() + 1;
        }
        Ok(Self(encoded))
    }

    /// The bag of `pairs` of key and value, encoded so that every SDK can read it.
    pub fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Self {
        let mut encoded = String::new();
        for (key, value) in pairs {
            if !encoded.is_empty() {
                encoded.push('&');
            }
            escape(key, &mut encoded);
            encoded.push('=');
            escape(value, &mut encoded);
        }
        Self(encoded.into())
    }

    /// The decoded pairs of key and value, in order; a bare key has the value `""`.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.0.split(|byte| *byte == b'&').filter(|entry| !entry.is_empty()).map(|entry| {
            let (key, value) = halves(entry);
            (decoded(key), decoded(value))
        })
    }

    /// The decoded value of `key`. Azure compares names without case; the exact case wins.
    pub fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        let mut other_case = None;
        for (name, value) in self.iter() {
            if name == key {
                return Some(value);
            }
            if other_case.is_none() && name.eq_ignore_ascii_case(key) {
                other_case = Some(value);
            }
        }
        other_case
    }
}

/// The parts before and after the first `=`.
fn halves(entry: &[u8]) -> (&[u8], &[u8]) {
    let mut halves = entry.splitn(2, |byte| *byte == b'=');
    (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
}

fn check_escapes(entry: &[u8], start: usize) -> Result<(), InvalidPropertyBag> {
    let mut rest = entry;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = rest.get(at..).unwrap_or_default();
        let [_, high, low, tail @ ..] = rest else {
            return Err(InvalidPropertyBag::Escape(start + entry.len() - rest.len()));
        };
        if !(high.is_ascii_hexdigit() && low.is_ascii_hexdigit()) {
            return Err(InvalidPropertyBag::Escape(start + entry.len() - rest.len()));
        }
        rest = tail;
    }
    Ok(())
}

fn unescaped(mut half: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = Vec::with_capacity(half.len());
    while let [first, rest @ ..] = half {
        half = rest;
        if let (b'%', [high, low, tail @ ..]) = (first, rest)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            bytes.push(high * 16 + low);
            half = tail;
        } else {
            bytes.push(*first);
        }
    }
    bytes
}

fn decoded(half: &[u8]) -> Cow<'_, str> {
    if half.contains(&b'%') {
        return Cow::Owned(String::from_utf8_lossy(&unescaped(half)).into_owned());
    }
    String::from_utf8_lossy(half)
}

/// Everything but RFC 3986's unreserved signs, so that `+ / = &` survive every SDK.
fn escape(text: &str, to: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or('0');
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            to.push(char::from(byte));
        } else {
            to.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bag_decodes_keys_and_values_and_leaves_plus_alone() {
        let check = |encoded: &'static str, expected: &[(&str, &str)]| {
            let bag = PropertyBag::parse(Bytes::from_static(encoded.as_bytes())).unwrap();
            let pairs: Vec<_> = bag.iter().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
            let expected: Vec<_> =
                expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(pairs, expected, "{encoded}");
        };
        check("", &[]);
        check("a=1&b=2", &[("a", "1"), ("b", "2")]);
        check("%24.mid=x%26y", &[("$.mid", "x&y")]);
        check("a=1+2", &[("a", "1+2")]);
        check("a=x=y", &[("a", "x=y")]);
        check("a&b=&", &[("a", ""), ("b", "")]);
        check("gr%C3%B6%C3%9Fe=%20", &[("größe", " ")]);
    }

    #[test]
    fn a_broken_bag_is_refused_with_the_place() {
        let check = |encoded: &'static [u8], expected: InvalidPropertyBag| {
            assert_eq!(PropertyBag::parse(Bytes::from_static(encoded)), Err(expected));
        };
        check(b"a=%2", InvalidPropertyBag::Escape(2));
        check(b"a=1&b=%zz", InvalidPropertyBag::Escape(6));
        check(b"a=1&b=%ff", InvalidPropertyBag::Utf8(4));
        check(b"a=1&=x", InvalidPropertyBag::NoKey(4));
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_and_the_exact_case_wins() {
        let pairs = [("$.to", "/a b+c"), ("ä", "=&%"), ("K", "1"), ("k", "2")];
        let bag = PropertyBag::from_pairs(pairs);
        assert_eq!(bag.0.as_ref(), b"%24.to=%2Fa%20b%2Bc&%C3%A4=%3D%26%25&K=1&k=2");
        assert!(bag.iter().eq(pairs.map(|(k, v)| (Cow::Borrowed(k), Cow::Borrowed(v)))));
        assert_eq!(bag.get("k").as_deref(), Some("2"));
        assert_eq!(bag.get("$.TO").as_deref(), Some("/a b+c"));
        assert_eq!(bag.get("x"), None);
    }
}
