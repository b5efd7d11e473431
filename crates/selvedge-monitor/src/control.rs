//! The control socket: one JSON object per line in, one per line out.
//!
//! Additive: an old monitor serves new runtimes, so unknown fields are ignored here (and only
//! here), and an unknown `op` is answered with an error.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// Most connections at once; further ones are closed.
const CLIENTS_MAX: usize = 8;
/// Longest request, in bytes.
const REQUEST_BYTES_MAX: usize = 4096;
/// How long an answer may wait for its reader.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(200);

/// What a client asks.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Request {
    Status,
    /// Answered when it has ended.
    Stop {
        grace_ms: u64,
    },
    Signal {
        signal: i32,
    },
    Pause,
    Resume,
}

/// Someone connected.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pending: Vec<u8>,
    /// Whether it waits for the end.
    pub(crate) waits: bool,
}

impl Client {
    /// The requests that have arrived. `None` when the client is gone or talks nonsense.
    pub(crate) fn read(&mut self) -> Option<Vec<Result<Request, String>>> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => self.pending.extend_from_slice(buffer.get(..len)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return None,
            }
            if self.pending.len() > REQUEST_BYTES_MAX {
                return None;
            }
        }
        let mut requests = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            requests.push(serde_json::from_slice(&line).map_err(|error| error.to_string()));
        }
        Some(requests)
    }

    /// Sends one line. A client that does not read loses it; the container matters more.
    pub(crate) fn answer(&mut self, answer: &Value) {
        let blocking = self.stream.set_nonblocking(false);
        let limited = blocking.and_then(|()| self.stream.set_write_timeout(Some(ANSWER_WAIT_MAX)));
        limited.and_then(|()| writeln!(self.stream, "{answer}")).ok();
        self.stream.set_nonblocking(true).ok();
    }
}

/// The answer to a request that failed.
pub(crate) fn refused(why: &str) -> Value {
    json!({"ok": false, "error": why})
}

/// Listens on `path`, which an earlier monitor may have left behind.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes in whoever waits outside.
pub(crate) fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
    while let Ok((stream, _)) = listener.accept() {
        if clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
            clients.push(Client { stream, pending: Vec::new(), waits: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_clients_are_heard_and_the_next_ones_are_hung_up_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = listen(&path).unwrap();
        let dial = || UnixStream::connect(&path).unwrap();
        let held: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| dial()).collect();
        let mut one_more = dial();
        let mut clients = Vec::new();
        accept(&listener, &mut clients);
        assert_eq!(clients.len(), CLIENTS_MAX);
        assert_eq!(one_more.read(&mut [0]).unwrap(), 0, "it is told by the end of its stream");
        drop(held);
        assert!(clients.iter_mut().all(|client| client.read().is_none()));
    }

    #[test]
    fn a_request_may_be_as_long_as_its_limit_and_no_longer() {
        let check = |bytes: usize, heard: bool| {
            let (near, mut far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            let mut client = Client { stream: near, pending: Vec::new(), waits: false };
            far.write_all(&vec![b' '; bytes]).unwrap();
            assert_eq!(client.read().is_some(), heard, "{bytes}");
        };
        check(REQUEST_BYTES_MAX, true);
        check(REQUEST_BYTES_MAX + 1, false);
    }
}
