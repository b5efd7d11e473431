//! Every change of what the engine must find again after the power was lost, in one place.
//!
//! What a disk promises: the content of a file is safe when the file was synced; a name, or its
//! absence, when its folder was synced; until then each of them may be lost by itself, in any
//! order. What a file system does beyond that is luck. So data are synced before they get their
//! name, a name is synced before anybody is told, and nothing is taken apart under a name that
//! a restart would trust.
//!
//! A change is a value with one way to apply it. The tests record the values, cut the power
//! after each of them, and start again on every disk that could be left (`power_cut.rs`).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::EngineError;

/// One change of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// Makes a folder with exactly this mode.
    MakeFolder { path: &'a Path, mode: u32 },
    /// Sets the mode of a file or folder; each start sets it again.
    SetMode { path: &'a Path, mode: u32 },
    /// Makes or replaces a file; its content is safe when this returns, its name is not.
    WriteFile { path: &'a Path, bytes: &'a [u8], mode: u32 },
    /// Overwrites a file in place; nothing of it is safe.
    Overwrite { path: &'a Path, bytes: &'a [u8] },
    /// Gives a file or folder another name, in place of what had it.
    Rename { from: &'a Path, to: &'a Path },
    /// Removes a file.
    RemoveFile { path: &'a Path },
    /// Removes a folder and all below it, one by one.
    RemoveTree { path: &'a Path },
    /// Makes the names in a folder safe.
    SyncNames { folder: &'a Path },
    /// Makes everything safe that lies on the disk of `folder`, whoever wrote it.
    SyncDisk { folder: &'a Path },
}

impl Change<'_> {
    /// Does it.
    pub(crate) fn apply(self) -> io::Result<()> {
        #[cfg(test)]
        return watch::watched(self);
        #[cfg(not(test))]
        self.act()
    }

    fn act(self) -> io::Result<()> {
        match self {
            Self::MakeFolder { path, mode } => {
                DirBuilder::new().mode(mode).create(path)?;
                // The process's mask may have taken bits away.
                fs::set_permissions(path, Permissions::from_mode(mode))
            }
            Self::SetMode { path, mode } => fs::set_permissions(path, Permissions::from_mode(mode)),
            Self::WriteFile { path, bytes, mode } => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(mode);
                let mut file = options.open(path)?;
                file.set_permissions(Permissions::from_mode(mode))?;
                file.write_all(bytes)?;
                file.sync_all()
            }
            Self::Overwrite { path, bytes } => {
                let mut options = OpenOptions::new();
                let file = options.create(true).truncate(false).write(true).open(path)?;
                // Readers see the old text, the new one, or for a moment the new one with the
                // old one's tail; never an empty file.
                file.write_all_at(bytes, 0)?;
                file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
                file.set_permissions(Permissions::from_mode(0o644))
            }
            Self::Rename { from, to } => fs::rename(from, to),
            Self::RemoveFile { path } => fs::remove_file(path),
            Self::RemoveTree { path } => fs::remove_dir_all(path),
            Self::SyncNames { folder } => File::open(folder)?.sync_all(),
            Self::SyncDisk { folder } => Ok(nix::unistd::syncfs(File::open(folder)?)?),
        }
    }
}

/// Makes a folder and what is missing above it, their names safe; also if it is there already,
/// for whoever made it may have been killed before it could make sure.
pub(crate) fn ensure_folder(path: &Path) -> io::Result<()> {
    let Some(above) = path.parent() else { return Ok(()) };
    if !path.is_dir() {
        if !above.as_os_str().is_empty() && !above.exists() {
            ensure_folder(above)?;
        }
        Change::MakeFolder { path, mode: 0o755 }.apply()?;
    }
    sync_names(above)
}

/// Makes the names in `folder` safe.
pub(crate) fn sync_names(folder: &Path) -> io::Result<()> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    Change::SyncNames { folder: here }.apply()
}

/// Makes a folder; neither it nor its name is safe.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    Change::MakeFolder { path, mode: 0o755 }.apply()
}

/// Writes a file under its final name, its content safe, its name not: for a folder that nobody
/// trusts yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Change::WriteFile { path, bytes, mode }.apply()
}

/// Writes a file so that a reader sees nothing or all of it, also after power loss; for this
/// user only, since it may hold variables of modules.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let temporary = path.with_extension(HALF);
    let write = || {
        Change::WriteFile { path: &temporary, bytes, mode: PRIVATE }.apply()?;
        Change::Rename { from: &temporary, to: path }.apply()?;
        sync_names(path.parent().unwrap_or(path))
    };
    write().map_err(|error| {
        // The first error counts; the next start clears it again.
        remove_file(&temporary).ok();
        EngineError::system(path.display().to_string(), error)
    })
}

/// The mode of files that only this user needs.
pub(crate) const PRIVATE: u32 = 0o600;
/// What marks the file that [`write_whole`] has not yet given its name.
const HALF: &str = "new";

/// Removes a file; none there is fine.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    absent_is_fine(Change::RemoveFile { path }.apply())
}

/// Removes a folder with all that is in it; none there is fine.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    absent_is_fine(Change::RemoveTree { path }.apply())
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes what a [`write_whole`] that was cut off has left in `folder`.
pub(crate) fn clear_half_written(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == HALF) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod power_cut;
#[cfg(test)]
pub(crate) mod watch;
