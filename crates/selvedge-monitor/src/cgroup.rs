//! The control groups above a container's own.

use std::path::Path;
use std::{fs, io};

/// Where systems mount the hierarchy.
const ROOT: &str = "/sys/fs/cgroup";

/// Makes the groups above `group`, a path from the hierarchy's root, on cgroup v2.
///
/// The library makes each that is missing and fails if another monitor made it meanwhile; what
/// is there before it looks is no such race.
///
/// # Errors
/// If one cannot be made.
pub(crate) fn make_parents(group: &Path) -> io::Result<()> {
    make_parents_in(Path::new(ROOT), group)
}

fn make_parents_in(root: &Path, group: &Path) -> io::Result<()> {
    // Only the root of cgroup v2 has this file.
    if !root.join("cgroup.controllers").is_file() {
        return Ok(());
    }
    let parent = group.parent().unwrap_or(group);
    fs::create_dir_all(root.join(parent.strip_prefix("/").unwrap_or(parent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_above_are_made_on_v2_only_and_may_be_there() {
        let root = tempfile::tempdir().unwrap();
        let above = root.path().join("selvedge/inner");
        make_parents_in(root.path(), Path::new("/selvedge/inner/one")).unwrap();
        assert!(!above.exists(), "v1 has a hierarchy per controller");
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        for group in ["/selvedge/inner/one", "/selvedge/inner/two", "selvedge/three"] {
            make_parents_in(root.path(), Path::new(group)).unwrap();
            assert!(above.is_dir() && !root.path().join(group.trim_start_matches('/')).exists());
        }
    }
}
