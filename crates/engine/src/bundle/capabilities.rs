//! Linux capabilities: all there are, and Docker's default set.

/// Every capability of the kernel that libcontainer knows.
pub const ALL: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// What Docker gives a container that asks for nothing.
pub const DEFAULT: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The set after `add` and `drop`. Docker's order: with `ALL` added, `drop` is taken from all;
/// with `ALL` dropped, only what is added is left; else `drop` wins.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Vec<&'static str> {
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    let base: &[&'static str] = match () {
        () if privileged || has(add, "ALL") => ALL,
        () if has(drop, "ALL") => &[],
        () => DEFAULT,
    };
    let dropped = |name: &str| !privileged && has(drop, name);
    ALL.iter()
        .copied()
        .filter(|name| {
            (base.contains(name) && !dropped(name)) || (has(add, name) && !dropped(name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_follow_dockers_rules() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |add: &[&str], drop: &[&str], want: usize| {
            assert_eq!(resolve(&list(add), &list(drop), false).len(), want, "+{add:?} -{drop:?}");
        };
        check(&[], &[], 14);
        check(&["CAP_NET_ADMIN"], &[], 15);
        check(&[], &["CAP_MKNOD"], 13);
        check(&["CAP_KILL"], &["ALL"], 1);
        check(&["ALL"], &["CAP_KILL"], ALL.len() - 1);
        assert_eq!(resolve(&[], &list(&["ALL"]), true).len(), ALL.len());
    }
}
