//! Leaves the starter behind: two forks and a session of its own; the first process stays until
//! the module runs or has failed, says so in one line of JSON, and ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::sys::signal::SigHandler;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
use serde_json::json;

use crate::{files, monitor, sys};

/// Prints a line; a starter that went away is no reason to stop.
pub(crate) fn say(line: &str) {
    writeln!(io::stdout(), "{line}").ok();
}

/// Whether this process has exactly one thread, which libcontainer needs: it goes on
/// allocating after a raw clone, and a lock held by another thread would never open.
pub(crate) fn one_thread() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// The sub-command `run`.
pub(crate) fn run(directory: &Path) -> ExitCode {
    let line = match detach(directory) {
        Ok(Some(line)) => line,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => failed(&format!("cannot start the monitor: {error}")),
    };
    say(line.trim());
    let ran = line.contains(r#""result":"running""#);
    if ran { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The answer that it never ran.
fn failed(reason: &str) -> String {
    json!({"version": files::VERSION, "result": "failed", "reason": reason}).to_string()
}

/// The answer for the starter, in the first process; nothing, in the monitor when it is done.
fn detach(directory: &Path) -> io::Result<Option<String>> {
    assert!(one_thread(), "the monitor has one thread");
    let directory = directory.canonicalize()?;
    let (answer, to_starter) = pipe2(OFlag::O_CLOEXEC)?;
    if !sys::fork_child()? {
        drop(to_starter);
        let mut line = String::new();
        File::from(answer).read_to_string(&mut line)?;
        let line = if line.is_empty() { failed("the monitor died; see monitor.log") } else { line };
        return Ok(Some(line));
    }
    drop(answer);
    setsid()?;
    // A session leader could get a terminal; its child cannot, and init adopts it.
    if !sys::fork_child()? {
        return Ok(None);
    }
    sys::close_above(2, to_starter.as_raw_fd());
    quiet(&directory)?;
    sys::set_sigpipe(SigHandler::SigIgn)?;
    let starter = Starter(Some(File::from(to_starter)));
    monitor::run(&directory, starter);
    Ok(None)
}

/// Nothing to read, nowhere to print, complaints into `monitor.log`.
fn quiet(directory: &Path) -> io::Result<()> {
    let null: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/null")?.into();
    let path = directory.join("monitor.log");
    let complaints = OpenOptions::new().create(true).append(true).open(path)?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(complaints.as_fd())?;
    std::env::set_current_dir("/")
}

/// Whoever waits for the module to run. Told once.
#[derive(Debug)]
pub(crate) struct Starter(Option<File>);

impl Starter {
    pub(crate) fn running(&mut self, pid: i32) {
        let line = json!({"version": files::VERSION, "result": "running", "pid": pid});
        self.tell(&line.to_string());
    }

    pub(crate) fn failed(&mut self, reason: &str) {
        self.tell(&failed(reason));
    }

    fn tell(&mut self, line: &str) {
        if let Some(mut pipe) = self.0.take() {
            // The starter may be dead; the module runs on.
            writeln!(pipe, "{line}").ok();
        }
    }
}
