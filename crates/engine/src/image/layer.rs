//! Unpacks one layer into one folder, in the form overlayfs wants for a lower folder.
//!
//! The stream is hostile and the caller is root. No path is followed through a link that the
//! stream itself made, nothing is written outside the folder, device nodes are left out.
//! The folder must be reachable by root only while this runs: the checks are not atomic.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Gid, Uid, fchownat, mkfifo};
use tar::{Archive, Entry, EntryType};

use crate::error::EngineError;
use crate::image::digest::{Digest, HashingReader};
use crate::sys;

/// Most bytes of one layer, uncompressed, tar headers included.
pub const LAYER_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Most entries of one layer.
pub const LAYER_ENTRIES_MAX: u64 = 1_000_000;
/// Longest path inside a layer, in bytes; the kernel's own limit.
const PATH_BYTES_MAX: usize = 4096;
/// What overlayfs looks for on a folder that hides everything below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// The one extended attribute that is taken over: file capabilities.
const CAPABILITY: &str = "security.capability";

/// What one layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Entries that were left out, such as device nodes.
    pub skipped: u64,
}

/// Unpacks the uncompressed tar `stream` into the existing empty folder `root`.
///
/// # Errors
/// `InvalidImage` for a hostile or damaged stream, `System` when the disk fails.
pub fn unpack(stream: impl Read, root: &Path) -> Result<Unpacked, EngineError> {
    let mut reader = HashingReader::new(stream, LAYER_BYTES_MAX);
    let mut skipped = 0;
    {
        let mut archive = Archive::new(&mut reader);
        let entries = archive.entries().map_err(damaged)?;
        for (number, entry) in (1..).zip(entries) {
            if number > LAYER_ENTRIES_MAX {
                let message = format!("a layer has more than {LAYER_ENTRIES_MAX} entries");
                return Err(EngineError::image(message));
            }
            if !place(&mut entry.map_err(damaged)?, root)? {
                skipped += 1;
            }
        }
    }
    reader.drain().map_err(damaged)?;
    let (diff_id, bytes) = reader.finish();
    Ok(Unpacked { diff_id, bytes, skipped })
}

fn damaged(error: io::Error) -> EngineError {
    EngineError::image(format!("a layer cannot be read: {error}"))
}

/// Makes what `entry` describes. `false` when it is of a kind that is left out.
fn place<R: Read>(entry: &mut Entry<'_, R>, root: &Path) -> Result<bool, EngineError> {
    let name = entry.path_bytes().into_owned();
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(true);
    }
    let shown = String::from_utf8_lossy(&name).into_owned();
    let failed = |error: io::Error| EngineError::system(format!("unpacking {shown}"), error);
    let relative = inside(&name)?;
    let Some(last) = relative.file_name().map(OsStr::to_owned) else {
        // The root folder itself: its owner and mode count.
        return owner_and_mode(entry, root).map(|()| true).map_err(failed);
    };
    let parent = parents(root, relative.parent().unwrap_or_else(|| Path::new("")), &shown)?;
    if let Some(hidden) = last.as_bytes().strip_prefix(b".wh.") {
        return whiteout(&parent, hidden, &shown).map(|()| true);
    }
    let path = parent.join(&last);
    if !matches!(kind, EntryType::Directory) {
        clear(&path).map_err(failed)?;
    }
    match kind {
        EntryType::Directory => folder(&path).map_err(failed)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            file(entry, &path).map_err(failed)?;
        }
        EntryType::Symlink => {
            let target = link_target(entry, &shown)?;
            std::os::unix::fs::symlink(OsStr::from_bytes(&target), &path).map_err(failed)?;
        }
        EntryType::Link => {
            let target = inside(&link_target(entry, &shown)?)?;
            hard_link(root, &target, &path, &shown)?;
            return Ok(true);
        }
        EntryType::Fifo => mkfifo(&path, Mode::S_IRUSR).map_err(|error| failed(error.into()))?,
        // Modules get devices from their createOptions only.
        EntryType::Char | EntryType::Block => return Ok(false),
        other => {
            let message = format!("entry {shown:?} is of an unknown kind {other:?}");
            return Err(EngineError::image(message));
        }
    }
    owner_and_mode(entry, &path).map_err(failed)?;
    attributes(entry, &path).map_err(failed)?;
    Ok(true)
}

fn link_target<R: Read>(entry: &Entry<'_, R>, shown: &str) -> Result<Vec<u8>, EngineError> {
    let target = entry.link_name_bytes().map(Cow::into_owned);
    target
        .filter(|target| !target.is_empty() && target.len() <= PATH_BYTES_MAX)
        .ok_or_else(|| EngineError::image(format!("link {shown:?} has no usable target")))
}

/// The path an entry names, if it stays inside.
fn inside(name: &[u8]) -> Result<PathBuf, EngineError> {
    let path = Path::new(OsStr::from_bytes(name));
    let refuse =
        |why: &str| EngineError::image(format!("entry {:?} {why}", path.display().to_string()));
    if name.len() > PATH_BYTES_MAX {
        return Err(EngineError::image("an entry's path is longer than 4096 bytes"));
    }
    if name.contains(&0) {
        return Err(refuse("has a zero byte in its path"));
    }
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => relative.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(refuse("points upwards")),
            Component::RootDir | Component::Prefix(_) => return Err(refuse("is absolute")),
        }
    }
    Ok(relative)
}

/// The folder `relative` below `root`, made if absent, reached through real folders only.
fn parents(root: &Path, relative: &Path, shown: &str) -> Result<PathBuf, EngineError> {
    let mut path = root.to_owned();
    for part in relative.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let message = format!("entry {shown:?} lies under something that is no folder");
                return Err(EngineError::image(message));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                folder(&path)
                    .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
                    .map_err(|error| EngineError::system(format!("unpacking {shown}"), error))?;
            }
            Err(error) => return Err(EngineError::system(format!("unpacking {shown}"), error)),
        }
    }
    Ok(path)
}

/// Removes what an earlier entry of the same name left.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

fn folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    fs::create_dir(path)
}

fn file<R: Read>(entry: &mut Entry<'_, R>, path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file: File = options.open(path)?;
    io::copy(entry, &mut file)?;
    if let Ok(seconds) = entry.header().mtime() {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        // A date the file system cannot hold is not worth an image.
        time.and_then(|time| file.set_modified(time).ok());
    }
    Ok(())
}

fn hard_link(root: &Path, target: &Path, path: &Path, shown: &str) -> Result<(), EngineError> {
    let parent = parents(root, target.parent().unwrap_or_else(|| Path::new("")), shown)?;
    let name = target
        .file_name()
        .ok_or_else(|| EngineError::image(format!("link {shown:?} has no usable target")))?;
    let target = parent.join(name);
    let found = fs::symlink_metadata(&target)
        .map_err(|_| EngineError::image(format!("link {shown:?} points to nothing")))?;
    if found.is_dir() {
        return Err(EngineError::image(format!("link {shown:?} points to a folder")));
    }
    // link(2) does not follow a symbolic link at its source.
    fs::hard_link(&target, path)
        .map_err(|error| EngineError::system(format!("unpacking {shown}"), error))
}

/// Records that lower layers' `hidden` is gone, in overlayfs' way.
fn whiteout(parent: &Path, hidden: &[u8], shown: &str) -> Result<(), EngineError> {
    let failed = |error: io::Error| EngineError::system(format!("whiteout {shown}"), error);
    if hidden == b".wh..opq" {
        return sys::set_attribute(parent, OPAQUE, b"y").map_err(failed);
    }
    if hidden.starts_with(b".wh.") {
        return Ok(()); // bookkeeping of aufs, which no reader needs
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(EngineError::image(format!("whiteout {shown:?} names nothing")));
    }
    let path = parent.join(OsStr::from_bytes(hidden));
    clear(&path).map_err(failed)?;
    mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).map_err(|error| failed(error.into()))
}

/// Owner first: changing it clears the set-user-id bit.
fn owner_and_mode<R: Read>(entry: &Entry<'_, R>, path: &Path) -> io::Result<()> {
    let id = |value: io::Result<u64>| {
        value.and_then(|id| u32::try_from(id).map_err(|_| io::Error::other("owner out of range")))
    };
    let user = Uid::from_raw(id(entry.header().uid())?);
    let group = Gid::from_raw(id(entry.header().gid())?);
    fchownat(AT_FDCWD, path, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if entry.header().entry_type() == EntryType::Symlink {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(entry.header().mode()? & 0o7777))
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>, path: &Path) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        if extension.key() == Ok("SCHILY.xattr.security.capability") {
            sys::set_attribute(path, CAPABILITY, extension.value_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
