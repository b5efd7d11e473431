//! A message as [`Fields`]: what conditions can ask of it.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::Value as Json;

use super::{Fields, Value};
use crate::message::Message;
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

/// The system property that Azure calls `name`, in any case.
fn system<'m>(message: &'m Message, name: &str) -> Option<Cow<'m, str>> {
    let it = &message.system;
    let text = match name.to_ascii_lowercase().as_str() {
        "messageid" => &it.message_id,
        // The reference files the sender's correlation id under `cid`; both names find it here.
        "correlationid" | "cid" => &it.correlation_id,
        "userid" => &it.user_id,
        "to" => &it.to,
        "contenttype" => &it.content_type,
        "contentencoding" => &it.content_encoding,
        "outputname" => &it.output_name,
        "inputname" => &it.input_name,
        "connectiondeviceid" => &it.connection_device_id,
        "connectionmoduleid" => &it.connection_module_id,
        "connectiondevicegenerationid" => &it.connection_generation_id,
        "connectionauthmethod" => &it.connection_auth_method,
        "iothub-interface-id" => &it.interface_id,
        "dt-subject" => &it.component,
        "messageschema" => &it.schema,
        "dt-dataschema" | "modelid" => &it.model_id,
        "ack" | "iothub-ack" => &it.ack,
        "creationtime" | "creationtimeutc" => &it.creation_time,
        "absolute-expiry-time" | "expirytimeutc" => &it.expiry,
        "enqueuedtime" | "iothub-enqueuedtime" => return it.enqueued_time.map(time),
        "sequencenumber" => return it.sequence_number.map(|number| number.to_string().into()),
        "deliverycount" => return it.delivery_count.map(|count| count.to_string().into()),
        _ => return None,
    };
    text.as_deref().map(Cow::Borrowed)
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
