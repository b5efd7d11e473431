//! How the device learns which hub it belongs to and what proves it: by connection string, or
//! by host name, device id and key.

use std::path::PathBuf;

use credentials::key::SymmetricKey;
use model::id::DeviceId;
use model::secret::Secret;
use thiserror::Error;

/// What the device knows about itself before it has ever spoken to its hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisioning {
    /// Host name of the hub, lower case, without a port.
    pub hub_host: Box<str>,
    /// The device's name.
    pub device: DeviceId,
    /// The device's symmetric key.
    pub key: DeviceKey,
}

/// Where the device's symmetric key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKey {
    /// Here, base64.
    Value(Secret),
    /// In a file, as raw bytes. Source: Azure IoT Edge, `device_id_pk.uri`.
    File(PathBuf),
}

/// Why a connection string is refused. Never repeats the text: it holds a key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidConnectionString {
    /// A part has no `=`.
    #[error("part {0} of the connection string is not Name=Value")]
    NotAPair(usize),
    /// A part that a device's connection string does not have.
    #[error("a device connection string has no part {0:?}")]
    UnknownPart(String),
    /// The same part twice.
    #[error("the connection string names {0} twice")]
    Twice(&'static str),
    /// A part is missing or empty.
    #[error("the connection string lacks {0}")]
    Missing(&'static str),
    /// The device id is none.
    #[error("the connection string has a bad DeviceId: {0}")]
    DeviceId(String),
    /// The key is not base64.
    #[error("the SharedAccessKey is not base64")]
    Key,
}

impl Provisioning {
    /// Reads `HostName=…;DeviceId=…;SharedAccessKey=…`, in any order and letter case, as the
    /// command line and the SDKs do.
    ///
    /// # Errors
    /// [`InvalidConnectionString`], saying which part is wrong.
    ///
    /// Source: Azure IoT Hub, "connection string" of a device.
    pub fn from_connection_string(text: &str) -> Result<Self, InvalidConnectionString> {
        let mut host = None;
        let mut device = None;
        let mut key = None;
        for (at, part) in text.trim().split(';').filter(|part| !part.is_empty()).enumerate() {
            // Only the first `=` separates: base64 keys end in more of them.
            let (name, value) =
                part.split_once('=').ok_or(InvalidConnectionString::NotAPair(at + 1))?;
            let slots =
                [(&mut host, "HostName"), (&mut device, "DeviceId"), (&mut key, "SharedAccessKey")];
            let known = slots.into_iter().find(|(_, it)| it.eq_ignore_ascii_case(name.trim()));
            let unknown = || InvalidConnectionString::UnknownPart(name.trim().to_owned());
            let (slot, name) = known.ok_or_else(unknown)?;
            if slot.replace(value.trim()).is_some() {
                return Err(InvalidConnectionString::Twice(name));
            }
        }
        let (host, device) = (need(host, "HostName")?, need(device, "DeviceId")?);
        let key = Secret::from(need(key, "SharedAccessKey")?);
        Self::checked(host, device, DeviceKey::Value(key))
    }

    /// Checks the three parts.
    ///
    /// # Errors
    /// [`InvalidConnectionString`], saying which part is wrong.
    pub fn checked(
        host: &str,
        device: &str,
        key: DeviceKey,
    ) -> Result<Self, InvalidConnectionString> {
        let device = device.parse().map_err(|error: model::id::InvalidId| {
            InvalidConnectionString::DeviceId(error.to_string())
        })?;
        if let DeviceKey::Value(key) = &key {
            let text = key.expose_str().unwrap_or_default();
            SymmetricKey::parse(text).map_err(|_| InvalidConnectionString::Key)?;
        }
        Ok(Self { hub_host: host.to_ascii_lowercase().into(), device, key })
    }
}

fn need<'a>(
    value: Option<&'a str>,
    name: &'static str,
) -> Result<&'a str, InvalidConnectionString> {
    value.filter(|text| !text.is_empty()).ok_or(InvalidConnectionString::Missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_read_in_any_order_and_refused_with_the_part_at_fault() {
        let check = |text: &str, expected: &str| {
            let said = match Provisioning::from_connection_string(text) {
                Ok(read) => format!("{} {}", read.hub_host, read.device),
                Err(error) => error.to_string(),
            };
            assert_eq!(said, expected, "{text}");
        };
        check("HostName=Hub.Example;DeviceId=d1;SharedAccessKey=a2V5", "hub.example d1");
        check("SharedAccessKey=a2V5aw==;DeviceId=d1;HostName=h;", "h d1");
        check("hostname=h;DEVICEID=d1;sharedAccessKey=a2V5", "h d1");
        check("HostName=a;hostName=b", "the connection string names HostName twice");
        check("HostName=h;DeviceId=d1", "the connection string lacks SharedAccessKey");
        check("HostName=h;DeviceId=;SharedAccessKey=a2V5", "the connection string lacks DeviceId");
        check("HostName", "part 1 of the connection string is not Name=Value");
        check("HostName=a;HostName=b", "the connection string names HostName twice");
        check("HostName=h;DeviceId=d;SharedAccessKey=%%", "the SharedAccessKey is not base64");
        check(
            "HostName=h;SharedAccessKeyName=x;SharedAccessKey=a2V5",
            "a device connection string has no part \"SharedAccessKeyName\"",
        );
    }
}
