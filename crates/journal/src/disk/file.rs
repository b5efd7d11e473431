//! A folder of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;

use super::{Disk, DiskFile};

/// The name of the file whose lock says that the folder is in use.
const LOCK: &str = "lock";
/// Files are readable by their owner only: records may hold what devices keep private.
const MODE: u32 = 0o600;

/// A folder of the operating system, locked against a second user while this lives.
#[derive(Debug)]
pub struct FileDisk {
    folder: PathBuf,
    directory: File,
    _lock: File,
}

impl FileDisk {
    /// Opens `folder`, making it if absent.
    ///
    /// # Errors
    /// `WouldBlock` if another process (or another [`FileDisk`]) holds it, else what the system
    /// says.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(MODE)
            .open(folder.join(LOCK))?;
        lock.try_lock()?;
        let directory = File::open(&folder)?;
        Ok(Self { folder, directory, _lock: lock })
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn open_with(&self, name: &str, options: &mut OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let file = options.read(true).write(true).mode(MODE).open(self.folder.join(name))?;
        Ok(Arc::new(FileOnDisk(file)))
    }
}

impl Disk for FileDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, OpenOptions::new().create_new(true))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, &mut OpenOptions::new())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            // A name that is not text is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let room = fstatvfs(&self.directory)?;
        Ok(room.blocks_available().saturating_mul(room.fragment_size()))
    }
}

#[derive(Debug)]
struct FileOnDisk(File);

impl DiskFile for FileOnDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        match fallocate(&self.0, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // A file system without the call: the length alone must do, and running out of
            // room is then met by the write.
            Err(nix::errno::Errno::EOPNOTSUPP) => self.0.set_len(bytes),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
