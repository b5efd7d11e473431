//! The list of what one sender saw acknowledged, kept outside of the sender's process.
//!
//! A sender that starts is told the number after the last one in the list, so its messages in
//! flight at a kill are sent again, as a client does that has lost its memory.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Bytes of one acknowledgement: number and time.
const RECORD_BYTES: usize = 16;

/// Dropped, it stops listening.
#[derive(Debug)]
pub struct Oracle {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The last acknowledged number; all before it are acknowledged, too.
    last: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    limit: u64,
    sender: Option<UnixStream>,
    stopped: bool,
    /// What to do at the next acknowledgement.
    victims: Option<Vec<u32>>,
    /// How long after the acknowledgement the victims were killed.
    killed: Option<Duration>,
    failure: Option<String>,
}

impl Oracle {
    /// Listens at `path`, which any user may dial.
    pub fn start(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        let shared = Arc::new(Shared::default());
        let hearing = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if hearing.state().stopped {
                    return;
                }
                let heard = stream.map_err(Into::into).and_then(|stream| hearing.hear(stream));
                if let Err(error) = heard {
                    hearing.state().failure.get_or_insert_with(|| format!("{error:#}"));
                }
            }
        });
        Ok(Self { path: path.to_owned(), shared })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last number that was acknowledged, and with it all before; 0 if none was.
    pub fn acknowledged(&self) -> Result<u64> {
        match &self.shared.state().failure {
            Some(failure) => bail!("{}: {failure}", self.path.display()),
            None => Ok(self.shared.last.load(Ordering::Acquire)),
        }
    }

    /// Lets the sender count up to `limit`.
    pub fn allow(&self, limit: u64) {
        let mut state = self.shared.state();
        state.limit = limit;
        if let Some(sender) = &mut state.sender {
            // A sender that has just died is told when it comes back.
            sender.write_all(&limit.to_le_bytes()).ok();
        }
    }

    /// Has `victims` killed as soon as the next acknowledgement arrives.
    pub fn arm(&self, victims: Vec<u32>) {
        self.shared.state().victims = Some(victims);
    }

    /// Waits until the victims are killed; how long after the acknowledgement the last was.
    pub fn killed(&self, limit: Duration) -> Result<Duration> {
        wait::until("an acknowledgement to kill at", limit, || {
            self.acknowledged()?;
            Ok(self.shared.state().killed.take())
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopped = true;
        if let Some(sender) = state.sender.take() {
            // Wakes a reader; a sender that is gone needs none.
            sender.shutdown(std::net::Shutdown::Both).ok();
        }
        drop(state);
        // Wakes the listener; if its path is gone already it ends with the process.
        UnixStream::connect(&self.path).ok();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One life of the sender. Its last acknowledgements are read to the end, whoever killed it.
    fn hear(&self, mut stream: UnixStream) -> Result<()> {
        {
            let mut state = self.state();
            let first = self.last.load(Ordering::Acquire) + 1;
            let greeting = [first.to_le_bytes(), state.limit.to_le_bytes()].concat();
            if stream.write_all(&greeting).is_err() {
                return Ok(());
            }
            state.sender = Some(stream.try_clone()?);
        }
        let mut rest = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            // A sender that was killed with unread limits leaves a reset.
            let count = stream.read(&mut buffer).unwrap_or(0);
            if count == 0 {
                self.state().sender = None;
                ensure!(rest.is_empty(), "half an acknowledgement");
                return Ok(());
            }
            rest.extend_from_slice(&buffer[..count]);
            let whole = rest.len() - rest.len() % RECORD_BYTES;
            for record in rest[..whole].chunks_exact(RECORD_BYTES) {
                self.handle(number(&record[..8]), number(&record[8..]))?;
            }
            rest.drain(..whole);
        }
    }

    fn handle(&self, acknowledged: u64, nanos: u64) -> Result<()> {
        let last = self.last.load(Ordering::Acquire);
        ensure!(acknowledged == last + 1, "{acknowledged} was acknowledged after {last}");
        self.last.store(acknowledged, Ordering::Release);
        let mut state = self.state();
        let Some(victims) = state.victims.take() else { return Ok(()) };
        for victim in victims {
            // One that a neighbour's death has ended already is as good.
            kill(Pid::from_raw(i32::try_from(victim)?), Signal::SIGKILL).ok();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        state.killed = Some(now.saturating_sub(Duration::from_nanos(nanos)));
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
