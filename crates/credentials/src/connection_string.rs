//! Connection strings: the one line of text by which a person hands credentials to a program.

use std::fmt::Write as _;

use model::id::{DeviceId, InvalidId, ModuleName};
use model::secret::Secret;
use thiserror::Error;

/// Longest connection string, in bytes.
pub const CONNECTION_STRING_BYTES_MAX: usize = 4096;

/// Why a text is no connection string. Values are never quoted, for they may be keys.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidConnectionString {
    /// Too long to be one.
    #[error("a connection string has at most {CONNECTION_STRING_BYTES_MAX} bytes")]
    TooLong,
    /// A part without `=`.
    #[error("part {0} of the connection string has no `=`")]
    NoValue(usize),
    /// A key that nobody knows.
    #[error("the connection string has an unknown key {0:?}")]
    UnknownKey(String),
    /// A key twice.
    #[error("the connection string names {0} twice")]
    Twice(&'static str),
    /// A key without which it is useless.
    #[error("the connection string has no {0}")]
    Missing(&'static str),
    /// An id that is none.
    #[error("the {0} of the connection string is invalid")]
    Id(&'static str, #[source] InvalidId),
}

/// A connection string of a device, a module or a service policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionString {
    /// `HostName`
    pub host_name: String,
    /// `DeviceId`
    pub device_id: Option<DeviceId>,
    /// `ModuleId`
    pub module_id: Option<ModuleName>,
    /// `SharedAccessKeyName`
    pub policy: Option<String>,
    /// `SharedAccessKey`, base64
    pub key: Option<Secret>,
    /// `GatewayHostName`
    pub gateway_host_name: Option<String>,
}

const KEYS: [&str; 6] = [
    "HostName",
    "DeviceId",
    "ModuleId",
    "SharedAccessKeyName",
    "SharedAccessKey",
    "GatewayHostName",
];

impl ConnectionString {
    /// Reads `Key=Value;Key=Value`; keys without regard to case, values as they stand.
    ///
    /// # Errors
    /// [`InvalidConnectionString`] names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidConnectionString> {
        use InvalidConnectionString as Fault;
        if text.len() > CONNECTION_STRING_BYTES_MAX {
            return Err(Fault::TooLong);
        }
        let mut values: [Option<&str>; KEYS.len()] = [None; KEYS.len()];
        let parts = text.trim().split(';').enumerate().filter(|(_, part)| !part.trim().is_empty());
        for (number, part) in parts {
            let (key, value) = part.split_once('=').ok_or(Fault::NoValue(number + 1))?;
            let known =
                KEYS.iter().zip(&mut values).find(|(k, _)| k.eq_ignore_ascii_case(key.trim()));
            let (name, slot) =
                known.ok_or_else(|| Fault::UnknownKey(key.trim().chars().take(64).collect()))?;
            if slot.replace(value.trim()).is_some() {
                return Err(Fault::Twice(name));
            }
        }
        let [host, device, module, policy, key, gateway] =
            values.map(|v| v.filter(|v| !v.is_empty()));
        let device_id = device.map(str::parse).transpose().map_err(|e| Fault::Id("DeviceId", e))?;
        let module_id = module.map(str::parse).transpose().map_err(|e| Fault::Id("ModuleId", e))?;
        Ok(Self {
            host_name: host.ok_or(Fault::Missing("HostName"))?.to_owned(),
            device_id,
            module_id,
            policy: policy.map(str::to_owned),
            key: key.map(Secret::from),
            gateway_host_name: gateway.map(str::to_owned),
        })
    }

    /// The text again; a secret, for it holds the key.
    pub fn to_text(&self) -> Secret {
        let key = self.key.as_ref().and_then(Secret::expose_str);
        let values = [
            Some(self.host_name.as_str()),
            self.device_id.as_ref().map(DeviceId::as_str),
            self.module_id.as_ref().map(ModuleName::as_str),
            self.policy.as_deref(),
            key,
            self.gateway_host_name.as_deref(),
        ];
        let mut text = String::new();
        for (key, value) in KEYS.iter().zip(values).filter_map(|(k, v)| Some((k, v?))) {
            let separator = if text.is_empty() { "" } else { ";" };
            write!(text, "{separator}{key}={value}").expect("a String takes everything");
        }
        Secret::from(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_read_and_written() {
        let check = |text: &str| {
            let parsed = ConnectionString::parse(text).unwrap();
            assert_eq!(parsed.to_text().expose_str(), Some(text));
            assert!(!format!("{parsed:?}").contains("a2V5"));
        };
        check("HostName=h.example;DeviceId=d;SharedAccessKey=a2V5PT0=");
        check("HostName=h:8883;DeviceId=d;ModuleId=m;SharedAccessKey=a2V5;GatewayHostName=g");
        check("HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=a2V5");
        assert_eq!(ConnectionString::parse(" hostname=h; ").unwrap().host_name, "h");
    }

    #[test]
    fn bad_connection_strings_are_refused_by_the_part_that_is_wrong() {
        use InvalidConnectionString as Fault;
        let check = |text: &str, fault: Fault| {
            assert_eq!(ConnectionString::parse(text), Err(fault), "{text}");
        };
        check("", Fault::Missing("HostName"));
        check("HostName=", Fault::Missing("HostName"));
        check("HostName=h;nonsense", Fault::NoValue(2));
        check("HostName=h;Key=v", Fault::UnknownKey("Key".into()));
        check("HostName=h;HostName=h", Fault::Twice("HostName"));
        check("HostName=h;DeviceId=a/b", Fault::Id("DeviceId", InvalidId::Character('/')));
        check(&"x".repeat(CONNECTION_STRING_BYTES_MAX), Fault::NoValue(1));
        check(&"x".repeat(CONNECTION_STRING_BYTES_MAX + 1), Fault::TooLong);
    }
}
