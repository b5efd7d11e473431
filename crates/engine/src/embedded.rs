//! The engine without a daemon: one bundle, one overlay mount and one monitor per module.
//!
//! Nothing is held in memory that a restart would lose: every answer is read from the folder
//! of the container, its lock and its control socket.

mod container;
mod monitor;
mod mount;
mod network;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use nix::sys::stat::{major, minor};
use tracing::warn;

use crate::backend::Backend;
use crate::bundle::{self, FoundDevice, Parts, users};
use crate::create_options::{CreateOptions, MountKind, NetworkMode, Policy};
use crate::error::EngineError;
use crate::files::{self, Change};
use crate::image::store::{ImageStore, StoredImage, Swept};
use crate::log::{self, LogCursor, LogPage};
use crate::network::Subnet;
use crate::network::hosts::{self, Peers, Place};
use crate::process::name_is_good;
use crate::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogQuery, ModuleCreated,
    ModuleSpec, ModuleState, ModuleStatus,
};
use container::{Container, Record};
use monitor::Seen;
use network::Network;

/// Longest path of a container folder, in bytes; its control socket must fit a Unix address.
pub const FOLDER_BYTES_MAX: usize = 90;

/// The exit code of a module whose machine went down. Source: Docker.
const WENT_DOWN: i32 = 255;

/// Where things are and what is allowed.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// The engine's folder, reachable by root only.
    pub root: PathBuf,
    /// The program `selvedge-monitor`.
    pub monitor: PathBuf,
    /// What the operator allows beyond the default.
    pub policy: Policy,
    /// The network of the bridge; one that nobody else uses is picked when absent.
    pub network: Option<Subnet>,
}

/// Runs modules in containers. Needs root.
#[derive(Debug)]
pub struct EmbeddedEngine {
    settings: EmbeddedSettings,
    images: ImageStore,
    network: Network,
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
            files::ensure_folder(&folder)
                .and_then(|()| files::sync_names(&folder))
                .map_err(at(&folder))?;
        }
        let open = Change::SetMode { path: &settings.root, mode: 0o711 };
        open.apply().map_err(at(&settings.root))?;
        let root = settings.root.canonicalize().map_err(at(&settings.root))?;
        let settings = EmbeddedSettings { root, ..settings };
        let images = ImageStore::open(&settings.root.join("images"), &settings.monitor)?;
        let network = Network::open(&settings.root, &settings.monitor, settings.network)?;
        let engine = Self { settings, images, network, turn: Mutex::new(()) };
        for name in engine.names()? {
            let container = engine.container(&name);
            if container.exists() {
                // Who wrote the record may have been killed before it could make sure of it.
                let folder = container.folder();
                files::sync_names(folder).map_err(at(folder))?;
            }
            if !monitor::lock_is_free(container.folder()) {
                engine.adopt(&name, &container);
            } else if container.exists() {
                engine.bury(&container)?;
            } else {
                // What a crash left half made or half removed has no record.
                engine.network.part(&container::id(container.folder()))?;
                container.destroy()?;
            }
        }
        Ok(engine)
    }

    /// Joins a container that runs to the bridge again, if somebody has taken that away.
    fn adopt(&self, name: &str, container: &Container) {
        let record = container.record().ok().flatten();
        let on_bridge = record.filter(|record| {
            record.place.as_ref().is_some_and(|place| place.mode == NetworkMode::Bridge)
        });
        let Some(record) = on_bridge else { return };
        if let Err(error) = self.join(&record, name, NetworkMode::Bridge) {
            // It runs on as it is; its next start says so again.
            warn!(module_id = name, %error, "a running module is not on the bridge");
        }
    }

    fn join(&self, record: &Record, name: &str, mode: NetworkMode) -> EngineResult<()> {
        let present = self.names()?.into_iter().collect();
        self.network.join(&record.id, name, mode, &present)
    }

    /// Takes away what a container that does not run has left: file system, namespace, wire.
    /// Its monitor does so at the end of the container, unless it was killed.
    fn bury(&self, container: &Container) -> EngineResult<()> {
        if !monitor::lock_is_free(container.folder()) {
            return Ok(());
        }
        container.unmount()?;
        self.network.part(&container::id(container.folder()))
    }

    /// What to say of a module whose monitor died. Nobody reads its output any more; what is
    /// left of it must not go on unseen.
    fn handle_death(&self, container: &Container, record: &Record) -> EngineResult<Seen> {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            // It may be the one that is being started just now: no monitor has its lock yet.
            Err(TryLockError::WouldBlock) => return Ok(Seen::Busy),
        };
        let seen = monitor::look(container.folder(), record.started)?;
        if matches!(seen, Seen::MonitorDied) {
            monitor::kill_group(&record.id);
            self.bury(container)?;
        }
        Ok(seen)
    }

    /// Rewrites what has changed in the hosts files of all modules.
    fn refresh_hosts(&self) -> EngineResult<()> {
        let leases = self.network.leases()?;
        let gateway = leases.as_ref().map(|leases| leases.network.gateway());
        let address = |name: &str| leases.as_ref().and_then(|leases| leases.address(name));
        let mut places = Vec::new();
        for name in self.names()? {
            let container = self.container(&name);
            if let Some(place) = container.record()?.and_then(|record| record.place) {
                places.push((container, name, place));
            }
        }
        let on_bridge = places.iter().filter(|(_, _, place)| place.mode == NetworkMode::Bridge);
        let peers: Peers<'_> =
            on_bridge.filter_map(|(_, name, place)| Some((address(name)?, place))).collect();
        for (container, name, place) in &places {
            container.write_hosts(&hosts::text(place, address(name), gateway, &peers))?;
        }
        Ok(())
    }

    /// As [`Self::refresh_hosts`], where nothing depends on it: the next change tries again.
    fn refresh_hosts_or_warn(&self) {
        if let Err(error) = self.refresh_hosts() {
            warn!(%error, "hosts files not rewritten");
        }
    }

    /// Gives a container all that it needs only while it runs, and runs it.
    fn launch(&self, name: &str, container: &Container, record: &mut Record) -> EngineResult<()> {
        container.mount(&record.layers)?;
        let mode = record.place.as_ref().map_or(NetworkMode::Host, |place| place.mode);
        self.join(record, name, mode)?;
        match self.refresh_hosts() {
            // Only modules on the bridge are found by name.
            Err(error) if mode == NetworkMode::Bridge => return Err(error),
            _ => {}
        }
        container.note_start(record)?;
        monitor::start(&self.settings.monitor, container.folder(), name)
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
        let mut seen = monitor::look(container.folder(), record.started)?;
        if matches!(seen, Seen::MonitorDied) {
            seen = self.handle_death(&container, &record)?;
        }
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
            Seen::MonitorDied if container.is_of_an_earlier_boot() => {
                // What it had written is there, and it can be started again as it is.
                state.status = ModuleStatus::Exited;
                state.exit_code = Some(WENT_DOWN);
                state.failure = Some("the machine went down while it ran".to_owned());
            }
            Seen::MonitorDied => {
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
        let place = place(spec, options);
        let netns = (place.mode != NetworkMode::Host).then(|| network::namespace(&id));
        let parts = Parts {
            spec,
            options,
            image: &config,
            id: &id,
            folder: container.folder(),
            volumes: &volumes,
            network: netns.as_deref(),
            identity: &identity,
            devices: &devices,
        };
        container.write_names(&parts)?;
        // Until all names are known; a start needs the file.
        container.write_hosts(&hosts::text(&place, None, None, &Peers::new()))?;
        let signal = config.stop_signal.as_deref();
        let signal = signal.and_then(crate::create_options::signal_number);
        container.write_bundle(
            &bundle::config(&parts)?,
            &monitor::settings(&monitor::Life {
                id: &id,
                options,
                signal: options.stop_signal.or(signal),
                rootfs: &container.rootfs(),
                netns: netns.as_deref(),
            }),
        )?;
        // Only the image's list of users was needed.
        container.unmount()?;
        let mut labels = options.labels.clone();
        labels.extend(spec.labels.clone());
        Ok(Record {
            version: 1,
            id,
            spec: spec.clone(),
            image_digest: image.state.digest.clone(),
            layers: image.layers.clone(),
            labels,
            place: Some(place),
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
                // None of the engine's own: it may lie on any file system.
                fs::create_dir_all(source).map_err(at(source))?;
            }
            MountKind::Volume { name } => {
                let folder = volumes.join(name);
                files::ensure_folder(&folder).map_err(at(&folder))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where a module stands in the network of this device.
fn place(spec: &ModuleSpec, options: &CreateOptions) -> Place {
    let mut extra_hosts = options.host.extra_hosts.clone();
    extra_hosts.extend(spec.extra_hosts.clone());
    let names = std::iter::once(&spec.name).chain(&spec.aliases).chain(&options.aliases);
    Place {
        mode: options.host.network,
        hostname: bundle::hostname_of(&spec.name, options),
        names: names.cloned().collect(),
        extra_hosts,
    }
}

impl Backend for EmbeddedEngine {
    fn info(&self) -> EngineResult<EngineInfo> {
        let _turn = self.turn();
        let beyond = "modules on the bridge reach each other and this machine, nothing beyond it";
        let mut warnings = vec![beyond.to_owned()];
        let gateway = match self.network.ensure() {
            Ok(leases) => Some(leases.network.gateway()),
            Err(error) => {
                warnings.push(format!("there is no bridge: {error}"));
                None
            }
        };
        if self.images.without_landlock() {
            warnings.push("this kernel has no Landlock: images are unpacked without it".to_owned());
        }
        Ok(EngineInfo {
            kind: "embedded".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            warnings,
            gateway,
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
        if options.host.network == NetworkMode::Bridge {
            let present = self.names()?.into_iter().collect();
            self.network.lease(&spec.name, &present)?;
        }
        let made = match self.make(&container, spec, &options, &image) {
            // The record last: without it there is no module.
            Ok(record) => container.name(&record),
            Err(error) => Err(error),
        };
        made.inspect_err(|_| {
            // The first error counts; the next start of the engine cleans up again.
            container.destroy().ok();
        })?;
        self.refresh_hosts_or_warn();
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
        let done = self.launch(name, &container, &mut record);
        if done.is_err() {
            // Unless its monitor did, or still does. The first error counts.
            self.bury(&container).ok();
        }
        done
    }

    fn stop(&self, name: &str, grace: Duration) -> EngineResult<()> {
        let (container, record) = self.existing(name)?;
        let mut seen = monitor::look(container.folder(), record.started)?;
        if matches!(seen, Seen::Running { .. } | Seen::Busy) {
            monitor::stop(container.folder(), grace)?;
        }
        let _turn = self.turn();
        seen = monitor::look(container.folder(), record.started)?;
        if matches!(seen, Seen::MonitorDied) {
            monitor::kill_group(&record.id);
        }
        self.bury(&container)
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
        self.bury(&container)?;
        container.destroy()?;
        self.refresh_hosts_or_warn();
        Ok(())
    }

    fn leave(&self) {
        let _turn = self.turn();
        for name in self.names().unwrap_or_default() {
            if let Err(error) = self.bury(&self.container(&name)) {
                warn!(module_id = name, %error, "not cleaned up");
            }
        }
        if let Err(error) = self.network.leave() {
            warn!(%error, "the bridge stays");
        }
        monitor::remove_empty_parents();
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
pub(crate) mod tests;
