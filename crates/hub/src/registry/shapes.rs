//! Registry entries as the service API writes and reads them.

use api::Key;
use api::error::{ApiError, ErrorCode};
use api::registry::{
    Authentication, AuthenticationKind, Capabilities, Device, Module, Status, SymmetricKey,
    X509Thumbprint,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::id::IdentityId;
use model::secret::Secret;

use super::{Auth, Entry, KEY_BYTES_RANGE, Wanted, WantedAuth};
use crate::connections::Presence;
use crate::storage::rows::Activity;

/// Longest `statusReason`, in characters. Source: the service API's `Device`.
const STATUS_REASON_LEN_MAX: usize = 128;
/// Longest `managedBy`, in characters.
const MANAGED_BY_LEN_MAX: usize = 128;

/// What is known of an identity beside its entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    connected: bool,
    activity: Activity,
}

impl Seen {
    /// The newer of what the table and what memory knows.
    pub(crate) fn new(stored: Activity, presence: Presence) -> Self {
        let activity = presence.activity.unwrap_or(stored);
        Self { connected: presence.connected, activity }
    }

    /// `Connected` or `Disconnected`.
    pub(crate) fn state(self) -> String {
        if self.connected { "Connected" } else { "Disconnected" }.to_owned()
    }

    /// When it last did anything.
    pub(crate) fn last_activity(self) -> String {
        self.activity.last_activity.to_string()
    }
}

/// A device as answered.
pub(crate) fn device(entry: &Entry, seen: Seen) -> Device {
    Device {
        device_id: Some(entry.identity.device_str().to_owned()),
        generation_id: Some(entry.generation_id.to_string()),
        etag: Some(entry.etag.text()),
        connection_state: Some(seen.state()),
        status: Some(status(entry)),
        status_reason: entry.status_reason.as_deref().map(str::to_owned),
        connection_state_updated_time: Some(seen.activity.connection_updated.to_string()),
        status_updated_time: Some(entry.status_updated.to_string()),
        last_activity_time: Some(seen.last_activity()),
        cloud_to_device_message_count: Some(0),
        authentication: Some(authentication(&entry.auth)),
        capabilities: Some(Capabilities { iot_edge: entry.iot_edge }),
        device_scope: None,
        parent_scopes: None,
    }
}

/// A module as answered.
pub(crate) fn module(entry: &Entry, seen: Seen) -> Module {
    Module {
        device_id: Some(entry.identity.device_str().to_owned()),
        module_id: entry.identity.module_str().map(str::to_owned),
        managed_by: Some(entry.managed_by.to_string()),
        generation_id: Some(entry.generation_id.to_string()),
        etag: Some(entry.etag.text()),
        connection_state: Some(seen.state()),
        connection_state_updated_time: Some(seen.activity.connection_updated.to_string()),
        last_activity_time: Some(seen.last_activity()),
        cloud_to_device_message_count: Some(0),
        authentication: Some(authentication(&entry.auth)),
    }
}

/// Whether it may connect.
pub(crate) fn status(entry: &Entry) -> Status {
    if entry.enabled { Status::Enabled } else { Status::Disabled }
}

/// Azure's word for how it proves itself.
pub(crate) fn authentication_type(auth: &Auth) -> &'static str {
    match auth {
        Auth::Sas { .. } => "sas",
        Auth::SelfSigned { .. } => "selfSigned",
        Auth::None => "none",
    }
}

fn authentication(auth: &Auth) -> Authentication {
    let (kind, keys) = match auth {
        Auth::Sas { primary, secondary } => {
            let key = |key: &Secret| Some(Key(key.clone()));
            let keys = SymmetricKey { primary_key: key(primary), secondary_key: key(secondary) };
            (AuthenticationKind::Sas, keys)
        }
        Auth::SelfSigned { .. } => (AuthenticationKind::SelfSigned, SymmetricKey::default()),
        Auth::None => (AuthenticationKind::None, SymmetricKey::default()),
    };
    Authentication {
        kind: Some(kind),
        symmetric_key: Some(keys),
        x509_thumbprint: Some(thumbprints(auth)),
    }
}

/// Thumbprints, empty for those who have none.
pub(crate) fn thumbprints(auth: &Auth) -> X509Thumbprint {
    match auth {
        Auth::SelfSigned { primary, secondary } => X509Thumbprint {
            primary_thumbprint: primary.as_deref().map(str::to_owned),
            secondary_thumbprint: secondary.as_deref().map(str::to_owned),
        },
        Auth::Sas { .. } | Auth::None => X509Thumbprint::default(),
    }
}

/// What a device body asks for.
pub(crate) fn wanted_device(body: Device, identity: &IdentityId) -> Result<Wanted, ApiError> {
    same(body.device_id.as_deref(), identity.device_str(), "deviceId")?;
    bounded(body.status_reason.as_deref(), STATUS_REASON_LEN_MAX, "statusReason")?;
    if body.device_scope.is_some_and(|scope| !scope.is_empty())
        || body.parent_scopes.is_some_and(|scopes| !scopes.is_empty())
    {
        return Err(invalid("gateways above a device are not offered by this hub"));
    }
    Ok(Wanted {
        enabled: body.status.unwrap_or_default() == Status::Enabled,
        status_reason: body.status_reason.filter(|text| !text.is_empty()).map(Into::into),
        auth: body.authentication.map(wanted_auth).transpose()?,
        iot_edge: body.capabilities.map(|capabilities| capabilities.iot_edge),
        managed_by: None,
    })
}

/// What a module body asks for.
pub(crate) fn wanted_module(body: Module, identity: &IdentityId) -> Result<Wanted, ApiError> {
    same(body.device_id.as_deref(), identity.device_str(), "deviceId")?;
    same(body.module_id.as_deref(), identity.module_str().unwrap_or_default(), "moduleId")?;
    bounded(body.managed_by.as_deref(), MANAGED_BY_LEN_MAX, "managedBy")?;
    Ok(Wanted {
        auth: body.authentication.map(wanted_auth).transpose()?,
        managed_by: body.managed_by.map(Into::into),
        ..Wanted::default()
    })
}

fn wanted_auth(body: Authentication) -> Result<WantedAuth, ApiError> {
    let keys = body.symmetric_key.unwrap_or_default();
    let prints = body.x509_thumbprint.unwrap_or_default();
    match body.kind.unwrap_or_default() {
        AuthenticationKind::Sas => {
            let primary = keys.primary_key.map(checked_key).transpose()?.flatten();
            let secondary = keys.secondary_key.map(checked_key).transpose()?.flatten();
            if primary.is_some() && primary == secondary {
                // Azure takes them, and so do its users' scripts; but no key can then be
                // replaced while the other works.
                tracing::warn!("the two keys of an identity are equal: none can be rolled over");
            }
            Ok(WantedAuth::Sas { primary, secondary })
        }
        AuthenticationKind::SelfSigned => {
            let primary = prints.primary_thumbprint.map(checked_print).transpose()?.flatten();
            let secondary = prints.secondary_thumbprint.map(checked_print).transpose()?.flatten();
            if primary.is_none() && secondary.is_none() {
                return Err(invalid("selfSigned needs at least one thumbprint"));
            }
            Ok(WantedAuth::SelfSigned { primary, secondary })
        }
        AuthenticationKind::None => Ok(WantedAuth::None),
        AuthenticationKind::CertificateAuthority => {
            Err(invalid("certificateAuthority is not offered by this hub"))
        }
    }
}

fn checked_key(key: Key) -> Result<Option<Secret>, ApiError> {
    if key.0.expose().is_empty() {
        return Ok(None);
    }
    match STANDARD.decode(key.0.expose()) {
        Ok(bytes) if KEY_BYTES_RANGE.contains(&bytes.len()) => Ok(Some(key.0)),
        Ok(_) => Err(invalid("a key has 16 to 64 bytes")),
        Err(_) => Err(invalid("a key is base64")),
    }
}

fn checked_print(text: String) -> Result<Option<Box<str>>, ApiError> {
    let plain = text.replace(':', "").to_ascii_uppercase();
    if plain.is_empty() {
        return Ok(None);
    }
    let good = matches!(plain.len(), 40 | 64) && plain.bytes().all(|b| b.is_ascii_hexdigit());
    if good { Ok(Some(plain.into())) } else { Err(invalid("a thumbprint has 40 or 64 hex digits")) }
}

fn same(body: Option<&str>, path: &str, field: &str) -> Result<(), ApiError> {
    match body {
        Some(text) if text != path => {
            Err(invalid(format!("{field} in the body is not the one in the path")))
        }
        _ => Ok(()),
    }
}

fn bounded(text: Option<&str>, most: usize, field: &str) -> Result<(), ApiError> {
    if text.is_some_and(|text| text.chars().count() > most) {
        return Err(invalid(format!("{field} has at most {most} characters")));
    }
    Ok(())
}

fn invalid(reason: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_body_is_checked_field_by_field() {
        let check = |body: &str, expected: Result<(), &str>| {
            let body: Device = serde_json::from_str(body).unwrap();
            let got = wanted_device(body, &"d1".parse().unwrap()).map(drop);
            assert_eq!(got.map_err(|error| error.reason), expected.map_err(str::to_owned));
        };
        let auth = |inner: &str| format!(r#"{{"authentication":{{{inner}}}}}"#);
        check("{}", Ok(()));
        check(r#"{"deviceId":"d2"}"#, Err("deviceId in the body is not the one in the path"));
        let key = r#""symmetricKey":{"primaryKey":"c2hvcnQ="}"#;
        check(&auth(key), Err("a key has 16 to 64 bytes"));
        check(&auth(r#""symmetricKey":{"primaryKey":"!"}"#), Err("a key is base64"));
        check(&auth(r#""symmetricKey":{"primaryKey":null,"secondaryKey":""}"#), Ok(()));
        check(&auth(r#""type":"selfSigned""#), Err("selfSigned needs at least one thumbprint"));
        let print = "a".repeat(40);
        let good =
            format!(r#""type":"selfSigned","x509Thumbprint":{{"primaryThumbprint":"{print}"}}"#);
        check(&auth(&good), Ok(()));
        check(
            &auth(r#""type":"certificateAuthority""#),
            Err("certificateAuthority is not offered by this hub"),
        );
    }

    #[test]
    fn what_people_write_beside_an_entry_may_be_as_long_as_its_limit() {
        let device = |length: usize| {
            let body = Device { status_reason: Some("ä".repeat(length)), ..Device::default() };
            wanted_device(body, &"d".parse().unwrap()).map(drop)
        };
        device(STATUS_REASON_LEN_MAX).unwrap();
        let reason = device(STATUS_REASON_LEN_MAX + 1).unwrap_err().reason;
        assert!(reason.contains("statusReason"), "{reason}");
        let module = |length: usize| {
            let body = Module { managed_by: Some("m".repeat(length)), ..Module::default() };
            wanted_module(body, &"d/m".parse().unwrap()).map(drop)
        };
        module(MANAGED_BY_LEN_MAX).unwrap();
        let reason = module(MANAGED_BY_LEN_MAX + 1).unwrap_err().reason;
        assert!(reason.contains("managedBy"), "{reason}");
    }
}
