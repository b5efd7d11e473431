//! What the `config.toml` of an Azure IoT Edge device holds that has no meaning here.
//!
//! A device is to start from the file it has. So what only Azure's own processes need is told
//! and left; what asks for something that this version cannot do is refused by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{AGENT_VARIABLES, AgentSettings, EdgeCaFile, File, InvalidSettings, SYSTEMD};

/// `[agent]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentFile {
    #[serde(default)]
    env: BTreeMap<String, String>,
    name: Option<IgnoredAny>,
    r#type: Option<IgnoredAny>,
    #[serde(rename = "imagePullPolicy")]
    image_pull_policy: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

/// `[aziot_keys]`.
#[derive(Deserialize)]
pub(super) struct AziotKeysFile {
    pkcs11_lib_path: Option<IgnoredAny>,
    pkcs11_base_slot: Option<IgnoredAny>,
}

/// `[moby_runtime]`.
#[derive(Deserialize)]
pub(super) struct MobyFile {
    content_trust: Option<IgnoredAny>,
}

/// A name, whether it is there, and what to say of it.
type Row<'a> = (&'static str, bool, &'a str);

impl File {
    /// What is there and not used, or the first thing that this version cannot do.
    pub(super) fn notices(&self) -> Result<Vec<String>, InvalidSettings> {
        if let Some((section, _, words)) = self.refused().into_iter().find(|(_, there, _)| *there) {
            return Err(InvalidSettings::Section { section, words: words.to_owned() });
        }
        let rows = self.not_used();
        let rows = rows.iter().filter(|(_, there, _)| *there);
        Ok(rows.map(|(name, _, why)| format!("{name} is not used{why}")).collect())
    }

    fn refused(&self) -> [Row<'static>; 6] {
        let keys = self.aziot_keys.as_ref();
        let has_token = keys
            .is_some_and(|keys| keys.pkcs11_lib_path.is_some() || keys.pkcs11_base_slot.is_some());
        let has_trust = self.moby_runtime.as_ref().is_some_and(|moby| moby.content_trust.is_some());
        [
            (
                "parent_hostname",
                self.parent_hostname.is_some(),
                "a parent is not served by this version; remove it to reach the hub directly",
            ),
            (
                "allow_elevated_docker_permissions",
                self.allow_elevated_docker_permissions == Some(true),
                "privileged modules are not served by this version; remove it or set it to false",
            ),
            (
                "tpm",
                self.tpm.is_some(),
                "a TPM is not served by this version; remove the section and use source \
                 \"manual\" with a key",
            ),
            (
                "cert_issuance",
                self.cert_issuance.is_some(),
                "certificates from EST or a local CA are not served by this version; remove the \
                 section: the device CA is made here, or given as [edge_ca] cert and pk",
            ),
            (
                "aziot_keys",
                has_token,
                "PKCS#11 is not served by this version; remove pkcs11_lib_path and \
                 pkcs11_base_slot: keys then lie in files of this device",
            ),
            (
                "moby_runtime",
                has_trust,
                "content_trust is not served by this version; pin images by their digest in the \
                 deployment",
            ),
        ]
    }

    fn not_used(&self) -> [Row<'static>; 17] {
        let own = "; this program has its own limits";
        let systemd = ": this program opens its sockets itself; the default path is used";
        let is_systemd =
            |uri: &Option<String>| uri.as_ref().is_some_and(|uri| uri.starts_with(SYSTEMD));
        [
            (
                "auto_reprovisioning_mode",
                self.auto_reprovisioning_mode.is_some(),
                ": the device is provisioned by this file alone",
            ),
            ("cloud_timeout_sec", self.cloud_timeout_sec.is_some(), own),
            ("cloud_retries", self.cloud_retries.is_some(), ": it tries until the hub answers"),
            (
                "prefer_module_identity_cache",
                self.prefer_module_identity_cache.is_some(),
                ": identities are always kept for when the hub is away",
            ),
            (
                "additional_info",
                self.additional_info.is_some(),
                ": only device provisioning would read it",
            ),
            ("iotedge_max_requests", self.iotedge_max_requests.is_some(), own),
            ("aziot_max_requests", self.aziot_max_requests.is_some(), own),
            ("[listen] workload_uri", is_systemd(&self.listen.workload_uri), systemd),
            ("[listen] management_uri", is_systemd(&self.listen.management_uri), systemd),
            (
                "[agent]",
                self.agent.is_more_than_env(),
                " but for env: the agent is part of this program and has no image",
            ),
            (
                "[edge_ca] auto_renew",
                self.edge_ca.auto_renew.is_some(),
                ": a device CA that is made here is renewed at a start when it is due",
            ),
            (
                "[watchdog]",
                self.watchdog.is_some(),
                ": the agent is part of this program, which the service manager restarts",
            ),
            (
                "[image_garbage_collection]",
                self.image_garbage_collection.is_some(),
                ": images stay until they are removed",
            ),
            (
                "[preloaded_keys]",
                self.preloaded_keys.is_some(),
                ": a key is named where it is used, as device_id_pk or [edge_ca] pk",
            ),
            (
                "[preloaded_certs]",
                self.preloaded_certs.is_some(),
                ": a certificate is named where it is used, as trust_bundle_cert or [edge_ca] cert",
            ),
            (
                "[aziot_keys]",
                self.aziot_keys.is_some(),
                ": keys lie in files of this device, in its data folder",
            ),
            (
                "[moby_runtime]",
                self.moby_runtime.is_some(),
                ": no Docker daemon is needed; the network of modules is [selvedge] network",
            ),
        ]
    }
}

impl AgentFile {
    fn is_more_than_env(&self) -> bool {
        let more = [&self.name, &self.r#type, &self.image_pull_policy, &self.config];
        more.iter().any(|value| value.is_some())
    }

    pub(super) fn checked(self) -> Result<AgentSettings, InvalidSettings> {
        if let Some(name) = self.env.keys().find(|name| !AGENT_VARIABLES.contains(&name.as_str())) {
            let known = AGENT_VARIABLES.join(", ");
            let words = format!("env.{name} is unknown; known are {known}");
            return Err(InvalidSettings::Section { section: "agent", words });
        }
        let env = self.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Ok(AgentSettings { env })
    }
}

impl EdgeCaFile {
    /// The first key that only a method has.
    pub(super) fn of_a_method(&self) -> Option<&'static str> {
        let all = [
            ("common_name", &self.common_name),
            ("subject", &self.subject),
            ("expiry_days", &self.expiry_days),
            ("url", &self.url),
            ("username", &self.username),
            ("password", &self.password),
            ("identity_cert", &self.identity_cert),
            ("identity_pk", &self.identity_pk),
            ("bootstrap_identity_cert", &self.bootstrap_identity_cert),
            ("bootstrap_identity_pk", &self.bootstrap_identity_pk),
        ];
        all.iter().find(|(_, value)| value.is_some()).map(|(name, _)| *name)
    }
}
