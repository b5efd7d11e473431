//! Messages of the tables of cases.

use bytes::Bytes;
use model::message::{Message, PropertyBag, SystemProperties};
use serde_json::{Map, Value};

use crate::cases::MessageCase;

/// The message that a device means by `case`.
///
/// # Panics
/// If the case names a system property that readers do not see.
pub fn message_of(case: &MessageCase) -> Message {
    let text = |value: &Value| value.as_str().expect("properties are texts").to_owned();
    let pairs: Vec<_> = case.properties.iter().map(|(key, value)| (key, text(value))).collect();
    let properties = PropertyBag::from_pairs(pairs.iter().map(|(key, value)| (&***key, &**value)));
    Message { body: Bytes::from_static(b"{}"), properties, system: system_of(&case.system) }
}

fn system_of(said: &Map<String, Value>) -> SystemProperties {
    let mut system = SystemProperties::default();
    for (name, value) in said {
        let slot = match name.as_str() {
            "messageId" => &mut system.message_id,
            "correlationId" => &mut system.correlation_id,
            "userId" => &mut system.user_id,
            "to" => &mut system.to,
            "contentType" => &mut system.content_type,
            "contentEncoding" => &mut system.content_encoding,
            "outputName" => &mut system.output_name,
            "interfaceId" => &mut system.interface_id,
            "dt-subject" => &mut system.component,
            "messageSchema" => &mut system.schema,
            "expiryTimeUtc" => &mut system.expiry,
            "creationTimeUtc" => &mut system.creation_time,
            "iothub-ack" => &mut system.ack,
            other => unreachable!("{other} is no system property of a sender"),
        };
        *slot = value.as_str().map(Into::into);
    }
    system
}
