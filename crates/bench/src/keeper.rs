//! Runs a section in a process of its own, with a deadline, and leaves nothing of it behind.
//!
//! Servers, runtimes, monitors and containers whose parent is gone become children of this
//! process (`PR_SET_CHILD_SUBREAPER`), so that it finds all of them, whatever went wrong.

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

/// Ends `child` and all that descends from this process: first those who can tidy up.
fn end_family(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id())
        && matches!(child.try_wait(), Ok(None))
    {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        child.wait().ok();
    }
    let begun = clock::now();
    let mut is_told = false;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(it) if it.pid().is_some()) {}
        let left = descendants(std::process::id());
        if left.is_empty() || begun.elapsed() > END * 2 {
            break;
        }
        let is_late = begun.elapsed() > END;
        if !is_told || is_late {
            let signal = if is_late { Signal::SIGKILL } else { Signal::SIGTERM };
            progress(&format!("{} processes are left: {signal}", left.len()));
            for pid in &left {
                kill(Pid::from_raw(*pid), signal).ok();
            }
            is_told = true;
        }
        sleep(LOOK);
    }
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
