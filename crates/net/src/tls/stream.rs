//! A TLS stream that holds no buffer while idle.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustls::CommonState;
use rustls::Error as RustlsError;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Secured;
use crate::network::ByteStream;
use crate::scratch::with_cipher;

/// One read of the socket brings no more than the reader takes, but always a whole record.
const RECORD_BYTES: usize = 17 * 1024;
/// Most plain bytes sealed by one write.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// What the two sides of rustls have in common.
pub(super) trait Machine: Send + Unpin {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

impl Machine for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Machine for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// Runs the handshake, for which the peer may send `limit` bytes, and gives the stream.
pub(super) async fn handshake<M: Machine + 'static>(
    io: Box<dyn ByteStream>,
    machine: M,
    limit: usize,
) -> io::Result<Secured> {
    let stream = shake(io, machine, limit).await?;
    let client_chain =
        stream.machine.common().peer_certificates().map(|chain| {
            chain.iter().map(|der| Bytes::copy_from_slice(der)).collect::<Arc<[Bytes]>>()
        });
    Ok(Secured { stream: Box::new(stream), client_chain })
}

async fn shake<M: Machine>(
    io: Box<dyn ByteStream>,
    machine: M,
    mut limit: usize,
) -> io::Result<TlsStream<M>> {
    let mut stream = TlsStream::new(io, machine);
    let outcome = poll_fn(|cx| stream.poll_handshake(cx, &mut limit)).await;
    if let Err(error) = outcome {
        // The alert tells the peer why; whether it still arrives is up to the peer.
        poll_fn(|cx| Poll::Ready(stream.poll_out(cx).is_ready())).await;
        return Err(broken(error));
    }
    Ok(stream)
}

/// Why the stream fails.
#[derive(Debug, Error)]
enum TlsError {
    #[error("TLS failed")]
    Rustls(#[from] RustlsError),
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

struct TlsStream<M> {
    io: Box<dyn ByteStream>,
    machine: M,
    /// Read from the socket and not digested: part of a record or of a handshake message.
    carry: Vec<u8>,
    /// Decrypted and not taken by the reader yet.
    plain: Vec<u8>,
    /// Where in `plain` the reader is.
    taken: usize,
    /// Sealed and not written to the socket yet.
    out: Vec<u8>,
    /// Where in `out` the socket is.
    written: usize,
    /// No more will be read: the peer said goodbye or the socket ended.
    ended: bool,
    /// We said goodbye.
    closed: bool,
    /// The machine failed; it is not asked again.
    failed: bool,
}

impl<M: Machine> TlsStream<M> {
    fn new(io: Box<dyn ByteStream>, machine: M) -> Self {
        Self {
            io,
            machine,
            carry: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            out: Vec::new(),
            written: 0,
            ended: false,
            closed: false,
            failed: false,
        }
    }

    /// `left` is what the peer may still send.
    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        left: &mut usize,
    ) -> Poll<Result<(), TlsError>> {
        // A client has something to say before it has read anything.
        self.digest_carry(|_, _| Ok(()))?;
        loop {
            ready!(self.poll_out(cx))?;
            if !self.machine.common().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            if *left == 0 {
                let words = "a handshake is too long";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, words).into()));
            }
            *left -= ready!(self.poll_fill(cx, &mut ReadBuf::new(&mut []), *left))?;
        }
    }

    /// Reads once from the socket, at most `most` bytes, and digests it; plain bytes go to
    /// `into`, what does not fit to `plain`. Says how many bytes came.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<Result<usize, TlsError>> {
        if self.failed {
            return Poll::Ready(Err(gone().into()));
        }
        with_cipher(|scratch| {
            let held = self.carry.len();
            let room = scratch.get_mut(held..).unwrap_or_default();
            if room.is_empty() {
                return Poll::Ready(Err(io::Error::other("a TLS message is too long").into()));
            }
            let most = most.min(room.len());
            let mut fresh = ReadBuf::new(room.get_mut(..most).unwrap_or_default());
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut fresh))?;
            let came = fresh.filled().len();
            let end = held + came;
            if came == 0 {
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
            let carry = std::mem::take(&mut self.carry);
            scratch.get_mut(..held).unwrap_or_default().copy_from_slice(&carry);
            let incoming = scratch.get_mut(..end).unwrap_or_default();
            let plain = &mut self.plain;
            let take = |payload: &[u8]| deliver(payload, into, plain);
            let digested = digest(&mut self.machine, incoming, &mut self.out, take, |_, _| Ok(()));
            self.ended |= digested.ended;
            self.failed = digested.outcome.is_err();
            self.carry = incoming.get(digested.used..).unwrap_or_default().to_vec();
            Poll::Ready(digested.outcome.map(|()| came).map_err(TlsError::from))
        })
    }

    /// Lets the machine speak without new bytes; `ready` runs if it may seal plain bytes.
    fn digest_carry(
        &mut self,
        ready: impl FnMut(&mut WriteTraffic<'_, M::Data>, &mut Vec<u8>) -> Result<(), RustlsError>,
    ) -> Result<(), RustlsError> {
        if self.failed {
            return Err(gone());
        }
        let plain = &mut self.plain;
        let take = |payload: &[u8]| plain.extend_from_slice(payload);
        let digested = digest(&mut self.machine, &mut self.carry, &mut self.out, take, ready);
        self.ended |= digested.ended;
        self.failed = digested.outcome.is_err();
        drop(self.carry.drain(..digested.used.min(self.carry.len())));
        digested.outcome
    }

    /// Writes what is sealed; ready when nothing is left.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.out = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Hands decrypted bytes to the reader; false if there are none.
    fn take_plain(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let rest = self.plain.get(self.taken..).unwrap_or_default();
        if rest.is_empty() {
            return false;
        }
        let count = rest.len().min(into.remaining());
        into.put_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        if self.taken == self.plain.len() {
            self.plain = Vec::new();
            self.taken = 0;
        }
        true
    }
}

/// Gives `payload` to the reader's buffer while nothing waits before it, else keeps it.
fn deliver(payload: &[u8], into: &mut ReadBuf<'_>, plain: &mut Vec<u8>) {
    let count = if plain.is_empty() { payload.len().min(into.remaining()) } else { 0 };
    let (now, later) = payload.split_at(count);
    into.put_slice(now);
    plain.extend_from_slice(later);
}

struct Digested {
    used: usize,
    ended: bool,
    outcome: Result<(), RustlsError>,
}

/// Runs the machine over `incoming` until it wants more bytes or has nothing to say.
fn digest<M: Machine>(
    machine: &mut M,
    incoming: &mut [u8],
    out: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
    mut ready: impl FnMut(&mut WriteTraffic<'_, M::Data>, &mut Vec<u8>) -> Result<(), RustlsError>,
) -> Digested {
    let (mut used, mut ended) = (0, false);
    loop {
        let rest = incoming.get_mut(used..).unwrap_or_default();
        let UnbufferedStatus { discard, state } = machine.process(rest);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => take(record.payload),
                    Some(Err(error)) => break Err(error),
                    None => break Ok(true),
                }
            },
            Ok(ConnectionState::EncodeTlsData(chunk)) => encode(chunk, out).map(|()| true),
            Ok(ConnectionState::TransmitTlsData(chunk)) => {
                // The bytes stand in `out` and will be written in order.
                chunk.done();
                Ok(true)
            }
            Ok(ConnectionState::PeerClosed) => {
                ended = true;
                Ok(true)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                ready(&mut traffic, out).map(|()| false)
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(false),
            // Early data is never offered; anything else is of a later rustls.
            Ok(_) => Err(RustlsError::General("unexpected TLS state".into())),
            Err(error) => Err(error),
        };
        used += discard;
        match step {
            Ok(true) => {}
            Ok(false) => return Digested { used, ended, outcome: Ok(()) },
            Err(error) => {
                collect_alerts(machine, incoming.get_mut(used..).unwrap_or_default(), out);
                return Digested { used, ended, outcome: Err(error) };
            }
        }
    }
}

/// After a failure the machine may still hold the alert that explains it. It must not be asked
/// beyond that: it would look at the same bytes again.
fn collect_alerts<M: Machine>(machine: &mut M, rest: &mut [u8], out: &mut Vec<u8>) {
    while machine.common().wants_write() {
        let state = machine.process(rest).state;
        let Ok(ConnectionState::EncodeTlsData(chunk)) = state else { return };
        if encode(chunk, out).is_err() {
            return;
        }
    }
}

fn encode<D>(mut chunk: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), RustlsError> {
    let outcome = grow(out, |room| {
        chunk.encode(room).map_err(|error| match error {
            EncodeError::InsufficientSize(size) => Some(size.required_size),
            EncodeError::AlreadyEncoded => None,
        })
    });
    outcome.ok_or_else(|| RustlsError::General("TLS data encoded twice".into()))
}

fn seal<D>(
    traffic: &mut WriteTraffic<'_, D>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), RustlsError> {
    let outcome = grow(out, |room| traffic.encrypt(plain, room).map_err(required));
    outcome.ok_or(RustlsError::EncryptError)
}

fn say_goodbye<D>(traffic: &mut WriteTraffic<'_, D>, out: &mut Vec<u8>) -> Result<(), RustlsError> {
    let outcome = grow(out, |room| traffic.queue_close_notify(room).map_err(required));
    outcome.ok_or(RustlsError::EncryptError)
}

fn required(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends to `out` what `fill` writes; it is first asked with no room and says how much.
fn grow(
    out: &mut Vec<u8>,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Option<()> {
    let at = out.len();
    let size = match fill(&mut []) {
        Ok(_) => return Some(()),
        Err(size) => size?,
    };
    out.resize(at + size, 0);
    let count = fill(out.get_mut(at..)?).ok();
    out.truncate(at + count.unwrap_or(0));
    count.map(drop)
}

fn gone() -> RustlsError {
    RustlsError::General("the stream has failed before".into())
}

fn broken(error: TlsError) -> io::Error {
    match error {
        TlsError::Io(error) => error,
        error @ TlsError::Rustls(_) => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

impl<M: Machine> AsyncRead for TlsStream<M> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        loop {
            if this.take_plain(into) || this.ended || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let most = into.remaining().max(RECORD_BYTES);
            let filled = this.poll_fill(cx, into, most);
            // Reading can make the machine speak (key updates, alerts); if the socket is full,
            // its readiness wakes us.
            let out = this.poll_out(cx);
            ready!(filled).map_err(broken)?;
            if into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(Err(error)) = out {
                return Poll::Ready(Err(error));
            }
        }
    }
}

impl<M: Machine> AsyncWrite for TlsStream<M> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // At most one write waits sealed; a peer that does not read stops the writer here.
        ready!(this.poll_out(cx))?;
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let chunk = data.get(..data.len().min(WRITE_BYTES_MAX)).unwrap_or_default();
        let mut sealed = false;
        this.digest_carry(|traffic, out| {
            sealed = true;
            seal(traffic, chunk, out)
        })
        .map_err(|error| broken(error.into()))?;
        if !sealed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match this.poll_out(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(chunk.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed && !this.failed {
            this.closed = true;
            this.digest_carry(say_goodbye).map_err(|error| broken(error.into()))?;
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
