//! Telemetry, cloud-to-device and module messages: one shape for all three.

use std::borrow::Cow;

use bytes::Bytes;
use thiserror::Error;

use crate::refusal::{Refusal, RefusalKind};
use crate::time::WallTime;

/// Largest device-to-cloud message in bytes, as [`Message::size`] counts.
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
            if ![key, value].into_iter().all(is_text) {
                return Err(InvalidPropertyBag::Utf8(start));
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

    /// Takes what [`PropertyBag::parse`] refuses, and says how many properties it cost.
    ///
    /// A device that is told nothing sends the same message again for ever, so a bag must never
    /// end a connection. What cannot be decoded is the text it was written as: `50%` is `50%`,
    /// and a byte that is no UTF-8 stays its escape. Only a property without a name is lost.
    pub fn mend(encoded: &[u8]) -> (Self, u32) {
        let (mut mended, mut lost) = (String::new(), 0);
        for entry in encoded.split(|byte| *byte == b'&').filter(|entry| !entry.is_empty()) {
            let (key, value) = halves(entry);
            if key.is_empty() {
                lost += 1;
                continue;
            }
            if !mended.is_empty() {
                mended.push('&');
            }
            escape(&as_written(key), &mut mended);
            if key.len() < entry.len() {
                mended.push('=');
                escape(&as_written(value), &mut mended);
            }
        }
        (Self(mended.into()), lost)
    }

    /// Bytes of the decoded names and values. Source: IoT Hub, "Create and read messages".
    pub fn size(&self) -> usize {
        let entries = self.0.split(|byte| *byte == b'&');
        entries.map(|entry| decoded_len(entry) - usize::from(entry.contains(&b'='))).sum()
    }

    /// How many properties have no value, as `key` and `key=` have none.
    pub fn without_value(&self) -> usize {
        self.entries().filter(|(_, value)| value.is_empty()).count()
    }

    /// The decoded pairs of key and value, in order; a bare key has the value `""`.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        self.entries().map(|(key, value)| (decoded(key), decoded(value)))
    }

    fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.split(|byte| *byte == b'&').filter(|entry| !entry.is_empty()).map(halves)
    }

    /// The decoded value of `key`. Azure compares names without case; the exact case wins, and
    /// of several that are equal the last, as in every SDK's dictionary.
    pub fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        let (mut exact, mut other_case) = (None, None);
        for (name, value) in self.entries() {
            if Unescaped(name).eq(key.bytes()) {
                exact = Some(value);
            } else if exact.is_none()
                && Unescaped(name)
                    .map(|byte| byte.to_ascii_lowercase())
                    .eq(key.bytes().map(|byte| byte.to_ascii_lowercase()))
            {
                other_case = Some(value);
            }
        }
        exact.or(other_case).map(decoded)
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

/// The bytes that a half of an entry stands for; a `%` without two digits is itself.
struct Unescaped<'h>(&'h [u8]);

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let [first, rest @ ..] = self.0 else { return None };
        self.0 = rest;
        if let (b'%', [high, low, tail @ ..]) = (first, rest)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            self.0 = tail;
            return Some(high * 16 + low);
        }
        Some(*first)
    }
}

/// Whether a half stands for UTF-8; most have no escape and are looked at where they lie.
fn is_text(half: &[u8]) -> bool {
    if half.contains(&b'%') {
        return std::str::from_utf8(&unescaped(half)).is_ok();
    }
    std::str::from_utf8(half).is_ok()
}

fn unescaped(half: &[u8]) -> Vec<u8> {
    Unescaped(half).collect()
}

/// How long a checked entry is without its escapes.
fn decoded_len(entry: &[u8]) -> usize {
    let escapes = entry.split(|byte| *byte == b'%').count() - 1;
    entry.len() - 2 * escapes
}

fn decoded(half: &[u8]) -> Cow<'_, str> {
    if half.contains(&b'%') {
        return Cow::Owned(String::from_utf8_lossy(&unescaped(half)).into_owned());
    }
    String::from_utf8_lossy(half)
}

/// The text of a half, where what is no text stays the escape it was written as.
fn as_written(half: &[u8]) -> String {
    let mut text = String::with_capacity(half.len());
    for chunk in unescaped(half).utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| escape_byte(*byte, &mut text));
    }
    text
}

/// Everything but RFC 3986's unreserved signs, so that `+ / = &` survive every SDK.
fn escape(text: &str, to: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            to.push(char::from(byte));
        } else {
            escape_byte(byte, to);
        }
    }
}

fn escape_byte(byte: u8, to: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or('0');
    to.extend(['%', digit(byte >> 4), digit(byte & 15)]);
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
    /// `$.exp`: the message is worthless after this. As the sender wrote it, for it goes on to
    /// readers unchanged; see [`SystemProperties::expires`].
    pub expiry: Option<Box<str>>,
    /// `$.ctime`: when the sender made it, as the sender wrote it.
    pub creation_time: Option<Box<str>>,
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

impl SystemProperties {
    /// When the message becomes worthless, if the sender said so in a way that can be read:
    /// ISO 8601 with a zone, without one (then UTC), with a blank for the `T`.
    pub fn expires(&self) -> Option<WallTime> {
        let text = self.expiry.as_deref()?;
        WallTime::parse_rfc3339(text)
            .or_else(|| WallTime::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1))))
    }

    /// Bytes of what the sender said; what a platform stamps costs the sender nothing.
    pub fn size(&self) -> usize {
        let said = [
            &self.message_id,
            &self.correlation_id,
            &self.user_id,
            &self.to,
            &self.content_type,
            &self.content_encoding,
            &self.expiry,
            &self.creation_time,
            &self.output_name,
            &self.interface_id,
            &self.component,
            &self.schema,
            &self.ack,
        ];
        said.into_iter().flatten().map(|text| text.len()).sum()
    }
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

impl Message {
    /// Bytes that count against [`MESSAGE_BYTES_MAX`]: the body, names and values of application
    /// properties, values of the sender's system properties. However they were encoded on the
    /// way, so every hop comes to the same sum.
    ///
    /// Source: IoT Hub, "Create and read IoT Hub messages".
    pub fn size(&self) -> usize {
        self.body.len() + self.properties.size() + self.system.size()
    }

    /// Refuses a message that is too large; hub, router and clients say it in the same words.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn check_size(&self) -> Result<(), Refusal> {
        if self.size() <= MESSAGE_BYTES_MAX {
            return Ok(());
        }
        let reason = "a message has at most 256 KiB, its properties included";
        Err(Refusal::new(RefusalKind::TooLarge, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bag_that_cannot_be_read_is_mended_and_costs_only_what_has_no_name() {
        let check = |encoded: &str, expected: &[(&str, &str)], lost: u32| {
            assert!(PropertyBag::parse(Bytes::copy_from_slice(encoded.as_bytes())).is_err());
            let (bag, cost) = PropertyBag::mend(encoded.as_bytes());
            assert_eq!(PropertyBag::parse(bag.0.clone()), Ok(bag.clone()), "{encoded}");
            let pairs: Vec<_> = bag.iter().collect();
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (&**key, &**value)).collect();
            assert_eq!((&pairs[..], cost), (expected, lost), "{encoded}");
        };
        check("a=50%&b=2", &[("a", "50%"), ("b", "2")], 0);
        check("a=%zz&%24.mid=x", &[("a", "%zz"), ("$.mid", "x")], 0);
        check("a=%20%2", &[("a", " %2")], 0);
        check("%=%", &[("%", "%")], 0);
        check("a=%ff%41&b=%C3%B6", &[("a", "%FFA"), ("b", "ö")], 0);
        check("a=%C3&%fe=1", &[("a", "%C3"), ("%FE", "1")], 0);
        check("=x&a=1&=&b", &[("a", "1"), ("b", "")], 2);
        check("a=%&a=%&c", &[("a", "%"), ("a", "%"), ("c", "")], 0);
    }

    #[test]
    fn the_last_of_equal_names_counts_and_the_exact_case_before_it() {
        let bag = PropertyBag(Bytes::from_static(b"A=0&a=1&A=2&%61=3&b"));
        assert_eq!(bag.get("a").as_deref(), Some("3"));
        assert_eq!(bag.get("A").as_deref(), Some("2"));
        assert_eq!(bag.get("B").as_deref(), Some(""));
        assert_eq!(bag.get("c"), None);
    }

    #[test]
    fn a_message_counts_its_body_and_what_its_sender_said_however_it_is_encoded() {
        let mut message = Message { body: vec![0; 10].into(), ..Message::default() };
        message.properties = PropertyBag(Bytes::from_static(b"a=%20x&bare&k=x=y"));
        assert_eq!(message.size(), 10 + (1 + 2) + 4 + (1 + 3));
        assert_eq!(message.properties.without_value(), 1);
        message.system.message_id = Some("1234".into());
        message.system.creation_time = Some("now".into());
        let said = message.size();
        assert_eq!(said, 21 + 4 + 3);
        message.system.connection_device_id = Some("device".into());
        message.system.connection_auth_method = Some("{}".into());
        message.system.input_name = Some("input".into());
        assert_eq!(message.size(), said, "what the platform says is free");
    }

    #[test]
    fn system_properties_count_towards_the_most_that_a_message_may_have() {
        let id = "x".repeat(1000);
        let of = |body: usize| Message {
            body: vec![0; body].into(),
            system: SystemProperties { message_id: Some(id.clone().into()), ..Default::default() },
            ..Message::default()
        };
        assert_eq!(of(MESSAGE_BYTES_MAX - 1000).check_size(), Ok(()));
        let refused = of(MESSAGE_BYTES_MAX - 999).check_size().unwrap_err();
        assert_eq!(refused.kind, RefusalKind::TooLarge);
    }

    #[test]
    fn an_expiry_is_read_if_it_can_be_and_kept_as_it_was_written() {
        let check = |text: &str, expected: Option<&str>| {
            let system = SystemProperties { expiry: Some(text.into()), ..Default::default() };
            let expected = expected.and_then(WallTime::parse_rfc3339);
            assert_eq!(system.expires(), expected, "{text}");
        };
        let at = Some("2023-09-05T18:53:42Z");
        check("2023-09-05T18:53:42Z", at);
        check("2023-09-05T18:53:42.0001234Z", at);
        check("2023-09-05T20:53:42+02:00", at);
        check("2023-09-05T18:53:42", at);
        check("2023-09-05 18:53:42", at);
        check("1795844700000", None);
        check("soon", None);
    }

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
