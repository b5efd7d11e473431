//! A disk in memory that loses power, runs full and fails on request; all chance is seeded.
//!
//! What it takes for granted is what a journalling file system gives: directory operations
//! reach the disk in order, a synced file is on disk, sectors of 512 bytes are atomic. What it
//! does not: unsynced writes may be lost, torn, or kept out of order, and a file may have its
//! new length without its new bytes. After a failed sync the kernel forgets which pages were
//! dirty, so a second sync of the same handle succeeds and saves nothing.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

mod state;

use state::{Course, Naming, State};

/// What becomes of unsynced changes when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PowerCut {
    /// All are lost.
    Lost,
    /// A prefix of them is kept; the next write is torn at a sector.
    Torn,
    /// Any subset of them is kept, sector by sector.
    Scattered,
    /// Files have their new length, with zeros in place of the new bytes.
    Grown,
}

impl PowerCut {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::Lost, Self::Torn, Self::Scattered, Self::Grown];
}

/// What changes the disk, for [`SimulatedDisk::fail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A new file.
    Create,
    /// Bytes of a file.
    Write,
    /// Bytes of a file made durable.
    Sync,
    /// Room reserved.
    Preallocate,
    /// A file cut.
    Truncate,
    /// A file renamed.
    Rename,
    /// A file unlinked.
    Remove,
    /// Names made durable.
    SyncDirectory,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskFault {
    /// `ENOSPC`.
    NoSpace,
    /// `EIO`.
    Io,
}

impl DiskFault {
    fn error(self) -> io::Error {
        match self {
            Self::NoSpace => io::Error::new(io::ErrorKind::StorageFull, "simulated: disk is full"),
            Self::Io => io::Error::other("simulated: input/output error"),
        }
    }
}

/// What a simulated disk went through; sums over its life and that of the disks it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exercised {
    /// Operations that change something.
    pub operations: u64,
    /// Writes, and the bytes of them.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Processes killed while the power stayed on.
    pub kills: u64,
    /// Unsynced changes that a power cut lost whole or in part.
    pub changes_lost: u64,
    /// Injected `ENOSPC`, and refusals because the capacity was reached.
    pub no_space: u64,
    /// Injected `EIO`.
    pub io_errors: u64,
    /// Syncs of a handle whose sync had failed before: each is a fault of the caller.
    pub syncs_after_failure: u64,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

impl SimulatedDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// Lets the power fail at the change numbered `operation`, counted from 0 over the life of
    /// the disk: it is begun but not finished, and everything after it fails until
    /// [`SimulatedDisk::power_cut`].
    pub fn cut_at(&self, operation: u64) {
        self.state().cut_at = Some(operation);
    }

    /// Whether the power has failed at the point set by [`SimulatedDisk::cut_at`].
    pub fn is_cut(&self) -> bool {
        !self.state().powered
    }

    /// Cuts the power and brings it back. Handles of before fail from now on.
    pub fn power_cut(&self, how: PowerCut) {
        self.state().power_cut(how);
    }

    /// Ends whoever uses the disk; the power stays on, so all writes can be read, synced or not.
    /// Handles of before fail from now on.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// Another disk: this one as it is now, with chance of its own.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.reseed(seed);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Lets one `operation` fail, after `skip` of its kind. Of a failing write a part may be
    /// done; after a failing sync the unsynced changes are kept or lost by chance.
    pub fn fail(&self, operation: Operation, skip: u64, fault: DiskFault) {
        self.state().faults.push((operation, skip, fault));
    }

    /// Forgets the faults that have not come yet; how many.
    pub fn heal(&self) -> usize {
        std::mem::take(&mut self.state().faults).len()
    }

    /// How many bytes all files together may have; `None` is no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// What it went through.
    pub fn exercised(&self) -> Exercised {
        self.state().exercised
    }

    /// The bytes of a file as they can be read now.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.files.get(state.names.get(name)?).map(|content| content.now.clone())
    }

    /// Puts a file there, durable, replacing what was: a fixture, or damage.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.state().put(name, bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &State, file: u64) -> io::Result<Arc<dyn DiskFile>> {
        let content = state.files.get(&file).ok_or(io::ErrorKind::NotFound)?;
        let (epoch, held) = (state.epoch, Arc::clone(&content.held));
        let (disk, sync_failed) = (self.clone(), AtomicBool::new(false));
        Ok(Arc::new(SimulatedFile { disk, file, epoch, sync_failed, _held: held }))
    }

    /// One directory operation.
    fn naming(&self, operation: Operation, naming: Naming) -> io::Result<()> {
        let mut state = self.state();
        let epoch = state.epoch;
        match state.course(epoch, operation)? {
            Course::Fails(fault) => return Err(fault.error()),
            Course::Cut => {
                state.rename(naming);
                return Err(state::power_lost());
            }
            Course::Runs => state.rename(naming),
        }
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = {
            let mut state = self.state();
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.add_file()
        };
        self.naming(Operation::Create, Naming::Bind(name.into(), file))?;
        self.handle(&self.state(), file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let epoch = state.epoch;
        state.check(epoch)?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.handle(&state, file)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        let epoch = state.epoch;
        state.check(epoch)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.naming(Operation::Rename, Naming::Move(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.state().names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.naming(Operation::Remove, Naming::Unbind(name.into()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        let epoch = state.epoch;
        match state.course(epoch, Operation::SyncDirectory)? {
            Course::Fails(fault) => return Err(fault.error()),
            Course::Cut => return Err(state::power_lost()),
            Course::Runs => state.sync_names(),
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used())))
    }
}

/// An open file of a [`SimulatedDisk`].
#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: u64,
    /// Handles do not outlive the process that opened them.
    epoch: u64,
    sync_failed: AtomicBool,
    _held: Arc<()>,
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.state();
        state.check(self.epoch)?;
        let content = state.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.now.len());
        let found = content.now.get(from..).unwrap_or_default();
        let count = found.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), found.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.state().write(self.file, self.epoch, offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state().sync(self.file, self.epoch, &self.sync_failed)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let length = state.length(self.file, self.epoch)?.max(bytes);
        state.set_length(self.file, self.epoch, Operation::Preallocate, length)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.state().set_length(self.file, self.epoch, Operation::Truncate, bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.state().length(self.file, self.epoch)
    }
}
