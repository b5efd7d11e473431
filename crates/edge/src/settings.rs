//! The file `config.toml`: what an operator writes, checked whole before anything starts.
//!
//! Sections and names are those of Azure IoT Edge where it has them; what it has no name for
//! lies under `[selvedge]`. A key nobody reads is an error that names its line.

mod foreign;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use engine::network::{InvalidSubnet, Subnet};
use model::secret::Secret;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::provisioning::{DeviceKey, Provisioning};
use foreign::{AgentFile, AziotKeysFile, MobyFile};

/// Largest `config.toml`, in bytes.
pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// Days a device CA holds when nobody says otherwise.
pub const EDGE_CA_DAYS: u16 = 3650;
/// Most bytes that messages may take on disk when nobody says otherwise.
pub const QUEUE_BYTES: u64 = 1024 * 1024 * 1024;

/// The settings of one device, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name under which modules and leaf devices reach this device.
    pub hostname: Box<str>,
    /// Which hub, which device, which key.
    pub provisioning: Provisioning,
    /// A PEM file whose certificates modules and this device trust besides the device CA. Without
    /// one, the hub must show a certificate of an authority that this system trusts.
    pub trust_bundle_cert: Option<PathBuf>,
    /// The device CA.
    pub edge_ca: EdgeCa,
    /// Where the two HTTP interfaces listen.
    pub listen: Addresses,
    /// Under which addresses others find them.
    pub connect: Addresses,
    /// The `[agent]` section.
    pub agent: AgentSettings,
    /// The `[selvedge]` section.
    pub own: OwnSettings,
    /// What Azure IoT Edge reads and this device does not need, and why; for the log.
    pub notices: Vec<String>,
}

/// Where the device CA comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeCa {
    /// Made at first start, valid for so many days.
    Made {
        /// Days of validity.
        days: u16,
    },
    /// Given as two PEM files.
    Given {
        /// The certificate chain.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// The two Unix sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The workload interface; each module has its own socket in the folder of this one.
    pub workload: PathBuf,
    /// The management interface.
    pub management: PathBuf,
}

/// What the agent does when the manifest is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// Variables for `$edgeAgent`, as Azure has them; only the names in
    /// [`AGENT_VARIABLES`] are known.
    pub env: Vec<(Box<str>, Box<str>)>,
}

/// How Azure's units name a socket that systemd opens.
const SYSTEMD: &str = "fd://";
/// Names that `[agent.env]` may hold.
pub const AGENT_VARIABLES: &[&str] = &["RuntimeLogLevel", "UpstreamProtocol"];

/// Which engine runs the modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Containers, without a daemon.
    Embedded,
    /// Plain processes, for development only.
    Process,
}

/// What Azure has no name for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnSettings {
    /// Which engine runs the modules.
    pub engine: EngineKind,
    /// Where all state lies.
    pub data: PathBuf,
    /// Where the router listens for MQTT over TLS; port 0 picks a free one.
    pub mqtt: SocketAddr,
    /// The hub's MQTT port.
    pub upstream_mqtt_port: u16,
    /// The hub's HTTPS port.
    pub upstream_https_port: u16,
    /// Where to dial instead of resolving the hub's name.
    pub upstream_address: Option<IpAddr>,
    /// Further addresses under which others reach the router, for its certificate. Modules on
    /// the engine's network reach it there, which needs no entry.
    pub gateway_addresses: Vec<IpAddr>,
    /// The network of the embedded engine's bridge; the engine picks one when absent.
    pub network: Option<Subnet>,
    /// The unprivileged user that `run` becomes; none keeps the user it was started as.
    pub user: Option<Box<str>>,
    /// The group that may use the management socket.
    pub group: Option<Box<str>>,
    /// Most bytes that messages may take on disk.
    pub queue_bytes_max: u64,
}

/// Why `config.toml` is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidSettings {
    /// Larger than [`SETTINGS_BYTES_MAX`].
    #[error("config.toml has {0} bytes, at most {SETTINGS_BYTES_MAX} are read")]
    TooLarge(usize),
    /// Not TOML, an unknown key, a wrong type.
    #[error("config.toml line {line}: {words}")]
    At {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        words: String,
    },
    /// Well formed, but it says nothing that works.
    #[error("config.toml [{section}]: {words}")]
    Section {
        /// The section.
        section: &'static str,
        /// What is wrong with it.
        words: String,
    },
}

impl Settings {
    /// Reads the text of a `config.toml`.
    ///
    /// # Errors
    /// [`InvalidSettings`], with the line or the section at fault.
    pub fn parse(text: &str) -> Result<Self, InvalidSettings> {
        File::parse(text)?.checked()
    }

    /// As [`Settings::parse`], with all state in `data` whatever the file says.
    ///
    /// # Errors
    /// As [`Settings::parse`].
    pub fn parse_in(text: &str, data: &Path) -> Result<Self, InvalidSettings> {
        let mut file = File::parse(text)?;
        file.selvedge.data = Some(data.to_owned());
        file.checked()
    }
}

impl File {
    fn parse(text: &str) -> Result<Self, InvalidSettings> {
        if text.len() > SETTINGS_BYTES_MAX {
            return Err(InvalidSettings::TooLarge(text.len()));
        }
        toml::from_str(text).map_err(|error| InvalidSettings::At {
            line: line_of(text, error.span()),
            words: error.message().to_owned(),
        })
    }
}

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start);
    1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hostname: String,
    trust_bundle_cert: Option<String>,
    provisioning: ProvisioningFile,
    #[serde(default)]
    edge_ca: EdgeCaFile,
    #[serde(default)]
    listen: AddressesFile,
    #[serde(default)]
    connect: AddressesFile,
    #[serde(default)]
    agent: AgentFile,
    #[serde(default)]
    selvedge: OwnFile,
    // What only Azure IoT Edge needs; see `foreign`.
    parent_hostname: Option<IgnoredAny>,
    allow_elevated_docker_permissions: Option<bool>,
    auto_reprovisioning_mode: Option<IgnoredAny>,
    cloud_timeout_sec: Option<IgnoredAny>,
    cloud_retries: Option<IgnoredAny>,
    prefer_module_identity_cache: Option<IgnoredAny>,
    additional_info: Option<IgnoredAny>,
    iotedge_max_requests: Option<IgnoredAny>,
    aziot_max_requests: Option<IgnoredAny>,
    watchdog: Option<IgnoredAny>,
    image_garbage_collection: Option<IgnoredAny>,
    preloaded_keys: Option<IgnoredAny>,
    preloaded_certs: Option<IgnoredAny>,
    tpm: Option<IgnoredAny>,
    cert_issuance: Option<IgnoredAny>,
    aziot_keys: Option<AziotKeysFile>,
    moby_runtime: Option<MobyFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvisioningFile {
    source: String,
    connection_string: Option<String>,
    iothub_hostname: Option<String>,
    device_id: Option<String>,
    authentication: Option<AuthenticationFile>,
    // Of source "dps".
    global_endpoint: Option<IgnoredAny>,
    id_scope: Option<IgnoredAny>,
    payload: Option<IgnoredAny>,
    attestation: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthenticationFile {
    method: String,
    device_id_pk: Option<KeyFile>,
    // Of method "x509".
    identity_cert: Option<IgnoredAny>,
    identity_pk: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    value: Option<String>,
    uri: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeCaFile {
    cert: Option<String>,
    pk: Option<String>,
    auto_generated_edge_ca_expiry_days: Option<u16>,
    auto_renew: Option<IgnoredAny>,
    // Of the methods "est" and "local_ca".
    method: Option<String>,
    common_name: Option<IgnoredAny>,
    subject: Option<IgnoredAny>,
    expiry_days: Option<IgnoredAny>,
    url: Option<IgnoredAny>,
    username: Option<IgnoredAny>,
    password: Option<IgnoredAny>,
    identity_cert: Option<IgnoredAny>,
    identity_pk: Option<IgnoredAny>,
    bootstrap_identity_cert: Option<IgnoredAny>,
    bootstrap_identity_pk: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressesFile {
    workload_uri: Option<String>,
    management_uri: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnFile {
    engine: Option<EngineKind>,
    data: Option<PathBuf>,
    mqtt: Option<SocketAddr>,
    upstream_mqtt_port: Option<u16>,
    upstream_https_port: Option<u16>,
    upstream_address: Option<IpAddr>,
    #[serde(default)]
    gateway_addresses: Vec<IpAddr>,
    network: Option<String>,
    user: Option<String>,
    group: Option<String>,
    queue_bytes_max: Option<u64>,
}

impl File {
    fn checked(self) -> Result<Settings, InvalidSettings> {
        let hostname = self.hostname.to_ascii_lowercase();
        let named = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if hostname.is_empty() || hostname.len() > 253 || !hostname.chars().all(named) {
            let words = format!("{hostname:?} is not a host name");
            return Err(InvalidSettings::Section { section: "hostname", words });
        }
        let notices = self.notices()?;
        let data = self.selvedge.data.clone().unwrap_or_else(|| "/var/lib/selvedge".into());
        let run = data.join("run");
        let default =
            Addresses { workload: run.join("workload.sock"), management: run.join("mgmt.sock") };
        let listen = self.listen.checked("listen", &default)?;
        Ok(Settings {
            hostname: hostname.into(),
            provisioning: self.provisioning.checked()?,
            trust_bundle_cert: self
                .trust_bundle_cert
                .map(|text| file_named("trust_bundle_cert", &text))
                .transpose()?,
            edge_ca: self.edge_ca.checked()?,
            connect: self.connect.checked("connect", &listen)?,
            listen,
            agent: self.agent.checked()?,
            own: self.selvedge.checked(data)?,
            notices,
        })
    }
}

impl ProvisioningFile {
    fn checked(self) -> Result<Provisioning, InvalidSettings> {
        let wrong = |words: String| InvalidSettings::Section { section: "provisioning", words };
        match self.source.as_str() {
            "manual" => {}
            "dps" => {
                let words = "source \"dps\" is not served by this version; known is manual";
                return Err(wrong(words.to_owned()));
            }
            other => return Err(wrong(format!("source {other:?} is unknown; known is manual"))),
        }
        let of_dps = [
            ("global_endpoint", &self.global_endpoint),
            ("id_scope", &self.id_scope),
            ("payload", &self.payload),
            ("attestation", &self.attestation),
        ];
        if let Some((name, _)) = of_dps.iter().find(|(_, value)| value.is_some()) {
            return Err(wrong(format!("{name} belongs to source \"dps\", not to \"manual\"")));
        }
        match (self.connection_string, self.iothub_hostname, self.device_id, self.authentication) {
            (Some(text), None, None, None) => Provisioning::from_connection_string(&text)
                .map_err(|error| wrong(error.to_string())),
            (None, Some(host), Some(device), Some(proof)) => {
                let key = proof.checked()?;
                Provisioning::checked(&host, &device, key).map_err(|error| wrong(error.to_string()))
            }
            _ => Err(wrong(
                "needs either connection_string, or iothub_hostname with device_id and \
                 authentication"
                    .to_owned(),
            )),
        }
    }
}

impl AuthenticationFile {
    fn checked(self) -> Result<DeviceKey, InvalidSettings> {
        const SECTION: &str = "provisioning.authentication";
        let wrong =
            |words: &str| InvalidSettings::Section { section: SECTION, words: words.to_owned() };
        match self.method.as_str() {
            "sas" => {}
            "x509" => {
                return Err(wrong("method \"x509\" is not served by this version; known is sas"));
            }
            other => return Err(wrong(&format!("method {other:?} is unknown; known is sas"))),
        }
        if self.identity_cert.is_some() || self.identity_pk.is_some() {
            return Err(wrong("identity_cert and identity_pk belong to method \"x509\""));
        }
        let key = self.device_id_pk.ok_or_else(|| wrong("device_id_pk is missing"))?;
        match (key.value, key.uri) {
            (Some(value), None) => Ok(DeviceKey::Value(Secret::from(value))),
            (None, Some(uri)) if uri.starts_with("file://") => {
                Ok(DeviceKey::File(file_named(SECTION, &uri)?))
            }
            // The text may hold a PIN, so it is not repeated.
            (None, Some(_)) => Err(wrong("device_id_pk.uri: known are file:///… URIs only")),
            _ => Err(wrong("device_id_pk needs either value or uri")),
        }
    }
}

/// A file that is named as Azure does, by a `file:///` URI, or simply by its path.
fn file_named(section: &'static str, text: &str) -> Result<PathBuf, InvalidSettings> {
    let wrong = |words: String| InvalidSettings::Section { section, words };
    match text.split_once("://") {
        None => Ok(PathBuf::from(text)),
        Some(("file", path)) if path.starts_with('/') => {
            let decoded = percent_decode_str(path).decode_utf8();
            decoded
                .map(|path| PathBuf::from(&*path))
                .map_err(|_| wrong(format!("{text:?} names a file whose name is no text")))
        }
        Some(_) => Err(wrong(format!("{text:?} is neither a path nor file:///an/absolute/path"))),
    }
}

impl EdgeCaFile {
    fn checked(self) -> Result<EdgeCa, InvalidSettings> {
        let wrong = |words: &str| {
            Err(InvalidSettings::Section { section: "edge_ca", words: words.to_owned() })
        };
        if let Some(method) = &self.method {
            return wrong(&format!(
                "method {method:?} is not served by this version; known are cert with pk, and \
                 auto_generated_edge_ca_expiry_days"
            ));
        }
        if let Some(name) = self.of_a_method() {
            return wrong(&format!("{name} belongs to a method, and none is named"));
        }
        match (self.cert, self.pk, self.auto_generated_edge_ca_expiry_days) {
            (Some(cert), Some(key), None) => Ok(EdgeCa::Given {
                cert: file_named("edge_ca", &cert)?,
                key: file_named("edge_ca", &key)?,
            }),
            (None, None, Some(0)) => wrong("a device CA must hold for at least one day"),
            (None, None, days) => Ok(EdgeCa::Made { days: days.unwrap_or(EDGE_CA_DAYS) }),
            (Some(_), Some(_), Some(_)) => wrong("a given device CA has its own expiry"),
            _ => wrong("cert and pk go together"),
        }
    }
}

impl AddressesFile {
    fn checked(
        self,
        section: &'static str,
        default: &Addresses,
    ) -> Result<Addresses, InvalidSettings> {
        let path = |text: Option<String>, default: &PathBuf| match text {
            None => Ok(default.clone()),
            // Of systemd, which hands nothing over here; told as a notice.
            Some(text) if text.starts_with(SYSTEMD) => Ok(default.clone()),
            Some(text) => match text.strip_prefix("unix://") {
                Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
                _ => Err(InvalidSettings::Section {
                    section,
                    words: format!("{text:?} is not unix:///an/absolute/path"),
                }),
            },
        };
        Ok(Addresses {
            workload: path(self.workload_uri, &default.workload)?,
            management: path(self.management_uri, &default.management)?,
        })
    }
}

impl OwnFile {
    fn checked(self, data: PathBuf) -> Result<OwnSettings, InvalidSettings> {
        let queue_bytes_max = self.queue_bytes_max.unwrap_or(QUEUE_BYTES);
        if queue_bytes_max < 16 * 1024 * 1024 {
            let words = "queue_bytes_max must be at least 16777216".to_owned();
            return Err(InvalidSettings::Section { section: "selvedge", words });
        }
        let network = self.network.map(|text| text.parse()).transpose();
        let network = network.map_err(|error: InvalidSubnet| {
            let words = format!("network: {error}");
            InvalidSettings::Section { section: "selvedge", words }
        })?;
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8883));
        Ok(OwnSettings {
            engine: self.engine.unwrap_or(EngineKind::Embedded),
            data,
            mqtt: self.mqtt.unwrap_or(everywhere),
            upstream_mqtt_port: self.upstream_mqtt_port.unwrap_or(8883),
            upstream_https_port: self.upstream_https_port.unwrap_or(443),
            upstream_address: self.upstream_address,
            gateway_addresses: self.gateway_addresses,
            network,
            user: self.user.map(Into::into),
            group: self.group.map(Into::into),
            queue_bytes_max,
        })
    }
}

#[cfg(test)]
mod tests;
