//! Messages for the module's inputs.

use std::fmt;
use std::sync::Arc;

use model::message::Message;
use model::refusal::{Refusal, RefusalKind};
use model::waist::{Delivery, DeliveryToken, DeviceRequest, Outcome};
use tokio::sync::mpsc;

use crate::pump::Shared;

/// Most messages that the module holds and has not settled.
pub const UNSETTLED_MAX: u16 = 16;

/// The messages of all inputs, in order.
#[derive(Debug)]
pub struct Inputs {
    pub(crate) messages: mpsc::Receiver<Input>,
}

impl Inputs {
    /// The next message; `None` once the module is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Input> {
        self.messages.recv().await
    }
}

/// A message, locked until it is settled. Dropping it abandons it: it comes again, over MQTT
/// after the next connection.
pub struct Input {
    message: Message,
    token: DeliveryToken,
    shared: Arc<Shared>,
    settled: bool,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Input {
    pub(crate) fn new(delivery: Delivery, shared: Arc<Shared>) -> Self {
        shared.took_input();
        let Delivery { token, message } = delivery;
        Self { message, token, shared, settled: false }
    }

    /// The name of the input; empty if the route names none.
    pub fn name(&self) -> &str {
        self.message.system.input_name.as_deref().unwrap_or_default()
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// It was worked up and will not come again.
    ///
    /// # Errors
    /// The refusal, if nobody can say so; then it may come again.
    pub async fn complete(self) -> Result<(), Refusal> {
        self.settle(&[Outcome::Complete]).await
    }

    /// It cannot be used and shall never come again.
    ///
    /// # Errors
    /// As [`Input::complete`].
    pub async fn reject(self) -> Result<(), Refusal> {
        // MQTT has no word for it; completed, the message does not come again either.
        self.settle(&[Outcome::Reject, Outcome::Complete]).await
    }

    /// Settles by the first of `outcomes` that the protocol has a word for.
    async fn settle(mut self, outcomes: &[Outcome]) -> Result<(), Refusal> {
        self.settled = true;
        let mut settled = Ok(());
        for outcome in outcomes.iter().copied() {
            let request = DeviceRequest::Settle { token: self.token, outcome };
            settled = self.shared.ask(request).await.map(drop);
            if !matches!(&settled, Err(refusal) if refusal.kind == RefusalKind::InvalidRequest) {
                break;
            }
        }
        settled
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.shared.left_input();
        if !self.settled {
            let outcome = Outcome::Abandon;
            self.shared.tell(DeviceRequest::Settle { token: self.token, outcome });
        }
    }
}
