//! What the kernel says about processes and disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{major, minor};

/// Clock ticks a second in `/proc/<pid>/stat`; fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a sector in the kernel's statistics, whatever the disk has.
const SECTOR_BYTES: u64 = 512;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    /// Of `pss`, what no file backs.
    pub(crate) anonymous: u64,
}

/// Lets this process and its children open as many files as they may.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of open files")
}

/// Resident and proportional memory.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .with_context(|| format!("smaps_rollup of {pid} has no {name}"))
    };
    Ok(Memory { rss: of("Rss")?, pss: of("Pss")?, anonymous: of("Pss_Anon")? })
}

/// User and system time, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold blanks; fields are counted behind it.
    let rest = text.rsplit_once(')').context("stat has no name")?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (next().context("utime")?, next().context("stime")?);
    Ok((user + system) / TICKS_PER_SECOND)
}

/// Bytes that the process caused to be written to disk: its dirtied pages, in whole pages.
pub(crate) fn bytes_written(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|number| number.parse().ok())
        .context("io has no write_bytes")
}

/// Bytes that everybody wrote to the disk under `folder` since the machine started; none when
/// the file system is on no disk of its own.
pub(crate) fn disk_written(folder: &Path) -> Option<u64> {
    let device = fs::metadata(folder).ok()?.dev();
    let path = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
    let text = fs::read_to_string(path).ok()?;
    // Field 7: sectors written. Source: Documentation/block/stat.rst.
    let sectors = text.split_whitespace().nth(6)?.parse::<u64>().ok()?;
    Some(sectors * SECTOR_BYTES)
}

/// How many threads it has.
pub(crate) fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// A control group of the memory controller in which this process can start others.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    home: PathBuf,
    is_v1: bool,
}

impl Group {
    /// Makes the group `name`. Needs root.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let is_v1 = v1.is_dir();
        let base = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_wanted = if is_v1 {
                controllers.split(',').any(|one| one == "memory")
            } else {
                controllers.is_empty()
            };
            is_wanted.then(|| path.trim_start_matches('/').to_owned())
        });
        let folder = base.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder, home: base.join(own.unwrap_or_default()), is_v1 })
    }

    /// Does `work`, whose processes then belong to the group.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.enter()?;
        let done = work();
        self.leave()?;
        done
    }

    /// Whatever this process starts from now on belongs to the group.
    pub(crate) fn enter(&self) -> Result<()> {
        enter(&self.folder)
    }

    /// And from now on no more.
    pub(crate) fn leave(&self) -> Result<()> {
        enter(&self.home)
    }

    /// Memory of the group that the kernel could not take back at once: what is used, without
    /// the pages of files that nobody has touched lately. Absent where nobody counts.
    pub(crate) fn working_set(&self) -> Option<u64> {
        working_set(&self.folder, self.is_v1)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that still end keep it; an empty group costs nothing.
        fs::remove_dir(&self.folder).ok();
    }
}

fn working_set(folder: &Path, is_v1: bool) -> Option<u64> {
    let name = if is_v1 { "memory.usage_in_bytes" } else { "memory.current" };
    let used = fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok()?;
    let key = if is_v1 { "total_inactive_file " } else { "inactive_file " };
    let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
    let idle = stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
    Some(used.saturating_sub(idle.unwrap_or(0)))
}

fn enter(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("entering {}", group.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_threads() {
        let own = std::process::id();
        let found = memory(own).unwrap();
        assert!(found.rss >= found.pss && found.pss >= found.anonymous && found.anonymous > 0);
        assert!(cpu_seconds(own).unwrap() >= 0.0);
        assert!(threads(own) >= 1);
    }

    #[test]
    fn a_working_set_leaves_out_what_lies_idle() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("memory.usage_in_bytes", "1000\n");
        write("memory.current", "900\n");
        write("memory.stat", "inactive_file 100\ntotal_inactive_file 300\n");
        assert_eq!(working_set(folder.path(), true), Some(700));
        assert_eq!(working_set(folder.path(), false), Some(800));
    }
}
