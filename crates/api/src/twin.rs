//! Twins as the service sees them. Source: the service API's `Twin`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::{Capabilities, Status, X509Thumbprint};

/// A whole twin, as answered. A PATCH or PUT sends [`TwinWrite`], which accepts this shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Twin {
    /// The device.
    pub device_id: String,
    /// The module, if it is a module's twin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub module_id: Option<String>,
    /// Changes with every write by the service; unquoted.
    pub etag: String,
    /// The etag of the identity.
    pub device_etag: String,
    /// Whether it may connect.
    pub status: Status,
    /// When `status` last changed, RFC 3339.
    pub status_update_time: String,
    /// `Connected` or `Disconnected`.
    pub connection_state: String,
    /// When it last did anything, RFC 3339.
    pub last_activity_time: String,
    /// How many cloud-to-device messages wait.
    pub cloud_to_device_message_count: u32,
    /// How the identity proves itself.
    pub authentication_type: String,
    /// Its certificate thumbprints.
    pub x509_thumbprint: X509Thumbprint,
    /// The plug-and-play model; empty if none was told.
    pub model_id: String,
    /// Raised by every change of any section.
    pub version: u64,
    /// What only the cloud sees; a module has none on the wire unless set.
    #[serde(default)]
    pub tags: Map<String, Value>,
    /// Desired and reported properties, each with `$metadata` and `$version`.
    pub properties: Properties,
    /// What the device can do.
    pub capabilities: Capabilities,
}

/// Both sections of properties, each with `$metadata` and `$version`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Properties {
    /// What the cloud wants.
    #[serde(default)]
    pub desired: Map<String, Value>,
    /// What the device says.
    #[serde(default)]
    pub reported: Map<String, Value>,
}

/// What PATCH and PUT of a twin take.
///
/// `tags` and `properties.desired` are written. Everything else that a read answers is listed
/// in `read_only` when sent back: Azure ignores it, for its SDKs send whole twins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TwinWrite {
    /// Tags to merge or to put.
    pub tags: Section,
    /// Desired properties to merge or to put; `$metadata` and `$version` are stripped.
    pub desired: Section,
    /// Fields that were sent back and are not written.
    pub read_only: Vec<String>,
}

/// What a write says about one section.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Section {
    /// Nothing was sent.
    #[default]
    Absent,
    /// `null`: everything in it goes.
    Null,
    /// An object to merge or to put.
    Object(Map<String, Value>),
}

/// Why a body is not a twin write.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidTwinWrite {
    /// Not JSON.
    #[error("the body is not JSON: {0}")]
    Json(String),
    /// Not an object where one is needed.
    #[error("`{0}` must be an object")]
    NotAnObject(&'static str),
    /// A field that no twin has.
    #[error("a twin has no field `{0}`")]
    UnknownField(String),
}

/// Fields of a twin that a service reads and cannot write: every name of a twin in the models of
/// the published API and of the SDKs.
///
/// Other names are refused although Azure may let some pass: who writes `desiredProperties` or
/// `tag` would believe that something was set.
const READ_ONLY: [&str; 23] = [
    "attributes",
    "generationId",
    "deviceId",
    "moduleId",
    "etag",
    "deviceEtag",
    "status",
    "statusReason",
    "statusUpdateTime",
    "statusUpdatedTime",
    "connectionState",
    "connectionStateUpdatedTime",
    "lastActivityTime",
    "cloudToDeviceMessageCount",
    "authenticationType",
    "x509Thumbprint",
    "modelId",
    "version",
    "capabilities",
    "deviceScope",
    "parentScopes",
    "configurations",
    "managedBy",
];

impl TwinWrite {
    /// Reads a body.
    ///
    /// # Errors
    /// [`InvalidTwinWrite`] names the field at fault.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidTwinWrite> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| InvalidTwinWrite::Json(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(InvalidTwinWrite::NotAnObject("twin"));
        };
        let mut write = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "tags" => write.tags = section("tags", value)?,
                "properties" => write.take_properties(value)?,
                known if READ_ONLY.contains(&known) => write.read_only.push(name),
                _ => return Err(InvalidTwinWrite::UnknownField(name)),
            }
        }
        Ok(write)
    }

    fn take_properties(&mut self, value: Value) -> Result<(), InvalidTwinWrite> {
        let Value::Object(fields) = value else {
            return Err(InvalidTwinWrite::NotAnObject("properties"));
        };
        for (name, value) in fields {
            match name.as_str() {
                "desired" => self.desired = section("properties.desired", value)?,
                "reported" => self.read_only.push("properties.reported".into()),
                _ => return Err(InvalidTwinWrite::UnknownField(format!("properties.{name}"))),
            }
        }
        Ok(())
    }
}

fn section(name: &'static str, value: Value) -> Result<Section, InvalidTwinWrite> {
    match value {
        Value::Null => Ok(Section::Null),
        Value::Object(mut fields) => {
            fields.shift_remove(model::names::METADATA);
            fields.shift_remove(model::names::VERSION);
            Ok(Section::Object(fields))
        }
        _ => Err(InvalidTwinWrite::NotAnObject(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_write_takes_what_a_read_gave_and_nothing_else() {
        let check = |body: &str, expected: Result<&[&str], &str>| {
            let got = TwinWrite::parse(body.as_bytes());
            match (got, expected) {
                (Ok(write), Ok(ignored)) => assert_eq!(write.read_only, ignored, "{body}"),
                (Err(fault), Err(text)) => assert_eq!(fault.to_string(), text, "{body}"),
                (got, expected) => panic!("{body}: {got:?}, expected {expected:?}"),
            }
        };
        check(r#"{"tags":{"a":1},"properties":{"desired":{"b":2}}}"#, Ok(&[]));
        check(r#"{"etag":"x","properties":{"reported":{}}}"#, Ok(&["etag", "properties.reported"]));
        check(r#"{"generationId":null,"tags":{}}"#, Ok(&["generationId"]));
        check(r#"{"desiredProperties":{}}"#, Err("a twin has no field `desiredProperties`"));
        check(r#"{"tag":{}}"#, Err("a twin has no field `tag`"));
        check(r#"{"properties":{"want":{}}}"#, Err("a twin has no field `properties.want`"));
        check(r#"{"tags":[1]}"#, Err("`tags` must be an object"));
        check("[]", Err("`twin` must be an object"));
    }

    #[test]
    fn counters_and_timestamps_are_stripped_from_what_is_written() {
        let body = br#"{"properties":{"desired":{"$metadata":{},"$version":7,"b":null}}}"#;
        let write = TwinWrite::parse(body).unwrap();
        let Section::Object(desired) = write.desired else { panic!("an object was sent") };
        assert_eq!(serde_json::to_string(&desired).unwrap(), r#"{"b":null}"#);
    }
}
