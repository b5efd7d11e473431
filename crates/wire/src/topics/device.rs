//! Topics that devices and modules publish to.

use model::id::IdentityId;
use model::message::Message;
use model::method::MethodCallId;
use model::twin::Version;

use super::{InvalidTopic, after, bag, query};

/// A topic of a device, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceTopic<'t> {
    /// Telemetry or a module's output.
    Telemetry {
        /// Still without its body.
        message: Box<Message>,
        /// Properties that could not be read; the message is worth sending without them.
        lost: u32,
    },
    /// A read of the own twin.
    ReadTwin {
        /// Opaque; echoed byte for byte.
        rid: &'t str,
    },
    /// A patch of the own reported properties, in the body.
    PatchReported {
        /// Opaque; echoed byte for byte.
        rid: &'t str,
        /// Only if the reported version is this.
        if_version: Option<Version>,
    },
    /// The answer to a method call.
    MethodAnswer {
        /// Which call.
        call: MethodCallId,
        /// The device's own status.
        status: i32,
    },
}

/// Parses what `identity` published to.
///
/// # Errors
/// [`InvalidTopic`]; the connection is then closed, as Azure does.
pub fn parse<'t>(identity: &IdentityId, topic: &'t str) -> Result<DeviceTopic<'t>, InvalidTopic> {
    if let Some(rest) = after(topic, "$iothub/twin/GET") {
        let rid = query(rest)?.rid.ok_or(InvalidTopic::Query)?;
        return Ok(DeviceTopic::ReadTwin { rid });
    }
    if let Some(rest) = after(topic, "$iothub/twin/PATCH/properties/reported") {
        let query = query(rest)?;
        let rid = query.rid.ok_or(InvalidTopic::Query)?;
        return Ok(DeviceTopic::PatchReported { rid, if_version: query.version });
    }
    if let Some(rest) = after(topic, "$iothub/methods/res") {
        let (status, rest) = rest.split_once('/').ok_or(InvalidTopic::Query)?;
        let status = status.parse().map_err(|_| InvalidTopic::Status)?;
        // We chose the text, so it is one of our numbers or not an answer to us.
        let rid = query(rest)?.rid.and_then(|rid| u64::from_str_radix(rid, 16).ok());
        let call = MethodCallId(rid.ok_or(InvalidTopic::Query)?);
        return Ok(DeviceTopic::MethodAnswer { call, status });
    }
    let rest = own(identity, topic).ok_or(InvalidTopic::Foreign)?;
    let properties = after(rest, "messages/events").ok_or(InvalidTopic::Foreign)?;
    let mut message = Box::<Message>::default();
    let lost = bag::read(properties, &mut message);
    // Who sent it is proven by the connection, never said by the sender.
    message.system.connection_device_id = None;
    message.system.connection_module_id = None;
    Ok(DeviceTopic::Telemetry { message, lost })
}

/// The part after `devices/{d}/` or `devices/{d}/modules/{m}/`.
pub(super) fn own<'t>(identity: &IdentityId, topic: &'t str) -> Option<&'t str> {
    let rest = topic.strip_prefix("devices/")?.strip_prefix(identity.device_str())?;
    let rest = rest.strip_prefix('/')?;
    match identity.module_str() {
        None => Some(rest),
        Some(module) => rest.strip_prefix("modules/")?.strip_prefix(module)?.strip_prefix('/'),
    }
}

/// `devices/{d}/` or `devices/{d}/modules/{m}/`.
pub(super) fn root(identity: &IdentityId) -> String {
    match identity.module_str() {
        None => format!("devices/{identity}/"),
        Some(module) => format!("devices/{}/modules/{module}/", identity.device_str()),
    }
}

/// Where `identity` sends `message`.
pub fn telemetry(identity: &IdentityId, message: &Message) -> String {
    format!("{}messages/events/{}", root(identity), bag::write(message, bag::Reader::Hub))
}

/// Where a twin is read.
pub fn read_twin(rid: &str) -> String {
    format!("$iothub/twin/GET/?$rid={rid}")
}

/// Where reported properties are patched.
pub fn patch_reported(rid: &str, if_version: Option<Version>) -> String {
    let version = if_version.map(|version| format!("&$version={}", version.0)).unwrap_or_default();
    format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}{version}")
}

/// Where the answer to the method call `rid` goes.
pub fn method_answer(rid: &str, status: i32) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}
