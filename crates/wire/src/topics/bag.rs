//! The property bag in a topic ⇄ a message's properties.

use std::borrow::Cow;

use bytes::Bytes;
use model::message::{Message, PropertyBag, SystemProperties};
use model::time::WallTime;

use super::InvalidTopic;

/// What the retain flag of a publish becomes.
pub const RETAIN_PROPERTY: &str = "mqtt-retain";

type Text = Option<Box<str>>;

/// Fills the properties of `message` from `text`. Application properties are kept encoded;
/// `$.` keys are taken whether the `$` is encoded or not; keys this house has no place for
/// (tracing) stay application properties.
///
/// # Errors
/// A malformed escape or time.
pub fn read(text: &str, message: &mut Message) -> Result<(), InvalidTopic> {
    // Node ends the topics of module outputs with one slash too many.
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return Ok(());
    }
    let all = PropertyBag::parse(Bytes::copy_from_slice(text.as_bytes()))?;
    let mut application = Vec::with_capacity(0);
    let mut system = false;
    for (raw, (key, value)) in text.split('&').filter(|raw| !raw.is_empty()).zip(all.iter()) {
        if take_system(&key, value, &mut message.system)? {
            system = true;
        } else {
            application.push(raw);
        }
    }
    message.properties = if system { PropertyBag(application.join("&").into()) } else { all };
    Ok(())
}

fn take_system(
    key: &str,
    value: Cow<'_, str>,
    system: &mut SystemProperties,
) -> Result<bool, InvalidTopic> {
    let text = match key {
        "$.mid" => &mut system.message_id,
        "$.cid" => &mut system.correlation_id,
        "$.uid" => &mut system.user_id,
        "$.to" => &mut system.to,
        "$.ct" => &mut system.content_type,
        "$.ce" => &mut system.content_encoding,
        "$.on" => &mut system.output_name,
        "$.cdid" => &mut system.connection_device_id,
        "$.cmid" => &mut system.connection_module_id,
        "$.ifid" => &mut system.interface_id,
        "$.sub" => &mut system.component,
        "$.schema" => &mut system.schema,
        "iothub-ack" => &mut system.ack,
        "$.exp" => {
            system.expiry = Some(time(&value).ok_or(InvalidTopic::Time("$.exp"))?);
            return Ok(true);
        }
        "$.ctime" => {
            system.creation_time = Some(time(&value).ok_or(InvalidTopic::Time("$.ctime"))?);
            return Ok(true);
        }
        _ => return Ok(false),
    };
    *text = if value.is_empty() { None } else { Some(value.into()) };
    Ok(true)
}

/// ISO 8601 as SDKs write it: with a zone, without one (then UTC), with a blank for the `T`.
fn time(text: &str) -> Option<WallTime> {
    WallTime::parse_rfc3339(text)
        .or_else(|| WallTime::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1))))
}

/// The bag of `message` as a topic carries it: everything but unreserved signs is encoded,
/// and no entry has an empty value, because Java's SDK throws on one.
pub fn write(message: &Message) -> String {
    let system = &message.system;
    let times = [system.expiry, system.creation_time].map(|time| time.map(|t| t.to_string()));
    let [expiry, creation] = &times;
    let texts: [(&str, &Text); 13] = [
        ("$.mid", &system.message_id),
        ("$.cid", &system.correlation_id),
        ("$.uid", &system.user_id),
        ("$.to", &system.to),
        ("$.ct", &system.content_type),
        ("$.ce", &system.content_encoding),
        ("$.on", &system.output_name),
        ("$.cdid", &system.connection_device_id),
        ("$.cmid", &system.connection_module_id),
        ("$.ifid", &system.interface_id),
        ("$.sub", &system.component),
        ("$.schema", &system.schema),
        ("iothub-ack", &system.ack),
    ];
    let application: Vec<_> = message.properties.iter().collect();
    let pairs = texts
        .iter()
        .filter_map(|(key, text)| text.as_deref().map(|text| (*key, text)))
        .chain(expiry.as_deref().map(|text| ("$.exp", text)))
        .chain(creation.as_deref().map(|text| ("$.ctime", text)))
        .chain(application.iter().map(|(key, value)| (&**key, &**value)))
        .filter(|(_, value)| !value.is_empty());
    String::from_utf8_lossy(&PropertyBag::from_pairs(pairs).0).into_owned()
}

/// Adds an application property that the protocol implies.
pub fn add(message: &mut Message, key: &str, value: &str) {
    let one = PropertyBag::from_pairs([(key, value)]).0;
    let bag = &message.properties.0;
    message.properties.0 =
        if bag.is_empty() { one } else { [&bag[..], b"&", &one[..]].concat().into() };
}
