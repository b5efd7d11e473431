//! The session itself: requests go to the journal or to its task of slow operations, events
//! come from its lanes, its twin and its callers.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use journal::log::{Budget, LaneId, Position};
use journal::queue::{Delivery as Found, Queue};
use journal::worker::Chain;
use model::feature::{Feature, FeatureSet};
use model::id::{IdentityId, ModuleName};
use model::message::Message;
use model::method::{METHODS_WAITING_BYTES_MAX, MethodCallId, MethodRequest, MethodResponse};
use model::planted;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::twin::slot::{DesiredChange, DesiredSlot};
use model::waist::{
    ANSWER_BYTES, Answer, Answers, BATCH_REQUESTS_MAX, Batch, Claim, CloseReason, Completion,
    Credit, Delivery, DeliveryToken, DeviceEvent, DeviceRequest, DeviceSession, Epoch, Full, Leave,
    Outcome, SESSION_ANSWER_BYTES_MAX,
};
use model::world::Boxed;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{FETCH_BYTES, INVOKE_MAX, METHODS_MAX, OPERATIONS_MAX, UNSETTLED_MAX};
use crate::access::Proven;
use crate::router::record;
use crate::router::shell::{Core, count, refusal_of};
use crate::upstream::shell::{Link, Owner, until};

/// The longest wait between two looks whether the claim of a session still holds.
const EXPIRY_LOOK: Duration = Duration::from_secs(30);
const EXPIRED: &str = "the token has expired";

type Reply = Result<Answer, Refusal>;

/// One open session of a module.
pub(crate) struct ModuleSession {
    core: Arc<Core>,
    link: Arc<Link>,
    proven: Proven,
    module: ModuleName,
    /// Its subscriptions end with it.
    is_clean: bool,
    epoch: Epoch,
    me: Weak<Self>,
    operations: mpsc::Sender<Operation>,
    state: Mutex<State>,
}

struct State {
    closed: Option<CloseReason>,
    is_end_told: bool,
    valid_until: WallTime,
    features: FeatureSet,
    waker: Option<Waker>,
    room: Option<Waker>,
    desired: Option<Box<DesiredSlot>>,
    methods: VecDeque<(MethodCallId, MethodRequest, Tick)>,
    calls: BTreeMap<MethodCallId, oneshot::Sender<MethodResponse>>,
    inputs: Inputs,
    /// What was sent behind a message that was not kept is not kept either.
    chain: Chain,
    /// Bytes of answers that were asked for and not taken, as they are reckoned.
    answers: u32,
    next: u64,
}

#[derive(Default)]
struct Inputs {
    ready: VecDeque<(LaneId, Position, Message)>,
    unsettled: BTreeMap<DeliveryToken, (LaneId, Position)>,
    is_fetching: bool,
    has_work: bool,
    turn: usize,
}

/// A request that waits for something but the journal.
struct Operation {
    request: DeviceRequest,
    deadline: Tick,
    answer: oneshot::Sender<Reply>,
}

impl ModuleSession {
    pub(crate) fn start(
        core: Arc<Core>,
        link: Arc<Link>,
        proven: Proven,
        (module, is_clean): (ModuleName, bool),
        features: FeatureSet,
        epoch: Epoch,
    ) -> Arc<Self> {
        let (operations, waiting) = mpsc::channel(OPERATIONS_MAX);
        let session = Arc::new_cyclic(|me: &Weak<Self>| Self {
            state: Mutex::new(State {
                closed: None,
                is_end_told: false,
                valid_until: proven.valid_until,
                features,
                waker: None,
                room: None,
                desired: None,
                methods: VecDeque::new(),
                calls: BTreeMap::new(),
                inputs: Inputs { has_work: true, ..Inputs::default() },
                chain: Chain::default(),
                answers: 0,
                next: 1,
            }),
            core: Arc::clone(&core),
            link: Arc::clone(&link),
            proven,
            module,
            is_clean,
            epoch,
            me: Self::weak(me),
            operations,
        });
        let owner: Weak<dyn Owner> = Self::weak(&session.me);
        link.set_owner(owner);
        session.mirror_methods();
        core.world.spawn(operate(Self::weak(&session.me), waiting));
        session
    }

    fn weak(me: &Weak<Self>) -> Weak<Self> {
        Weak::clone(me)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session from our side.
    pub(crate) fn end(&self, reason: CloseReason) {
        let mut state = self.state();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(reason);
        state.calls.clear();
        state.methods.clear();
        if reason != CloseReason::TakenOver {
            // Who was taken over has no say about the newer one's wishes.
            self.link.set_methods(false);
        }
        let wakers = (state.waker.take(), state.room.take());
        drop(state);
        self.core.handle_disconnected(&self.proven.identity);
        [wakers.0, wakers.1].into_iter().flatten().for_each(Waker::wake);
    }

    /// Ends it if its claim stopped holding; else gives how long to wait before the next look.
    fn expiry(&self) -> Option<Tick> {
        let now = self.core.world.now().wall;
        let (is_open, left) = {
            let state = self.state();
            (state.closed.is_none(), state.valid_until.since(now))
        };
        if is_open && left.is_zero() {
            self.end(CloseReason::Expired);
        }
        // The wall clock may jump, and a renewal moves the end.
        (is_open && !left.is_zero()).then(|| Tick(0).after(left.min(EXPIRY_LOOK)))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state().closed.is_none()
    }

    /// Goes on with another chain, if `told` is torn and still in use.
    fn begin_chain(&self, told: &Chain) {
        let mut state = self.state();
        if state.chain.is(told) && told.failure().is_some() {
            state.chain = Chain::default();
        }
    }

    /// Takes room for the answers to `batch`, unless too many wait to be taken; gives their bytes.
    fn take_answers(&self, batch: &Batch) -> Option<u32> {
        let heavy = batch.0.iter().filter(|request| is_heavy(request)).count();
        let bytes = u32::try_from(heavy).unwrap_or(u32::MAX).saturating_mul(ANSWER_BYTES);
        let mut state = self.state();
        if bytes > 0 && state.answers > SESSION_ANSWER_BYTES_MAX / 2 {
            return None;
        }
        state.answers = state.answers.saturating_add(bytes);
        Some(bytes)
    }

    /// Answers were taken, or nobody waits for them any more.
    fn give_answers(&self, bytes: u32) {
        let mut state = self.state();
        state.answers = state.answers.saturating_sub(bytes);
        let room = if bytes > 0 { state.room.take() } else { None };
        drop(state);
        if let Some(waker) = room {
            waker.wake();
        }
    }

    /// Messages for its inputs were committed.
    pub(crate) fn handle_work(&self) {
        let mut state = self.state();
        state.inputs.has_work = true;
        wake(state);
    }

    /// The hub answers "not there" by itself if nobody listens to methods.
    fn mirror_methods(&self) {
        self.link.set_methods(self.state().features.has(Feature::Methods));
    }

    fn refusal(&self) -> Option<Refusal> {
        let state = self.state();
        let of = |kind, reason| Some(Refusal::new(kind, reason));
        match state.closed {
            Some(CloseReason::TakenOver) => {
                of(RefusalKind::TakenOver, "a newer session of this module took over")
            }
            Some(CloseReason::Revoked) => {
                of(RefusalKind::Unauthenticated, "the identity was removed or has other keys")
            }
            Some(CloseReason::Expired) => of(RefusalKind::Unauthenticated, EXPIRED),
            Some(CloseReason::Disconnected | CloseReason::ShuttingDown) => {
                of(RefusalKind::Unavailable, "the session is closed")
            }
            None if self.core.world.now().wall >= state.valid_until => {
                of(RefusalKind::Unauthenticated, EXPIRED)
            }
            None => None,
        }
    }

    /// Acknowledges what was completed or rejected and takes back what was abandoned.
    fn settle(&self, batch: &Batch) -> Result<(), ()> {
        let mut done = Vec::new();
        let mut again = Vec::new();
        {
            let state = self.state();
            for request in &batch.0 {
                let DeviceRequest::Settle { token, outcome } = request else { continue };
                match (state.inputs.unsettled.get(token), outcome) {
                    // Settled before: every settlement may come twice.
                    (None, _) => {}
                    (Some(place), Outcome::Complete | Outcome::Reject) => done.push(*place),
                    (Some((lane, _)), Outcome::Abandon) => again.push(*lane),
                }
            }
        }
        if done.is_empty() && again.is_empty() {
            return Ok(());
        }
        let (me, settled) = (Self::weak(&self.me), done.len() as u64);
        let command = Box::new(move |queue: &mut Queue, _| {
            for (lane, position) in &done {
                queue.acknowledge(*lane, *position);
            }
            for lane in &again {
                queue.rewind(*lane);
            }
            if let Some(session) = me.upgrade() {
                for (lane, _) in &done {
                    session.core.counters.tally.handle_sent(*lane);
                }
                count(&session.core.counters.sent_inputs, settled);
                session.handle_work();
            }
        });
        self.core.intake.command(command).map_err(drop)?;
        let mut state = self.state();
        for request in &batch.0 {
            if let DeviceRequest::Settle { token, .. } = request {
                state.inputs.unsettled.remove(token);
            }
        }
        Ok(())
    }

    fn fetch(&self, messages: usize) -> bool {
        let (me, module) = (Self::weak(&self.me), self.module.clone());
        let core = Arc::clone(&self.core);
        let turn = self.state().inputs.turn;
        let command = Box::new(move |queue: &mut Queue, now_ms| {
            let Some(session) = me.upgrade().filter(|session| session.is_open()) else { return };
            let mut inputs = core.table().inputs_of(&module);
            let len = inputs.len().max(1);
            inputs.rotate_left(turn % len);
            let budget = Budget { records: messages, bytes: FETCH_BYTES };
            for (endpoint, input) in inputs {
                let lanes = queue.lanes(&endpoint);
                match queue.next(&lanes, budget, now_ms) {
                    Ok(Some(found)) => return session.handle_found(queue, found, &input),
                    Ok(None) => {}
                    Err(error) => {
                        warn!(%error, endpoint, "lane not read");
                        return session.handle_empty();
                    }
                }
            }
            session.handle_empty();
        });
        self.core.intake.command(command).is_ok()
    }

    fn handle_found(&self, queue: &mut Queue, found: Found, input: &str) {
        let mut ready = Vec::with_capacity(found.records.len());
        for stored in found.records {
            match record::decode(stored.payload) {
                Ok((_, mut message)) => {
                    message.system.input_name = Some(input.into());
                    // The slice would keep the whole read alive until the slowest is settled.
                    message.body = bytes::Bytes::copy_from_slice(&message.body);
                    ready.push((found.lane, stored.position, message));
                }
                Err(error) => {
                    warn!(%error, "a stored message was passed over");
                    count(&self.core.counters.dropped_damaged, 1);
                    queue.acknowledge(found.lane, stored.position);
                }
            }
        }
        let mut state = self.state();
        state.inputs.ready.extend(ready);
        state.inputs.is_fetching = false;
        state.inputs.turn = state.inputs.turn.wrapping_add(1);
        wake(state);
    }

    fn handle_empty(&self) {
        let mut state = self.state();
        state.inputs.is_fetching = false;
        state.inputs.has_work = false;
    }

    fn poll_input(&self, mut state: MutexGuard<'_, State>, credit: Credit) -> Poll<DeviceEvent> {
        if credit.messages == 0 || !state.features.has(Feature::Inputs) {
            return Poll::Pending;
        }
        if let Some((lane, position, message)) = state.inputs.ready.pop_front() {
            let token = DeliveryToken(state.next);
            state.next += 1;
            state.inputs.unsettled.insert(token, (lane, position));
            // Planted: what was handed out counts as worked up.
            if planted::is("input_done_when_handed_out") {
                let done = move |queue: &mut Queue, _| queue.acknowledge(lane, position);
                self.core.intake.command(Box::new(done)).ok();
            }
            return Poll::Ready(DeviceEvent::Message(Box::new(Delivery { token, message })));
        }
        let room = UNSETTLED_MAX.saturating_sub(state.inputs.unsettled.len());
        let messages = room.min(usize::from(credit.messages));
        if messages > 0 && state.inputs.has_work && !state.inputs.is_fetching {
            state.inputs.is_fetching = true;
            drop(state);
            if !self.fetch(messages) {
                // The writer is behind with 4,096 commands; the next commit wakes us.
                self.state().inputs.is_fetching = false;
            }
        }
        Poll::Pending
    }

    fn answer_method(&self, call: MethodCallId, response: MethodResponse) {
        if let Some(caller) = self.state().calls.remove(&call) {
            // Nobody waits any more: that is no fault of the module.
            caller.send(response).ok();
        }
    }

    async fn operate(&self, request: DeviceRequest, deadline: Tick) -> Reply {
        match request {
            DeviceRequest::ReadTwin => {
                self.link.read().await.map(|twin| Answer::Twin(Box::new(twin)))
            }
            DeviceRequest::PatchReported { patch, if_version } => {
                self.link.report(patch, if_version).await.map(Answer::Patched)
            }
            DeviceRequest::Subscribe(wanted) => {
                let mut features = self.state().features.clone();
                for one in &wanted {
                    if features.len() < model::feature::SUBSCRIPTIONS_MAX {
                        features.insert(one.clone());
                    }
                }
                let held = |filter: &str| features.iter().any(|one| &*one.filter == filter);
                let granted = wanted.iter().filter(|one| held(&one.filter)).cloned().collect();
                self.keep(features).await?;
                Ok(Answer::Subscribed(granted))
            }
            DeviceRequest::Unsubscribe(filters) => {
                let mut features = self.state().features.clone();
                for filter in &filters {
                    features.remove(filter);
                }
                self.keep(features).await?;
                Ok(Answer::Accepted)
            }
            DeviceRequest::InvokeMethod { target, request } => {
                self.invoke(&target, request, deadline).await
            }
            // The hub hears the model of a module from its telemetry alone.
            DeviceRequest::AnnounceModel(_) => Ok(Answer::Accepted),
            DeviceRequest::PullMessage { .. } => Err(invalid("modules get no such messages")),
            DeviceRequest::Modules(_) => Err(Refusal::new(
                RefusalKind::Forbidden,
                "only the edge runtime works on module identities",
            )),
            DeviceRequest::SendTelemetry(_)
            | DeviceRequest::Settle { .. }
            | DeviceRequest::AnswerMethod { .. } => Err(invalid("handled at once")),
        }
    }

    async fn keep(&self, features: FeatureSet) -> Result<(), Refusal> {
        let turn = self.core.keeping.lock().await;
        if !self.is_clean {
            // A clean session that came meanwhile wiped them, and nothing may come back.
            if self.state().closed == Some(CloseReason::TakenOver) {
                let reason = "a newer session of the module took over";
                return Err(Refusal::new(RefusalKind::TakenOver, reason));
            }
            self.core.keep_features(&self.module, Some(features.clone())).await?;
        }
        drop(turn);
        let mut state = self.state();
        state.features = features;
        wake(state);
        self.mirror_methods();
        Ok(())
    }

    async fn invoke(&self, target: &IdentityId, request: MethodRequest, deadline: Tick) -> Reply {
        let module = target.module_name().filter(|_| target.device_id() == self.core.device);
        let offline = || Refusal::new(RefusalKind::TargetOffline, "the module is not connected");
        let session = module.and_then(|module| self.core.session(&module)).ok_or_else(offline)?;
        let now = self.core.world.now().tick;
        let wait = request.response_timeout.min(INVOKE_MAX).min(deadline.since(now));
        let reply = session.handle_method(request, now.after(wait)).ok_or_else(offline)?;
        match tokio::time::timeout(wait, reply).await {
            Ok(Ok(response)) => Ok(Answer::Method(response)),
            Ok(Err(_)) => Err(offline()),
            Err(_) => {
                Err(Refusal::new(RefusalKind::TargetTimedOut, "the module did not answer in time"))
            }
        }
    }
}

impl Owner for ModuleSession {
    fn handle_desired(&self, change: DesiredChange) {
        let mut state = self.state();
        // Who did not subscribe reads the whole twin first.
        if !state.features.has(Feature::DesiredChanges) {
            return;
        }
        match &mut state.desired {
            Some(slot) => slot.add(change),
            slot @ None => *slot = Some(Box::new(DesiredSlot::new(change))),
        }
        wake(state);
    }

    fn handle_method(
        &self,
        request: MethodRequest,
        deadline: Tick,
    ) -> Option<oneshot::Receiver<MethodResponse>> {
        let mut state = self.state();
        let listens = state.closed.is_none() && state.features.has(Feature::Methods);
        // Calls whose callers went away make room.
        state.calls.retain(|_, caller| !caller.is_closed());
        let waiting: usize = state.methods.iter().map(|(_, call, _)| call.payload.len()).sum();
        let large = waiting + request.payload.len() > METHODS_WAITING_BYTES_MAX;
        if !listens || state.calls.len() >= METHODS_MAX || large && !state.methods.is_empty() {
            return None;
        }
        let (caller, reply) = oneshot::channel();
        let call = MethodCallId(state.next);
        state.next += 1;
        state.calls.insert(call, caller);
        state.methods.push_back((call, request, deadline));
        wake(state);
        Some(reply)
    }
}

/// The task of slow operations; ends with the session.
async fn operate(session: Weak<ModuleSession>, mut waiting: mpsc::Receiver<Operation>) {
    loop {
        let Some(expiry) = session.upgrade().map(|session| session.expiry()) else { return };
        let next = tokio::select! {
            biased;
            next = waiting.recv() => next,
            () = until(expiry, Tick(0)) => continue,
        };
        let Some(Operation { request, deadline, answer }) = next else { return };
        let Some(session) = session.upgrade() else { return };
        let wait = deadline.since(session.core.world.now().tick);
        let late = || Refusal::new(RefusalKind::TimedOut, "it took too long; it may have happened");
        let reply = match session.refusal() {
            Some(refusal) => Err(refusal),
            None => tokio::time::timeout(wait, session.operate(request, deadline))
                .await
                .unwrap_or_else(|_| Err(late())),
        };
        // Dropping the completion cancels nothing.
        answer.send(reply).ok();
        let room = session.state().room.take();
        if let Some(waker) = room {
            waker.wake();
        }
    }
}

impl DeviceSession for ModuleSession {
    fn identity(&self) -> &IdentityId {
        &self.proven.identity
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full> {
        if let Some(refusal) = self.refusal() {
            let all = batch.0.iter().map(|_| Err(refusal.clone())).collect();
            return Ok(Completion::ready(all));
        }
        let slow = batch.0.iter().filter(|request| is_slow(request)).count();
        let Ok(mut permits) = self.operations.try_reserve_many(slow) else {
            return Err(Full(batch));
        };
        let Some(answers) = self.take_answers(&batch) else { return Err(Full(batch)) };
        if self.settle(&batch).is_err() {
            self.give_answers(answers);
            return Err(Full(batch));
        }
        let chain = self.state().chain.clone();
        let Ok((commit, mut taken)) = self.core.take(&self.proven, &batch, &chain) else {
            self.give_answers(answers);
            return Err(Full(batch));
        };
        let mut slots = VecDeque::with_capacity(batch.0.len());
        for request in batch.0 {
            slots.push_back(match request {
                DeviceRequest::SendTelemetry(_) => match taken.pop_front() {
                    Some(Ok(())) => Slot::Committed,
                    Some(Err(refusal)) => Slot::Known(Err(refusal)),
                    None => Slot::Known(Err(invalid("not taken"))),
                },
                DeviceRequest::Settle { .. } => Slot::Known(Ok(Answer::Accepted)),
                DeviceRequest::AnswerMethod { call, response } => {
                    self.answer_method(call, response);
                    Slot::Known(Ok(Answer::Accepted))
                }
                request => {
                    let (answer, reply) = oneshot::channel();
                    if let Some(permit) = permits.next() {
                        permit.send(Operation { request, deadline, answer });
                    }
                    Slot::Later(reply)
                }
            });
        }
        let session = Self::weak(&self.me);
        let pending = Pending { slots, commit, committed: None, session, chain, answers };
        Ok(Completion::new(pending))
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let taken = {
            let mut state = self.state();
            state.room = Some(cx.waker().clone());
            state.answers <= SESSION_ANSWER_BYTES_MAX / 2
        };
        let has_room = taken && self.operations.capacity() >= BATCH_REQUESTS_MAX || !self.is_open();
        if has_room { self.core.intake.poll_ready(cx) } else { Poll::Pending }
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        let mut state = self.state();
        state.waker = Some(cx.waker().clone());
        if let Some(reason) = state.closed {
            if state.is_end_told {
                return Poll::Pending;
            }
            state.is_end_told = true;
            return Poll::Ready(DeviceEvent::Closed(reason));
        }
        if credit.methods > 0
            && let Some((call, request, deadline)) = state.methods.pop_front()
        {
            return Poll::Ready(DeviceEvent::Method { call, request, deadline });
        }
        if credit.desired > 0
            && let Some(slot) = state.desired.take()
        {
            let (patch, version) = slot.into_event();
            return Poll::Ready(DeviceEvent::Desired { patch, version });
        }
        self.poll_input(state, credit)
    }

    fn renew(&self, claim: Claim, _: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        Box::pin(async move {
            let proven = self.core.prove(&claim)?;
            if proven.identity != self.proven.identity {
                let reason = "the claim is of another identity";
                return Err(Refusal::new(RefusalKind::Forbidden, reason));
            }
            self.state().valid_until = proven.valid_until;
            Ok(proven.valid_until)
        })
    }

    fn close(&self, how: Leave) {
        if !self.is_open() {
            return;
        }
        if let Leave::Lost { will: Some(will) } = how {
            let batch = Batch::from(DeviceRequest::SendTelemetry(will));
            if self.core.take(&self.proven, &batch, &Chain::default()).is_err() {
                warn!(module_id = %self.module, "the will was lost: the journal is full");
            }
        }
        self.end(CloseReason::Disconnected);
    }
}

impl Drop for ModuleSession {
    fn drop(&mut self) {
        // A session that was taken over has no say about the newer one's wishes.
        if self.state().closed.is_none() {
            self.core.handle_disconnected(&self.proven.identity);
            self.link.set_methods(false);
        }
    }
}

/// Answers of one batch: known ones, those of one commit, those of the task.
struct Pending {
    slots: VecDeque<Slot>,
    commit: Option<oneshot::Receiver<Result<(), Refusal>>>,
    committed: Option<Result<(), Refusal>>,
    session: Weak<ModuleSession>,
    chain: Chain,
    /// Bytes of room for answers, given back with the last of them.
    answers: u32,
}

impl Drop for Pending {
    /// Whoever was told of a failure, or does not care, may go on.
    fn drop(&mut self) {
        if let Some(session) = self.session.upgrade() {
            session.begin_chain(&self.chain);
            session.give_answers(self.answers);
        }
    }
}

enum Slot {
    Known(Reply),
    Committed,
    Later(oneshot::Receiver<Reply>),
}

impl Pending {
    fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        if let Some(committed) = &self.committed {
            return Poll::Ready(committed.clone());
        }
        // Planted: nobody waits for the disk.
        if planted::is("ack_before_commit") {
            return Poll::Ready(Ok(()));
        }
        let Some(commit) = &mut self.commit else { return Poll::Ready(Ok(())) };
        let Poll::Ready(told) = Pin::new(commit).poll(cx) else { return Poll::Pending };
        let outcome = told.unwrap_or_else(|_| Err(gone()));
        self.committed = Some(outcome.clone());
        Poll::Ready(outcome)
    }
}

impl Answers for Pending {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
        let Some(mut slot) = self.slots.pop_front() else { return Poll::Ready(None) };
        let polled = match &mut slot {
            Slot::Known(reply) => Poll::Ready(reply.clone()),
            Slot::Committed => self.poll_commit(cx).map_ok(|()| Answer::Accepted),
            Slot::Later(reply) => {
                Pin::new(reply).poll(cx).map(|told| told.unwrap_or_else(|_| Err(gone())))
            }
        };
        if polled.is_pending() {
            self.slots.push_front(slot);
        }
        polled.map(Some)
    }
}

/// Tells the sender how a commit ended.
pub(crate) fn commit_told(
    told: oneshot::Sender<Result<(), Refusal>>,
    outcome: &Result<journal::log::Committed, journal::log::CommitError>,
) {
    // Planted: a disk that failed is none of the sender's business.
    if planted::is("disk_error_is_success") {
        return drop(told.send(Ok(())));
    }
    // Dropping the completion cancels nothing.
    told.send(outcome.as_ref().map(|_| ()).map_err(refusal_of)).ok();
}

/// Whether its answer holds a twin or what a module said.
fn is_heavy(request: &DeviceRequest) -> bool {
    matches!(request, DeviceRequest::ReadTwin | DeviceRequest::InvokeMethod { .. })
}

fn is_slow(request: &DeviceRequest) -> bool {
    !matches!(
        request,
        DeviceRequest::SendTelemetry(_)
            | DeviceRequest::Settle { .. }
            | DeviceRequest::AnswerMethod { .. }
    )
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn gone() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "the router is stopping")
}

fn invalid(reason: &'static str) -> Refusal {
    Refusal::new(RefusalKind::InvalidRequest, reason)
}
