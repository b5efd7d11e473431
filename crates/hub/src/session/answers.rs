//! The answers of one batch, in order, from wherever each comes.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use journal::worker::Chain;
use model::refusal::Refusal;
use model::waist::{Answer, Answers};

use super::shell::Shared;
use crate::storage::writer::{Reply, stopping};

/// Where one answer comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// It is known.
    Known(Result<Answer, Refusal>),
    /// The telemetry of the batch is committed as one.
    Telemetry,
    /// Somebody sends it.
    Reply(Reply<Answer>),
}

/// The telemetry of a batch on its way.
#[derive(Debug)]
pub(crate) struct Landing {
    /// How it ended.
    pub(crate) reply: Reply<Answer>,
    /// Whose it is.
    pub(crate) session: Arc<Shared>,
    /// What it went in.
    pub(crate) chain: Chain,
}

impl Drop for Landing {
    /// Whoever was told of a failure, or does not care, may go on.
    fn drop(&mut self) {
        self.session.begin_chain(&self.chain);
    }
}

/// All answers of a batch.
#[derive(Debug, Default)]
pub(crate) struct BatchAnswers {
    sources: VecDeque<Source>,
    telemetry: Option<Landing>,
    landed: Option<Result<Answer, Refusal>>,
}

impl BatchAnswers {
    /// Answers from `sources`; `telemetry` tells how the batch's telemetry ended.
    pub(crate) fn new(sources: VecDeque<Source>, telemetry: Option<Landing>) -> Self {
        Self { sources, telemetry, landed: None }
    }

    fn poll_telemetry(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Refusal>> {
        if let Some(landed) = &self.landed {
            return Poll::Ready(landed.clone());
        }
        let Some(landing) = &mut self.telemetry else { return Poll::Ready(Err(stopping())) };
        Pin::new(&mut landing.reply).poll(cx).map(|answer| {
            let landed = answer.unwrap_or_else(|_| Err(stopping()));
            self.telemetry = None;
            self.landed = Some(landed.clone());
            landed
        })
    }
}

impl Answers for BatchAnswers {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
        let answer = match self.sources.front_mut() {
            None => return Poll::Ready(None),
            Some(Source::Telemetry) => match self.poll_telemetry(cx) {
                Poll::Ready(answer) => answer,
                Poll::Pending => return Poll::Pending,
            },
            Some(Source::Reply(reply)) => match Pin::new(reply).poll(cx) {
                Poll::Ready(answer) => answer.unwrap_or_else(|_| Err(stopping())),
                Poll::Pending => return Poll::Pending,
            },
            Some(Source::Known(answer)) => answer.clone(),
        };
        self.sources.pop_front();
        Poll::Ready(Some(answer))
    }
}
