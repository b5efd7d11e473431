//! The engine without a daemon: one bundle, one overlay mount and one monitor per module.
//!
//! Nothing is held in memory that a restart would lose: every answer is read from the folder
//! of the container, its lock and its control socket.

mod container;
mod monitor;
mod mount;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::stat::{major, minor};

use crate::backend::Backend;
use crate::bundle::{self, FoundDevice, Parts, users};
use crate::create_options::{CreateOptions, MountKind, NetworkMode, Policy};
use crate::error::EngineError;
use crate::image::store::{ImageStore, StoredImage, Swept};
use crate::log::{self, LogCursor, LogPage};
use crate::process::name_is_good;
use crate::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogQuery, ModuleCreated,
    ModuleSpec, ModuleState, ModuleStatus,
};
use container::{Container, Record};
use monitor::Seen;

/// Longest path of a container folder, in bytes; its control socket must fit a Unix address.
pub const FOLDER_BYTES_MAX: usize = 90;

/// Where things are and what is allowed.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// The engine's folder, reachable by root only.
    pub root: PathBuf,
    /// The program `selvedge-monitor`.
    pub monitor: PathBuf,
    /// What the operator allows beyond the default.
    pub policy: Policy,
}

/// Runs modules in containers. Needs root.
#[derive(Debug)]
pub struct EmbeddedEngine {
    settings: EmbeddedSettings,
    images: ImageStore,
    /// One change at a time; reads and stops do not take it.
    turn: Mutex<()>,
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |error| EngineError::system(path.display().to_string(), error)
}

impl EmbeddedEngine {
    /// Opens the engine's folder. Modules that run are left running.
    ///
    /// # Errors
    /// `Unavailable` without root; `System` when the folder cannot be used.
    pub fn open(settings: EmbeddedSettings) -> EngineResult<Self> {
        if !nix::unistd::geteuid().is_root() {
            let message = "the embedded engine needs root".to_owned();
            return Err(EngineError::Unavailable { message });
        }
        for folder in ["containers", "volumes"] {
            let folder = settings.root.join(folder);
            fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        let private = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&settings.root, private).map_err(at(&settings.root))?;
        let root = settings.root.canonicalize().map_err(at(&settings.root))?;
        let settings = EmbeddedSettings { root, ..settings };
        let images = ImageStore::open(&settings.root.join("images"))?;
        let engine = Self { settings, images, turn: Mutex::new(()) };
        for name in engine.names()? {
            let container = engine.container(&name);
            // What a crash left half made or half removed has no record.
            if !container.exists() && monitor::lock_is_free(container.folder()) {
                container.destroy()?;
            }
        }
        Ok(engine)
    }

    /// Frees images that neither a reference nor a container needs.
    ///
    /// # Errors
    /// `Unavailable` without root; `System` when the folder cannot be used.
    pub fn sweep_images(&self) -> EngineResult<Swept> {
        let _turn = self.turn();
        let mut in_use = BTreeSet::new();
        for name in self.names()? {
            if let Some(record) = self.container(&name).record()? {
                in_use.extend(record.layers);
            }
        }
        self.images.sweep(&in_use)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // The guarded state is on disk and written whole.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, name: &str) -> Container {
        Container::new(self.settings.root.join("containers").join(name))
    }

    fn existing(&self, name: &str) -> EngineResult<(Container, Record)> {
        let not_found = || EngineError::NotFound { name: name.to_owned() };
        if !name_is_good(name) {
            return Err(not_found());
        }
        let container = self.container(name);
        let record = container.record()?.ok_or_else(not_found)?;
        Ok((container, record))
    }

    fn names(&self) -> EngineResult<Vec<String>> {
        let folder = self.settings.root.join("containers");
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let name = entry.map_err(at(&folder))?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn observe(&self, name: &str) -> EngineResult<ModuleState> {
        let (container, record) = self.existing(name)?;
        let seen = monitor::look(container.folder(), record.started)?;
        let mut state = ModuleState {
            name: name.to_owned(),
            image: record.spec.image,
            image_digest: record.image_digest,
            spec_digest: record.spec.digest,
            labels: record.labels,
            status: ModuleStatus::Created,
            exit_code: None,
            out_of_memory: false,
            failure: None,
            started_at: None,
            finished_at: None,
            pid: None,
            log_path: container.log_folder().join(log::LOG_FILE),
        };
        match seen {
            Seen::NeverStarted => {}
            Seen::Busy => state.status = ModuleStatus::Unknown,
            Seen::Running { pid, started_at } => {
                state.status = ModuleStatus::Running;
                state.pid = Some(pid);
                state.started_at = started_at;
            }
            Seen::Ended(exit) => {
                state.status = ModuleStatus::Exited;
                state.exit_code = Some(exit.exit_code);
                state.out_of_memory = exit.oom;
                state.started_at = exit.started_at();
                state.finished_at = exit.finished_at();
                state.failure = exit.failure;
            }
            Seen::MonitorDied => {
                // Nobody reads its output any more; what is left of it must not go on unseen.
                monitor::kill_group(&record.id);
                state.status = ModuleStatus::Dead;
                state.failure = Some("its monitor ended; how the module did is lost".to_owned());
            }
        }
        Ok(state)
    }

    fn make(
        &self,
        container: &Container,
        spec: &ModuleSpec,
        options: &CreateOptions,
        image: &StoredImage,
    ) -> EngineResult<Record> {
        container.make(&image.layers)?;
        let config = image.document.config.clone().unwrap_or_default();
        let user = options.user.clone().or_else(|| config.user.clone()).unwrap_or_default();
        let identity = users::find(&container.rootfs(), &user, &options.host.group_add)?;
        let devices = devices(options)?;
        let volumes = self.settings.root.join("volumes");
        sources(options, &volumes)?;
        let id = container::id(container.folder());
        let parts = Parts {
            spec,
            options,
            image: &config,
            id: &id,
            folder: container.folder(),
            volumes: &volumes,
            network: None,
            identity: &identity,
            devices: &devices,
        };
        container.write_names(&parts)?;
        let signal = config.stop_signal.as_deref();
        let signal = signal.and_then(crate::create_options::signal_number);
        container.write_bundle(
            &bundle::config(&parts)?,
            &monitor::settings(&id, options, options.stop_signal.or(signal)),
        )?;
        let mut labels = options.labels.clone();
        labels.extend(spec.labels.clone());
        Ok(Record {
            version: 1,
            id,
            spec: spec.clone(),
            image_digest: image.state.digest.clone(),
            layers: image.layers.clone(),
            labels,
            started: false,
        })
    }
}

/// Looks up the devices of the host.
fn devices(options: &CreateOptions) -> EngineResult<Vec<FoundDevice>> {
    let each = options.host.devices.iter().enumerate().map(|(place, device)| {
        let refuse = |message: &str| {
            let message = format!("{} {message}", device.source.display());
            EngineError::option(format!("HostConfig.Devices[{place}]"), message)
        };
        let found = fs::metadata(&device.source).map_err(|error| refuse(&error.to_string()))?;
        let kind = match found.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return Err(refuse("is no device")),
        };
        let number = |part: u64| i64::try_from(part).unwrap_or(i64::MAX);
        Ok(FoundDevice {
            target: device.target.clone(),
            kind,
            major: number(major(found.rdev())),
            minor: number(minor(found.rdev())),
            access: device.access.clone(),
        })
    });
    each.collect()
}

/// Makes missing volumes and bind sources, as Docker does, or says which is missing.
fn sources(options: &CreateOptions, volumes: &Path) -> EngineResult<()> {
    for mount in &options.host.mounts {
        match &mount.kind {
            MountKind::Bind { source, make: false, .. } if !source.exists() => {
                let message = format!("{} does not exist on the host", source.display());
                return Err(EngineError::option("HostConfig.Mounts", message));
            }
            MountKind::Bind { source, make: true, .. } if !source.exists() => {
                fs::create_dir_all(source).map_err(at(source))?;
            }
            MountKind::Volume { name } => {
                let folder = volumes.join(name);
                fs::create_dir_all(&folder).map_err(at(&folder))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What this engine cannot do yet, said before anything is made.
fn check_network(options: &CreateOptions) -> EngineResult<()> {
    match options.host.network {
        NetworkMode::Host => Ok(()),
        NetworkMode::Bridge | NetworkMode::None => Err(EngineError::option(
            "HostConfig.NetworkMode",
            "only \"host\" is supported by this engine so far",
        )),
    }
}

impl Backend for EmbeddedEngine {
    fn info(&self) -> EngineResult<EngineInfo> {
        Ok(EngineInfo {
            kind: "embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            warnings: vec!["modules share the network of the host".to_owned()],
        })
    }

    fn list(&self) -> EngineResult<Vec<ModuleState>> {
        let mut all = Vec::new();
        for name in self.names()? {
            match self.observe(&name) {
                // Half made, or removed since the folder was read.
                Err(EngineError::NotFound { .. }) => {}
                state => all.push(state?),
            }
        }
        Ok(all)
    }

    fn import_image(&self, archive: &ImageArchive) -> EngineResult<ImageImported> {
        self.images.import(archive)
    }

    fn images(&self) -> EngineResult<Vec<ImageState>> {
        self.images.images()
    }

    fn prepare(&self, image: &str) -> EngineResult<ImageState> {
        Ok(self.images.find(image)?.state)
    }

    fn create(&self, spec: &ModuleSpec) -> EngineResult<ModuleCreated> {
        let _turn = self.turn();
        let refuse =
            |message: String| EngineError::InvalidSpec { name: spec.name.clone(), message };
        if !name_is_good(&spec.name) {
            let message = "the name must be letters, digits, '-', '_', '.' or '$'";
            return Err(refuse(message.to_owned()));
        }
        let options = CreateOptions::parse(&spec.create_options, self.settings.policy)?;
        check_network(&options)?;
        let image = self.images.find(&spec.image)?;
        let container = self.container(&spec.name);
        let len = container.folder().as_os_str().len();
        if len > FOLDER_BYTES_MAX {
            let message = format!("its folder's path has {len} bytes, over {FOLDER_BYTES_MAX}");
            return Err(refuse(message));
        }
        if container.folder().exists() {
            let message = "exists already".to_owned();
            return Err(EngineError::Conflict { name: spec.name.clone(), message });
        }
        match self.make(&container, spec, &options, &image) {
            // The record last: without it there is no module.
            Ok(record) => container.write_record(&record)?,
            Err(error) => {
                // The first error counts; the next start of the engine cleans up again.
                container.destroy().ok();
                return Err(error);
            }
        }
        Ok(ModuleCreated { warnings: options.warnings })
    }

    fn start(&self, name: &str) -> EngineResult<()> {
        let _turn = self.turn();
        let (container, mut record) = self.existing(name)?;
        match monitor::look(container.folder(), record.started)? {
            Seen::Running { .. } => return Ok(()),
            Seen::MonitorDied => monitor::kill_group(&record.id),
            Seen::NeverStarted | Seen::Ended(_) | Seen::Busy => {}
        }
        monitor::wait_for_lock(container.folder())?;
        // After a restart of the machine the overlay is gone.
        container.mount(&record.layers)?;
        container.clear_exit()?;
        record.started = true;
        container.write_record(&record)?;
        monitor::start(&self.settings.monitor, container.folder(), name)
    }

    fn stop(&self, name: &str, grace: Duration) -> EngineResult<()> {
        let (container, record) = self.existing(name)?;
        match monitor::look(container.folder(), record.started)? {
            Seen::Running { .. } | Seen::Busy => monitor::stop(container.folder(), grace),
            Seen::MonitorDied => {
                monitor::kill_group(&record.id);
                Ok(())
            }
            Seen::NeverStarted | Seen::Ended(_) => Ok(()),
        }
    }

    fn remove(&self, name: &str) -> EngineResult<()> {
        match self.stop(name, Duration::ZERO) {
            Err(EngineError::NotFound { .. }) => return Ok(()),
            stopped => stopped?,
        }
        let _turn = self.turn();
        let (container, record) = self.existing(name)?;
        monitor::wait_for_lock(container.folder())?;
        monitor::kill_group(&record.id);
        container.destroy()
    }

    fn read_log(
        &self,
        name: &str,
        query: &LogQuery,
        cursor: Option<LogCursor>,
    ) -> EngineResult<LogPage> {
        let (container, _) = self.existing(name)?;
        log::read_page(&container.log_folder(), query, cursor)
    }
}

#[cfg(test)]
mod tests;
