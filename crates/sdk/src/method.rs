//! Calls of the module's direct methods.

use std::fmt;
use std::sync::Arc;

use model::method::{MethodCallId, MethodRequest, MethodResponse};
use model::refusal::Refusal;
use model::waist::DeviceRequest;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::pump::Shared;

/// Most calls that wait for the module; more are answered with [`STATUS_BUSY`].
pub const WAITING_MAX: usize = 16;
/// Answered for the module when too many calls wait.
pub const STATUS_BUSY: i32 = 429;
/// Answered for the module when the payload is not JSON.
pub const STATUS_NO_JSON: i32 = 400;
/// Answered for the module when it let a call fall.
pub const STATUS_DROPPED: i32 = 500;
/// Answered for the module when it listens to methods no more.
pub const STATUS_UNKNOWN: i32 = 501;

/// The calls of all methods, in order.
#[derive(Debug)]
pub struct Methods {
    pub(crate) calls: mpsc::Receiver<MethodCall>,
}

impl Methods {
    /// The next call; `None` once the module is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<MethodCall> {
        self.calls.recv().await
    }
}

/// A call that waits for an answer. Dropping it answers [`STATUS_DROPPED`].
pub struct MethodCall {
    name: String,
    payload: Value,
    call: MethodCallId,
    shared: Arc<Shared>,
    answered: bool,
}

impl fmt::Debug for MethodCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodCall").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MethodCall {
    /// Reads a call; one that is not JSON is answered here and gives nothing.
    pub(crate) fn new(
        call: MethodCallId,
        request: MethodRequest,
        shared: Arc<Shared>,
    ) -> Option<Self> {
        let payload = if request.payload.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&request.payload)
        };
        let mut made =
            Self { name: request.name, payload: Value::Null, call, shared, answered: false };
        match payload {
            Ok(payload) => {
                made.payload = payload;
                Some(made)
            }
            Err(error) => {
                made.answer_aside(STATUS_NO_JSON, &error.to_string());
                None
            }
        }
    }

    /// The name of the method.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the caller gave; null if nothing.
    pub fn payload(&self) -> &Value {
        &self.payload
    }

    /// Answers with any status; 200 is usual for success, and no status is an error here.
    ///
    /// # Errors
    /// The refusal, if the answer could not be brought.
    pub async fn answer(mut self, status: i32, payload: &Value) -> Result<(), Refusal> {
        self.answered = true;
        self.shared.ask(self.request(status, payload)).await.map(drop)
    }

    /// Answers without waiting until the answer is brought.
    pub(crate) fn answer_aside(mut self, status: i32, words: &str) {
        self.answered = true;
        self.shared.tell(self.request(status, &json!({ "message": words })));
    }

    fn request(&self, status: i32, payload: &Value) -> DeviceRequest {
        let payload = payload.to_string().into();
        DeviceRequest::AnswerMethod {
            call: self.call,
            response: MethodResponse { status, payload },
        }
    }
}

impl Drop for MethodCall {
    fn drop(&mut self) {
        if !self.answered {
            let words = json!({ "message": "the module let the call fall" });
            self.shared.tell(self.request(STATUS_DROPPED, &words));
        }
    }
}
