//! Topics that a hub or an edge router publishes to.

use bytes::Bytes;
use model::id::IdentityId;
use model::message::Message;
use model::method::MethodCallId;
use model::names::VERSION;
use model::twin::{TwinDocument, TwinPatch, Version};
use serde_json::{Map, Value};

use super::device::{own, root};
use super::filter::{Filter, Granted};
use super::{InvalidTopic, after, bag, query};

/// A topic of a hub, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubTopic<'t> {
    /// The answer to a twin request.
    TwinAnswer {
        /// 200, 204 or an error.
        status: u16,
        /// Of the request.
        rid: &'t str,
        /// The new reported version, after a patch.
        version: Option<Version>,
    },
    /// Desired properties changed; see [`read_desired`] for the body.
    Desired,
    /// A method is called.
    Method {
        /// Its name.
        name: &'t str,
        /// For the answer, opaque.
        rid: &'t str,
    },
    /// Cloud-to-device or module input; the message still lacks its body.
    Message(Box<Message>),
}

/// Parses what a hub published to `identity`.
///
/// # Errors
/// [`InvalidTopic`] if no hub says such a thing.
pub fn parse<'t>(identity: &IdentityId, topic: &'t str) -> Result<HubTopic<'t>, InvalidTopic> {
    if let Some(rest) = after(topic, "$iothub/twin/res") {
        let (status, rest) = rest.split_once('/').ok_or(InvalidTopic::Query)?;
        let status = status.parse().map_err(|_| InvalidTopic::Status)?;
        let query = query(rest)?;
        let rid = query.rid.ok_or(InvalidTopic::Query)?;
        return Ok(HubTopic::TwinAnswer { status, rid, version: query.version });
    }
    if after(topic, "$iothub/twin/PATCH/properties/desired").is_some() {
        return Ok(HubTopic::Desired);
    }
    if let Some(rest) = after(topic, "$iothub/methods/POST") {
        let (name, rest) = rest.split_once('/').ok_or(InvalidTopic::Query)?;
        let rid = query(rest)?.rid.ok_or(InvalidTopic::Query)?;
        return Ok(HubTopic::Method { name, rid });
    }
    let rest = own(identity, topic).ok_or(InvalidTopic::Foreign)?;
    let mut message = Box::<Message>::default();
    if let Some(properties) = after(rest, "messages/devicebound") {
        bag::read(properties, &mut message);
    } else if let Some(rest) = rest.strip_prefix("inputs/").filter(|_| identity.is_module()) {
        let (input, properties) = rest.split_once('/').unwrap_or((rest, ""));
        bag::read(properties, &mut message);
        message.system.input_name = Some(input.into());
    } else {
        return Err(InvalidTopic::Foreign);
    }
    Ok(HubTopic::Message(message))
}

/// Where `message` goes and with which quality; none if `identity` was granted no filter for it.
pub fn message(identity: &IdentityId, granted: Granted, message: &Message) -> Option<(String, u8)> {
    let properties = bag::write(message, bag::Reader::Device);
    let root = root(identity);
    let bound = format!("{root}messages/devicebound/{properties}");
    let qos = |filters: &[Filter]| filters.iter().filter_map(|one| granted.qos(*one)).max();
    let Some(input) = message.system.input_name.as_deref() else {
        let filters = [Filter::CloudToDevice, Filter::ModuleAll, Filter::ModuleBound];
        return qos(&filters).map(|qos| (bound, qos));
    };
    if let Some(qos) = qos(&[Filter::Inputs, Filter::ModuleAll]) {
        return Some((format!("{root}inputs/{input}/{properties}"), qos));
    }
    granted.qos(Filter::ModuleBound).map(|qos| (bound, qos))
}

/// Where a method call goes.
pub fn method(name: &str, call: MethodCallId) -> String {
    format!("$iothub/methods/POST/{name}/?$rid={:x}", call.0)
}

/// Where the answer to a twin request goes.
pub fn twin_answer(status: u16, rid: &str, version: Option<Version>) -> String {
    let version = version.map(|version| format!("&$version={}", version.0)).unwrap_or_default();
    format!("$iothub/twin/res/{status}/?$rid={rid}{version}")
}

/// Topic and body of a change of desired properties; `$version` stands in both, because
/// Python's SDK indexes the body by it.
pub fn desired(patch: TwinPatch, version: Version) -> (String, Vec<u8>) {
    let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={}", version.0);
    (topic, Value::Object(with_version(patch.0, version)).to_string().into_bytes())
}

/// The patch and version in the body of a change of desired properties.
///
/// # Errors
/// [`InvalidTopic::Body`] without a JSON object that has a `$version`.
pub fn read_desired(body: &[u8]) -> Result<(TwinPatch, Version), InvalidTopic> {
    let map = serde_json::from_slice(body).map_err(|_| InvalidTopic::Body)?;
    split_version(map).map(|(map, version)| (TwinPatch(map), version))
}

/// The body that answers a twin read.
pub fn twin_body(twin: TwinDocument) -> Bytes {
    let desired = with_version(twin.desired, twin.desired_version);
    let reported = with_version(twin.reported, twin.reported_version);
    serde_json::json!({ "desired": desired, "reported": reported }).to_string().into()
}

/// The twin in the body that answers a read.
///
/// # Errors
/// [`InvalidTopic::Body`] unless both sections are there with their versions.
pub fn read_twin_body(body: &[u8]) -> Result<TwinDocument, InvalidTopic> {
    let mut map: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| InvalidTopic::Body)?;
    let mut section = |name| match map.remove(name) {
        Some(Value::Object(section)) => split_version(section),
        _ => Err(InvalidTopic::Body),
    };
    let (desired, desired_version) = section("desired")?;
    let (reported, reported_version) = section("reported")?;
    Ok(TwinDocument { desired, desired_version, reported, reported_version })
}

fn with_version(mut map: Map<String, Value>, version: Version) -> Map<String, Value> {
    map.insert(VERSION.into(), version.0.into());
    map
}

fn split_version(
    mut map: Map<String, Value>,
) -> Result<(Map<String, Value>, Version), InvalidTopic> {
    let version = map.remove(VERSION).and_then(|version| version.as_u64());
    Ok((map, Version(version.ok_or(InvalidTopic::Body)?)))
}
