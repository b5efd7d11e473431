//! Device and module identities. Source: the service API's `Device` and `Module`.
//!
//! Nothing here denies unknown fields: SDKs fill these shapes from their caller's object, and
//! [`crate::tolerant`] reads them.

use serde::{Deserialize, Serialize};

use crate::Key;

/// Most entries that one list call gives; who asks for more gets so many.
pub const LIST_TOP_MAX: usize = 1000;

/// A device identity, as sent and as answered.
///
/// A caller sets `status`, `statusReason`, `authentication`, `capabilities`; the others are
/// answered and, when sent back, ignored as Azure ignores them, except that `deviceId` must be
/// the one in the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Changes when the device is deleted and made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
    /// Changes with every write of the identity; unquoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Connected` or `Disconnected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_state: Option<String>,
    /// Whether it may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// When `connectionState` last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_state_updated_time: Option<String>,
    /// When `status` last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_updated_time: Option<String>,
    /// When the device last did anything, RFC 3339, up to a minute late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<String>,
    /// How many cloud-to-device messages wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_to_device_message_count: Option<u32>,
    /// How it proves who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// What it can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Its place among gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_scope: Option<String>,
    /// The gateways above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_scopes: Option<Vec<String>>,
}

/// A module identity, as sent and as answered. A caller sets `authentication` and `managedBy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Module {
    /// The device it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_id: Option<String>,
    /// Who manages it; `IotEdge` for what a deployment made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
    /// Changes when the module is deleted and made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
    /// Changes with every write of the identity; unquoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Connected` or `Disconnected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_state: Option<String>,
    /// When `connectionState` last changed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_state_updated_time: Option<String>,
    /// When the module last did anything, RFC 3339, up to a minute late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<String>,
    /// How many cloud-to-device messages wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_to_device_message_count: Option<u32>,
    /// How it proves who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// Whether a device may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// It may.
    #[default]
    Enabled,
    /// It may not.
    Disabled,
}

/// How an identity proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    /// The kind; `sas` when left out.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<AuthenticationKind>,
    /// Two keys; made by the hub when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric_key: Option<SymmetricKey>,
    /// Two thumbprints of self-signed certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x509_thumbprint: Option<X509Thumbprint>,
}

/// The kind of an [`Authentication`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthenticationKind {
    /// A shared key.
    #[default]
    Sas,
    /// A certificate known by thumbprint.
    SelfSigned,
    /// A certificate signed by a known authority.
    CertificateAuthority,
    /// It cannot connect.
    None,
}

/// Two keys, so that one can be replaced while the other works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SymmetricKey {
    /// Base64, 16 to 64 bytes.
    pub primary_key: Option<Key>,
    /// Base64, 16 to 64 bytes.
    pub secondary_key: Option<Key>,
}

/// Two thumbprints: hex of the SHA-1 or SHA-256 of the certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509Thumbprint {
    /// 40 or 64 hex digits.
    pub primary_thumbprint: Option<String>,
    /// 40 or 64 hex digits.
    pub secondary_thumbprint: Option<String>,
}

/// What a device can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Whether it runs the edge runtime.
    pub iot_edge: bool,
}
