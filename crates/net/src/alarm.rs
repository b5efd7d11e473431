//! One lazily moved timer per connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use model::time::{Now, Tick};
use tokio::time::Sleep;

/// A timer that is armed only when somebody wants one, and moved later only when it fires:
/// a keep-alive that moves with every read costs nothing per read.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    armed: Option<(Tick, Pin<Box<Sleep>>)>,
}

impl Alarm {
    /// Ready once `wanted` has come; never for [`Tick::NEVER`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: Now, wanted: Tick) -> Poll<()> {
        if wanted <= now.tick {
            return Poll::Ready(());
        }
        if wanted == Tick::NEVER {
            return Poll::Pending;
        }
        let span = wanted.since(now.tick);
        match &mut self.armed {
            Some((at, _)) if *at <= wanted => {}
            Some((at, sleep)) => {
                *at = wanted;
                sleep.as_mut().set(tokio::time::sleep(span));
            }
            None => self.armed = Some((wanted, Box::pin(tokio::time::sleep(span)))),
        }
        while let Some((at, sleep)) = &mut self.armed {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if *at >= wanted {
                self.armed = None;
                return Poll::Ready(());
            }
            *at = wanted;
            sleep.as_mut().set(tokio::time::sleep(span));
        }
        Poll::Pending
    }
}
