//! The folder of one container.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mount;
use crate::bundle::{self, Parts};
use crate::create_options::NetworkMode;
use crate::error::EngineError;
use crate::image::digest::Digest;
use crate::image::store::write_whole;
use crate::network::hosts::Place;
use crate::runtime::{EngineResult, ModuleSpec};

/// `module.json`: what the container was made from. Its presence makes the module exist.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) version: u32,
    /// Name of its control group and for libcontainer.
    pub(super) id: String,
    pub(super) spec: ModuleSpec,
    pub(super) image_digest: String,
    pub(super) layers: Vec<PathBuf>,
    pub(super) labels: BTreeMap<String, String>,
    /// Absent in records from before there was a bridge: the host's network.
    #[serde(default)]
    pub(super) place: Option<Place>,
    /// Whether a monitor was ever asked to run it.
    pub(super) started: bool,
}

/// A name that no other folder on this machine gives: modules of two engines may share a name.
pub(super) fn id(folder: &Path) -> String {
    let digest = Digest::of(folder.as_os_str().as_encoded_bytes());
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    format!("{name}-{}", digest.hex().get(..12).unwrap_or_default())
}

#[derive(Clone, Debug)]
pub(super) struct Container(PathBuf);

impl Container {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    pub(super) fn log_folder(&self) -> PathBuf {
        self.0.join("log")
    }

    fn failed(&self) -> impl Fn(io::Error) -> EngineError + '_ {
        |error| EngineError::system(self.0.display().to_string(), error)
    }

    pub(super) fn exists(&self) -> bool {
        self.0.join("module.json").is_file()
    }

    pub(super) fn record(&self) -> EngineResult<Option<Record>> {
        let path = self.0.join("module.json");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed()(error)),
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| EngineError::system(path.display().to_string(), error)),
        }
    }

    pub(super) fn write_record(&self, record: &Record) -> EngineResult<()> {
        self.write_json("module.json", record)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> EngineResult<()> {
        let text = serde_json::to_vec_pretty(value)
            .map_err(|error| EngineError::system(format!("writing {name}"), error))?;
        write_whole(&self.0.join(name), &text)
    }

    /// Makes the folders and mounts the root file system.
    pub(super) fn make(&self, layers: &[PathBuf]) -> EngineResult<()> {
        for name in ["", "rootfs", "upper", "work", "log"] {
            fs::create_dir_all(self.0.join(name)).map_err(self.failed())?;
        }
        // The upper folder becomes the root of the module, whoever it runs as.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.0.join("upper"), open).map_err(self.failed())?;
        self.mount(layers)
    }

    pub(super) fn mount(&self, layers: &[PathBuf]) -> EngineResult<()> {
        if mount::is_mounted(&self.rootfs()) {
            return Ok(());
        }
        mount::overlay(&self.0, layers)
    }

    /// Takes the root file system away; nothing there is fine.
    pub(super) fn unmount(&self) -> EngineResult<()> {
        mount::unmount(&self.rootfs())
    }

    /// Writes `hostname` and `resolv.conf`.
    pub(super) fn write_names(&self, parts: &Parts<'_>) -> EngineResult<()> {
        let host = &parts.options.host;
        let mut resolv = String::new();
        if host.dns.is_empty() {
            resolv = match host.network {
                NetworkMode::Host => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
                // With none named, a resolver asks the module itself, is refused at once, and
                // goes on to the hosts file; one that cannot be reached would keep it waiting.
                NetworkMode::Bridge | NetworkMode::None => {
                    "# No name server is reachable from here; names are in /etc/hosts.\n".to_owned()
                }
            };
        }
        for server in &host.dns {
            resolv.extend(["nameserver ", server, "\n"]);
        }
        for (word, values) in [("search", &host.dns_search), ("options", &host.dns_options)] {
            if !values.is_empty() {
                resolv.extend([word, " ", &values.join(" "), "\n"]);
            }
        }
        self.write_bound("resolv.conf", &resolv)?;
        self.write_bound("hostname", &format!("{}\n", bundle::hostname(parts)))
    }

    /// Writes `hosts`.
    pub(super) fn write_hosts(&self, text: &str) -> EngineResult<()> {
        self.write_bound("hosts", text)
    }

    /// Writes a file that a running module may have bound: the same file, as another one of
    /// that name would never be seen inside. An unchanged one is left alone.
    fn write_bound(&self, name: &str, text: &str) -> EngineResult<()> {
        let path = self.0.join(name);
        let write = || {
            if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
                return Ok(());
            }
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            // Readers see the old text, the new one, or for a moment the new one with the old
            // one's tail; never an empty file.
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
            file.set_permissions(fs::Permissions::from_mode(0o644))
        };
        write().map_err(self.failed())
    }

    pub(super) fn write_bundle(&self, config: &Value, monitor: &Value) -> EngineResult<()> {
        self.write_json("config.json", config)?;
        self.write_json("monitor.json", monitor)
    }

    pub(super) fn clear_exit(&self) -> EngineResult<()> {
        match fs::remove_file(self.0.join("exit.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed()(error)),
            _ => Ok(()),
        }
    }

    /// Removes everything; also what was only half made.
    pub(super) fn destroy(&self) -> EngineResult<()> {
        match fs::remove_file(self.0.join("module.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed()(error));
            }
            _ => {}
        }
        self.unmount()?;
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed()(error)),
            _ => Ok(()),
        }
    }
}
