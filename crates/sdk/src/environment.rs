//! What an edge runtime tells a module in its environment.
//!
//! Source: Azure IoT Edge, the variables that every SDK's from-environment constructor reads.

use std::path::PathBuf;

use model::id::{DeviceId, IdentityId, InvalidId, ModuleName};
use net::network::Address;
use thiserror::Error;

/// Where MQTT over TLS listens unless a port is named.
const MQTT_PORT: u16 = 8883;
/// The oldest version of the workload interface, which every runtime knows.
const API_VERSION: &str = "2018-06-28";

/// Why the environment is not one of a module.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidEnvironment {
    /// A variable is missing or empty. Outside of an edge runtime all are.
    #[error("{0} is not set; modules are started by an edge runtime")]
    Missing(&'static str),
    /// A variable makes no sense.
    #[error("{name}: {reason}")]
    Value {
        /// Which.
        name: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A variable is no id.
    #[error("{name} is no id")]
    Id {
        /// Which.
        name: &'static str,
        /// Why not.
        #[source]
        cause: InvalidId,
    },
}

/// Who the module is and whom it talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `IOTEDGE_WORKLOADURI`: where the workload interface listens.
    pub workload: Address,
    /// `IOTEDGE_APIVERSION`: of the workload interface.
    pub api_version: Box<str>,
    /// `IOTEDGE_DEVICEID`.
    pub device: DeviceId,
    /// `IOTEDGE_MODULEID`.
    pub module: ModuleName,
    /// `IOTEDGE_MODULEGENERATIONID`: changes when the identity is made anew.
    pub generation_id: Box<str>,
    /// `IOTEDGE_IOTHUBHOSTNAME`: the hub's name, which tokens carry.
    pub hub_host: Box<str>,
    /// `IOTEDGE_GATEWAYHOSTNAME`: the name that the edge hub proves; the hub's without one.
    pub server_name: Box<str>,
    /// The port of the edge hub: 8883, unless the gateway's name ends in another.
    pub port: u16,
}

impl Environment {
    /// Reads the variables through `variable`, which gives `None` for those not set.
    ///
    /// # Errors
    /// [`InvalidEnvironment`] names the first variable that is missing or wrong.
    pub fn parse(
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Self, InvalidEnvironment> {
        let optional = |name| variable(name).filter(|value| !value.is_empty());
        let required = |name| optional(name).ok_or(InvalidEnvironment::Missing(name));
        let workload = parse_workload(&required("IOTEDGE_WORKLOADURI")?)?;
        let scheme = optional("IOTEDGE_AUTHSCHEME");
        if scheme.is_some_and(|scheme| !scheme.eq_ignore_ascii_case("sasToken")) {
            return Err(InvalidEnvironment::Value {
                name: "IOTEDGE_AUTHSCHEME",
                reason: "sasToken is the only scheme there is",
            });
        }
        let hub_host: Box<str> = required("IOTEDGE_IOTHUBHOSTNAME")?.into();
        let gateway = optional("IOTEDGE_GATEWAYHOSTNAME");
        let (server_name, port) = parse_host(gateway.as_deref().unwrap_or(&hub_host))?;
        Ok(Self {
            workload,
            api_version: optional("IOTEDGE_APIVERSION")
                .map_or_else(|| API_VERSION.into(), String::into_boxed_str),
            device: id("IOTEDGE_DEVICEID", &required("IOTEDGE_DEVICEID")?)?,
            module: id("IOTEDGE_MODULEID", &required("IOTEDGE_MODULEID")?)?,
            generation_id: required("IOTEDGE_MODULEGENERATIONID")?.into(),
            server_name,
            port,
            hub_host,
        })
    }

    /// The module's identity.
    pub fn identity(&self) -> IdentityId {
        IdentityId::module(&self.device, &self.module)
    }
}

fn id<T: std::str::FromStr<Err = InvalidId>>(
    name: &'static str,
    text: &str,
) -> Result<T, InvalidEnvironment> {
    text.parse().map_err(|cause| InvalidEnvironment::Id { name, cause })
}

fn parse_workload(uri: &str) -> Result<Address, InvalidEnvironment> {
    const NAME: &str = "IOTEDGE_WORKLOADURI";
    let wrong = |reason| InvalidEnvironment::Value { name: NAME, reason };
    if let Some(path) = uri.strip_prefix("unix://") {
        let path = PathBuf::from(path);
        return if path.is_absolute() {
            Ok(Address::Unix(path))
        } else {
            Err(wrong("a path after unix:// must be absolute"))
        };
    }
    let rest = uri.strip_prefix("http://").ok_or_else(|| wrong("neither unix:// nor http://"))?;
    let rest = rest.trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "80"));
    match port.parse() {
        Ok(port) if !host.is_empty() && !host.contains('/') => Ok(Address::Tcp(host.into(), port)),
        _ => Err(wrong("not http://host:port")),
    }
}

/// Stock SDKs take no port here; we do, so that a module can be run beside a fixed 8883.
fn parse_host(text: &str) -> Result<(Box<str>, u16), InvalidEnvironment> {
    let (host, port) = match text.split_once(':') {
        None => (text, Some(MQTT_PORT)),
        Some((host, port)) => (host, port.parse().ok()),
    };
    match port {
        Some(port) if !host.is_empty() => Ok((host.into(), port)),
        _ => Err(InvalidEnvironment::Value {
            name: "IOTEDGE_GATEWAYHOSTNAME",
            reason: "not a host name, with or without a port",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 8] = [
        ("IOTEDGE_WORKLOADURI", "unix:///run/m/workload.sock"),
        ("IOTEDGE_APIVERSION", "2022-08-03"),
        ("IOTEDGE_AUTHSCHEME", "SASTOKEN"),
        ("IOTEDGE_MODULEID", "m"),
        ("IOTEDGE_MODULEGENERATIONID", "g7"),
        ("IOTEDGE_DEVICEID", "d"),
        ("IOTEDGE_IOTHUBHOSTNAME", "hub.example"),
        ("IOTEDGE_GATEWAYHOSTNAME", "edge1"),
    ];

    /// The environment of a module, with one variable changed; empty means not set.
    fn with(name: &str, value: &str) -> Result<Environment, InvalidEnvironment> {
        Environment::parse(|asked| {
            let (_, usual) = ALL.iter().find(|(known, _)| *known == asked)?;
            let value = if asked == name { value } else { usual };
            (!value.is_empty()).then(|| value.to_owned())
        })
    }

    #[test]
    fn what_a_runtime_says_is_read() {
        let environment = with("", "").unwrap();
        assert_eq!(environment.workload, Address::Unix("/run/m/workload.sock".into()));
        assert_eq!((&*environment.api_version, &*environment.generation_id), ("2022-08-03", "g7"));
        assert_eq!(environment.identity().as_str(), "d/m");
        assert_eq!((&*environment.hub_host, &*environment.server_name), ("hub.example", "edge1"));
        assert_eq!(environment.port, 8883);
    }

    #[test]
    fn some_variables_may_be_missing() {
        assert_eq!(&*with("IOTEDGE_APIVERSION", "").unwrap().api_version, "2018-06-28");
        assert!(with("IOTEDGE_AUTHSCHEME", "").is_ok());
        let server = with("IOTEDGE_GATEWAYHOSTNAME", "").unwrap();
        assert_eq!((&*server.server_name, server.port), ("hub.example", 8883));
        let server = with("IOTEDGE_GATEWAYHOSTNAME", "localhost:18883").unwrap();
        assert_eq!((&*server.server_name, server.port), ("localhost", 18883));
        let workload = with("IOTEDGE_WORKLOADURI", "http://localhost:15581/").unwrap().workload;
        assert_eq!(workload, Address::Tcp("localhost".into(), 15581));
    }

    #[test]
    fn each_wrong_variable_is_named() {
        for (name, value, words) in [
            ("IOTEDGE_WORKLOADURI", "", "not set"),
            ("IOTEDGE_WORKLOADURI", "unix://relative", "absolute"),
            ("IOTEDGE_WORKLOADURI", "fd://1", "neither"),
            ("IOTEDGE_WORKLOADURI", "http://x:y", "host:port"),
            ("IOTEDGE_WORKLOADURI", "http://:1", "host:port"),
            ("IOTEDGE_AUTHSCHEME", "x509", "sasToken"),
            ("IOTEDGE_MODULEID", "", "not set"),
            ("IOTEDGE_MODULEID", "a b", "no id"),
            ("IOTEDGE_DEVICEID", "a/b", "no id"),
            ("IOTEDGE_MODULEGENERATIONID", "", "not set"),
            ("IOTEDGE_IOTHUBHOSTNAME", "", "not set"),
            ("IOTEDGE_GATEWAYHOSTNAME", "x:y", "not a host name"),
            ("IOTEDGE_GATEWAYHOSTNAME", ":1", "not a host name"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(words), "{error}");
        }
    }
}
