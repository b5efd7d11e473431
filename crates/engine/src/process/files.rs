//! What the process engine keeps of a module, in a folder of its own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::time::WallTime;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::create_options::{CreateOptions, LogLimits, Policy};
use crate::error::EngineError;
use crate::files::{self, write_whole};
use crate::runtime::{EngineResult, ModuleSpec};

/// `module.json`: what was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: ModuleSpec,
    pub(super) arguments: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
}

impl Record {
    pub(super) fn new(spec: &ModuleSpec, options: CreateOptions) -> Self {
        let mut env = BTreeMap::new();
        if let Some(path) = std::env::var_os("PATH") {
            env.insert("PATH".to_owned(), path.to_string_lossy().into_owned());
        }
        for (name, value) in options.env {
            match value {
                Some(value) => env.insert(name, value),
                None => env.remove(&name),
            };
        }
        env.extend(spec.env.clone());
        let mut labels = options.labels;
        labels.extend(spec.labels.clone());
        Self {
            spec: spec.clone(),
            arguments: options.cmd.unwrap_or_default(),
            env,
            labels,
            folder: options.working_dir.map_or_else(|| PathBuf::from("/"), PathBuf::from),
        }
    }

    pub(super) fn log(&self) -> EngineResult<LogLimits> {
        Ok(CreateOptions::parse(&self.spec.create_options, Policy::default())?.host.log)
    }
}

/// `started.json`: which process it is. A process id alone may be another's by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) pid: u32,
    /// Clock ticks after boot, from `/proc/<pid>/stat`.
    pub(super) start: u64,
    pub(super) boot: String,
    /// Unix milliseconds.
    pub(super) at: i64,
}

impl Started {
    pub(super) fn of(pid: u32, now: WallTime) -> io::Result<Self> {
        Ok(Self { pid, start: start_of(pid)?, boot: boot(), at: now.0 })
    }

    /// Whether exactly this process exists and has not ended.
    pub(super) fn lives(&self) -> bool {
        self.boot == boot() && start_of(self.pid).is_ok_and(|start| start == self.start)
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Start time of a process; an error for one that is gone or only waits to be buried.
fn start_of(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, also spaces and parentheses.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return Err(io::ErrorKind::NotFound.into());
    }
    fields
        .get(19)
        .and_then(|start| start.parse().ok())
        .ok_or_else(|| io::Error::other("stat is not as expected"))
}

/// `exit.json`: how it ended.
#[expect(clippy::struct_field_names, reason = "the names of exit.json")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    /// Absent when nobody could learn it.
    pub(super) exit_code: Option<i32>,
    /// Unix milliseconds.
    pub(super) at: i64,
    pub(super) failure: Option<String>,
}

/// The folder of one module.
#[derive(Clone, Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn failed(&self) -> impl Fn(io::Error) -> EngineError + '_ {
        |error| EngineError::system(self.0.display().to_string(), error)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> EngineResult<Option<T>> {
        let path = self.0.join(name);
        let failed =
            |error: &dyn std::fmt::Display| EngineError::system(path.display().to_string(), error);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&error)),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(&error)),
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> EngineResult<()> {
        let text = serde_json::to_vec(value)
            .map_err(|error| EngineError::system(format!("writing {name}"), error))?;
        write_whole(&self.0.join(name), &text)
    }

    pub(super) fn exists(&self) -> bool {
        self.0.join("module.json").is_file()
    }

    pub(super) fn create(&self, record: &Record) -> EngineResult<()> {
        files::ensure_folder(&self.0).map_err(self.failed())?;
        self.write("module.json", record)
    }

    /// The record goes first: without it there is no module.
    pub(super) fn remove(&self) -> EngineResult<()> {
        files::remove_file(&self.0.join("module.json"))
            .and_then(|()| files::sync_names(&self.0))
            .and_then(|()| files::remove_tree(&self.0))
            .map_err(self.failed())
    }

    pub(super) fn record(&self) -> EngineResult<Record> {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.read("module.json")?.ok_or(EngineError::NotFound { name })
    }

    pub(super) fn started(&self) -> EngineResult<Option<Started>> {
        self.read("started.json")
    }

    pub(super) fn write_started(&self, started: &Started) -> EngineResult<()> {
        self.write("started.json", started)
    }

    pub(super) fn exit(&self) -> EngineResult<Option<Exit>> {
        self.read("exit.json")
    }

    pub(super) fn write_exit(&self, exit: &Exit) -> EngineResult<()> {
        self.write("exit.json", exit)
    }

    /// Forgets the run before.
    pub(super) fn clear_run(&self) -> EngineResult<()> {
        for name in ["started.json", "exit.json"] {
            files::remove_file(&self.0.join(name)).map_err(self.failed())?;
        }
        Ok(())
    }

    pub(super) fn log_folder(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(super) fn make_pipes(&self) -> EngineResult<()> {
        for path in self.pipes() {
            match mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(self.failed()(error.into())),
            }
        }
        Ok(())
    }

    fn pipes(&self) -> [PathBuf; 2] {
        [self.0.join("stdout.fifo"), self.0.join("stderr.fifo")]
    }

    /// Both ways, so that a module gets no broken pipe while no engine reads.
    pub(super) fn module_ends(&self) -> EngineResult<(File, File)> {
        self.open_pipes(0)
    }

    pub(super) fn engine_ends(&self) -> EngineResult<(File, File)> {
        self.open_pipes(libc::O_NONBLOCK)
    }

    fn open_pipes(&self, flags: i32) -> EngineResult<(File, File)> {
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(flags).open(path).map_err(self.failed())
        };
        let [out, err] = self.pipes();
        Ok((open(&out)?, open(&err)?))
    }
}
