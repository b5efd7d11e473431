//! The launcher: what `run` is when root starts it for the embedded engine.
//!
//! It has one thread, no tokio, no TLS and no network. It starts the engine helper (root) and
//! the runtime (an unprivileged user), starts the helper again when it dies, passes signals on,
//! and ends with the runtime's exit status. When it is killed itself, the kernel kills both
//! (`PR_SET_PDEATHSIG`); modules run on under their monitors, and the next start adopts them.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edge::settings::Settings;
use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{Pid, geteuid};
use tracing::{error, info};

use crate::user::{Names, User};
use crate::{RunArgs, clock, folder};

/// The wait before a helper that died is started again; doubled each time.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// A helper that lived so long is no repeated failure.
const GOOD_LIFE: Duration = Duration::from_mins(1);
/// How long a helper may tidy up when the runtime has ended, and how often it is looked at.
const TIDY_MAX: Duration = Duration::from_secs(10);
const TIDY_LOOK: Duration = Duration::from_millis(5);
/// Signals that are the runtime's business.
const PASSED_ON: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Runs the device until the runtime has ended.
pub(crate) fn run(args: &RunArgs, settings: &Settings) -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!(
            "containers need root; start it as root, the runtime itself then becomes another user"
        );
    }
    let names = Names::of_this_machine();
    let user = names.choose(settings.own.user.as_deref())?;
    let group = settings.own.group.as_deref().map(|name| names.group(name)).transpose()?;
    let monitor = monitor(args)?;
    let lock = folder::lock(&settings.own.data)?;
    let listener = folder::prepare(settings, user)?;
    let signals = signals().context("signals")?;
    let start = Start { args, settings, user, group, monitor, listener, lock };
    let mut family = Family {
        runtime: start.runtime()?,
        helper: None,
        begun: clock::now(),
        again: Some(clock::now()),
        backoff: Backoff::default(),
        start,
    };
    info!(uid = user.uid, gid = user.gid, "the runtime runs as this user");
    let status = family.attend(&signals);
    family.end();
    Ok(exit_code(status?))
}

fn monitor(args: &RunArgs) -> Result<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("selvedge-monitor"));
    let monitor = args.monitor.clone().or_else(beside).context("--monitor is missing")?;
    if !monitor.is_file() {
        bail!("{} is not there; name it with --monitor FILE", monitor.display());
    }
    std::path::absolute(&monitor).context("--monitor")
}

fn signals() -> nix::Result<SignalFd> {
    let mut watched = SigSet::from(Signal::SIGCHLD);
    for signal in PASSED_ON {
        watched.add(signal);
    }
    watched.thread_block()?;
    SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// What the two children are started with.
struct Start<'a> {
    args: &'a RunArgs,
    settings: &'a Settings,
    user: User,
    group: Option<u32>,
    monitor: PathBuf,
    /// Stays open here, so that a runtime may connect while no helper lives.
    listener: UnixListener,
    lock: Flock<File>,
}

impl Start<'_> {
    /// This program once more. Each child holds the lock as long as it lives.
    fn command(&self, role: &str) -> Result<(Command, OwnedFd)> {
        let program = std::env::current_exe().context("this program")?;
        let mut command = Command::new(program);
        command.arg(role).args(["--launcher", &std::process::id().to_string()]);
        command.args(["--uid", &self.user.uid.to_string()]);
        // A signal from the terminal is for the launcher, which passes it on.
        command.process_group(0).current_dir("/");
        Ok((command, self.lock.as_fd().try_clone_to_owned().context("the lock")?))
    }

    /// Its standard input is the lock.
    fn runtime(&self) -> Result<Child> {
        let (mut command, lock) = self.command("runtime")?;
        let absolute = |path: &Path| std::path::absolute(path).context("a path");
        command.args(["--gid", &self.user.gid.to_string()]);
        if let Some(group) = self.group {
            command.args(["--group", &group.to_string()]);
        }
        command.args(["--engine", "embedded"]);
        command.arg("--config").arg(absolute(&self.args.config)?);
        command.arg("--data").arg(&self.settings.own.data);
        for archive in &self.args.imports {
            command.arg("--import").arg(absolute(archive)?);
        }
        if self.args.stop_modules {
            command.arg("--stop-modules");
        }
        command.stdin(lock).spawn().context("cannot start the runtime")
    }

    /// Its standard input is the listener, its standard output the lock.
    fn helper(&self) -> Result<Child> {
        let (mut command, lock) = self.command("engine")?;
        let listener = self.listener.as_fd().try_clone_to_owned().context("the listener")?;
        command.arg("--root").arg(folder::engine(&self.settings.own.data));
        command.arg("--monitor").arg(&self.monitor);
        if let Some(network) = self.settings.own.network {
            command.arg("--network").arg(network.to_string());
        }
        command.stdin(Stdio::from(listener)).stdout(lock);
        command.spawn().context("cannot start the engine helper")
    }
}

/// The launcher's two children.
struct Family<'a> {
    start: Start<'a>,
    runtime: Child,
    helper: Option<Child>,
    /// When the helper was last started.
    begun: Instant,
    /// When it is to be started again.
    again: Option<Instant>,
    backoff: Backoff,
}

impl Family<'_> {
    fn attend(&mut self, signals: &SignalFd) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.runtime.try_wait().context("the runtime")? {
                return Ok(status);
            }
            let ended = self.helper.as_mut().and_then(|helper| helper.try_wait().transpose());
            if let Some(ended) = ended {
                error!(?ended, "the engine helper ended; modules run on");
                self.helper = None;
                self.later();
            }
            if self.again.is_some_and(|at| at <= clock::now()) {
                self.begin();
            }
            self.wait(signals)?;
            while let Ok(Some(signal)) = signals.read_signal() {
                let signal = i32::try_from(signal.ssi_signo).ok().map(Signal::try_from);
                if let Some(Ok(signal)) = signal.filter(|signal| *signal != Ok(Signal::SIGCHLD)) {
                    send(&self.runtime, signal);
                }
            }
        }
    }

    fn begin(&mut self) {
        self.again = None;
        self.begun = clock::now();
        match self.start.helper() {
            Ok(helper) => self.helper = Some(helper),
            Err(error) => {
                error!(error = format!("{error:#}"), "no engine helper");
                self.later();
            }
        }
    }

    fn later(&mut self) {
        let lived = clock::now().saturating_duration_since(self.begun);
        self.again = clock::now().checked_add(self.backoff.after(lived));
    }

    /// Until a signal comes or the helper is to be started.
    fn wait(&self, signals: &SignalFd) -> Result<()> {
        let left = self.again.map(|at| at.saturating_duration_since(clock::now()));
        let timeout = match left {
            None => PollTimeout::NONE,
            // One more millisecond, so that rounding down does not spin.
            Some(left) => {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut all = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut all, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("poll"),
        }
    }

    /// Leaves no process behind. The helper may tidy up; what it does not finish is whole after
    /// its next start.
    fn end(&mut self) {
        // It may have ended already.
        self.runtime.kill().ok();
        self.runtime.wait().ok();
        shutdown(self.start.listener.as_raw_fd(), Shutdown::Both).ok();
        if let Some(helper) = &mut self.helper {
            let begun = clock::now();
            while matches!(helper.try_wait(), Ok(None)) && begun.elapsed() < TIDY_MAX {
                std::thread::sleep(TIDY_LOOK);
            }
            helper.kill().ok();
            helper.wait().ok();
        }
        let data = &self.start.settings.own.data;
        std::fs::remove_file(folder::helper_socket(data)).ok();
    }
}

/// A child that was not waited for yet keeps its number, so no other process is hit.
fn send(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        kill(Pid::from_raw(pid), signal).ok();
    }
}

/// A signal counts as shells count it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// How long to wait before the helper is started again.
#[derive(Debug, Default)]
struct Backoff(Duration);

impl Backoff {
    fn after(&mut self, lived: Duration) -> Duration {
        let next = if lived >= GOOD_LIFE { Duration::ZERO } else { self.0 * 2 };
        self.0 = next.clamp(AGAIN_FIRST, AGAIN_MAX);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_to_its_limit_and_starts_afresh_after_a_good_life() {
        let mut backoff = Backoff::default();
        let mut check = |lived: u64, expected: u64| {
            let wait = backoff.after(Duration::from_secs(lived));
            assert_eq!(wait, Duration::from_millis(expected));
        };
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            check(1, expected);
        }
        check(59, 10_000);
        check(60, 100);
        check(0, 200);
    }

    #[test]
    fn a_signal_counts_as_shells_count_it() {
        let check = |raw: i32, expected: u8| {
            let code = exit_code(ExitStatus::from_raw(raw));
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(expected)));
        };
        check(0, 0);
        check(3 << 8, 3);
        check(9, 137);
    }
}
