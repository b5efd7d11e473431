//! Runs a section in a process of its own, with a deadline, and leaves nothing of it behind.
//!
//! Servers, runtimes, monitors and containers whose parent is gone become children of this
//! process (`PR_SET_CHILD_SUBREAPER`), so that it finds all of them, whatever went wrong.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blackbox::process as running;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::clock;
use crate::docker::unmount_below;
use crate::report::progress;

/// Where folders of sections lie: on a real disk, with a short path.
const PARENT: &str = "/var/tmp";
/// How long those that were told to end may take.
const END: Duration = Duration::from_secs(15);
/// Who, told to end, ends what it started and takes away what it made.
const TIDY: [&str; 2] = ["selvedge-edge", "dockerd"];
const GROUPS: &str = "/sys/fs/cgroup";
/// How long a group may still be used when its last process is gone.
const GROUPS_WAIT: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Who tells this program to end.
const ENDINGS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Ends and forgets whatever a section started.
#[derive(Debug)]
pub(crate) struct Keeper {
    signals: SignalFd,
}

impl Keeper {
    pub(crate) fn new() -> Result<Self> {
        set_child_subreaper(true).context("cannot look after orphans")?;
        let mut watched = SigSet::from(Signal::SIGCHLD);
        for signal in ENDINGS {
            watched.add(signal);
        }
        watched.thread_block().context("signals")?;
        let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { signals })
    }

    /// Runs this program with `args` as a section that may take `limit`; whether it succeeded.
    pub(crate) fn run(&self, args: &[String], limit: Duration) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("sb").rand_bytes(4).tempdir_in(PARENT)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let groups = groups();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--inside")
            .args(args)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            // Signals of the terminal are for this process, which passes them on.
            .process_group(0)
            .spawn()
            .context("starting a section")?;
        let done = self.attend(&mut child, limit);
        end_family(&mut child);
        unmount_below(folder.path());
        if !matches!(&done, Ok(status) if status.success()) {
            remove_groups(&groups);
        }
        let path = folder.path().to_owned();
        folder.close().with_context(|| format!("removing {}", path.display()))?;
        match done? {
            status if status.success() => Ok(()),
            status => bail!("the section ended with {status}"),
        }
    }

    fn attend(&self, child: &mut Child, limit: Duration) -> Result<ExitStatus> {
        let begun = clock::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let Some(left) = limit.checked_sub(begun.elapsed()) else {
                bail!("it took longer than {} s", limit.as_secs());
            };
            let mut all = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left.min(Duration::from_secs(1)))?;
            if poll(&mut all, timeout).unwrap_or(0) > 0
                && let Some(signal) = self.signals.read_signal()?
                && signal.ssi_signo != Signal::SIGCHLD as u32
            {
                bail!("it was told to end");
            }
        }
    }
}

/// Lets a section be ended as its keeper does it: signals that the keeper takes come in again.
pub(crate) fn enter() -> Result<()> {
    SigSet::empty().thread_set_mask().context("signals")
}

/// Ends `child` and all that descends from this process: first those who tidy up behind
/// themselves and others, whose parent is gone with `child`.
fn end_family(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id())
        && matches!(child.try_wait(), Ok(None))
    {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        child.wait().ok();
    }
    let own = std::process::id();
    let tidies = |pid: &i32| {
        let pid = u32::try_from(*pid).unwrap_or_default();
        let line = running::command_line(pid);
        let name = line.first().and_then(|it| it.rsplit('/').next()).unwrap_or_default();
        running::parent(pid) == Some(own) && TIDY.contains(&name)
    };
    let begun = clock::now();
    let mut is_told = false;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(it) if it.pid().is_some()) {}
        let left = descendants(own);
        if left.is_empty() || begun.elapsed() > END * 2 {
            break;
        }
        let tidying: Vec<i32> = left.iter().copied().filter(tidies).collect();
        if tidying.is_empty() || begun.elapsed() > END {
            progress(&format!("{} processes are left and are killed", left.len()));
            tell(&left, Signal::SIGKILL);
        } else if !is_told {
            progress(&format!("{} processes are told to end", tidying.len()));
            tell(&tidying, Signal::SIGTERM);
            is_told = true;
        }
        sleep(LOOK);
    }
}

fn tell(processes: &[i32], signal: Signal) {
    for pid in processes {
        // It may have ended already.
        kill(Pid::from_raw(*pid), signal).ok();
    }
}

/// The control groups that this machine has where a section may make some.
fn groups() -> BTreeSet<PathBuf> {
    let inside = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut found = BTreeSet::new();
    // Version 1 has a folder for each controller, version 2 has none between.
    let mut bases = inside(Path::new(GROUPS));
    bases.push(PathBuf::from(GROUPS));
    for base in bases {
        for parent in ["", "selvedge", "docker"].map(|name| base.join(name)) {
            found.extend(inside(&parent));
        }
    }
    found
}

/// Takes away what a section has left of them, as soon as its last threads are gone.
fn remove_groups(before: &BTreeSet<PathBuf>) {
    let begun = clock::now();
    loop {
        // The kernel keeps one that is used, by us or by anybody else.
        let used = groups_since(before).into_iter().filter(|left| fs::remove_dir(left).is_err());
        if used.count() == 0 || begun.elapsed() > GROUPS_WAIT {
            return;
        }
        sleep(LOOK);
    }
}

/// Those of a section that have come since, by their names.
fn groups_since(before: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
        name.contains("-bench-") || parent == "selvedge" || parent == "docker"
    };
    groups().into_iter().filter(|path| !before.contains(path) && is_ours(path)).collect()
}

/// Every process that `ancestor` or one of its children started, at this moment.
fn descendants(ancestor: u32) -> Vec<i32> {
    let mut found = vec![ancestor];
    let all: Vec<(u32, u32)> =
        running::all().into_iter().filter_map(|pid| Some((pid, running::parent(pid)?))).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
    }
    found.into_iter().skip(1).filter_map(|pid| i32::try_from(pid).ok()).collect()
}

/// Whether a page can be written at all, before an hour is spent.
pub(crate) fn check_page(page: Option<&Path>) -> Result<Option<PathBuf>> {
    let Some(page) = page else { return Ok(None) };
    let page = std::path::absolute(page)?;
    let folder = page.parent().context("the page has no folder")?;
    if !folder.is_dir() {
        bail!("{} is no folder", folder.display());
    }
    Ok(Some(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grandchildren_are_found() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut word = [0; 7];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut word).unwrap();
        let found = descendants(std::process::id());
        let shell_pid = i32::try_from(shell.id()).unwrap();
        let below = descendants(shell.id());
        for pid in &below {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert!(found.contains(&shell_pid));
        assert_eq!(below.len(), 1);
        assert!(found.contains(&below[0]));
    }
}
