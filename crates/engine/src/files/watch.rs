//! Records the changes that this thread makes below one folder, and lets its disk be full.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Change;

/// What one change is to a disk. Paths are relative to the watched folder.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    MakeFolder(PathBuf, u32),
    SetMode(PathBuf, u32),
    /// An empty file, also in place of one that is there.
    MakeFile(PathBuf, u32),
    /// From the start of the file.
    Write(PathBuf, Vec<u8>),
    SetLen(PathBuf, usize),
    MakeLink(PathBuf, PathBuf),
    SyncContent(PathBuf),
    SyncNames(PathBuf),
    SyncDisk,
    Rename(PathBuf, PathBuf),
    /// Of a file or an empty folder.
    Remove(PathBuf),
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

struct Watch {
    root: PathBuf,
    operations: Vec<Operation>,
    /// From this operation on there is no room.
    full_at: Option<usize>,
}

/// Watches everything below `root`; without room from the operation `full_at` on.
pub(crate) fn start(root: &Path, full_at: Option<usize>) {
    let watch = Watch { root: root.to_owned(), operations: Vec::new(), full_at };
    WATCH.set(Some(watch));
}

/// How many operations there were.
pub(crate) fn mark() -> usize {
    WATCH.with_borrow(|watch| watch.as_ref().map_or(0, |watch| watch.operations.len()))
}

/// Gives everything that was recorded.
pub(crate) fn stop() -> Vec<Operation> {
    WATCH.take().map(|watch| watch.operations).unwrap_or_default()
}

/// Records what another process has made in the empty `folder`.
pub(crate) fn seen(folder: &Path) {
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch else { return };
        let Ok(relative) = folder.strip_prefix(&watch.root) else { return };
        made(folder, relative, &mut watch.operations);
    });
}

/// Whether there is no room for what another process is to make.
pub(crate) fn is_full() -> bool {
    WATCH.with_borrow(|watch| watch.as_ref().is_some_and(Watch::is_full))
}

fn made(folder: &Path, relative: &Path, operations: &mut Vec<Operation>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), relative.join(entry.file_name()));
        let found = fs::symlink_metadata(&path).unwrap();
        let mode = found.permissions().mode() & 0o7777;
        if found.is_dir() {
            operations.push(Operation::MakeFolder(name.clone(), mode));
            made(&path, &name, operations);
        } else if found.is_symlink() {
            operations.push(Operation::MakeLink(name, fs::read_link(&path).unwrap()));
        } else {
            assert!(found.is_file(), "{}: of a kind that is not recorded", path.display());
            operations.push(Operation::MakeFile(name.clone(), mode));
            operations.push(Operation::Write(name, fs::read(&path).unwrap()));
        }
    }
}

/// Folders last: the order in which they must go.
fn removed(path: &Path, relative: &Path, operations: &mut Vec<Operation>) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if found.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            removed(&entry.path(), &relative.join(entry.file_name()), operations);
        }
    }
    operations.push(Operation::Remove(relative.to_owned()));
}

/// Applies `change`, and records it if it is watched.
pub(super) fn watched(change: Change<'_>) -> io::Result<()> {
    let Some((operations, is_full)) = WATCH.with_borrow(|watch| {
        let watch = watch.as_ref()?;
        Some((watch.operations_of(change)?, watch.is_full()))
    }) else {
        return change.act();
    };
    let (done, operations) = match is_full.then(|| half(change)).flatten() {
        Some(done) => (done, operations.into_iter().take(2).map(halved).collect()),
        None => (change.act(), operations),
    };
    // A full disk leaves a half of what was to be written.
    let is_done = done.is_ok() || is_full && matches!(change, Change::WriteFile { .. });
    if is_done {
        WATCH.with_borrow_mut(|watch| watch.as_mut().unwrap().operations.extend(operations));
    }
    done
}

/// What becomes of a change that needs room when there is none; nothing if it needs none.
fn half(change: Change<'_>) -> Option<io::Result<()>> {
    let full = || io::Error::from_raw_os_error(libc::ENOSPC);
    match change {
        Change::MakeFolder { .. } | Change::Rename { .. } | Change::Overwrite { .. } => {
            Some(Err(full()))
        }
        Change::WriteFile { path, bytes, mode } => {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            file.write_all(&bytes[..bytes.len() / 2]).unwrap();
            Some(Err(full()))
        }
        Change::SetMode { .. }
        | Change::RemoveFile { .. }
        | Change::RemoveTree { .. }
        | Change::SyncNames { .. }
        | Change::SyncDisk { .. } => None,
    }
}

fn halved(operation: Operation) -> Operation {
    match operation {
        Operation::Write(path, mut bytes) => {
            bytes.truncate(bytes.len() / 2);
            Operation::Write(path, bytes)
        }
        other => other,
    }
}

impl Watch {
    fn is_full(&self) -> bool {
        self.full_at.is_some_and(|at| self.operations.len() >= at)
    }

    /// What `change` is to the disk; nothing if it lies elsewhere.
    fn operations_of(&self, change: Change<'_>) -> Option<Vec<Operation>> {
        let relative = |path: &Path| path.strip_prefix(&self.root).ok().map(Path::to_owned);
        Some(match change {
            Change::MakeFolder { path, mode } => vec![Operation::MakeFolder(relative(path)?, mode)],
            Change::SetMode { path, mode } => vec![Operation::SetMode(relative(path)?, mode)],
            Change::WriteFile { path, bytes, mode } => {
                let path = relative(path)?;
                vec![
                    Operation::MakeFile(path.clone(), mode),
                    Operation::Write(path.clone(), bytes.to_owned()),
                    Operation::SyncContent(path),
                ]
            }
            Change::Overwrite { path, bytes } => {
                let name = relative(path)?;
                let make = (!path.exists()).then(|| Operation::MakeFile(name.clone(), 0o644));
                let write = Operation::Write(name.clone(), bytes.to_owned());
                make.into_iter().chain([write, Operation::SetLen(name, bytes.len())]).collect()
            }
            Change::Rename { from, to } => vec![Operation::Rename(relative(from)?, relative(to)?)],
            Change::RemoveFile { path } => vec![Operation::Remove(relative(path)?)],
            Change::RemoveTree { path } => {
                let mut operations = Vec::new();
                removed(path, &relative(path)?, &mut operations);
                operations
            }
            Change::SyncNames { folder } => vec![Operation::SyncNames(relative(folder)?)],
            Change::SyncDisk { folder } => relative(folder).map(|_| vec![Operation::SyncDisk])?,
        })
    }
}
