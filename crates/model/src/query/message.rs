//! A message as [`Fields`]: what conditions can ask of it.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::Value as Json;

use super::{Fields, Value};
use crate::message::{Message, SystemProperties};
use crate::time::WallTime;

/// A message while conditions are tried on it; its body is parsed at most once, and only if a
/// condition asks.
#[derive(Debug)]
pub struct MessageFields<'m> {
    message: &'m Message,
    body: OnceCell<Option<Json>>,
}

impl<'m> MessageFields<'m> {
    /// The fields of `message`.
    pub fn new(message: &'m Message) -> Self {
        Self { message, body: OnceCell::new() }
    }
}

impl Fields for MessageFields<'_> {
    fn property(&self, name: &str) -> Value<'_> {
        self.message.properties.get(name).map_or(Value::Undefined, Value::Text)
    }

    fn system(&self, name: &str) -> Value<'_> {
        system(self.message, name).map_or(Value::Undefined, Value::Text)
    }

    fn body(&self) -> Option<&Json> {
        self.body.get_or_init(|| json(self.message)).as_ref()
    }
}

type Text = fn(&SystemProperties) -> &Option<Box<str>>;

/// System properties that are texts, by the names that Azure gives them.
const TEXTS: &[(&str, Text)] = &[
    ("connectionDeviceId", |it| &it.connection_device_id),
    ("connectionModuleId", |it| &it.connection_module_id),
    ("contentType", |it| &it.content_type),
    ("contentEncoding", |it| &it.content_encoding),
    ("outputName", |it| &it.output_name),
    ("inputName", |it| &it.input_name),
    ("messageId", |it| &it.message_id),
    // The reference files the sender's correlation id under `cid`; both names find it here.
    ("correlationId", |it| &it.correlation_id),
    ("cid", |it| &it.correlation_id),
    ("userId", |it| &it.user_id),
    ("to", |it| &it.to),
    ("connectionDeviceGenerationId", |it| &it.connection_generation_id),
    ("connectionAuthMethod", |it| &it.connection_auth_method),
    ("iothub-interface-id", |it| &it.interface_id),
    ("dt-subject", |it| &it.component),
    ("messageSchema", |it| &it.schema),
    ("dt-dataschema", |it| &it.model_id),
    ("modelId", |it| &it.model_id),
    ("ack", |it| &it.ack),
    ("iothub-ack", |it| &it.ack),
    ("creationTime", |it| &it.creation_time),
    ("creationTimeUtc", |it| &it.creation_time),
    ("absolute-expiry-time", |it| &it.expiry),
    ("expiryTimeUtc", |it| &it.expiry),
];

/// The system property that Azure calls `name`, in any case.
fn system<'m>(message: &'m Message, name: &str) -> Option<Cow<'m, str>> {
    let it = &message.system;
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    if let Some((_, text)) = TEXTS.iter().find(|(known, _)| is(known)) {
        return text(it).as_deref().map(Cow::Borrowed);
    }
    if is("enqueuedTime") || is("iothub-enqueuedtime") {
        return it.enqueued_time.map(time);
    }
    if is("sequenceNumber") {
        return it.sequence_number.map(|number| number.to_string().into());
    }
    is("deliveryCount").then(|| it.delivery_count.map(|count| count.to_string().into())).flatten()
}

fn time<'m>(time: WallTime) -> Cow<'m, str> {
    time.to_string().into()
}

/// The body, if its type is JSON and its encoding one that Azure can query.
fn json(message: &Message) -> Option<Json> {
    let kind = message.system.content_type.as_deref()?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return None;
    }
    let encoding = message.system.content_encoding.as_deref()?.trim().to_ascii_lowercase();
    let text = match encoding.as_str() {
        "utf-8" | "utf8" => {
            let body = message.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&message.body);
            return serde_json::from_slice(body).ok();
        }
        "utf-16" | "utf16" | "utf-16le" => utf16(&message.body)?,
        "utf-32" | "utf32" | "utf-32le" => utf32(&message.body)?,
        _ => return None,
    };
    serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()
}

/// Little endian, as .NET's `Encoding.Unicode` writes it, unless a byte order mark says other.
fn utf16(body: &[u8]) -> Option<String> {
    let big = body.starts_with(&[0xfe, 0xff]);
    let (units, rest) = body.as_chunks::<2>();
    let read = if big { u16::from_be_bytes } else { u16::from_le_bytes };
    let units = units.iter().map(|unit| read(*unit));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.ok().filter(|_| rest.is_empty())
}

fn utf32(body: &[u8]) -> Option<String> {
    let (units, rest) = body.as_chunks::<4>();
    let text: Option<String> =
        units.iter().map(|unit| char::from_u32(u32::from_le_bytes(*unit))).collect();
    text.filter(|_| rest.is_empty())
}
