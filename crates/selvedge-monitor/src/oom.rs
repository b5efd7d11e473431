//! Whether the kernel killed something for want of memory, cgroup v1 or v2.

use std::fs;
use std::path::PathBuf;

/// The file of a process's memory cgroup that counts such kills.
pub(crate) fn counter_of(pid: i32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    file_for(&groups)
}

fn file_for(groups: &str) -> Option<PathBuf> {
    let path_of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            let path = parts.next()?;
            controllers.split(',').any(|name| name == wanted).then_some(path)
        })
    };
    match path_of("memory") {
        Some(path) => Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control").into()),
        None => Some(format!("/sys/fs/cgroup{}/memory.events", path_of("")?).into()),
    }
}

/// Whether the counter in `text` is above zero.
pub(crate) fn killed(text: &str) -> bool {
    text.lines().any(|line| {
        line.strip_prefix("oom_kill ").is_some_and(|count| count.trim().parse() != Ok(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_on_v1_and_on_v2() {
        let check = |groups: &str, file: &str| {
            assert_eq!(file_for(groups), Some(PathBuf::from(file)));
        };
        check("4:memory:/a/b\n0::/x", "/sys/fs/cgroup/memory/a/b/memory.oom_control");
        check("0::/x/y\n", "/sys/fs/cgroup/x/y/memory.events");
        assert_eq!(file_for("1:cpu:/a"), None);
    }

    #[test]
    fn a_kill_is_seen_only_if_counted() {
        assert!(killed("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"));
        assert!(!killed("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n"));
        assert!(killed("low 0\noom 1\noom_kill 1\n"));
        assert!(!killed(""));
    }
}
