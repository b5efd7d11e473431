//! Copies what modules print into their logs, and records how they end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::time::{Now, WallTime};
use model::world::{Turn, Worker};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::files::{Exit, Files, Started};
use crate::create_options::LogLimits;
use crate::error::EngineError;
use crate::log::LogWriter;
use crate::runtime::{EngineResult, LogSource};

/// Longest wait for output, in milliseconds; also how soon an end and a new module are noticed.
const WAIT_MS: u16 = 20;
/// Bytes taken from one pipe before others get their turn.
const READ_BYTES_MAX: usize = 64 * 1024;

struct Watched {
    files: Files,
    started: Started,
    /// Absent for an adopted module.
    child: Option<Child>,
    pipes: [(LogSource, File); 2],
    log: LogWriter,
}

/// The modules that run.
#[derive(Default)]
pub(super) struct Running(Mutex<BTreeMap<String, Watched>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(
        &self,
        name: &str,
        files: Files,
        started: Started,
        child: Option<Child>,
        limits: LogLimits,
    ) -> EngineResult<()> {
        files.make_pipes()?;
        let (out, err) = files.engine_ends()?;
        let log = LogWriter::open(&files.log_folder(), limits)
            .map_err(|error| EngineError::system(format!("log of {name}"), error))?;
        let pipes = [(LogSource::Stdout, out), (LogSource::Stderr, err)];
        self.lock().insert(name.to_owned(), Watched { files, started, child, pipes, log });
        Ok(())
    }
}

/// The thread's work.
pub(super) struct Watcher {
    running: Arc<Running>,
}

impl Watcher {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { running }
    }

    /// Waits for output without holding the lock.
    fn wait(&self) {
        let pipes: Vec<File> = {
            let running = self.running.lock();
            let pipes = running.values().flat_map(|watched| &watched.pipes);
            pipes.filter_map(|(_, file)| file.try_clone().ok()).collect()
        };
        let mut all: Vec<_> =
            pipes.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut all, PollTimeout::from(WAIT_MS)).ok(); // the next turn looks again
    }
}

impl Worker for Watcher {
    fn turn(&mut self, now: Now) -> Turn {
        // The engine is gone: its thread ends, its modules run on.
        if Arc::strong_count(&self.running) == 1 {
            return Turn::Finished;
        }
        self.wait();
        let mut running = self.running.lock();
        running.retain(|name, watched| {
            let ended = watched.ended(now.wall);
            watched.copy(name, now.wall);
            let Some(exit) = ended else { return true };
            watched.log.finish(now.wall).ok(); // the last words of an ended module, best effort
            if let Err(error) = watched.files.write_exit(&exit) {
                tracing::error!(module = %name, %error, "the end of a module is not recorded");
            }
            false
        });
        Turn::Again
    }
}

impl Watched {
    fn ended(&mut self, now: WallTime) -> Option<Exit> {
        let exit = |exit_code, failure| Some(Exit { exit_code, at: now.0, failure });
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => {
                    let code = status.code().or_else(|| Some(128 + status.signal()?));
                    exit(code, None)
                }
                Err(error) => exit(None, Some(error.to_string())),
            },
            None if self.started.lives() => None,
            None => exit(None, Some("it ended while adopted; nobody knows how".to_owned())),
        }
    }

    fn copy(&mut self, name: &str, now: WallTime) {
        let mut buffer = vec![0; READ_BYTES_MAX];
        for (source, file) in &mut self.pipes {
            // Never the end, as the pipe is held open for writing too; empty means "would block".
            while let Ok(len) = file.read(&mut buffer)
                && len > 0
            {
                let bytes = buffer.get(..len).unwrap_or_default();
                if let Err(error) = self.log.take(*source, bytes, now) {
                    tracing::error!(module = %name, %error, "a module's log cannot be written");
                }
                if len < READ_BYTES_MAX {
                    break;
                }
            }
        }
    }
}
