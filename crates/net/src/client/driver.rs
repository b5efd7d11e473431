//! Joins one connection to the core of a session. The lock of the core is never held over the
//! socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use model::time::Tick;
use model::waist::Leave;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::mqtt::client::Ending;

use super::session::Shared;
use crate::alarm::Alarm;
use crate::network::ByteStream;
use crate::scratch::with_plain;

/// Rounds of work in one poll before other tasks of the thread get their turn.
const ROUNDS_MAX: usize = 32;
/// How long a goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The protocol says so.
    Told(Ending),
    /// The socket broke.
    Broken(io::Error),
    /// The owner dropped the session without a goodbye.
    Left,
}

/// One connection, until it ends.
pub(super) struct Driver {
    stream: Box<dyn ByteStream>,
    shared: Arc<Shared>,
    out: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// Replace the connection then.
    renew: Tick,
    ending: Option<(Ending, Tick)>,
    alarm: Alarm,
}

impl Driver {
    pub(super) fn new(stream: Box<dyn ByteStream>, shared: Arc<Shared>, renew: Tick) -> Self {
        let (out, alarm) = (Vec::new(), Alarm::default());
        Self { stream, shared, out, written: 0, unflushed: false, renew, ending: None, alarm }
    }

    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if let Poll::Ready(ended) = self.poll_all(cx) {
                return Poll::Ready(ended);
            }
            let now = self.shared.world.now();
            let due = match &self.ending {
                Some((_, until)) => *until,
                None => self.shared.lock().poll_timeout().min(self.renew),
            };
            if self.alarm.poll(cx, now, due).is_pending() {
                return Poll::Pending;
            }
            if let Some((ending, _)) = self.ending.take() {
                return Poll::Ready(Ended::Told(ending));
            }
            let now = self.shared.world.now().tick;
            let mut core = self.shared.lock();
            if now >= self.renew {
                self.renew = Tick::NEVER;
                core.part();
            }
            core.handle_timeout(now);
        }
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        for _ in 0..ROUNDS_MAX {
            let now = self.shared.world.now().tick;
            let wants_bytes = {
                let mut core = self.shared.lock();
                core.set_driver(cx);
                if matches!(core.left(), Some(Leave::Lost { .. })) {
                    return Poll::Ready(Ended::Left);
                }
                if self.ending.is_none()
                    && let Some(ending) = core.work(now)
                {
                    self.ending = Some((ending, now.after(GOODBYE_TIMEOUT)));
                }
                if self.out.is_empty() {
                    core.take_output(&mut self.out);
                }
                core.wants_bytes()
            };
            let more = match self.poll_out(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Broken(error)),
                Poll::Ready(Ok(wrote)) => wrote,
                Poll::Pending if self.ending.is_some() => return Poll::Pending,
                Poll::Pending => false,
            };
            if self.ending.is_some() {
                if more {
                    continue;
                }
                // Whether the goodbye arrives is up to the peer.
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).ok();
                if let Some((ending, _)) = self.ending.take() {
                    return Poll::Ready(Ended::Told(ending));
                }
            }
            let read = if wants_bytes { self.poll_read(cx, now) } else { Poll::Pending };
            match read {
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::Broken(error)),
                Poll::Ready(Ok(())) => {}
                Poll::Pending if more => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is due; gives whether anything was.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut wrote = false;
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            (self.unflushed, wrote) = (true, true);
        }
        self.out = Vec::new();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(wrote))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, now: Tick) -> Poll<io::Result<()>> {
        with_plain(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.shared.lock().handle_bytes(now, buffer.filled());
            Poll::Ready(Ok(()))
        })
    }
}

impl Future for Driver {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        self.get_mut().poll_drive(cx)
    }
}
