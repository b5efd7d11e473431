//! The seam to the file system: one folder of flat files.
//!
//! [`file::FileDisk`] is the production implementer, [`simulated::SimulatedDisk`] the one that
//! loses power, runs full and fails on request.

use std::fmt;
use std::io;
use std::sync::Arc;

pub mod file;
pub mod simulated;

/// One folder. Names are flat: no separators.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a new, empty file, open for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that name, else what the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none, else what the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file, replacing one of the new name. Durable after [`Disk::sync_directory`].
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Unlinks a file; open handles keep working. Durable after [`Disk::sync_directory`].
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_directory(&self) -> io::Result<()>;

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One open file. Reads and writes carry their offset, so handles can be shared.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`, growing the file if needed. Durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// What the system says; `StorageFull` if there is no room.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes data and length durable. After an error the state of unsynced data is unknown and
    /// the handle must not be synced again.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// Reserves room for `bytes` bytes of zeros from the start of the file and sets its length.
    ///
    /// # Errors
    /// `StorageFull` if there is no room.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to `bytes`.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;
}
