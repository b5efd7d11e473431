//! Which unprivileged user the runtime becomes. Pure but for reading two files.
//!
//! `getpwnam` is not used: this program is linked statically, and the C library would load
//! shared objects for it, as root.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, bail};

/// The user that is taken when nobody names one, if the machine has it.
const NAME: &str = "selvedge";
/// Both numbers of the runtime when the machine has no such user. Nobody hands this number out:
/// it lies between the ranges of Debian (up to 59999) and systemd (61184 and up).
const NUMBER: u32 = 61_000;
/// Longest `passwd` or `group` file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The numbers of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The names that a machine knows.
#[derive(Debug, Default)]
pub(crate) struct Names {
    passwd: String,
    group: String,
}

impl Names {
    /// Those in `/etc/passwd` and `/etc/group`; a machine without them has numbers only.
    pub(crate) fn of_this_machine() -> Self {
        let read = |path: &str| {
            let mut text = Vec::new();
            let file = File::open(path).map(|file| file.take(FILE_BYTES_MAX));
            file.and_then(|mut file| file.read_to_end(&mut text)).ok();
            String::from_utf8_lossy(&text).into_owned()
        };
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// The number of a group, given by name or number.
    pub(crate) fn group(&self, name: &str) -> Result<u32> {
        let found = row(&self.group, name).and_then(|row| number(row.get(2)));
        found
            .or_else(|| name.parse().ok())
            .with_context(|| format!("this machine has no group {name:?}"))
    }

    /// The user that `wanted` (`user` or `user:group`, names or numbers) means, or the default.
    ///
    /// # Errors
    /// When the machine knows no such name, and for root, which the runtime never is.
    pub(crate) fn choose(&self, wanted: Option<&str>) -> Result<User> {
        let user = match wanted {
            Some(wanted) => self.named(wanted).context("[selvedge] user")?,
            None => self.named(NAME).unwrap_or(User { uid: NUMBER, gid: NUMBER }),
        };
        if user.uid == 0 || user.gid == 0 {
            bail!("[selvedge] user: the runtime does not run as root; name another user or group");
        }
        Ok(user)
    }

    fn named(&self, wanted: &str) -> Result<User> {
        let (name, group) = match wanted.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (wanted, None),
        };
        let row = row(&self.passwd, name);
        let uid = row.as_ref().and_then(|row| number(row.get(2))).or_else(|| name.parse().ok());
        let uid = uid.with_context(|| format!("this machine has no user {name:?}"))?;
        let gid = match group {
            Some(group) => self.group(group)?,
            // A number without a name gets the group of the same number.
            None => row.as_ref().and_then(|row| number(row.get(3))).unwrap_or(uid),
        };
        Ok(User { uid, gid })
    }
}

/// The line of `text` that begins with `name`, or has it as its number.
fn row<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let rows = || text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    rows()
        .find(|row| row.first() == Some(&name))
        .or_else(|| rows().find(|row| !name.is_empty() && row.get(2) == Some(&name)))
}

fn number(field: Option<&&str>) -> Option<u32> {
    field?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_name_or_number_and_is_never_root() {
        let names = |more: &str| Names {
            passwd: format!("root:x:0:0::/root:/bin/sh\nann:x:1000:1001:A:/h:/bin/sh\n{more}"),
            group: "root:x:0:\nstaff:x:50:ann\nann:x:1001:\n".to_owned(),
        };
        let check = |wanted: Option<&str>, uid: u32, gid: u32| {
            assert_eq!(names("").choose(wanted).unwrap(), User { uid, gid }, "{wanted:?}");
        };
        check(None, NUMBER, NUMBER);
        check(Some("ann"), 1000, 1001);
        check(Some("1000"), 1000, 1001);
        check(Some("ann:staff"), 1000, 50);
        check(Some("ann:77"), 1000, 77);
        check(Some("4321"), 4321, 4321);
        check(Some("4321:staff"), 4321, 50);
        let own = names("selvedge:x:990:991::/:/bin/false\n").choose(None).unwrap();
        assert_eq!(own, User { uid: 990, gid: 991 });
        let refuse = |wanted: &str, words: &str| {
            let error = format!("{:#}", names("").choose(Some(wanted)).unwrap_err());
            assert!(error.contains("[selvedge] user") && error.contains(words), "{error}");
        };
        refuse("ghost", "no user \"ghost\"");
        refuse("ann:ghosts", "no group \"ghosts\"");
        refuse("", "no user \"\"");
        refuse("root", "does not run as root");
        refuse("0", "does not run as root");
        refuse("ann:root", "does not run as root");
    }
}
