//! Calls that wait for their answers.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use model::method::{
    METHOD_CONNECT_TIMEOUT_MAX, METHOD_NAME_LEN_MAX, METHOD_PAYLOAD_BYTES_MAX,
    METHOD_RESPONSE_TIMEOUT_RANGE, MethodCallId, MethodRequest, MethodResponse,
};
use model::planted;
use model::refusal::{Refusal, RefusalKind};
use model::world::World;
use tokio::sync::oneshot;

use crate::connections::Connections;
use crate::registry::Ordinal;
use crate::session::state::Call;

/// Most calls that wait in the whole hub.
const CALLS_MAX: usize = 4096;
/// Answered this much before the caller's own limit: Node waits not a moment longer.
const ANSWER_EARLY: Duration = Duration::from_millis(100);

type Answer = oneshot::Sender<Result<MethodResponse, Refusal>>;

/// All calls that wait.
#[derive(Debug)]
pub(crate) struct Calls {
    next: AtomicU64,
    waiting: Mutex<HashMap<MethodCallId, (Ordinal, Answer)>>,
}

impl Calls {
    /// No call waits.
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), waiting: Mutex::default() }
    }

    /// The device answered; `false` if nobody waits any more or the call is not its own.
    pub(crate) fn handle_answer(
        &self,
        ord: Ordinal,
        call: MethodCallId,
        response: MethodResponse,
    ) -> bool {
        let found = {
            let mut waiting = self.lock();
            let mut call = call;
            // Planted: an answer goes to whoever has waited longest.
            if planted::is("method_answer_mixed") {
                let own = waiting.iter().filter(|(_, (owner, _))| *owner == ord);
                call = own.map(|(id, _)| *id).min().unwrap_or(call);
            }
            match waiting.get(&call) {
                Some((owner, _)) if *owner == ord => waiting.remove(&call),
                _ => None,
            }
        };
        found.is_some_and(|(_, answer)| answer.send(Ok(response)).is_ok())
    }

    /// Calls that were never handed out will not be answered.
    pub(crate) fn handle_lost(&self, calls: &[MethodCallId]) {
        for call in calls {
            let found = self.lock().remove(call);
            if let Some((_, answer)) = found {
                answer.send(Err(offline())).ok();
            }
        }
    }

    /// Calls a method of `ord` and waits for its answer.
    pub(crate) async fn invoke(
        self: Arc<Self>,
        world: &World,
        connections: &Connections,
        ord: Ordinal,
        request: MethodRequest,
    ) -> Result<MethodResponse, Refusal> {
        check(&request)?;
        let response_timeout = request.response_timeout;
        let connect_until = world.now().tick.after(request.connect_timeout);
        let id = MethodCallId(self.next.fetch_add(1, Ordering::Relaxed));
        let (answer, reply) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.len() >= CALLS_MAX {
                return Err(Refusal::new(RefusalKind::Throttled, "too many method calls wait"));
            }
            waiting.insert(id, (ord, answer));
        }
        let _forget = Forget { calls: &self, id };
        let mut offered = Some(request);
        let offer = poll_fn(|cx| {
            // Registered first: an attach between the look and the registration is seen.
            if connect_until > world.now().tick {
                connections.wait(cx.waker());
            }
            let Some(request) = offered.take() else { return Poll::Ready(()) };
            let deadline = world.now().tick.after(request.response_timeout);
            let Some(session) = connections.find(ord) else {
                offered = Some(request);
                return Poll::Pending;
            };
            match session.change(|state| state.handle_call(Call { id, request, deadline })) {
                Ok(()) => Poll::Ready(()),
                Err(call) => {
                    offered = Some(call.request);
                    Poll::Pending
                }
            }
        });
        let patience = connect_until.since(world.now().tick);
        if tokio::time::timeout(patience, offer).await.is_err() {
            return Err(offline());
        }
        match tokio::time::timeout(response_timeout.saturating_sub(ANSWER_EARLY), reply).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(offline()),
            Err(_) => {
                Err(Refusal::new(RefusalKind::TargetTimedOut, "the device did not answer in time"))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MethodCallId, (Ordinal, Answer)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a call however its caller ends.
struct Forget<'a> {
    calls: &'a Calls,
    id: MethodCallId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

fn offline() -> Refusal {
    Refusal::new(RefusalKind::TargetOffline, "the device is not online")
}

fn check(request: &MethodRequest) -> Result<(), Refusal> {
    let invalid = |reason: &'static str| Err(Refusal::new(RefusalKind::InvalidRequest, reason));
    if request.name.is_empty() || request.name.chars().count() > METHOD_NAME_LEN_MAX {
        return invalid("a method name has 1 to 100 characters");
    }
    if request.name.contains(['/', '?', '#', '+']) || request.name.contains(char::is_control) {
        return invalid("a method name cannot contain '/', '?', '#', '+' or control characters");
    }
    if request.payload.len() > METHOD_PAYLOAD_BYTES_MAX {
        return Err(Refusal::new(RefusalKind::TooLarge, "a method payload has at most 128 KiB"));
    }
    if !METHOD_RESPONSE_TIMEOUT_RANGE.contains(&request.response_timeout) {
        return invalid("responseTimeoutInSeconds must be 5 to 300");
    }
    if request.connect_timeout > METHOD_CONNECT_TIMEOUT_MAX {
        return invalid("connectTimeoutInSeconds must be 0 to 300");
    }
    Ok(())
}
