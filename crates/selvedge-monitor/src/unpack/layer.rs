//! From a tar stream to files, in the form overlayfs wants for a lower folder.
//!
//! Every path is opened by the kernel beneath the root and through real folders only
//! (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`). Device nodes are left out.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, mkdirat, mknodat};
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat,
};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use super::Fault;
use crate::sys;

/// Most bytes of one layer, uncompressed, tar headers included.
pub(super) const LAYER_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Most entries of one layer.
const LAYER_ENTRIES_MAX: u64 = 1_000_000;
/// Longest path inside a layer, in bytes; the kernel's own limit.
const PATH_BYTES_MAX: usize = 4096;
/// What overlayfs looks for on a folder that hides everything below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// The one extended attribute that is taken over: file capabilities.
const CAPABILITY: &str = "security.capability";

/// What one layer turned out to be.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Digest of the uncompressed stream.
    pub(super) diff_id: String,
    /// Bytes of the uncompressed stream.
    pub(super) bytes: u64,
    /// Entries that were left out, such as device nodes.
    pub(super) skipped: u64,
}

/// Unpacks the uncompressed tar `stream` into the root folder, which is empty.
pub(super) fn unpack(stream: &mut dyn Read) -> Result<Unpacked, Fault> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root =
        open("/", flags, Mode::empty()).map_err(|error| Fault::system("the target", error))?;
    let mut reader = Hashing { inner: stream, hash: Sha256::new(), count: 0 };
    let mut skipped = 0;
    {
        let mut archive = Archive::new(&mut reader);
        let entries = archive.entries().map_err(damaged)?;
        for (number, entry) in (1..).zip(entries) {
            if number > LAYER_ENTRIES_MAX {
                let message = format!("a layer has more than {LAYER_ENTRIES_MAX} entries");
                return Err(Fault::Image(message));
            }
            if !place(&mut entry.map_err(damaged)?, &root)? {
                skipped += 1;
            }
        }
    }
    io::copy(&mut reader, &mut io::sink()).map_err(damaged)?;
    let diff_id = reader.hash.finalize().iter().fold("sha256:".to_owned(), |mut text, byte| {
        use std::fmt::Write;
        write!(text, "{byte:02x}").ok(); // a String takes everything
        text
    });
    Ok(Unpacked { diff_id, bytes: reader.count, skipped })
}

fn damaged(error: io::Error) -> Fault {
    Fault::Image(format!("a layer cannot be read: {error}"))
}

/// Hashes and counts what is read through it.
struct Hashing<'a> {
    inner: &'a mut dyn Read,
    hash: Sha256,
    count: u64,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..len).unwrap_or_default());
        self.count += u64::try_from(len).unwrap_or(u64::MAX);
        if self.count > LAYER_BYTES_MAX {
            return Err(io::Error::other(format!("more than {LAYER_BYTES_MAX} bytes")));
        }
        Ok(len)
    }
}

/// An entry's place: the open folder above it, its last name, and its words for a message.
struct Spot {
    parent: OwnedFd,
    name: OsString,
    relative: PathBuf,
    shown: String,
}

impl Spot {
    fn failed(&self) -> impl Fn(Errno) -> Fault + '_ {
        |error| Fault::system(format!("unpacking {}", self.shown), io::Error::from(error))
    }

    fn io(&self) -> impl Fn(io::Error) -> Fault + '_ {
        |error| Fault::system(format!("unpacking {}", self.shown), error)
    }

    fn found(&self) -> Result<Option<FileStat>, Fault> {
        match fstatat(&self.parent, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.failed()(error)),
        }
    }

    /// Removes what an earlier entry of the same name left.
    fn clear(&self) -> Result<(), Fault> {
        match self.found()? {
            None => Ok(()),
            Some(found) if is_folder(&found) => {
                // The way there was found free of links, and nobody else changes it.
                fs::remove_dir_all(Path::new("/").join(&self.relative)).map_err(self.io())
            }
            Some(_) => self.unlink(),
        }
    }

    fn unlink(&self) -> Result<(), Fault> {
        unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(self.failed())
    }
}

fn is_folder(found: &FileStat) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// Opens `path` beneath `root` as the kernel finds it without following anything.
fn beneath(root: &OwnedFd, path: &Path, flags: OFlag, mode: u32) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(root, path, how)
}

/// Makes what `entry` describes. `false` when it is of a kind that is left out.
fn place<R: Read>(entry: &mut Entry<'_, R>, root: &OwnedFd) -> Result<bool, Fault> {
    let name = entry.path_bytes().into_owned();
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(true);
    }
    let shown = String::from_utf8_lossy(&name).into_owned();
    let relative = inside(&name)?;
    let Some(last) = relative.file_name().map(OsStr::to_owned) else {
        // The root folder itself: its owner and mode count.
        return folder_itself(entry, root, Path::new(""), &shown).map(|()| true);
    };
    let above = relative.parent().unwrap_or_else(|| Path::new(""));
    let parent = parents(root, above, &shown)?;
    let mut spot = Spot { parent, name: last, relative, shown };
    if let Some(hidden) = spot.name.as_bytes().strip_prefix(b".wh.").map(<[u8]>::to_vec) {
        let above = spot.relative.parent().unwrap_or_else(|| Path::new("")).to_owned();
        spot.relative = above.join(OsStr::from_bytes(&hidden));
        return whiteout(spot, hidden, &above, root).map(|()| true);
    }
    make(entry, kind, &spot, root)
}

fn make<R: Read>(
    entry: &mut Entry<'_, R>,
    kind: EntryType,
    spot: &Spot,
    root: &OwnedFd,
) -> Result<bool, Fault> {
    if !matches!(kind, EntryType::Directory) {
        spot.clear()?;
    }
    let name = spot.name.as_os_str();
    match kind {
        EntryType::Directory => {
            let found = spot.found()?;
            if !found.as_ref().is_some_and(is_folder) {
                found.map_or(Ok(()), |_| spot.unlink())?;
                mkdirat(&spot.parent, name, Mode::S_IRWXU).map_err(spot.failed())?;
            }
            folder_itself(entry, root, &spot.relative, &spot.shown)?;
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => file(entry, spot)?,
        EntryType::Symlink => {
            let target = link_target(entry, &spot.shown)?;
            symlinkat(OsStr::from_bytes(&target), &spot.parent, name).map_err(spot.failed())?;
            owner_by_name(entry, spot)?;
        }
        EntryType::Link => {
            let target = inside(&link_target(entry, &spot.shown)?)?;
            hard_link(root, &target, spot)?;
        }
        EntryType::Fifo => {
            let mode = Mode::from_bits_truncate(mode(entry).map_err(spot.io())?);
            mkfifoat(&spot.parent, name, mode).map_err(spot.failed())?;
            owner_by_name(entry, spot)?;
        }
        // Modules get devices from their createOptions only.
        EntryType::Char | EntryType::Block => return Ok(false),
        other => {
            let message = format!("entry {:?} is of an unknown kind {other:?}", spot.shown);
            return Err(Fault::Image(message));
        }
    }
    Ok(true)
}

fn link_target<R: Read>(entry: &Entry<'_, R>, shown: &str) -> Result<Vec<u8>, Fault> {
    let target = entry.link_name_bytes().map(Cow::into_owned);
    target
        .filter(|target| !target.is_empty() && target.len() <= PATH_BYTES_MAX)
        .ok_or_else(|| Fault::Image(format!("link {shown:?} has no usable target")))
}

/// The path an entry names, if it stays inside.
fn inside(name: &[u8]) -> Result<PathBuf, Fault> {
    let path = Path::new(OsStr::from_bytes(name));
    let refuse = |why: &str| Fault::Image(format!("entry {:?} {why}", path.display().to_string()));
    if name.len() > PATH_BYTES_MAX {
        return Err(Fault::Image("an entry's path is longer than 4096 bytes".to_owned()));
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

fn no_folder(shown: &str) -> Fault {
    Fault::Image(format!("entry {shown:?} lies under something that is no folder"))
}

/// The folder `relative` beneath `root`, made if absent.
fn parents(root: &OwnedFd, relative: &Path, shown: &str) -> Result<OwnedFd, Fault> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let failed = |error: Errno| match error {
        Errno::ENOTDIR | Errno::ELOOP => no_folder(shown),
        other => Fault::system(format!("unpacking {shown}"), io::Error::from(other)),
    };
    match beneath(root, relative, flags, 0) {
        Err(Errno::ENOENT) => {}
        done => return done.map_err(failed),
    }
    let mut at = beneath(root, Path::new(""), flags, 0).map_err(failed)?;
    for part in relative {
        match mkdirat(&at, part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        at = beneath(&at, Path::new(part), flags, 0).map_err(failed)?;
    }
    Ok(at)
}

fn file<R: Read>(entry: &mut Entry<'_, R>, spot: &Spot) -> Result<(), Fault> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let opened = beneath(&spot.parent, Path::new(&spot.name), flags, 0o600);
    let mut file = File::from(opened.map_err(spot.failed())?);
    io::copy(entry, &mut file).map_err(spot.io())?;
    if let Ok(seconds) = entry.header().mtime() {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        // A date the file system cannot hold is not worth an image.
        time.and_then(|time| file.set_modified(time).ok());
    }
    owner_and_mode(entry, &file).map_err(spot.io())?;
    attributes(entry, &file).map_err(spot.io())
}

/// Owner and mode of a folder that is there.
fn folder_itself<R: Read>(
    entry: &Entry<'_, R>,
    root: &OwnedFd,
    relative: &Path,
    shown: &str,
) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::system(format!("unpacking {shown}"), error);
    let opened = beneath(root, relative, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0);
    owner_and_mode(entry, &opened.map_err(|error| failed(error.into()))?).map_err(failed)
}

fn hard_link(root: &OwnedFd, target: &Path, spot: &Spot) -> Result<(), Fault> {
    let shown = &spot.shown;
    let nothing = || Fault::Image(format!("link {shown:?} points to nothing"));
    let name = target
        .file_name()
        .ok_or_else(|| Fault::Image(format!("link {shown:?} has no usable target")))?;
    let above = target.parent().unwrap_or_else(|| Path::new(""));
    let parent = match beneath(root, above, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
        Err(Errno::ENOENT) => return Err(nothing()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(no_folder(shown)),
        opened => opened.map_err(spot.failed())?,
    };
    let found = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|_| nothing())?;
    if is_folder(&found) {
        return Err(Fault::Image(format!("link {shown:?} points to a folder")));
    }
    // A symbolic link at its source is not followed.
    linkat(&parent, name, &spot.parent, spot.name.as_os_str(), LinkatFlags::empty())
        .map_err(spot.failed())
}

/// Records that lower layers' `hidden` is gone, in overlayfs' way.
fn whiteout(mut spot: Spot, hidden: Vec<u8>, above: &Path, root: &OwnedFd) -> Result<(), Fault> {
    let shown = spot.shown.clone();
    let failed = |error: io::Error| Fault::system(format!("whiteout {shown}"), error);
    if hidden == b".wh..opq" {
        let opened = beneath(root, above, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0);
        let folder = opened.map_err(|error| failed(error.into()))?;
        return sys::set_attribute(folder.as_fd(), OPAQUE, b"y").map_err(failed);
    }
    if hidden.starts_with(b".wh.") {
        return Ok(()); // bookkeeping of aufs, which no reader needs
    }
    if matches!(hidden.as_slice(), b"" | b"." | b"..") {
        return Err(Fault::Image(format!("whiteout {shown:?} names nothing")));
    }
    spot.name = OsString::from_vec(hidden);
    spot.clear()?;
    mknodat(&spot.parent, spot.name.as_os_str(), SFlag::S_IFCHR, Mode::empty(), 0)
        .map_err(|error| failed(error.into()))
}

fn owner<R: Read>(entry: &Entry<'_, R>) -> io::Result<(Uid, Gid)> {
    let id = |value: io::Result<u64>| {
        value.and_then(|id| u32::try_from(id).map_err(|_| io::Error::other("owner out of range")))
    };
    Ok((Uid::from_raw(id(entry.header().uid())?), Gid::from_raw(id(entry.header().gid())?)))
}

fn mode<R: Read>(entry: &Entry<'_, R>) -> io::Result<u32> {
    Ok(entry.header().mode()? & 0o7777)
}

fn owner_by_name<R: Read>(entry: &Entry<'_, R>, spot: &Spot) -> Result<(), Fault> {
    let (uid, gid) = owner(entry).map_err(spot.io())?;
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(&spot.parent, spot.name.as_os_str(), Some(uid), Some(gid), flags)
        .map_err(spot.failed())
}

/// Owner first: changing it clears the set-user-id bit.
fn owner_and_mode<R: Read>(entry: &Entry<'_, R>, file: &impl AsFd) -> io::Result<()> {
    let (uid, gid) = owner(entry)?;
    fchown(file, Some(uid), Some(gid))?;
    fchmod(file, Mode::from_bits_truncate(mode(entry)?))?;
    Ok(())
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>, file: &File) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        if extension.key() == Ok("SCHILY.xattr.security.capability") {
            sys::set_attribute(file.as_fd(), CAPABILITY, extension.value_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_as_long_as_its_limit_and_no_longer() {
        let of = |bytes: usize| inside(&vec![b'p'; bytes]);
        assert!(of(PATH_BYTES_MAX).is_ok());
        assert!(of(PATH_BYTES_MAX + 1).is_err());
    }
}
