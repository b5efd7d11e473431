//! `createOptions`: the body of Docker's create call, as manifests carry it.
//!
//! Every field is honoured, refused with its path, or named in a warning; nothing is dropped
//! silently. Keys match in any case, as Docker's decoder does. A field with its type's empty
//! value (`null`, `""`, `0`, `false`, `[]`, `{}`) asks for nothing.

mod fields;
mod host;
mod mounts;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EngineError;
use fields::Fields;
pub use host::{Device, HostOptions, LogLimits, NetworkMode, Ulimit, number_with_unit};
pub use mounts::{MountKind, MountOption};

/// Longest create options, in bytes; Azure's eight chunks of 512 are far below.
pub const CREATE_OPTIONS_BYTES_MAX: usize = 64 * 1024;

/// What the operator allows beyond the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `Privileged` and `seccomp=unconfined`.
    pub privileged: bool,
    /// Binds of a container engine's control socket.
    pub engine_sockets: bool,
}

/// Create options, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Variables; `None` takes one away that the image sets.
    pub env: Vec<(String, Option<String>)>,
    /// Replaces the image's `Cmd`.
    pub cmd: Option<Vec<String>>,
    /// Replaces the image's `Entrypoint`, and drops its `Cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Absolute path.
    pub working_dir: Option<String>,
    /// Name of the machine as the module sees it.
    pub hostname: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal of a polite stop, by number.
    pub stop_signal: Option<i32>,
    /// Everything below `HostConfig`.
    pub host: HostOptions,
    /// Further names on the bridge.
    pub aliases: Vec<String>,
    /// Fields without effect here, one sentence each.
    pub warnings: Vec<String>,
}

impl CreateOptions {
    /// Reads create options; an empty text asks for nothing.
    ///
    /// # Errors
    /// `InvalidCreateOptions` with the path of the first field that cannot be honoured.
    pub fn parse(text: &str, policy: Policy) -> Result<Self, EngineError> {
        if text.len() > CREATE_OPTIONS_BYTES_MAX {
            let message = format!("longer than {CREATE_OPTIONS_BYTES_MAX} bytes");
            return Err(EngineError::option("", message));
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|error| EngineError::option("", format!("not JSON: {error}")))?;
        let mut fields = Fields::of("", value)?;
        let mut options = Self::default();
        options.read(&mut fields)?;
        let host = fields.object("HostConfig")?;
        if let Some(mut host) = host {
            options.host = HostOptions::read(&mut host, policy)?;
            host.finish(&mut options.warnings)?;
        }
        options.networking(&mut fields)?;
        if options.host.network != NetworkMode::Bridge && !options.aliases.is_empty() {
            return Err(EngineError::option(
                "NetworkingConfig",
                "aliases exist on the bridge network only",
            ));
        }
        // Said again here, as the network may have been named after the parameters were read.
        let shares = options.host.network == NetworkMode::Host;
        if shares && options.host.sysctls.keys().any(|name| name.starts_with("net.")) {
            return Err(EngineError::option("HostConfig.Sysctls", "would change the host"));
        }
        refused_and_ignored(&mut fields, &mut options.warnings)?;
        fields.finish(&mut options.warnings)?;
        options.warnings.append(&mut options.host.warnings);
        Ok(options)
    }

    fn read(&mut self, fields: &mut Fields) -> Result<(), EngineError> {
        for (at, entry) in fields.strings("Env")?.unwrap_or_default() {
            let (name, value) = match entry.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (entry.as_str(), None),
            };
            if name.is_empty() || entry.contains('\0') {
                return Err(EngineError::option(at, "a variable needs a name, as NAME=value"));
            }
            self.env.push((name.to_owned(), value));
        }
        self.cmd = fields.words("Cmd")?;
        self.entrypoint = fields.words("Entrypoint")?;
        self.user = fields.string("User")?;
        self.working_dir = fields.string("WorkingDir")?;
        if self.working_dir.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err(EngineError::option("WorkingDir", "must be an absolute path"));
        }
        self.hostname = fields.string("Hostname")?;
        if self.hostname.as_ref().is_some_and(|name| !host_name_is_good(name)) {
            return Err(EngineError::option(
                "Hostname",
                "letters, digits, '-' and '.', at most 64",
            ));
        }
        self.labels = fields.map("Labels")?.unwrap_or_default();
        if let Some(text) = fields.string("StopSignal")? {
            let signal = signal_number(&text).ok_or_else(|| {
                EngineError::option("StopSignal", format!("{text:?} is no signal"))
            })?;
            self.stop_signal = Some(signal);
        }
        Ok(())
    }

    fn networking(&mut self, fields: &mut Fields) -> Result<(), EngineError> {
        let Some(mut networking) = fields.object("NetworkingConfig")? else { return Ok(()) };
        if let Some(endpoints) = networking.object("EndpointsConfig")? {
            for (name, mut endpoint) in endpoints.objects()? {
                match name.as_str() {
                    "host" => self.host.network = NetworkMode::Host,
                    "none" => self.host.network = NetworkMode::None,
                    // One bridge joins all modules, whatever it is called in the manifest.
                    _ => {}
                }
                let aliases = endpoint.strings("Aliases")?.unwrap_or_default();
                for (at, alias) in aliases {
                    if !host_name_is_good(&alias) {
                        return Err(EngineError::option(at, "not a host name"));
                    }
                    self.aliases.push(alias);
                }
                for key in ["IPAMConfig", "Links", "DriverOpts", "MacAddress"] {
                    endpoint.refuse(key, "addresses are given out by the engine")?;
                }
                endpoint.finish(&mut self.warnings)?;
            }
        }
        networking.finish(&mut self.warnings)
    }
}

fn refused_and_ignored(fields: &mut Fields, warnings: &mut Vec<String>) -> Result<(), EngineError> {
    fields.refuse("Tty", "a module has no terminal")?;
    fields.refuse("OpenStdin", "a module has no input")?;
    fields.refuse("MacAddress", "addresses are given out by the engine")?;
    fields.refuse("NetworkDisabled", "write HostConfig.NetworkMode \"none\"")?;
    fields.refuse("Volumes", "anonymous volumes are not made; name them in HostConfig.Binds")?;
    fields.refuse("Shell", "it has a meaning only when images are built")?;
    let ignored = [
        ("ExposedPorts", "modules on the bridge reach every port of each other"),
        ("Healthcheck", "health checks are not run"),
        ("Domainname", "modules have no domain"),
        ("StopTimeout", "the agent gives every module the same time to stop"),
        ("Image", "the module's own image is used"),
        ("AttachStdin", "modules are never attached"),
        ("AttachStdout", "modules are never attached"),
        ("AttachStderr", "modules are never attached"),
        ("StdinOnce", "modules are never attached"),
        ("ArgsEscaped", "it has a meaning on Windows only"),
        ("OnBuild", "it has a meaning only when images are built"),
        ("Platform", "the image on this device is used"),
    ];
    for (key, why) in ignored {
        fields.ignore(key, why, warnings);
    }
    Ok(())
}

/// Letters, digits, `-`, `_` and `.`; not at the ends; what `/etc/hosts` can hold.
pub(crate) fn host_name_is_good(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=64).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

/// `SIGTERM`, `TERM` or `15`.
pub(crate) fn signal_number(text: &str) -> Option<i32> {
    use nix::sys::signal::Signal;
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).ok().map(|_| number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests;
