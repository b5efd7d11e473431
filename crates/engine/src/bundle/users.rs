//! Who a module runs as: `user[:group]`, names or numbers, by the image's own files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::error::EngineError;
use crate::runtime::EngineResult;

/// Longest `passwd` or `group` file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Numbers of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups, sorted.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: String,
}

/// Reads a file of an image as the image sees it: a link in it leads nowhere else.
fn image_file(root: &Path, name: &str) -> String {
    let read = || -> std::io::Result<String> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(root, flags, Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let file = File::from(openat2(&folder, name, how)?);
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    // An image without the file has no names, only numbers.
    read().unwrap_or_default()
}

/// Finds `user` (Docker's `User`) in the image at `root`; empty means root.
///
/// # Errors
/// `InvalidCreateOptions` when the image does not know a name.
pub fn find(root: &Path, user: &str, group_add: &[String]) -> EngineResult<Identity> {
    let (passwd, group) = (image_file(root, "etc/passwd"), image_file(root, "etc/group"));
    resolve(&passwd, &group, user, group_add)
}

fn resolve(passwd: &str, group: &str, user: &str, group_add: &[String]) -> EngineResult<Identity> {
    let (user, wanted) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    let row = rows(passwd)
        .find(|row| row.first() == Some(&user) || (number.is_some() && field(row, 2) == number));
    let uid =
        row.as_ref().and_then(|row| field(row, 2)).or(number).ok_or_else(|| {
            EngineError::option("User", format!("the image knows no user {user:?}"))
        })?;
    let group_of = |name: &str, path: &str| -> EngineResult<u32> {
        let found = rows(group).find(|row| row.first() == Some(&name));
        found
            .and_then(|row| field(&row, 2))
            .or_else(|| name.parse().ok())
            .ok_or_else(|| EngineError::option(path, format!("the image knows no group {name:?}")))
    };
    let gid = match wanted {
        Some(name) => group_of(name, "User")?,
        None => row.as_ref().and_then(|row| field(row, 3)).unwrap_or(0),
    };
    let mut groups = Vec::new();
    if wanted.is_none()
        && let Some(name) = row.as_ref().and_then(|row| row.first())
    {
        let member = |row: &Vec<&str>| {
            row.get(3).is_some_and(|members| members.split(',').any(|member| member == *name))
        };
        groups.extend(rows(group).filter(member).filter_map(|row| field(&row, 2)));
    }
    for name in group_add {
        groups.push(group_of(name, "HostConfig.GroupAdd")?);
    }
    groups.sort_unstable();
    groups.dedup();
    let home = row.and_then(|row| row.get(5).map(|home| (*home).to_owned()));
    Ok(Identity { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_owned()) })
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn field(row: &[&str], place: usize) -> Option<u32> {
    row.get(place).and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:10:20::/home/app:/bin/sh\n";
        let group = "root:x:0:\napp:x:20:\ndialout:x:30:app,other\n";
        let check = |user: &str, uid, gid, groups: &[u32], home: &str| {
            let want = Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
            assert_eq!(resolve(passwd, group, user, &[]).unwrap(), want, "{user}");
        };
        check("", 0, 0, &[], "/root");
        check("app", 10, 20, &[30], "/home/app");
        check("10", 10, 20, &[30], "/home/app");
        check("app:dialout", 10, 30, &[], "/home/app");
        check("77", 77, 0, &[], "/");
        check("77:88", 77, 88, &[], "/");
        for bad in ["ghost", "app:ghost", "-1", "4294967296"] {
            assert!(resolve(passwd, group, bad, &[]).is_err(), "{bad}");
        }
        let added = resolve(passwd, group, "app", &["5".to_owned(), "dialout".to_owned()]);
        assert_eq!(added.unwrap().groups, [5, 30]);
    }

    #[test]
    fn a_link_in_the_image_does_not_lead_to_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "evil:x:99:99:::\n").unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(secret.path(), folder.path().join("etc/passwd")).unwrap();
        assert!(find(folder.path(), "evil", &[]).is_err());
    }

    #[test]
    fn of_a_file_of_the_image_so_much_is_read_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        let before = usize::try_from(FILE_BYTES_MAX).unwrap();
        let user = "app:x:10:20:::\n";
        let check = |padding: usize, known: bool| {
            let text = format!("{}\n{user}", "#".repeat(padding - 1));
            std::fs::write(folder.path().join("etc/passwd"), text).unwrap();
            assert_eq!(find(folder.path(), "app", &[]).is_ok(), known, "{padding}");
        };
        check(before - user.len(), true);
        check(before, false);
    }
}
