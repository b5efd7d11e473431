//! Who may do what in the data folder, and who holds it.
//!
//! | in `<data>` | owner | mode |
//! |---|---|---|
//! | the folder itself | root, group of the runtime | 1770: the runtime adds its own, but cannot replace root's |
//! | `edge.db…`, `edge.json`, `keys/`, `messages/`, `run/` | the runtime | 0600 and 0700 |
//! | `engine/`: images, containers, `helper.sock`, `helper.json`, `owner` | root | 0711 |
//! | `given/`: copies of the files that `config.toml` names | root, group of the runtime | 0750 |
//! | `lock` | root | 0644 |

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge::provisioning::DeviceKey;
use edge::settings::{EdgeCa, Settings};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::user::User;

/// What the runtime writes itself.
const OWNED: [&str; 7] =
    ["edge.db", "edge.db-wal", "edge.db-shm", "edge.json", "keys", "messages", "run"];
/// Longest file that `config.toml` may name, in bytes.
const GIVEN_BYTES_MAX: u64 = 1024 * 1024;
/// Deepest folder that changes its owner.
const DEPTH_MAX: usize = 16;
/// How long the processes of a launcher that was killed may take to end.
const BURIAL_MAX: Duration = Duration::from_secs(10);
/// How often the lock is tried meanwhile.
const BURIAL_LOOK: Duration = Duration::from_millis(20);

/// Takes the folder for this process, or says who has it.
///
/// The lock of a launcher is also its children's: it is free when the last of them has ended.
pub(crate) fn lock(data: &Path) -> Result<Flock<File>> {
    let path = data.join("lock");
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
    let mut left = BURIAL_MAX;
    let mut held = loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => break held,
            Err((file, _)) => file,
        };
        let holder = fs::read_to_string(&path).unwrap_or_default();
        let holder = holder.trim();
        if lives(holder) || left.is_zero() {
            bail!("process {holder} already runs a device in {}", data.display());
        }
        // Its launcher is dead, so the kernel is about to end the others, too.
        std::thread::sleep(BURIAL_LOOK);
        left = left.saturating_sub(BURIAL_LOOK);
    };
    // Only for people; the lock itself is the kernel's.
    held.set_len(0).and_then(|()| writeln!(held, "{}", std::process::id())).ok();
    Ok(held)
}

/// Whether the process exists and is more than a number that waits to be buried.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The engine's folder in the data folder.
pub(crate) fn engine(data: &Path) -> PathBuf {
    data.join("engine")
}

/// Where the helper listens.
pub(crate) fn helper_socket(data: &Path) -> PathBuf {
    engine(data).join("helper.sock")
}

/// Names the copies that [`prepare`] makes, instead of the operator's own files, which may be
/// root's alone.
pub(crate) fn take_given(settings: &mut Settings) {
    let given = settings.own.data.join("given");
    if let Some(path) = &mut settings.trust_bundle_cert {
        *path = given.join("trust-bundle.pem");
    }
    if let EdgeCa::Given { cert, key } = &mut settings.edge_ca {
        *cert = given.join("edge-ca.pem");
        *key = given.join("edge-ca.key.pem");
    }
    if let DeviceKey::File(path) = &mut settings.provisioning.key {
        *path = given.join("device.key");
    }
}

/// Makes the folders, hands the runtime what is its own, and listens for the helper.
/// The caller is root and holds the lock.
pub(crate) fn prepare(settings: &Settings, user: User) -> Result<UnixListener> {
    let data = &settings.own.data;
    own(data, user).with_context(|| format!("cannot protect {}", data.display()))?;
    give(settings, user)?;
    for socket in [&settings.listen.management, &settings.listen.workload] {
        let folder = socket.parent().unwrap_or(socket);
        if !folder.starts_with(data) && !folder.exists() {
            fs::create_dir_all(folder)
                .and_then(|()| chown(folder, Some(user.uid), Some(user.gid)))
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
    }
    let path = helper_socket(data);
    listen(&path, user).with_context(|| format!("cannot listen at {}", path.display()))
}

fn own(data: &Path, user: User) -> io::Result<()> {
    chown(data, Some(0), Some(user.gid))?;
    fs::set_permissions(data, Permissions::from_mode(0o1770))?;
    let engine = engine(data);
    match fs::DirBuilder::new().mode(0o711).create(&engine) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if !fs::symlink_metadata(&engine)?.is_dir() {
        return Err(io::Error::other("engine is no folder"));
    }
    chown(&engine, Some(0), Some(0))?;
    // Once only: later the folder holds what the runtime put there, perhaps to fool root.
    let noted = engine.join("owner");
    let note = format!("{}:{}\n", user.uid, user.gid);
    if fs::read_to_string(&noted).is_ok_and(|text| text == note) {
        return Ok(());
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = Dir::open(data, flags, Mode::empty())?;
    for name in OWNED {
        hand_over(&mut folder, name.as_ref(), user, DEPTH_MAX)?;
    }
    fs::write(&noted, note)
}

/// Changes the owner of `name` in `folder` and of all below. Follows no link, and leaves alone
/// what has a second name, which may lie anywhere.
fn hand_over(folder: &mut Dir, name: &std::ffi::OsStr, user: User, depth: usize) -> io::Result<()> {
    let found = match fstatat(folder.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        found => found?,
    };
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFDIR {
        let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other("too deep"))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut inner = Dir::openat(folder.as_fd(), name, flags, Mode::empty())?;
        let names: Vec<_> = inner
            .iter()
            .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
            .collect::<nix::Result<_>>()?;
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            use std::os::unix::ffi::OsStrExt;
            hand_over(&mut inner, std::ffi::OsStr::from_bytes(name.to_bytes()), user, depth)?;
        }
    } else if found.st_nlink > 1 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    fchownat(folder.as_fd(), name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Copies the files that the configuration names to where the runtime can read them.
fn give(settings: &Settings, user: User) -> Result<()> {
    let mut own = settings.clone();
    take_given(&mut own);
    let mut pairs = Vec::new();
    pairs.extend(settings.trust_bundle_cert.iter().zip(&own.trust_bundle_cert));
    if let (EdgeCa::Given { cert, key }, EdgeCa::Given { cert: own_cert, key: own_key }) =
        (&settings.edge_ca, &own.edge_ca)
    {
        pairs.extend([(cert, own_cert), (key, own_key)]);
    }
    if let (DeviceKey::File(key), DeviceKey::File(own_key)) =
        (&settings.provisioning.key, &own.provisioning.key)
    {
        pairs.push((key, own_key));
    }
    let folder = settings.own.data.join("given");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot clear {}", folder.display()));
        }
        _ => {}
    }
    fs::DirBuilder::new()
        .mode(0o750)
        .create(&folder)
        .and_then(|()| chown(&folder, Some(0), Some(user.gid)))
        .with_context(|| format!("cannot make {}", folder.display()))?;
    for (from, to) in pairs {
        let mut text = Vec::new();
        File::open(from)
            .and_then(|file| file.take(GIVEN_BYTES_MAX + 1).read_to_end(&mut text))
            .with_context(|| format!("cannot read {}", from.display()))?;
        if u64::try_from(text.len()).is_ok_and(|len| len > GIVEN_BYTES_MAX) {
            bail!("{} is longer than {GIVEN_BYTES_MAX} bytes", from.display());
        }
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o640).open(to);
        made.and_then(|mut file| {
            fchown(&file, Some(0), Some(user.gid))?;
            file.write_all(&text)
        })
        .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

/// The runtime may connect; the helper asks the kernel once more who it is.
fn listen(path: &Path, user: User) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    chown(path, Some(user.uid), Some(user.gid))?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
