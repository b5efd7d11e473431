//! The answers of one batch, in order, from wherever each comes.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use journal::worker::Chain;
use model::refusal::{Refusal, RefusalKind};
use model::waist::{Answer, Answers};
use serde_json::{Map, Value};

use super::budget::Budget;
use super::shell::{AnswerRoom, Shared};
use crate::storage::writer::{Reply, stopping};

/// What an entry of an object takes in memory beside its key and value, in bytes.
const ENTRY_BYTES: usize = 128;
/// What a module identity takes in memory, in bytes.
const MODULE_BYTES: usize = 512;

/// An answer on its way, counted in the budget of the hub until it is taken.
#[derive(Debug)]
pub(crate) struct Made {
    answer: Answer,
    budget: Option<Arc<Budget>>,
    bytes: u32,
}

impl Made {
    /// An answer that weighs nothing to speak of.
    pub(crate) fn light(answer: Answer) -> Self {
        Self { answer, budget: None, bytes: 0 }
    }

    /// An answer that takes its room in `budget`.
    pub(crate) fn weighed(answer: Answer, budget: &Arc<Budget>) -> Result<Self, Refusal> {
        let bytes = u32::try_from(weight(&answer)).unwrap_or(u32::MAX);
        if !budget.take(bytes) {
            let reason = "too many answers wait for devices that do not take them";
            return Err(Refusal::new(RefusalKind::Throttled, reason));
        }
        Ok(Self { answer, budget: Some(Arc::clone(budget)), bytes })
    }

    fn take(mut self) -> Answer {
        std::mem::replace(&mut self.answer, Answer::Accepted)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give(self.bytes);
        }
    }
}

/// Bytes that `answer` takes in memory, about.
fn weight(answer: &Answer) -> usize {
    match answer {
        Answer::Twin(twin) => object(&twin.desired) + object(&twin.reported),
        Answer::Method(response) => response.payload.len(),
        Answer::Modules(modules) => modules.len() * MODULE_BYTES,
        _ => 0,
    }
}

fn object(object: &Map<String, Value>) -> usize {
    object.iter().map(|(key, held)| ENTRY_BYTES + key.len() + value(held)).sum()
}

fn value(held: &Value) -> usize {
    match held {
        Value::Object(inner) => object(inner),
        Value::Array(items) => items.iter().map(|item| size_of::<Value>() + value(item)).sum(),
        Value::String(text) => text.len(),
        _ => 0,
    }
}

/// Where one answer comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// It is known.
    Known(Result<Answer, Refusal>),
    /// The telemetry of the batch is committed as one.
    Telemetry,
    /// Somebody sends it.
    Reply(Reply<Made>),
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
    /// Given back with the last answer.
    _room: Option<Arc<AnswerRoom>>,
}

impl BatchAnswers {
    /// Answers from `sources`; `telemetry` tells how the batch's telemetry ended; `room` is what
    /// the answers take in the session.
    pub(crate) fn new(
        sources: VecDeque<Source>,
        telemetry: Option<Landing>,
        room: Option<Arc<AnswerRoom>>,
    ) -> Self {
        Self { sources, telemetry, landed: None, _room: room }
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
                Poll::Ready(made) => made.unwrap_or_else(|_| Err(stopping())).map(Made::take),
                Poll::Pending => return Poll::Pending,
            },
            Some(Source::Known(answer)) => answer.clone(),
        };
        self.sources.pop_front();
        Poll::Ready(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use model::method::MethodResponse;
    use model::twin::TwinDocument;
    use serde_json::json;

    use super::*;
    use crate::session::budget::HUB_ANSWER_BYTES_MAX;

    fn twin(text: usize) -> Answer {
        let mut twin = TwinDocument::default();
        twin.reported.insert("k".into(), json!(["x".repeat(text)]));
        Answer::Twin(Box::new(twin))
    }

    #[test]
    fn answers_count_until_they_are_taken_and_beyond_the_budget_there_are_none() {
        let budget = Arc::new(Budget::new(100_000));
        let first = Made::weighed(twin(90_000), &budget).unwrap();
        let refused = Made::weighed(twin(20_000), &budget).unwrap_err();
        assert_eq!((refused.kind, budget.full()), (RefusalKind::Throttled, 1));
        assert!(matches!(Made::light(Answer::Accepted).take(), Answer::Accepted));
        assert_eq!(first.take(), twin(90_000));
        // One that is never taken gives its room back, too.
        drop(Made::weighed(twin(90_000), &budget).unwrap());
        Made::weighed(twin(20_000), &budget).unwrap();
    }

    #[test]
    fn the_answers_of_a_whole_hub_are_bounded() {
        let budget = Arc::new(Budget::new(HUB_ANSWER_BYTES_MAX));
        let payload = bytes::Bytes::from(vec![0; HUB_ANSWER_BYTES_MAX / 2]);
        let answer = || Answer::Method(MethodResponse { status: 200, payload: payload.clone() });
        let held = [Made::weighed(answer(), &budget), Made::weighed(answer(), &budget)];
        assert!(held.iter().all(Result::is_ok));
        assert!(Made::weighed(answer(), &budget).is_err());
    }

    #[test]
    fn many_small_keys_weigh_more_than_their_text() {
        let mut twin = TwinDocument::default();
        (0..1000).for_each(|at| drop(twin.desired.insert(format!("k{at}"), json!(1))));
        assert!(weight(&Answer::Twin(Box::new(twin))) > 1000 * ENTRY_BYTES);
        assert_eq!(weight(&Answer::Accepted), 0);
    }
}
