//! A stream that does not wait for ever for its peer to take something.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tracing::info;

use crate::limits::Count;
use crate::network::ByteStream;

/// A peer that takes nothing for so long, although something waits for it, is cut off: of the
/// devices' protocols, and of connections that we made. A slow radio link that takes a few
/// kilobytes in that time is kept.
pub const WRITE_PATIENCE: Duration = Duration::from_mins(1);

/// Fails with `TimedOut` once a write has found no room for `limit`, and counts that in `cut`;
/// any byte that the peer takes begins the time again. Costs nothing while writes find room.
pub(crate) struct Patient {
    stream: Box<dyn ByteStream>,
    limit: Duration,
    cut: Arc<Count>,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) fn new(stream: Box<dyn ByteStream>, limit: Duration, cut: Arc<Count>) -> Self {
        Self { stream, limit, cut, stuck: None }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let limit = self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if stuck.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // A timer that has fired is not polled again: whoever goes on begins the time anew.
        self.stuck = None;
        self.cut.add();
        info!(seconds = limit.as_secs(), "a peer takes nothing and is cut off");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
