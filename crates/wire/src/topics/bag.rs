//! The property bag in a topic ⇄ a message's properties.

use bytes::Bytes;
use model::message::{Message, PropertyBag, SystemProperties};

/// What the retain flag of a publish becomes.
pub const RETAIN_PROPERTY: &str = "mqtt-retain";

type Text = Option<Box<str>>;

/// Fills the properties of `message` from `text` and says how many it cost.
///
/// Application properties are kept encoded; `$.` keys are taken whether the `$` is encoded or
/// not; keys this house has no place for (tracing) stay application properties. Nothing in a bag
/// is worth a connection, for the sender would come back with the same message: see
/// [`PropertyBag::mend`]. Of a system property that is said twice, the last counts.
pub fn read(text: &str, message: &mut Message) -> u32 {
    // Node ends the topics of module outputs with one slash too many.
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return 0;
    }
    let whole = PropertyBag::parse(Bytes::copy_from_slice(text.as_bytes()));
    let (all, mut lost) =
        whole.map_or_else(|_| PropertyBag::mend(text.as_bytes()), |whole| (whole, 0));
    let mut application = Vec::with_capacity(0);
    let mut system = false;
    let entries = all.0.split(|byte| *byte == b'&').filter(|entry| !entry.is_empty());
    for (raw, (key, value)) in entries.zip(all.iter()) {
        match slot(&key, &mut message.system) {
            Some(slot) => {
                system = true;
                lost += u32::from(slot.is_some());
                *slot = if value.is_empty() { None } else { Some(value.into()) };
            }
            None => application.push(raw),
        }
    }
    message.properties = if system { PropertyBag(application.join(&b'&').into()) } else { all };
    lost
}

/// Where the system property `key` goes.
fn slot<'s>(key: &str, system: &'s mut SystemProperties) -> Option<&'s mut Text> {
    Some(match key {
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
        "$.exp" => &mut system.expiry,
        "$.ctime" => &mut system.creation_time,
        "iothub-ack" => &mut system.ack,
        _ => return None,
    })
}

/// What the reader of a bag can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A hub or a router: everything.
    Hub,
    /// A device or module: Java's SDK throws on a property without a value, so it gets none.
    Device,
}

/// The bag of `message` as a topic carries it: everything but unreserved signs is encoded.
pub fn write(message: &Message, reader: Reader) -> String {
    let system = &message.system;
    let texts: [(&str, &Text); 15] = [
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
        ("$.exp", &system.expiry),
        ("$.ctime", &system.creation_time),
    ];
    let application: Vec<_> = message.properties.iter().collect();
    let pairs = texts
        .iter()
        .filter_map(|(key, text)| text.as_deref().map(|text| (*key, text)))
        .chain(application.iter().map(|(key, value)| (&**key, &**value)))
        .filter(|(_, value)| reader == Reader::Hub || !value.is_empty());
    String::from_utf8_lossy(&PropertyBag::from_pairs(pairs).0).into_owned()
}

/// Adds an application property that the protocol implies.
pub fn add(message: &mut Message, key: &str, value: &str) {
    let one = PropertyBag::from_pairs([(key, value)]).0;
    let bag = &message.properties.0;
    message.properties.0 =
        if bag.is_empty() { one } else { [&bag[..], b"&", &one[..]].concat().into() };
}
