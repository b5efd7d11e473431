//! The engine's side of `selvedge-monitor`: start it, ask it, and read what it left.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::time::WallTime;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};

use super::network::host_interface;
use crate::bundle::CGROUP_PARENT;
use crate::create_options::CreateOptions;
use crate::error::EngineError;
use crate::runtime::EngineResult;

/// How long a monitor may take to answer a question about its state.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long an ending monitor may keep its lock.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a lock is tried.
const LOCK_TRY_EVERY: Duration = Duration::from_millis(10);
/// How long after the grace a killed module may take to be buried.
const BURIAL_MAX: Duration = Duration::from_secs(20);

/// `exit.json`.
#[expect(clippy::struct_field_names, reason = "the names of exit.json")]
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Exit {
    pub(super) exit_code: i32,
    #[serde(default)]
    pub(super) oom: bool,
    started_at: Option<String>,
    finished_at: Option<String>,
    pub(super) failure: Option<String>,
}

impl Exit {
    pub(super) fn started_at(&self) -> Option<i64> {
        millis(self.started_at.as_deref())
    }

    pub(super) fn finished_at(&self) -> Option<i64> {
        millis(self.finished_at.as_deref())
    }
}

fn millis(text: Option<&str>) -> Option<i64> {
    Some(WallTime::parse_rfc3339(text?)?.0)
}

/// What a container's folder tells.
#[derive(Debug)]
pub(super) enum Seen {
    NeverStarted,
    Running {
        pid: u32,
        started_at: Option<i64>,
    },
    Ended(Exit),
    /// A monitor lives, but does not answer: it is starting or ending.
    Busy,
    /// Neither a monitor nor an exit status.
    MonitorDied,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    ok: bool,
    error: Option<String>,
    pid: Option<u32>,
    started_at: Option<String>,
}

/// What a monitor must know of its container.
#[derive(Debug)]
pub(super) struct Life<'a> {
    pub(super) id: &'a str,
    pub(super) options: &'a CreateOptions,
    /// What a polite stop sends.
    pub(super) signal: Option<i32>,
    pub(super) rootfs: &'a Path,
    pub(super) netns: Option<&'a Path>,
}

/// `monitor.json`.
pub(super) fn settings(life: &Life<'_>) -> Value {
    let host = &life.options.host;
    let open = host.privileged || host.seccomp_unconfined;
    let mut after = json!({"unmount": life.rootfs});
    if let (Some(netns), Value::Object(after)) = (life.netns, &mut after) {
        after.insert("netns".to_owned(), json!(netns));
        after.insert("host_interface".to_owned(), json!(host_interface(life.id)));
    }
    json!({
        "version": 1,
        "id": life.id,
        "log": {"max_size": host.log.max_size, "max_file": host.log.max_file},
        "stop_signal": life.signal.unwrap_or(libc::SIGTERM),
        "seccomp": if open { "unconfined" } else { "default" },
        "after": after,
    })
}

/// Whether no monitor lives in `folder`.
pub(super) fn lock_is_free(folder: &Path) -> bool {
    match File::open(folder.join("monitor.lock")) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_ok(),
    }
}

/// Waits for a monitor that is ending; its lock, not its last file, says that it has.
pub(super) fn wait_for_lock(folder: &Path) -> EngineResult<()> {
    let tries = LOCK_WAIT_MAX.as_millis() / LOCK_TRY_EVERY.as_millis();
    for _ in 0..tries {
        if lock_is_free(folder) {
            return Ok(());
        }
        std::thread::sleep(LOCK_TRY_EVERY);
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(EngineError::Conflict { name, message: "its monitor does not end".to_owned() })
}

pub(super) fn look(folder: &Path, started: bool) -> EngineResult<Seen> {
    if !lock_is_free(folder) {
        return Ok(match ask(folder, &json!({"version": 1, "op": "status"}), ANSWER_WAIT_MAX) {
            Ok(Answer { ok: true, pid: Some(pid), started_at, .. }) => {
                Seen::Running { pid, started_at: millis(started_at.as_deref()) }
            }
            _ => Seen::Busy,
        });
    }
    // Looked at after the lock: the monitor writes the file before it lets go.
    let path = folder.join("exit.json");
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Seen::Ended)
            .map_err(|error| EngineError::system(path.display().to_string(), error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(if started { Seen::MonitorDied } else { Seen::NeverStarted })
        }
        Err(error) => Err(EngineError::system(path.display().to_string(), error)),
    }
}

fn ask(folder: &Path, request: &Value, wait: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(folder.join("control.sock"))?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::from)
}

/// Starts a monitor and waits until the module runs or has failed.
pub(super) fn start(program: &Path, folder: &Path, name: &str) -> EngineResult<()> {
    #[derive(Deserialize)]
    struct Line {
        result: String,
        reason: Option<String>,
    }
    let mut command = Command::new(program);
    command.arg("run").arg(folder).env_clear().stdin(Stdio::null());
    let output = command.output().map_err(|error| EngineError::Unavailable {
        message: format!("{}: {error}", program.display()),
    })?;
    let failed = |message: String| Err(EngineError::StartFailed { name: name.to_owned(), message });
    match serde_json::from_slice::<Line>(&output.stdout) {
        Ok(line) if line.result == "running" => Ok(()),
        Ok(line) => failed(line.reason.unwrap_or_default()),
        Err(_) => failed(format!(
            "the monitor said nothing usable ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Stops the module and waits for its end.
pub(super) fn stop(folder: &Path, grace: Duration) -> EngineResult<()> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let request = json!({"version": 1, "op": "stop", "grace_ms": grace_ms});
    match ask(folder, &request, grace.saturating_add(BURIAL_MAX)) {
        Ok(Answer { ok: false, error: Some(error), .. }) => {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(EngineError::Conflict { name, message: error })
        }
        // Also when the monitor went away in between: its lock tells.
        _ => wait_for_lock(folder),
    }
}

/// Kills everything in a container's control groups and removes them, best effort: only what a
/// dead monitor left is there.
pub(super) fn kill_group(id: &str) {
    let parent = CGROUP_PARENT.trim_start_matches('/');
    let mut folders: Vec<PathBuf> = Vec::new();
    let base = Path::new("/sys/fs/cgroup");
    folders.push(base.join(parent).join(id));
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        folders.push(entry.path().join(parent).join(id));
    }
    for _ in 0..100 {
        let mut any = false;
        for folder in &folders {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for pid in text.lines().filter_map(|line| line.parse().ok()) {
                any = true;
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        if !any {
            break;
        }
        std::thread::sleep(LOCK_TRY_EVERY);
    }
    for folder in &folders {
        fs::remove_dir(folder).ok();
    }
}

/// Removes the groups above those of containers, where no engine of this machine has one left:
/// the kernel keeps what is not empty.
pub(super) fn remove_empty_parents() {
    let parent = CGROUP_PARENT.trim_start_matches('/');
    let base = Path::new("/sys/fs/cgroup");
    fs::remove_dir(base.join(parent)).ok();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        fs::remove_dir(entry.path().join(parent)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create_options::Policy;

    /// Both sides hold these files: what one writes the other understands.
    const MONITOR: &str = include_str!("../../../selvedge-monitor/golden/monitor-v1.json");
    const EXIT: &str = include_str!("../../../selvedge-monitor/golden/exit-v1.json");

    #[test]
    fn the_settings_have_no_field_that_the_golden_file_lacks() {
        let golden: Value = serde_json::from_str(MONITOR).unwrap();
        let options = CreateOptions::parse("{}", Policy::default()).unwrap();
        let life = Life {
            id: "sv-1-m",
            options: &options,
            signal: None,
            rootfs: Path::new("/run/m/rootfs"),
            netns: Some(Path::new("/run/netns/m")),
        };
        let written = settings(&life);
        for (name, value) in written.as_object().unwrap() {
            let held = golden.get(name).unwrap_or_else(|| unreachable!("{name} is unknown"));
            let inner = |value: &Value| {
                value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>())
            };
            assert_eq!(inner(value), inner(held), "{name}");
        }
        assert_eq!(written["version"], golden["version"]);
    }

    #[test]
    fn the_golden_end_of_a_module_is_understood() {
        let exit: Exit = serde_json::from_str(EXIT).unwrap();
        assert_eq!((exit.exit_code, exit.oom), (137, true));
        assert_eq!(exit.finished_at(), exit.started_at().map(|at| at + 1000));
        assert_eq!(exit.failure.as_deref(), Some("why"));
    }
}
