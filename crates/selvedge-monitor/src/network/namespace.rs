//! Network namespaces that live as long as a file is mounted on them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// This process's own namespace.
const OWN: &str = "/proc/self/ns/net";

/// The namespace pinned at `path`; a new, empty one if there is none.
pub(super) fn pin(path: &Path) -> Result<File, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if !is_pinned(path) {
        if let Some(folder) = path.parent() {
            let mut private = fs::DirBuilder::new();
            private.recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        // What stands there is a leftover of a machine that was switched off, or nothing.
        let mut open = OpenOptions::new();
        open.create(true).truncate(false).write(true).open(path).map_err(failed)?;
        let home = File::open(OWN).map_err(failed)?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("a new namespace: {error}"))?;
        let none: Option<&str> = None;
        let pinned = mount(Some(OWN), path, none, MsFlags::MS_BIND, none);
        enter(&home)?;
        pinned.map_err(|error| format!("pinning {}: {error}", path.display()))?;
    }
    File::open(path).map_err(failed)
}

/// Lets go of the namespace at `path`; nothing there is fine.
pub(super) fn unpin(path: &Path) -> Result<(), String> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(|error| format!("unmounting {}: {error}", path.display()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Does `work` in `namespace` and comes back. Sockets stay in the namespace they were opened in.
pub(super) fn inside<T>(
    namespace: &File,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let home = File::open(OWN).map_err(|error| format!("{OWN}: {error}"))?;
    enter(namespace)?;
    let done = work();
    enter(&home)?;
    done
}

fn enter(namespace: &File) -> Result<(), String> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|error: Errno| format!("entering a namespace: {error}"))
}
