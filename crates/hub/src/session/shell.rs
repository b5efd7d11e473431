//! Sessions joined to the stores and to whoever polls them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use api::health::ListenerView;
use journal::worker::Chain;
use model::feature::FeatureSet;
use model::id::IdentityId;
use model::message::Message;
use model::method::{MethodRequest, MethodResponse};
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::waist::{
    Batch, Claim, CloseReason, Completion, Credit, DeviceApi, DeviceEvent, DeviceSession, Epoch,
    Full, Leave, LinkKind, Opened,
};
use model::world::{Boxed, World};
use tokio::sync::{Semaphore, watch};

use super::budget::Budget;
use super::effect::Effect;
use super::state::{FeatureMask, SessionState};
use crate::access::shell::Guard;
use crate::access::{Access, Method, Proven, refused};
use crate::connections::Connections;
use crate::console::shell::Console;
use crate::fleet::shell::Fleet;
use crate::live::shell::Live;
use crate::methods::shell::Calls;
use crate::registry::{Entry, Ordinal};
use crate::storage::reader::Reader;
use crate::storage::rows;
use crate::storage::writer::{Fault, Reply, Tables, Writing, settle};
use crate::telemetry::shell::Telemetry;

/// Everything that sessions and services share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) listening: ListenerView,
    pub(crate) world: World,
    pub(crate) access: Guard,
    pub(crate) tables: Tables,
    pub(crate) reader: Reader,
    pub(crate) telemetry: Telemetry,
    pub(crate) connections: Arc<Connections>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) console: Console,
    pub(crate) fleet: Fleet,
    pub(crate) live: Live,
    /// The newest change of the feed.
    pub(crate) heads: watch::Receiver<u64>,
    /// Bytes of requests that wait for their answers.
    pub(crate) budget: Arc<Budget>,
    /// Bytes of answers that wait for whoever asked.
    pub(crate) answers: Arc<Budget>,
    /// Room for live readers of telemetry.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) incarnation: u32,
}

/// What the hub holds per open session.
pub(crate) struct Shared {
    pub(crate) identity: IdentityId,
    pub(crate) ord: Ordinal,
    pub(crate) epoch: Epoch,
    pub(crate) generation_id: Box<str>,
    pub(crate) method: Method,
    /// Whether its subscriptions outlive it.
    pub(crate) is_durable: bool,
    calls: Arc<Calls>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    state: SessionState,
    event: Option<Waker>,
    ready: Option<Waker>,
    /// What was sent behind a message that was not kept is not kept either; none while no
    /// telemetry is on its way.
    chain: Option<Chain>,
}

impl Shared {
    /// Reads the state.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&SessionState) -> T) -> T {
        read(&self.lock().state)
    }

    /// Changes the state, then wakes whoever polls for events, if there are some.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut SessionState) -> T) -> T {
        let (result, waker) = {
            let mut inner = self.lock();
            let result = change(&mut inner.state);
            let waker = if inner.state.has_event() { inner.event.take() } else { None };
            (result, waker)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Ends it from our side.
    pub(crate) fn end(&self, reason: CloseReason) {
        let lost = self.change(|state| state.handle_close(reason));
        self.calls.handle_lost(&lost);
        let ready = self.lock().ready.take();
        if let Some(waker) = ready {
            waker.wake();
        }
    }

    /// Goes on with another chain, if `told` is torn and still in use.
    pub(super) fn begin_chain(&self, told: &Chain) {
        self.lock().chain.take_if(|chain| chain.is(told) && told.failure().is_some());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that a batch holds until its last answer is made.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    budget: Arc<Budget>,
    requests: u32,
    bytes: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
        let waker = {
            let mut inner = self.shared.lock();
            inner.state.give_room(self.requests, self.bytes);
            if inner.state.is_idle() {
                // Idle sessions hold none; a torn one waits until its failure was told.
                inner.chain.take_if(|chain| chain.failure().is_none());
            }
            if inner.state.has_room() { inner.ready.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Room of a session for the answers of one batch, until they are taken.
#[derive(Debug)]
pub(crate) struct AnswerRoom {
    shared: Arc<Shared>,
    count: u16,
}

impl Drop for AnswerRoom {
    fn drop(&mut self) {
        let waker = {
            let mut inner = self.shared.lock();
            inner.state.give_answers(self.count);
            if inner.state.has_room() { inner.ready.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The hub's side of the waist.
#[derive(Clone, Debug)]
pub(crate) struct HubApi(pub(crate) Arc<Core>);

impl DeviceApi for HubApi {
    fn open(
        &self,
        claim: Claim,
        link: LinkKind,
        deadline: Tick,
    ) -> Boxed<'_, Result<Opened, Refusal>> {
        let core = Arc::clone(&self.0);
        Box::pin(async move {
            let with = Arc::clone(&core);
            let attach = move |w: &mut Writing<'_>| attach(w, &with, &claim, link);
            let reply = core.tables.submit(deadline, (), attach);
            let Attached { shared, resumed, features, proven } = settle(reply).await?;
            let session = Arc::new(HubSession { shared, core, owned: link != LinkKind::Https });
            Ok(Opened { session, resumed, features, valid_until: proven.valid_until })
        })
    }
}

struct Attached {
    shared: Arc<Shared>,
    resumed: bool,
    features: FeatureSet,
    proven: Proven,
}

/// Proves `claim` and makes the session, in the writer's turn, so that no deletion or change of
/// keys can come between.
fn attach(
    w: &mut Writing<'_>,
    core: &Core,
    claim: &Claim,
    link: LinkKind,
) -> Result<Attached, Fault> {
    if core.connections.is_stopping() {
        return Err(Refusal::new(RefusalKind::Unavailable, "the hub is stopping").into());
    }
    let (entry, proven) = prove(w, core, claim)?;
    let ord = entry.ord;
    let mut resumed = false;
    let mut features = FeatureSet::new();
    match link {
        LinkKind::Mqtt { clean: true } => rows::end_session(w.db, ord)?,
        LinkKind::Mqtt { clean: false } => {
            resumed = rows::has_session(w.db, ord)?;
            if resumed {
                features = rows::subscriptions(w.db, ord)?;
            } else {
                rows::begin_session(w.db, ord)?;
            }
        }
        LinkKind::Amqp | LinkKind::Https | LinkKind::Local => {}
    }
    let mask = FeatureMask::of(&features);
    let state = SessionState::new(mask, proven.valid_until, w.now.wall);
    let shared = Arc::new(Shared {
        identity: entry.identity,
        ord,
        epoch: core.connections.next_epoch(),
        generation_id: entry.generation_id,
        method: proven.method,
        is_durable: link == LinkKind::Mqtt { clean: false },
        calls: Arc::clone(&core.calls),
        inner: Mutex::new(Inner { state, ..Inner::default() }),
    });
    if link != LinkKind::Https {
        w.effects.push(Effect::Attach(Arc::clone(&shared)));
    }
    Ok(Attached { shared, resumed, features, proven })
}

fn prove(w: &Writing<'_>, core: &Core, claim: &Claim) -> Result<(Entry, Proven), Fault> {
    let subject = Access::subject(claim)?;
    let entry = rows::entry(w.db, subject)?.ok_or_else(refused)?;
    let device = if subject.is_module() {
        rows::entry(w.db, &IdentityId::device(&subject.device_id()))?.ok_or_else(refused)?
    } else {
        entry.clone()
    };
    let proven = core.access.prove(claim, &entry, &device, w.now.wall)?;
    Ok((entry, proven))
}

/// One open session.
#[derive(Debug)]
pub(crate) struct HubSession {
    pub(crate) shared: Arc<Shared>,
    pub(crate) core: Arc<Core>,
    /// Whether it is its identity's own, as all but HTTPS's are.
    pub(super) owned: bool,
}

impl DeviceSession for HubSession {
    fn identity(&self) -> &IdentityId {
        &self.shared.identity
    }

    fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full> {
        let bytes = super::requests::bytes_of(&batch);
        let answers = super::requests::heavy_answers_of(&batch);
        let requests = u32::try_from(batch.0.len()).unwrap_or(u32::MAX);
        let now = self.core.world.now();
        // Enqueued under the session's lock: a takeover comes wholly before or wholly after.
        let mut inner = self.shared.lock();
        if let Some(refusal) = shut(&inner.state, now.wall) {
            let answers = batch.0.iter().map(|_| Err(refusal.clone())).collect();
            return Ok(Completion::ready(answers));
        }
        if !inner.state.take_room(requests, bytes) {
            return Err(Full(batch));
        }
        if !inner.state.take_answers(answers) {
            inner.state.give_room(requests, bytes);
            return Err(Full(batch));
        }
        if !self.core.budget.take(bytes) {
            inner.state.give_room(requests, bytes);
            inner.state.give_answers(answers);
            return Err(Full(batch));
        }
        inner.state.active = now.wall;
        if self.owned && inner.state.note() {
            self.core.connections.note(self.shared.ord, now.tick);
        }
        let shared = || Arc::clone(&self.shared);
        let budget = Arc::clone(&self.core.budget);
        let permit = Arc::new(Permit { shared: shared(), budget, requests, bytes });
        let room = (answers > 0).then(|| Arc::new(AnswerRoom { shared: shared(), count: answers }));
        let chain = inner.chain.get_or_insert_default().clone();
        let submitted = self.enqueue((batch, chain), (&permit, room.clone()), deadline);
        // The last holder of either takes the lock, so they must not be dropped under it.
        drop(inner);
        drop((permit, room));
        submitted
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut inner = self.shared.lock();
            if !inner.state.has_room() {
                inner.ready = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        match self.core.budget.poll_ready(cx) {
            Poll::Ready(()) => self.core.telemetry.poll_ready(cx),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        let now = self.core.world.now().tick;
        let mut inner = self.shared.lock();
        if let Some(event) = inner.state.poll_event(now, credit) {
            return Poll::Ready(event);
        }
        match &mut inner.event {
            Some(held) => held.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn renew(&self, claim: Claim, deadline: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        Box::pin(async move {
            let core = Arc::clone(&self.core);
            let identity = self.shared.identity.clone();
            let check = move |w: &mut Writing<'_>| {
                if *Access::subject(&claim)? != identity {
                    return Err(refused().into());
                }
                let (_, proven) = prove(w, &core, &claim)?;
                Ok(proven.valid_until.unwrap_or(WallTime(i64::MAX)))
            };
            let until = settle(self.core.tables.submit(deadline, (), check)).await?;
            self.core.connections.renew(&self.shared, until);
            Ok(until)
        })
    }

    fn close(&self, how: Leave) {
        let closed = {
            let mut inner = self.shared.lock();
            if std::mem::replace(&mut inner.state.left, true) {
                return;
            }
            inner.state.closed()
        };
        // Who lost the right says nothing more; and where it is we who go, nobody was lost.
        let silent = matches!(closed, Some(CloseReason::Revoked | CloseReason::ShuttingDown));
        if let Leave::Lost { will: Some(will) } = how
            && !silent
        {
            self.send_will(*will);
        }
        self.shared.end(CloseReason::Disconnected);
        if self.owned {
            self.core.connections.detach(&self.shared, self.core.world.now());
        }
    }
}

impl HubSession {
    /// Sends what the device left to be said; nobody is told whether it arrived.
    fn send_will(&self, mut will: Message) {
        super::requests::mark_will(&mut will);
        if will.check_size().is_ok() {
            let record = super::requests::record(&self.shared, &will);
            self.core.telemetry.forget(self.shared.identity.device_str(), record);
        }
    }
}

impl Drop for HubSession {
    fn drop(&mut self) {
        self.close(Leave::Lost { will: None });
    }
}

/// Calls a method beside the caller; `done` gets what came of it.
pub(super) fn spawn_invoke(
    core: &Arc<Core>,
    target: Reply<Ordinal>,
    request: MethodRequest,
    done: impl FnOnce(Result<MethodResponse, Refusal>) + Send + 'static,
) {
    let core = Arc::clone(core);
    let world = core.world.clone();
    world.spawn(async move {
        let result = match settle(target).await {
            Ok(ord) => {
                let calls = Arc::clone(&core.calls);
                calls.invoke(&core.world, &core.connections, ord, request).await
            }
            Err(refusal) => Err(refusal),
        };
        done(result);
    });
}

fn shut(state: &SessionState, now: WallTime) -> Option<Refusal> {
    let refusal = |kind, reason: &'static str| Some(Refusal::new(kind, reason));
    match state.closed() {
        Some(CloseReason::TakenOver) => {
            refusal(RefusalKind::TakenOver, "a newer session of the identity took over")
        }
        Some(CloseReason::Expired) => {
            refusal(RefusalKind::Unauthenticated, "the credentials have expired")
        }
        Some(CloseReason::Revoked) => refusal(RefusalKind::Unauthenticated, "access was revoked"),
        Some(_) => refusal(RefusalKind::Unavailable, "the session is closed"),
        None if state.valid_until.is_some_and(|until| until <= now) => {
            refusal(RefusalKind::Unauthenticated, "the credentials have expired")
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_takes_at_most_400_bytes() {
        // Both counters of its Arc, the handle with its own, the text of the generation, and
        // the entries in the map and the wheel.
        let shared = size_of::<Shared>() + 16;
        let handle = size_of::<HubSession>() + 16;
        let texts = 24 + 48;
        let entries =
            2 * size_of::<(Ordinal, Arc<Shared>)>() + 2 * size_of::<(WallTime, Ordinal)>();
        let all = shared + handle + texts + entries;
        assert!(all <= 400, "{shared} + {handle} + {texts} + {entries} = {all}");
    }
}
