//! What a client session knows, without sockets and tasks: requests in, answers and events out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use model::feature::FeatureSet;
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::twin::limits;
use model::waist::{
    Answer, Answers, BATCH_REQUESTS_MAX, Batch, CloseReason, Completion, Credit, DeviceEvent,
    DeviceRequest, Full, Leave, ModuleOperation,
};
use tokio::sync::watch;
use wire::mqtt::client::{Ending, Login, Options, RequestId, Session, Step};

use super::Link;

/// Bytes of telemetry that may wait for answers.
pub(super) const UNANSWERED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Events that may wait for somebody to poll; beyond it the socket is not read.
const EVENTS_MAX: usize = 1024;
/// Bytes of events that may wait for somebody to poll; beyond it the socket is not read.
pub(super) const EVENTS_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) struct Core {
    wire: Session,
    next_id: u64,
    open: BTreeMap<RequestId, Entry>,
    /// Open requests to be sent again over the next connection, oldest first.
    again: Vec<RequestId>,
    unanswered_bytes: usize,
    /// What the batch submitted last takes: requests and bytes.
    wanted: (usize, usize),
    events: VecDeque<DeviceEvent>,
    events_bytes: usize,
    /// Whether the server accepted the current connection, and then whether it knew us.
    accepted: Option<bool>,
    /// What the server granted in any connection so far.
    granted: FeatureSet,
    greeted_before: bool,
    /// Told to whoever watches the connections of a kept session.
    news: Option<watch::Sender<Link>>,
    left: Option<Leave>,
    end: Option<CloseReason>,
    end_told: bool,
    driver: Option<Waker>,
    room: Option<Waker>,
    listener: Option<Waker>,
}

struct Entry {
    slot: Slot,
    deadline: Tick,
    bytes: usize,
    /// The request once more, if doing it twice is the same as doing it once.
    copy: Option<DeviceRequest>,
}

/// A module operation, for whoever carries it out over HTTPS.
pub(super) struct Aside {
    pub(super) operation: ModuleOperation,
    pub(super) slot: Slot,
}

impl Core {
    /// A session that ends with its connection.
    pub(super) fn single(options: Options) -> Self {
        Self {
            wire: Session::new(options),
            next_id: 0,
            open: BTreeMap::new(),
            again: Vec::new(),
            unanswered_bytes: 0,
            wanted: (0, 0),
            events: VecDeque::new(),
            events_bytes: 0,
            accepted: None,
            granted: FeatureSet::new(),
            greeted_before: false,
            news: None,
            left: None,
            end: None,
            end_told: false,
            driver: None,
            room: None,
            listener: None,
        }
    }

    /// A session that outlives its connections and tells about them.
    pub(super) fn kept(options: Options, news: watch::Sender<Link>) -> Self {
        Self { news: Some(news), ..Self::single(options) }
    }

    // ── From the owner of the session ──

    pub(super) fn submit(
        &mut self,
        now: Tick,
        batch: Batch,
        deadline: Tick,
    ) -> Result<(Completion, Vec<Aside>), Full> {
        if self.end.is_some() || self.left.is_some() {
            let gone = || Err(Refusal::new(RefusalKind::Unavailable, "the session is closed"));
            let answers = batch.0.iter().map(|_| gone()).collect();
            return Ok((Completion::ready(answers), Vec::new()));
        }
        let bytes: usize = batch.0.iter().map(bytes_of).sum();
        self.wanted = (batch.0.len().min(BATCH_REQUESTS_MAX), bytes);
        if !self.has_room() {
            return Err(Full(batch));
        }
        let (completion, slots) = slots(batch.0.len());
        let mut asides = Vec::new();
        for (request, slot) in batch.0.into_iter().zip(slots) {
            match request {
                DeviceRequest::Modules(operation) => asides.push(Aside { operation, slot }),
                request => self.ask(now, request, slot, deadline),
            }
        }
        wake(&mut self.driver);
        Ok((completion, asides))
    }

    fn ask(&mut self, now: Tick, request: DeviceRequest, slot: Slot, deadline: Tick) {
        let id = self.fresh_id();
        let (bytes, copy) = (bytes_of(&request), copy_of(&request));
        if self.wire.request(now, id, request, deadline).is_err() {
            slot.fill(Err(Refusal::new(RefusalKind::Unavailable, "there is no room")));
            return;
        }
        self.unanswered_bytes += bytes;
        self.open.insert(id, Entry { slot, deadline, bytes, copy });
    }

    fn fresh_id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    /// Whether the batch that was submitted last fits now.
    fn has_room(&self) -> bool {
        let (requests, bytes) = self.wanted;
        let over = self.unanswered_bytes + bytes > UNANSWERED_BYTES_MAX;
        self.wire.room() >= requests && !(over && self.unanswered_bytes > 0)
    }

    pub(super) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() || self.end.is_some() || self.left.is_some() {
            return Poll::Ready(());
        }
        self.room = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn poll_event(&mut self, cx: &Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        if let (Some(end), false) = (self.end, self.end_told) {
            self.end_told = true;
            self.events.clear();
            self.events_bytes = 0;
            return Poll::Ready(DeviceEvent::Closed(end));
        }
        if let Some(at) = self.events.iter().position(|event| credit.allows(event))
            && let Some(event) = self.events.remove(at)
        {
            let was_full = !self.wants_bytes() || self.events.len() + 1 == EVENTS_MAX;
            self.events_bytes = self.events_bytes.saturating_sub(event_bytes(&event));
            if was_full && self.wants_bytes() {
                wake(&mut self.driver);
            }
            return Poll::Ready(event);
        }
        self.listener = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The owner goes; the first way of leaving counts.
    pub(super) fn leave(&mut self, how: Leave) {
        if self.left.is_some() {
            return;
        }
        if how == Leave::Asked {
            self.wire.disconnect();
        }
        self.left = Some(how);
        wake(&mut self.driver);
    }

    // ── From the connection ──

    pub(super) fn connect(&mut self, now: Tick, login: &Login) -> Result<(), Refusal> {
        self.accepted = None;
        self.wire.connect(now, login)
    }

    /// Ends the current connection politely, to make another.
    pub(super) fn part(&mut self) {
        self.wire.disconnect();
    }

    /// Does what is to be done; gives the end of the connection if it has come.
    pub(super) fn work(&mut self, now: Tick) -> Option<Ending> {
        self.expire(now);
        while let Some(step) = self.wire.poll(now) {
            match step {
                Step::Connected { resumed } => self.handle_accepted(now, resumed),
                Step::Answer { id, answer } => self.settle(now, id, answer),
                Step::Event(event) => {
                    self.events_bytes += event_bytes(&event);
                    self.events.push_back(event);
                    wake(&mut self.listener);
                }
                Step::Close(ending) => return Some(ending),
            }
        }
        if self.has_room() {
            wake(&mut self.room);
        }
        None
    }

    fn handle_accepted(&mut self, now: Tick, resumed: bool) {
        self.accepted = Some(resumed);
        if let Some(news) = &self.news {
            news.send_replace(Link::Up { resumed });
        }
        // The server forgot us: it must hear the subscriptions again before all else.
        if self.greeted_before && !resumed && !self.granted.is_empty() {
            let (id, request) = (self.fresh_id(), DeviceRequest::Subscribe(self.granted.clone()));
            if self.wire.request(now, id, request, Tick::NEVER).is_err() {
                tracing::warn!("no room to subscribe again");
            }
        }
        self.greeted_before = true;
        for old in std::mem::take(&mut self.again) {
            let Some(mut entry) = self.open.remove(&old) else { continue };
            let Some(request) = entry.copy.take() else { continue };
            self.unanswered_bytes -= entry.bytes;
            self.ask(now, request, entry.slot, entry.deadline);
        }
    }

    fn settle(&mut self, now: Tick, id: RequestId, answer: Result<Answer, Refusal>) {
        let lost = matches!(
            &answer,
            Err(Refusal { kind: RefusalKind::TimedOut | RefusalKind::Unavailable, .. })
        );
        let kept = self.news.is_some() && self.left.is_none() && self.accepted.is_none();
        let Some(entry) = self.open.get(&id) else { return };
        if lost && kept && entry.copy.is_some() && entry.deadline > now {
            self.again.push(id);
            return;
        }
        let Some(entry) = self.open.remove(&id) else { return };
        self.unanswered_bytes -= entry.bytes;
        match (&answer, &entry.copy) {
            (Ok(Answer::Subscribed(granted)), _) => {
                granted.iter().for_each(|one| self.granted.insert(one.clone()));
            }
            (Ok(_), Some(DeviceRequest::Unsubscribe(filters))) => {
                for filter in filters {
                    self.granted.remove(filter);
                }
            }
            _ => {}
        }
        entry.slot.fill(answer);
    }

    /// What waits for the next connection waits no longer than its deadline. The deadlines of
    /// all else are the wire's business.
    fn expire(&mut self, now: Tick) {
        for id in std::mem::take(&mut self.again) {
            match self.open.get(&id) {
                Some(entry) if entry.deadline > now => self.again.push(id),
                _ => self.settle(now, id, Err(late_refusal())),
            }
        }
    }

    /// The connection is gone.
    pub(super) fn handle_disconnected(&mut self, now: Tick) {
        self.accepted = None;
        self.wire.handle_disconnected();
        // A closing step that still stands there concerns the connection that is gone.
        while self.work(now).is_some() {}
    }

    /// Nothing more will come: open requests are answered, and the end is told.
    pub(super) fn finish(&mut self, reason: CloseReason) {
        self.end.get_or_insert(reason);
        self.wire.handle_disconnected();
        for (_, entry) in std::mem::take(&mut self.open) {
            entry.slot.fill(Err(late_refusal()));
        }
        self.again.clear();
        self.unanswered_bytes = 0;
        wake(&mut self.listener);
        wake(&mut self.room);
    }

    pub(super) fn down(&self, refusal: Refusal) {
        if let Some(news) = &self.news {
            news.send_replace(Link::Down(refusal));
        }
    }

    pub(super) fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        self.wire.handle_bytes(now, bytes);
    }

    pub(super) fn handle_timeout(&mut self, now: Tick) {
        self.wire.handle_timeout(now);
    }

    /// Moves what is to be written into `out`.
    pub(super) fn take_output(&mut self, out: &mut Vec<u8>) {
        let output = self.wire.output();
        out.extend_from_slice(output);
        let count = output.len();
        self.wire.handle_written(count);
    }

    pub(super) fn poll_timeout(&self) -> Tick {
        self.wire.poll_timeout()
    }

    pub(super) fn wants_bytes(&self) -> bool {
        self.events.len() < EVENTS_MAX && self.events_bytes < EVENTS_BYTES_MAX
    }

    pub(super) fn accepted(&self) -> Option<bool> {
        self.accepted
    }

    pub(super) fn features(&self) -> FeatureSet {
        self.wire.features().clone()
    }

    pub(super) fn left(&self) -> Option<&Leave> {
        self.left.as_ref()
    }

    /// The task that drives the connection is woken when the owner did something.
    pub(super) fn set_driver(&mut self, cx: &Context<'_>) {
        if self.driver.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn late_refusal() -> Refusal {
    Refusal::new(RefusalKind::TimedOut, "no answer came; it may have happened")
}

/// What an event weighs while it waits, in bytes.
fn event_bytes(event: &DeviceEvent) -> usize {
    match event {
        DeviceEvent::Desired { patch, .. } => limits::object_bytes(&patch.0),
        DeviceEvent::Method { request, .. } => request.payload.len(),
        DeviceEvent::Message(delivery) => {
            delivery.message.body.len() + delivery.message.properties.0.len()
        }
        DeviceEvent::Closed(_) => 0,
    }
}

/// What a request weighs, in bytes; small ones weigh nothing and are bounded by their number.
fn bytes_of(request: &DeviceRequest) -> usize {
    match request {
        DeviceRequest::SendTelemetry(message) => message.body.len() + message.properties.0.len(),
        DeviceRequest::AnswerMethod { response, .. } => response.payload.len(),
        DeviceRequest::InvokeMethod { request, .. } => request.payload.len(),
        _ => 0,
    }
}

/// The request once more, if it may be carried out twice. Telemetry is kept by `wire` itself.
fn copy_of(request: &DeviceRequest) -> Option<DeviceRequest> {
    match request {
        DeviceRequest::ReadTwin => Some(DeviceRequest::ReadTwin),
        DeviceRequest::PatchReported { patch, if_version: None } => {
            Some(DeviceRequest::PatchReported { patch: patch.clone(), if_version: None })
        }
        DeviceRequest::Subscribe(features) => Some(DeviceRequest::Subscribe(features.clone())),
        DeviceRequest::Unsubscribe(filters) => Some(DeviceRequest::Unsubscribe(filters.clone())),
        _ => None,
    }
}

/// The answers of one batch, some of them still missing.
#[derive(Default)]
struct Slots {
    answers: Vec<Option<Result<Answer, Refusal>>>,
    next: usize,
    waker: Option<Waker>,
}

/// Where one answer goes. Dropping it unfilled answers `TimedOut`.
pub(super) struct Slot {
    slots: Arc<Mutex<Slots>>,
    at: usize,
    filled: bool,
}

impl Slot {
    pub(super) fn fill(mut self, answer: Result<Answer, Refusal>) {
        self.put(answer);
    }

    fn put(&mut self, answer: Result<Answer, Refusal>) {
        self.filled = true;
        let mut slots = lock(&self.slots);
        if let Some(place) = slots.answers.get_mut(self.at) {
            *place = Some(answer);
        }
        wake(&mut slots.waker);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.filled {
            self.put(Err(late_refusal()));
        }
    }
}

struct Waiting(Arc<Mutex<Slots>>);

impl Answers for Waiting {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
        let mut slots = lock(&self.0);
        let at = slots.next;
        let Some(place) = slots.answers.get_mut(at) else { return Poll::Ready(None) };
        if let Some(answer) = place.take() {
            slots.next += 1;
            return Poll::Ready(Some(answer));
        }
        slots.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A completion of `count` answers, and where each of them goes.
pub(super) fn slots(count: usize) -> (Completion, Vec<Slot>) {
    let slots = Slots { answers: vec![None; count], ..Slots::default() };
    let slots = Arc::new(Mutex::new(slots));
    let each = (0..count).map(|at| Slot { slots: Arc::clone(&slots), at, filled: false }).collect();
    (Completion::new(Waiting(slots)), each)
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}
