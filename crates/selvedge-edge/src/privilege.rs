//! From root to nobody in particular, for good, before anything is opened or listened to.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use caps::CapSet;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, getppid, getresgid, getresuid, setgroups, setresgid, setresuid};

use crate::user::User;

/// Ends this process when the launcher dies, however it dies. Not kept across a change of user.
/// Signals, which the launcher blocks for itself, come in here again.
///
/// # Errors
/// When the launcher is dead already.
pub(crate) fn end_with(launcher: u32) -> Result<()> {
    SigSet::empty().thread_set_mask().context("signals")?;
    set_pdeathsig(Signal::SIGKILL).context("cannot be ended with the launcher")?;
    if Ok(getppid()) != i32::try_from(launcher).map(Pid::from_raw) {
        bail!("process {launcher}, which started this one, is gone");
    }
    Ok(())
}

/// Becomes `user` without any capability, unable to get one again.
///
/// # Errors
/// When a right could not be given up; the caller must end.
pub(crate) fn drop_to(user: User, group: Option<u32>) -> Result<()> {
    // Whatever is made without a word about its mode is this user's alone.
    umask(Mode::from_bits_truncate(0o077));
    caps::clear(None, CapSet::Ambient).context("ambient capabilities")?;
    caps::clear(None, CapSet::Bounding).context("bounding capabilities")?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = group.map(Gid::from_raw).into_iter().collect();
    setgroups(&groups).context("groups")?;
    setresgid(gid, gid, gid).context("group")?;
    setresuid(uid, uid, uid).context("user")?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).with_context(|| format!("{set:?} capabilities"))?;
    }
    set_no_new_privs().context("no_new_privs")?;
    check(uid, gid)
}

/// Believes nobody, not even the calls above.
fn check(uid: Uid, gid: Gid) -> Result<()> {
    let (user, group) = (getresuid()?, getresgid()?);
    let users = [user.real, user.effective, user.saved];
    let groups = [group.real, group.effective, group.saved];
    if users != [uid; 3] || groups != [gid; 3] {
        bail!("this process is still {users:?}, {groups:?}");
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Bounding] {
        let left = caps::read(None, set)?;
        if !left.is_empty() {
            bail!("capabilities are left: {set:?} {left:?}");
        }
    }
    Ok(())
}

/// Lets `user` reach `data` also below folders that are closed to it, such as `/root`: this
/// process gets mounts of its own, where the closed folder holds nothing but `data`.
pub(crate) fn open_way(data: &Path, user: User) -> Result<()> {
    let Some(closed) = first_closed(data, user)? else { return Ok(()) };
    unshare(CloneFlags::CLONE_NEWNS).context("own mounts")?;
    let nothing: Option<&str> = None;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(nothing, "/", nothing, slave, nothing).context("own mounts")?;
    let_go(data)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(data, flags, Mode::empty())?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=755,size=256k");
    mount(Some("tmpfs"), &closed, Some("tmpfs"), quiet, options)
        .with_context(|| format!("covering {}", closed.display()))?;
    fs::create_dir_all(data)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    mount(Some(&source), data, nothing, MsFlags::MS_BIND, nothing)
        .with_context(|| format!("showing {}", data.display()))?;
    let closing = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | quiet;
    mount(nothing, &closed, nothing, closing, nothing).context("closing the cover")?;
    Ok(())
}

/// The first folder on the way to `data` that `user` may not pass.
fn first_closed(data: &Path, user: User) -> Result<Option<PathBuf>> {
    let mut above: Vec<_> = data.ancestors().skip(1).collect();
    above.reverse();
    for folder in above {
        let found =
            fs::metadata(folder).with_context(|| format!("looking at {}", folder.display()))?;
        let pass = match (found.uid() == user.uid, found.gid() == user.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if found.mode() & pass == 0 {
            return Ok(Some(folder.to_owned()));
        }
    }
    Ok(None)
}

/// Gives back the copies of mounts that others will want to unmount: file systems of containers
/// and pinned network namespaces, which would live as long as this process.
fn let_go(data: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("mounts")?;
    let own = crate::folder::engine(data);
    for line in table.lines().rev() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(place) = before.split(' ').nth(4).map(plain) else { continue };
        let kind = after.split(' ').next().unwrap_or_default();
        let theirs = matches!(kind, "overlay" | "nsfs") || place.starts_with(&own);
        if theirs && !data.starts_with(&place) {
            // One that is gone meanwhile is as good.
            umount2(&place, MntFlags::MNT_DETACH).ok();
        }
    }
    Ok(())
}

/// A path of `mountinfo`, where spaces and such are written as three octal digits.
fn plain(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (written, meant) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(written, meant);
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_folder_that_lets_nobody_pass_is_found() {
        let scratch = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let data = scratch.path().join("a/b/data");
        fs::create_dir_all(&data).unwrap();
        let mode = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let user = User { uid: 61_000, gid: 61_000 };
        let check = |expected: Option<&Path>| {
            assert_eq!(first_closed(&data, user).unwrap().as_deref(), expected);
        };
        check(Some(scratch.path()));
        mode(scratch.path(), 0o711);
        check(None);
        // The folder itself is handed over, so its mode does not matter.
        mode(&data, 0o700);
        check(None);
        mode(&scratch.path().join("a/b"), 0o770);
        check(Some(&scratch.path().join("a/b")));
        std::os::unix::fs::chown(scratch.path().join("a/b"), None, Some(user.gid)).unwrap();
        check(None);
    }

    #[test]
    fn a_path_of_the_mount_table_is_read_as_it_was_meant() {
        assert_eq!(plain("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }
}
