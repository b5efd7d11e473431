//! The handle of a client session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use model::id::IdentityId;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::waist::{
    Batch, Claim, Completion, Credit, DeviceEvent, DeviceSession, Epoch, Full, Leave,
};
use model::world::{Boxed, World};

use super::core::Core;
use super::modules::Modules;

/// What the handle and the connection share.
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) modules: Option<Arc<Modules>>,
    core: Mutex<Core>,
}

impl Shared {
    pub(super) fn new(world: World, core: Core, modules: Option<Modules>) -> Self {
        Self { world, modules: modules.map(Arc::new), core: Mutex::new(core) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One identity, open over MQTT.
pub(super) struct ClientSession {
    identity: IdentityId,
    epoch: Epoch,
    shared: Arc<Shared>,
    /// The last batch was refused because of its module operations.
    waits_for_modules: AtomicBool,
}

impl ClientSession {
    pub(super) fn new(identity: IdentityId, epoch: Epoch, shared: Arc<Shared>) -> Self {
        Self { identity, epoch, shared, waits_for_modules: AtomicBool::new(false) }
    }
}

impl DeviceSession for ClientSession {
    fn identity(&self) -> &IdentityId {
        &self.identity
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full> {
        if self.shared.modules.as_ref().is_some_and(|modules| !modules.has_room(&batch)) {
            self.waits_for_modules.store(true, Ordering::Relaxed);
            return Err(Full(batch));
        }
        let now = self.shared.world.now().tick;
        let (completion, asides) = self.shared.lock().submit(now, batch, deadline)?;
        for aside in asides {
            match &self.shared.modules {
                Some(modules) => Modules::start(modules, &self.shared.world, aside, deadline),
                None => aside.slot.fill(Err(Refusal::new(
                    RefusalKind::InvalidRequest,
                    "this client has no address for HTTPS",
                ))),
            }
        }
        Ok(completion)
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waits_for_modules.load(Ordering::Relaxed)
            && let Some(modules) = &self.shared.modules
        {
            ready!(modules.poll_ready(cx));
            self.waits_for_modules.store(false, Ordering::Relaxed);
        }
        self.shared.lock().poll_ready(cx)
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        self.shared.lock().poll_event(cx, credit)
    }

    fn renew(&self, _: Claim, _: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        // MQTT 3.1.1 has no words for it. A kept session reconnects by itself.
        Box::pin(std::future::ready(Err(Refusal::new(
            RefusalKind::InvalidRequest,
            "an MQTT session is renewed by opening another",
        ))))
    }

    fn close(&self, how: Leave) {
        self.shared.lock().leave(how);
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        self.shared.lock().leave(Leave::Lost { will: None });
    }
}
