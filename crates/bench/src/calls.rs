//! Where the programs in containers call as soon as they run: the same moment for every engine.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::clock;

/// A program that has not called by then does not run.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that nobody has taken yet, at most.
const WAITING_MAX: usize = 64;

/// A port that programs call.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) port: u16,
    came: Receiver<Call>,
}

/// One call. The program runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    _held: TcpStream,
}

impl Calls {
    /// Listens on a free port of every address. The thread ends with the process.
    pub(crate) fn listen() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = listener.local_addr()?.port();
        let (told, came) = sync_channel(WAITING_MAX);
        let listening = move || {
            while let Ok((stream, _)) = listener.accept() {
                if told.send(Call { at: clock::now(), _held: stream }).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("calls".to_owned()).spawn(listening)?;
        Ok(Self { port, came })
    }

    /// The next call.
    pub(crate) fn next(&self) -> Result<Call> {
        self.came.recv_timeout(PATIENCE).context("a program in a container did not call")
    }

    /// The calls of `count` programs.
    pub(crate) fn take(&self, count: usize) -> Result<Vec<Call>> {
        (0..count).map(|_| self.next()).collect()
    }
}
