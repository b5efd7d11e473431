//! The folder of one container.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::planted;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mount;
use crate::bundle::{self, Parts};
use crate::create_options::NetworkMode;
use crate::error::EngineError;
use crate::files::{self, Change, write_whole};
use crate::image::digest::Digest;
use crate::network::hosts::Place;
use crate::runtime::{EngineResult, ModuleSpec};

/// The file that names the boot of the machine in which the container was started last.
const BOOT: &str = "boot";
/// The mode of files that modules read, whoever they run as.
const OPEN: u32 = 0o644;

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

    /// Makes the folders and mounts the root file system.
    pub(super) fn make(&self, layers: &[PathBuf]) -> EngineResult<()> {
        // The upper folder becomes the root of the module, whoever it runs as.
        for name in ["", "rootfs", "upper", "work", "log"] {
            files::make_folder(&self.0.join(name)).map_err(self.failed())?;
        }
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
        // Nobody writes them again, so they must be safe before the container has its record.
        let hostname = format!("{}\n", bundle::hostname(parts));
        files::write_new(&self.0.join("resolv.conf"), resolv.as_bytes(), OPEN)
            .and_then(|()| files::write_new(&self.0.join("hostname"), hostname.as_bytes(), OPEN))
            .map_err(self.failed())
    }

    /// Writes `hosts`, which a running module may have bound: the same file, as another one of
    /// that name would never be seen inside. An unchanged one is left alone. Every start looks
    /// at it, so it need not be safe.
    pub(super) fn write_hosts(&self, text: &str) -> EngineResult<()> {
        let path = self.0.join("hosts");
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        let change = Change::Overwrite { path: &path, bytes: text.as_bytes() };
        change.apply().map_err(self.failed())
    }

    pub(super) fn write_bundle(&self, config: &Value, monitor: &Value) -> EngineResult<()> {
        for (name, value) in [("config.json", config), ("monitor.json", monitor)] {
            let (path, text) = (self.0.join(name), pretty(name, value)?);
            // Planted: the generation is switched before its files are safe.
            let written = if planted::is("record_before_bundle") {
                Change::Overwrite { path: &path, bytes: &text }.apply()
            } else {
                files::write_new(&path, &text, files::PRIVATE)
            };
            written.map_err(self.failed())?;
        }
        Ok(())
    }

    /// Makes the module exist. Everything else must be written: with its record it is trusted.
    pub(super) fn name(&self, record: &Record) -> EngineResult<()> {
        let above = self.0.parent().unwrap_or(&self.0);
        files::sync_names(&self.0)
            .and_then(|()| files::sync_names(above))
            .map_err(self.failed())?;
        self.write_record(record)
    }

    fn write_record(&self, record: &Record) -> EngineResult<()> {
        write_whole(&self.0.join("module.json"), &pretty("module.json", record)?)
    }

    /// Notes, before it happens, that a monitor is asked to run the container once more.
    pub(super) fn note_start(&self, record: &mut Record) -> EngineResult<()> {
        self.clear_exit()?;
        let (path, boot) = (self.0.join(BOOT), this_boot().map_err(self.failed())?);
        files::write_new(&path, boot.as_bytes(), files::PRIVATE).map_err(self.failed())?;
        record.started = true;
        self.write_record(record)
    }

    /// Whether the machine went down since the container was started last.
    pub(super) fn is_of_an_earlier_boot(&self) -> bool {
        let noted = fs::read_to_string(self.0.join(BOOT));
        // Containers of earlier versions have no note; those were removed and made again.
        noted.is_ok_and(|noted| this_boot().is_ok_and(|now| noted != now))
    }

    fn clear_exit(&self) -> EngineResult<()> {
        files::remove_file(&self.0.join("exit.json")).map_err(self.failed())
    }

    /// Removes everything; also what was only half made.
    pub(super) fn destroy(&self) -> EngineResult<()> {
        if !self.0.exists() {
            return Ok(());
        }
        // Its end must be safe before it is taken apart: with a record it would be trusted.
        files::remove_file(&self.0.join("module.json"))
            .and_then(|()| files::sync_names(&self.0))
            .map_err(self.failed())?;
        self.unmount()?;
        files::remove_tree(&self.0).map_err(self.failed())
    }
}

fn this_boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

fn pretty(name: &str, value: &impl Serialize) -> EngineResult<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| EngineError::system(format!("writing {name}"), error))
}
