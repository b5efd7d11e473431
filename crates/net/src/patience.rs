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
    /// Patience is over: whoever asks again hears so again, for the first answer may have gone to
    /// somebody who only flushes beside a read.
    is_over: bool,
}

impl Patient {
    pub(crate) fn new(stream: Box<dyn ByteStream>, limit: Duration, cut: Arc<Count>) -> Self {
        Self { stream, limit, cut, stuck: None, is_over: false }
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
        if self.is_over {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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
        // A timer that has fired is not polled again.
        self.stuck = None;
        self.is_over = true;
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_cut_off_stays_so_and_is_counted_once() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let cut = Arc::<Count>::default();
        let mut stream = Patient::new(Box::new(ours), WRITE_PATIENCE, Arc::clone(&cut));
        let mut write = async || {
            poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &[0; 64]))
                .await
                .map_err(|it| it.kind())
        };
        assert_eq!(write().await, Ok(16));
        assert_eq!(write().await, Err(io::ErrorKind::TimedOut));
        // Also when the peer takes something at last: its stream has a hole by then.
        theirs.read_exact(&mut [0; 16]).await.unwrap();
        assert_eq!(write().await, Err(io::ErrorKind::TimedOut));
        assert_eq!(cut.get(), 1);
    }
}
