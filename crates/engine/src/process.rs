//! The development engine: modules are processes of this machine, not isolated in any way.
//!
//! Images are programs: `process:/absolute/path`, or a name from a table given at the start.
//! Modules survive a restart of the runtime: they write into named pipes that the next run
//! reads on, and are recognised by process id, start time and boot. What survives is adopted;
//! how an adopted module ended cannot be learnt, so it is reported dead.

mod files;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::time::WallTime;
use model::world::World;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;

use crate::backend::Backend;
use crate::create_options::{CreateOptions, Policy};
use crate::error::EngineError;
use crate::files::ensure_folder;
use crate::log::{self, LOG_FILE, LogCursor, LogPage};
use crate::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogQuery, ModuleCreated,
    ModuleSpec, ModuleState, ModuleStatus,
};
use files::{Exit, Files, Record, Started};
use watch::{Running, Watcher};

/// Prefix of an image reference that names a program.
const PROCESS: &str = "process:";
/// How often a stop looks whether the module has ended.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(10);
/// What every operator of this engine must read.
const WARNING: &str = "DEVELOPMENT ENGINE: modules run as plain processes of this machine, \
     without isolation, limits or users of their own";

/// Runs modules as host processes.
pub struct ProcessEngine {
    root: PathBuf,
    programs: BTreeMap<String, PathBuf>,
    world: World,
    running: Arc<Running>,
    /// One change at a time; reads do not take it.
    turn: Mutex<()>,
}

impl std::fmt::Debug for ProcessEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProcessEngine({})", self.root.display())
    }
}

impl ProcessEngine {
    /// Opens the folder, adopts what still runs, and starts the thread that copies logs.
    /// `programs` maps image references to programs.
    ///
    /// # Errors
    /// `System` when the folder cannot be used.
    pub fn open(
        root: &Path,
        programs: BTreeMap<String, PathBuf>,
        world: World,
    ) -> EngineResult<Self> {
        tracing::warn!(root = %root.display(), "{WARNING}");
        let modules = root.join("modules");
        ensure_folder(&modules)
            .map_err(|error| EngineError::system(modules.display().to_string(), error))?;
        let running = Arc::new(Running::default());
        let engine = Self { root: root.to_owned(), programs, world, running, turn: Mutex::new(()) };
        for name in engine.names()? {
            let files = engine.files(&name);
            let record = files.record()?;
            if let Some(started) = files.started()?
                && files.exit()?.is_none()
            {
                engine.running.add(&name, files, started, None, record.log()?)?;
                tracing::info!(module = %name, "adopted a module that was running");
            }
        }
        let watcher = Watcher::new(Arc::clone(&engine.running));
        let _waker = engine.world.spawner.start("process-engine", Box::new(watcher));
        Ok(engine)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // The guarded state is on disk and written whole.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self, name: &str) -> Files {
        Files::new(self.root.join("modules").join(name))
    }

    /// The files of an existing module.
    fn existing(&self, name: &str) -> EngineResult<(Files, Record)> {
        let not_found = || EngineError::NotFound { name: name.to_owned() };
        if !name_is_good(name) {
            return Err(not_found());
        }
        let files = self.files(name);
        if !files.exists() {
            return Err(not_found());
        }
        let record = files.record()?;
        Ok((files, record))
    }

    fn names(&self) -> EngineResult<Vec<String>> {
        let folder = self.root.join("modules");
        let failed = |error| EngineError::system(folder.display().to_string(), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.files(&name).exists() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn program(&self, image: &str) -> EngineResult<PathBuf> {
        let path = match image.strip_prefix(PROCESS) {
            Some(path) => PathBuf::from(path),
            // A deployment names images completely, a table of programs as people write them.
            None => self
                .programs
                .get(image)
                .or_else(|| self.programs.get(image.strip_suffix(":latest")?))
                .cloned()
                .ok_or_else(|| EngineError::ImageMissing { image: image.to_owned() })?,
        };
        if path.is_absolute() && path.is_file() {
            return Ok(path);
        }
        Err(EngineError::ImageMissing { image: image.to_owned() })
    }

    fn image(&self, image: &str) -> EngineResult<ImageState> {
        self.program(image)?;
        let labels = BTreeMap::new();
        Ok(ImageState { reference: image.to_owned(), digest: String::new(), labels })
    }

    fn observe(&self, name: &str) -> EngineResult<ModuleState> {
        let (files, record) = self.existing(name)?;
        let (started, exit) = (files.started()?, files.exit()?);
        let status = match (&started, &exit) {
            (_, Some(exit)) if exit.exit_code.is_some() => ModuleStatus::Exited,
            (_, Some(_)) => ModuleStatus::Dead,
            (Some(_), None) => ModuleStatus::Running,
            (None, None) => ModuleStatus::Created,
        };
        let running = status == ModuleStatus::Running;
        Ok(ModuleState {
            name: name.to_owned(),
            image: record.spec.image.clone(),
            image_digest: String::new(),
            spec_digest: record.spec.digest.clone(),
            labels: record.labels,
            status,
            exit_code: exit.as_ref().and_then(|exit| exit.exit_code),
            out_of_memory: false,
            failure: exit.as_ref().and_then(|exit| exit.failure.clone()),
            started_at: started.as_ref().map(|started| started.at),
            finished_at: exit.map(|exit| exit.at),
            pid: started.filter(|_| running).map(|started| started.pid),
            log_path: files.log_folder().join(LOG_FILE),
        })
    }

    fn spawn(&self, files: &Files, record: &Record, now: WallTime) -> EngineResult<()> {
        let failed = |message: String| {
            let exit = Exit { exit_code: Some(127), at: now.0, failure: Some(message.clone()) };
            files.write_exit(&exit)?;
            Err(EngineError::StartFailed { name: record.spec.name.clone(), message })
        };
        let (program, arguments) = (self.program(&record.spec.image)?, &record.arguments);
        files.make_pipes()?;
        let (out, err) = files.module_ends()?;
        let mut command = Command::new(&program);
        command.args(arguments).env_clear().envs(&record.env).current_dir(&record.folder);
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return failed(format!("{}: {error}", program.display())),
        };
        let started = match Started::of(child.id(), now) {
            Ok(started) => started,
            // It ended within microseconds; the watcher learns how from the child itself.
            Err(_) => Started { pid: child.id(), start: 0, boot: String::new(), at: now.0 },
        };
        files.write_started(&started)?;
        self.running.add(&record.spec.name, files.clone(), started, Some(child), record.log()?)
    }

    /// Signals the module's whole process group, if it is still the one that was started.
    fn signal(files: &Files, signal: Signal) -> EngineResult<()> {
        let Some(started) = files.started()? else { return Ok(()) };
        if files.exit()?.is_some() || !started.lives() {
            return Ok(());
        }
        let group = Pid::from_raw(i32::try_from(started.pid).unwrap_or(i32::MAX));
        match killpg(group, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(EngineError::system(format!("signal to {}", started.pid), error)),
        }
    }

    /// Whether the module ended within `span`.
    fn wait(&self, files: &Files, span: Duration) -> EngineResult<bool> {
        let deadline = self.world.now().tick.after(span);
        loop {
            if files.started()?.is_none() || files.exit()?.is_some() {
                return Ok(true);
            }
            if self.world.now().tick >= deadline {
                return Ok(false);
            }
            std::thread::sleep(STOP_LOOK_EVERY);
        }
    }

    fn end(&self, name: &str, files: &Files, grace: Duration) -> EngineResult<()> {
        Self::signal(files, Signal::SIGTERM)?;
        if self.wait(files, grace)? {
            return Ok(());
        }
        Self::signal(files, Signal::SIGKILL)?;
        if self.wait(files, Duration::from_secs(10))? {
            return Ok(());
        }
        let message = "it does not end, even when killed".to_owned();
        Err(EngineError::Conflict { name: name.to_owned(), message })
    }
}

/// Names become folders.
pub(crate) fn name_is_good(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._$".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}

impl Backend for ProcessEngine {
    fn info(&self) -> EngineResult<EngineInfo> {
        Ok(EngineInfo {
            kind: "process".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            warnings: vec![WARNING.to_owned()],
            gateway: None,
        })
    }

    fn list(&self) -> EngineResult<Vec<ModuleState>> {
        let mut all = Vec::new();
        for name in self.names()? {
            match self.observe(&name) {
                // Removed since the folder was read.
                Err(EngineError::NotFound { .. }) => {}
                state => all.push(state?),
            }
        }
        Ok(all)
    }

    fn import_image(&self, _: &ImageArchive) -> EngineResult<ImageImported> {
        Err(EngineError::Unavailable {
            message: "the process engine runs programs, not images".to_owned(),
        })
    }

    fn images(&self) -> EngineResult<Vec<ImageState>> {
        let usable = self.programs.keys().filter_map(|image| self.image(image).ok());
        Ok(usable.collect())
    }

    fn prepare(&self, image: &str) -> EngineResult<ImageState> {
        self.image(image)
    }

    fn create(&self, spec: &ModuleSpec) -> EngineResult<ModuleCreated> {
        let _turn = self.turn();
        if !name_is_good(&spec.name) {
            let message = "the name must be letters, digits, '-', '_', '.' or '$'".to_owned();
            return Err(EngineError::InvalidSpec { name: spec.name.clone(), message });
        }
        self.program(&spec.image)?;
        let options = CreateOptions::parse(&spec.create_options, Policy::default())?;
        let files = self.files(&spec.name);
        if files.exists() {
            let message = "exists already".to_owned();
            return Err(EngineError::Conflict { name: spec.name.clone(), message });
        }
        let mut warnings = options.warnings.clone();
        warnings.push(WARNING.to_owned());
        files.create(&Record::new(spec, options))?;
        Ok(ModuleCreated { warnings })
    }

    fn start(&self, name: &str) -> EngineResult<()> {
        let _turn = self.turn();
        let (files, record) = self.existing(name)?;
        if files.started()?.is_some() && files.exit()?.is_none() {
            return Ok(());
        }
        files.clear_run()?;
        self.spawn(&files, &record, self.world.now().wall)
    }

    fn stop(&self, name: &str, grace: Duration) -> EngineResult<()> {
        let (files, _) = self.existing(name)?;
        self.end(name, &files, grace)
    }

    fn remove(&self, name: &str) -> EngineResult<()> {
        let _turn = self.turn();
        let files = match self.existing(name) {
            Err(EngineError::NotFound { .. }) => return Ok(()),
            found => found?.0,
        };
        self.end(name, &files, Duration::ZERO)?;
        files.remove()
    }

    fn read_log(
        &self,
        name: &str,
        query: &LogQuery,
        cursor: Option<LogCursor>,
    ) -> EngineResult<LogPage> {
        let (files, _) = self.existing(name)?;
        log::read_page(&files.log_folder(), query, cursor)
    }
}

#[cfg(test)]
pub(crate) mod tests;
