//! A session that only works on module identities, over HTTPS; it takes nobody's place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use model::id::IdentityId;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::waist::{
    Batch, Claim, Completion, Credit, DeviceEvent, DeviceRequest, DeviceSession, Epoch, Full, Leave,
};
use model::world::{Boxed, World};

use super::core::{Aside, slots};
use super::modules::Modules;

pub(super) struct HttpsSession {
    identity: IdentityId,
    epoch: Epoch,
    world: World,
    modules: Arc<Modules>,
    closed: AtomicBool,
}

impl HttpsSession {
    pub(super) fn new(identity: IdentityId, epoch: Epoch, world: World, modules: Modules) -> Self {
        let (modules, closed) = (Arc::new(modules), AtomicBool::new(false));
        Self { identity, epoch, world, modules, closed }
    }
}

impl DeviceSession for HttpsSession {
    fn identity(&self) -> &IdentityId {
        &self.identity
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full> {
        if !self.modules.has_room(&batch) {
            return Err(Full(batch));
        }
        let (completion, slots) = slots(batch.0.len());
        for (request, slot) in batch.0.into_iter().zip(slots) {
            let refusal = match request {
                _ if self.closed.load(Ordering::Relaxed) => {
                    Refusal::new(RefusalKind::Unavailable, "the session is closed")
                }
                DeviceRequest::Modules(operation) => {
                    let aside = Aside { operation, slot };
                    Modules::start(&self.modules, &self.world, aside, deadline);
                    continue;
                }
                _ => Refusal::new(
                    RefusalKind::InvalidRequest,
                    "this session works on module identities only",
                ),
            };
            slot.fill(Err(refusal));
        }
        Ok(completion)
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.modules.poll_ready(cx)
    }

    fn poll_event(&self, _: &mut Context<'_>, _: Credit) -> Poll<DeviceEvent> {
        // There is no connection that could break, and nothing is pushed over HTTPS.
        Poll::Pending
    }

    /// Takes the fresh token; the hub checks it at the next request.
    fn renew(&self, claim: Claim, _: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        let outcome = match &claim {
            Claim::Sas { identity, token } if *identity == self.identity => {
                self.modules.use_claim(&claim);
                Ok(expiry_of(token.expose_str().unwrap_or_default()))
            }
            _ => Err(Refusal::new(
                RefusalKind::InvalidRequest,
                "a shared access signature of the same identity is needed",
            )),
        };
        Box::pin(std::future::ready(outcome.map(|end| {
            end.unwrap_or_else(|| self.world.now().wall.after(Duration::from_hours(1)))
        })))
    }

    fn close(&self, _: Leave) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// When a token says it ends; nothing is proven by it.
fn expiry_of(token: &str) -> Option<WallTime> {
    let seconds = token.split(['&', ' ']).find_map(|field| field.strip_prefix("se="))?;
    seconds.parse().ok().map(WallTime::from_unix_seconds)
}
