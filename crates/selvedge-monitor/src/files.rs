//! What lies in a container directory.
//!
//! | name | who writes | what |
//! |---|---|---|
//! | `config.json` | engine | the OCI bundle |
//! | `monitor.json` | engine | [`Settings`] |
//! | `monitor.lock` | monitor | locked while it lives |
//! | `control.sock` | monitor | see `control.rs` |
//! | `stdout.fifo`, `stderr.fifo` | monitor | what the container writes |
//! | `log/container.log`, `.1`, … | monitor | Docker's json-file format |
//! | `exit.json` | monitor | [`Exit`], once and whole |
//! | `monitor.log` | monitor | its own complaints |
//! | `state/` | libcontainer | nobody else may touch it |

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The version of [`Settings`], [`Exit`] and the control protocol. Changes are additive.
pub(crate) const VERSION: u32 = 1;

/// What the engine tells the monitor. Unknown fields are refused: a limit that this version does not
/// know must not be dropped in silence.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Must be [`VERSION`].
    pub(crate) version: u32,
    /// The container's name for libcontainer.
    pub(crate) id: String,
    /// Limits of the log files.
    #[serde(default)]
    pub(crate) log: LogSettings,
    /// What a polite stop sends.
    #[serde(default = "default_stop_signal")]
    pub(crate) stop_signal: i32,
    /// Which system calls are allowed.
    #[serde(default)]
    pub(crate) seccomp: Profile,
    /// What is taken away when the container has ended.
    #[serde(default)]
    pub(crate) after: After,
}

/// What only a running container needs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    /// The mount that is its root file system.
    pub(crate) unmount: Option<PathBuf>,
    /// Its pinned network namespace.
    pub(crate) netns: Option<PathBuf>,
    /// The host's end of its wire.
    pub(crate) host_interface: Option<String>,
}

fn default_stop_signal() -> i32 {
    libc::SIGTERM
}

/// Limits of the log files.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogSettings {
    /// Bytes after which a new file begins.
    pub(crate) max_size: u64,
    /// Files kept, the current one included; at least one.
    pub(crate) max_file: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { max_size: 10 * 1024 * 1024, max_file: 3 }
    }
}

/// Which system calls are allowed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// Those of Docker's default profile.
    #[default]
    Default,
    /// All; for privileged containers only.
    Unconfined,
}

/// How it ended.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of exit.json")]
pub(crate) struct Exit {
    pub(crate) version: u32,
    /// As a shell tells it: 128 and the signal for a killed one.
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    /// Whether the kernel killed something in it for want of memory.
    pub(crate) oom: bool,
    pub(crate) started_at: Option<String>,
    pub(crate) finished_at: String,
    /// Why it never ran.
    pub(crate) failure: Option<String>,
}

impl Settings {
    /// Reads `monitor.json`.
    pub(crate) fn read(directory: &Path) -> Result<Self, String> {
        let path = directory.join("monitor.json");
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let settings: Self = serde_json::from_slice(&text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if settings.version != VERSION {
            return Err(format!("monitor.json has version {}, not {VERSION}", settings.version));
        }
        Ok(settings)
    }
}

impl Exit {
    /// Writes `exit.json` so that a reader sees nothing or all of it, also after power loss.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let (temporary, path) = (directory.join("exit.json.new"), directory.join("exit.json"));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The engine's tests hold these files too: both sides must understand them.
    const MONITOR: &str = include_str!("../golden/monitor-v1.json");
    const EXIT: &str = include_str!("../golden/exit-v1.json");

    #[test]
    fn the_golden_settings_are_understood_field_by_field() {
        let Settings { version, id, log, stop_signal, seccomp, after } =
            serde_json::from_str(MONITOR).expect("the golden file is good");
        assert_eq!((version, id.as_str(), stop_signal), (VERSION, "sv-1-m", 2));
        assert_eq!((log.max_size, log.max_file, seccomp), (1000, 2, Profile::Unconfined));
        let After { unmount, netns, host_interface } = after;
        assert_eq!(unmount, Some("/run/m/rootfs".into()));
        assert_eq!(netns, Some("/run/netns/m".into()));
        assert_eq!(host_interface.as_deref(), Some("sv1"));
        let mut foreign: Value = serde_json::from_str(MONITOR).expect("the golden file is JSON");
        foreign["unknown"] = Value::Null;
        assert!(serde_json::from_value::<Settings>(foreign).is_err(), "nothing is ignored");
    }

    #[test]
    fn how_it_ended_is_written_as_the_golden_file_says() {
        let exit = Exit {
            version: VERSION,
            exit_code: 137,
            signal: Some(9),
            oom: true,
            started_at: Some("2026-11-23T00:00:00Z".into()),
            finished_at: "2026-11-23T00:00:01Z".into(),
            failure: Some("why".into()),
        };
        assert_eq!(serde_json::to_string(&exit).expect("it is JSON"), EXIT.trim_end());
    }
}
