//! From a module of the manifest to what the engine is given. Pure.
//!
//! Variables: Azure IoT Edge, `CreateOrUpdateCommand`; SDKs start from exactly these.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use engine::runtime::{Bind, ModuleSpec as EngineSpec};
use model::id::{DeviceId, ModuleName};
use model::manifest::ModuleSpec;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The version of the workload interface that modules are told.
const API_VERSION: &str = "2018-06-28";
/// What modules call the router besides the host name. Source: Azure IoT Edge, the network
/// alias of `$edgeHub`'s container.
pub(crate) const EDGE_HUB_NAME: &str = "edgeHub";
/// Name of a module's socket in its own folder.
pub(crate) const SOCKET: &str = "workload.sock";

/// What every module of this device is told.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) device: DeviceId,
    pub(crate) hub_host: Box<str>,
    pub(crate) hostname: Box<str>,
    /// Where modules find `hostname`, if nobody else can tell them: an address, or
    /// `host-gateway` for the machine's on the engine's network.
    pub(crate) gateway: Option<String>,
    /// The folder with one folder per module for its workload socket.
    pub(crate) sockets: PathBuf,
    /// Variables copied from the agent unless the module has its own.
    pub(crate) agent_env: Vec<(Box<str>, Box<str>)>,
    /// What modules read once when they start: another bundle is another start.
    pub(crate) trust_bundle: Box<str>,
}

impl Surroundings {
    /// The folder of `module`'s workload socket, the same inside and outside of the module.
    pub(crate) fn socket_folder(&self, module: &ModuleName) -> PathBuf {
        self.sockets.join(module.as_str())
    }

    /// The names that lead to this machine.
    fn extra_hosts(&self) -> BTreeMap<String, String> {
        let Some(at) = &self.gateway else { return BTreeMap::new() };
        let host = match self.hostname.rsplit_once(':') {
            // A port that SDKs are to dial is no part of the name.
            Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => host,
            _ => &self.hostname,
        };
        // Modules of Azure's gateways know the router by its module's name, too.
        let names = [host, EDGE_HUB_NAME].into_iter();
        // A host name that is an address needs no entry, and cannot have one.
        let names = names.filter(|name| name.parse::<IpAddr>().is_err());
        names.map(|name| (name.to_owned(), at.clone())).collect()
    }

    /// What the engine is to make of `spec`.
    pub(crate) fn engine_spec(
        &self,
        name: &ModuleName,
        spec: &ModuleSpec,
        generation_id: &str,
    ) -> EngineSpec {
        let folder = self.socket_folder(name);
        let mut env = BTreeMap::new();
        for (name, value) in &self.agent_env {
            env.insert(name.to_string(), value.to_string());
        }
        for (name, value) in &spec.env {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            env.insert(name.to_string(), text);
        }
        let socket = folder.join(SOCKET);
        let own = [
            ("IOTEDGE_WORKLOADURI", format!("unix://{}", socket.display())),
            ("IOTEDGE_APIVERSION", API_VERSION.to_owned()),
            ("IOTEDGE_AUTHSCHEME", "sasToken".to_owned()),
            ("IOTEDGE_MODULEID", name.to_string()),
            ("IOTEDGE_MODULEGENERATIONID", generation_id.to_owned()),
            ("IOTEDGE_DEVICEID", self.device.to_string()),
            ("IOTEDGE_IOTHUBHOSTNAME", self.hub_host.to_string()),
            ("IOTEDGE_GATEWAYHOSTNAME", self.hostname.to_string()),
        ];
        env.extend(own.map(|(name, value)| (name.to_owned(), value)));
        let create_options = if spec.create_options.is_empty() {
            String::new()
        } else {
            Value::Object(spec.create_options.clone()).to_string()
        };
        let mut made = EngineSpec {
            name: name.to_string(),
            image: spec.image.to_string(),
            create_options,
            env,
            binds: vec![Bind { source: folder.clone(), target: folder, read_only: false }],
            labels: BTreeMap::from([(
                "net.azure-devices.edge.owner".to_owned(),
                "Microsoft.Azure.Devices.Edge.Agent".to_owned(),
            )]),
            aliases: Vec::new(),
            extra_hosts: self.extra_hosts(),
            digest: String::new(),
        };
        made.digest = digest(&made, spec.digest.as_deref(), &self.trust_bundle);
        made
    }
}

/// Names everything a running module cannot change.
fn digest(made: &EngineSpec, image_digest: Option<&str>, trust_bundle: &str) -> String {
    use std::fmt::Write;
    let mut hash = Sha256::new();
    let mut put = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    put(&made.image);
    put(image_digest.unwrap_or_default());
    put(&made.create_options);
    put(trust_bundle);
    for (name, value) in made.env.iter().chain(&made.extra_hosts) {
        put(name);
        put(value);
    }
    for bind in &made.binds {
        put(&bind.source.display().to_string());
    }
    hash.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
pub(super) mod tests {
    use model::manifest::Manifest;
    use serde_json::json;

    use super::*;

    pub(in super::super) fn surroundings() -> Surroundings {
        Surroundings {
            device: "d1".parse().unwrap(),
            hub_host: "hub.example".into(),
            hostname: "edge1".into(),
            gateway: Some("10.9.0.1".to_owned()),
            sockets: "/run/s".into(),
            agent_env: vec![("RuntimeLogLevel".into(), "debug".into())],
            trust_bundle: "PEM".into(),
        }
    }

    fn spec(env: Value, options: &str) -> ModuleSpec {
        let system = json!({ "type": "docker", "settings": { "image": "x" } });
        let desired = json!({
            "schemaVersion": "1.1", "runtime": { "type": "docker", "settings": {} },
            "systemModules": { "edgeAgent": system, "edgeHub": system },
            "modules": { "m": {
                "type": "docker", "status": "running", "env": env,
                "settings": { "image": "img:1", "createOptions": options },
            } },
        });
        let manifest = Manifest::parse(desired.as_object().unwrap()).unwrap();
        manifest.modules.into_values().next().unwrap()
    }

    #[test]
    fn a_module_is_told_what_sdks_start_from() {
        let env = json!({ "N": { "value": 3 }, "IOTEDGE_MODULEID": { "value": "liar" } });
        let made = surroundings().engine_spec(&"m".parse().unwrap(), &spec(env, ""), "g7");
        let check = |name: &str, value: &str| assert_eq!(made.env[name], value, "{name}");
        check("IOTEDGE_WORKLOADURI", "unix:///run/s/m/workload.sock");
        check("IOTEDGE_APIVERSION", "2018-06-28");
        check("IOTEDGE_AUTHSCHEME", "sasToken");
        check("IOTEDGE_MODULEID", "m");
        check("IOTEDGE_MODULEGENERATIONID", "g7");
        check("IOTEDGE_DEVICEID", "d1");
        check("IOTEDGE_IOTHUBHOSTNAME", "hub.example");
        check("IOTEDGE_GATEWAYHOSTNAME", "edge1");
        check("RuntimeLogLevel", "debug");
        check("N", "3");
        assert_eq!(made.binds[0].source, PathBuf::from("/run/s/m"));
    }

    #[test]
    fn the_names_of_this_machine_lead_to_the_gateway() {
        let check = |hostname: &str, gateway: Option<&str>, expected: &[(&str, &str)]| {
            let gateway = gateway.map(str::to_owned);
            let around = Surroundings { hostname: hostname.into(), gateway, ..surroundings() };
            let made = around.engine_spec(&"m".parse().unwrap(), &spec(json!({}), ""), "g");
            let expected = expected.iter().map(|(name, at)| ((*name).into(), (*at).into()));
            assert_eq!(made.extra_hosts, expected.collect());
        };
        check("edge1", Some("10.9.0.1"), &[("edge1", "10.9.0.1"), ("edgeHub", "10.9.0.1")]);
        check("127.0.0.2", Some("host-gateway"), &[("edgeHub", "host-gateway")]);
        check("edge1:8884", Some("10.9.0.1"), &[("edge1", "10.9.0.1"), ("edgeHub", "10.9.0.1")]);
        check("fd00::2", Some("10.9.0.1"), &[("edgeHub", "10.9.0.1")]);
        check("edge1", None, &[]);
    }

    #[test]
    fn the_digest_changes_with_everything_a_running_module_cannot_change() {
        let name = "m".parse().unwrap();
        let digest = |env, options: &str, generation: &str| {
            surroundings().engine_spec(&name, &spec(env, options), generation).digest
        };
        let first = digest(json!({}), "", "g");
        assert_eq!(first, digest(json!({}), "", "g"));
        assert_ne!(first, digest(json!({}), "", "h"));
        assert_ne!(first, digest(json!({ "A": { "value": "" } }), "", "g"));
        assert_ne!(first, digest(json!({}), "{\"Hostname\":\"x\"}", "g"));
        let renewed = Surroundings { trust_bundle: "other".into(), ..surroundings() };
        assert_ne!(first, renewed.engine_spec(&name, &spec(json!({}), ""), "g").digest);
    }
}
