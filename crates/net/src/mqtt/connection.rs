//! One MQTT connection: bytes, `wire`'s session and the waist, joined by polling.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use model::refusal::Refusal;
use model::time::{Tick, WallTime};
use model::waist::{
    Batch, CloseReason, Completion, Credit, DeviceEvent, DeviceRequest, DeviceSession, Full,
    LinkKind, Opened,
};
use model::world::Boxed;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tracing::{debug, info, warn};
use wire::mqtt::server::{Connect, Ending, Session, Step};

use super::{Counts, Shared};
use crate::gate::{Phase, Seat};
use crate::network::ByteStream;

/// The scratch buffer of a thread, in bytes: what one read can yield.
const READ_BYTES: usize = 64 * 1024;
/// How long a request may take before its answer is "unknown".
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// Bytes of requests without answers on one listener. Beyond it a connection is read only while
/// it has nothing unanswered, so one read each may come on top.
pub(super) const UNANSWERED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of one read before the peer is proven.
const UNPROVEN_READ_BYTES: usize = 4 * 1024;
/// Bytes that an unproven peer may leave waiting without asking the listener's budget: twice
/// what a CONNECT without a will takes.
const UNPROVEN_FREE_BYTES: usize = 4 * 1024;
/// Bytes of output that the peers of one listener left unread. Beyond it a connection is given
/// answers and events only while its own peer has read everything, so one each may come on top.
pub(super) const UNREAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Reads in a row before other connections of the thread get their turn.
const READS_IN_A_ROW: usize = 8;
/// Others get their turn after this, too: one read can hold thousands of packets.
const TURN_MS: u64 = 2;
/// A peer that does not read its last bytes is cut after this.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest sleep at once; wall-clock ends are looked at this often.
const SLEEP_MAX: Duration = Duration::from_hours(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// One connection, to its end.
pub(super) struct Connection {
    stream: Box<dyn ByteStream>,
    chain: Option<Arc<[Bytes]>>,
    shared: Arc<Shared>,
    wire: Session,
    session: Option<Arc<dyn DeviceSession>>,
    opening: Option<Boxed<'static, Result<Opened, Refusal>>>,
    /// Answers awaited, oldest first, and what their requests weigh.
    waiting: VecDeque<(Completion, Charge)>,
    /// Bytes read before the proof.
    read_bytes: usize,
    /// What of our output the budget of the listener knows, in bytes.
    unread: usize,
    /// A batch that found no room; the socket is not read meanwhile.
    pending: Option<Batch>,
    timer: Option<Pin<Box<Sleep>>>,
    valid_until: Option<WallTime>,
    ending: Option<Ending>,
    /// The loop has ended; only the last bytes are still to be written.
    closing: bool,
    /// It was told that this client's properties could not be read.
    told_lost: bool,
    seat: Seat,
}

/// Bytes of unanswered requests in the budget of the listener; taken out when dropped.
pub(super) struct Charge {
    counts: Arc<Counts>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(counts: &Arc<Counts>, bytes: usize) -> Self {
        counts.unanswered_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { counts: Arc::clone(counts), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.counts.unanswered_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why the loop ended.
enum End {
    Told(Ending),
    Broken(Option<io::Error>),
}

impl Connection {
    pub(super) fn new(
        stream: Box<dyn ByteStream>,
        chain: Option<Arc<[Bytes]>>,
        shared: Arc<Shared>,
        seat: Seat,
    ) -> Self {
        Self {
            stream,
            chain,
            wire: Session::new(shared.world.now().tick),
            shared,
            session: None,
            opening: None,
            waiting: VecDeque::new(),
            read_bytes: 0,
            unread: 0,
            pending: None,
            timer: None,
            valid_until: None,
            ending: None,
            closing: false,
            told_lost: false,
            seat,
        }
    }

    /// Goes on until nothing more can be done now.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut reads = 0;
        let turn_end = self.shared.world.now().tick.after(Duration::from_millis(TURN_MS));
        loop {
            self.poll_opening(cx);
            self.poll_answers(cx);
            self.poll_events(cx);
            if self.poll_steps(cx) {
                continue;
            }
            if let Some(ending) = self.ending.take() {
                return Poll::Ready(End::Told(ending));
            }
            let due = self.wire.output().len();
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(End::Broken(Some(error)));
            }
            // What was written may have made room for more.
            if self.wire.output().len() < due || self.poll_timer(cx) {
                continue;
            }
            if !self.wants_bytes() {
                return Poll::Pending;
            }
            let is_long = reads > 0 && self.shared.world.now().tick >= turn_end;
            if reads == READS_IN_A_ROW || is_long {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(End::Broken(None)),
                Ok(_) => reads += 1,
                Err(error) => return Poll::Ready(End::Broken(Some(error))),
            }
        }
    }

    fn wants_bytes(&self) -> bool {
        // Over the budget, only who has nothing unanswered is read; our own answers wake us.
        let used = self.shared.counts.unanswered_bytes.load(Ordering::Relaxed);
        let affordable = used < UNANSWERED_BYTES_MAX || self.waiting.is_empty();
        self.pending.is_none() && affordable && self.wire.wants_bytes()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_proven = self.session.is_some();
        let most = if is_proven { READ_BYTES } else { UNPROVEN_READ_BYTES };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch.get_mut(..most).unwrap_or_default());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if !bytes.is_empty() {
                if !is_proven {
                    self.read_bytes += bytes.len();
                    let waiting = self.read_bytes.saturating_sub(UNPROVEN_FREE_BYTES);
                    if !self.seat.charge(waiting) {
                        return Poll::Ready(Err(io::Error::other("too much before a proof")));
                    }
                }
                self.wire.handle_bytes(self.shared.world.now().tick, bytes);
            }
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Writes all that is due; ready when nothing is left and nothing is buffered below.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.wire.output().is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.wire.output()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wire.handle_written(written);
        }
        self.count_unread();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) {
        let Some(opening) = &mut self.opening else { return };
        let Poll::Ready(opened) = opening.as_mut().poll(cx) else { return };
        self.opening = None;
        match opened {
            Ok(Opened { session, resumed, features, valid_until }) => {
                debug!(device_id = %session.identity(), resumed, "mqtt session open");
                self.seat.prove();
                let now = self.shared.world.now().tick;
                self.wire.handle_opened(now, resumed, &features);
                self.valid_until = valid_until;
                self.timer = None;
                self.session = Some(session);
                self.tell_lost_model();
            }
            Err(refusal) => {
                info!(error = %refusal, "mqtt client refused");
                self.wire.handle_refused(&refusal);
            }
        }
    }

    /// Told once the client is proven, so that only who may connect can write into the log.
    fn tell_lost_model(&mut self) {
        let Some(fault) = self.wire.take_model_fault() else { return };
        let total = self.shared.counts.lost_models.fetch_add(1, Ordering::Relaxed) + 1;
        let device_id = self.wire.identity().map(tracing::field::display);
        warn!(device_id, error = %fault, total, "a model id was left aside");
    }

    /// Tells the budget of the listener what our peer has not read.
    fn count_unread(&mut self) {
        let unread = self.wire.output().len();
        if unread != self.unread {
            let held = &self.shared.counts.unread_bytes;
            held.fetch_add(unread, Ordering::Relaxed);
            held.fetch_sub(self.unread, Ordering::Relaxed);
            self.unread = unread;
        }
    }

    /// Whether the peer may be given more. Over the budget of the listener only who has read
    /// everything is; our own writes wake us.
    fn may_say(&mut self) -> bool {
        self.count_unread();
        let held = self.shared.counts.unread_bytes.load(Ordering::Relaxed);
        self.wire.wants_answers() && (held < UNREAD_BYTES_MAX || self.unread == 0)
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>) {
        while self.may_say() {
            let Some(first) = self.waiting.front_mut() else { break };
            match first.0.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(answer)) => {
                    self.wire.handle_answer(self.shared.world.now(), answer);
                }
                Poll::Ready(None) => drop(self.waiting.pop_front()),
            }
        }
        // An idle connection holds no queue.
        if self.waiting.is_empty() && self.waiting.capacity() > 0 {
            self.waiting = VecDeque::new();
        }
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) {
        let Some(session) = self.session.clone() else { return };
        loop {
            let credit = if self.may_say() { self.wire.credit() } else { Credit::NONE };
            let Poll::Ready(event) = session.poll_event(cx, credit) else { return };
            let last = matches!(event, DeviceEvent::Closed(_));
            self.wire.handle_event(event);
            if last {
                self.session = None;
                return;
            }
        }
    }

    /// Does what the session wants; whether something happened.
    fn poll_steps(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(batch) = self.pending.take() {
            let room = self.session.as_ref().is_none_or(|s| s.poll_ready(cx).is_ready());
            if !room {
                self.pending = Some(batch);
                return false;
            }
            self.submit(batch);
            return true;
        }
        let step = self.wire.poll(self.shared.world.now());
        self.tell_lost_properties();
        let Some(step) = step else { return false };
        match step {
            Step::Connect(connect) => self.open(&connect),
            Step::Submit(batch) => self.submit(batch),
            Step::Close(ending) => self.ending = Some(ending),
        }
        true
    }

    /// Counts the properties that were left out; a warning once, for a device that sends such
    /// sends them in every message.
    fn tell_lost_properties(&mut self) {
        let lost = self.wire.take_lost_properties();
        if lost == 0 {
            return;
        }
        let before = self.shared.counts.lost_properties.fetch_add(lost.into(), Ordering::Relaxed);
        if !std::mem::replace(&mut self.told_lost, true) {
            let device_id = self.wire.identity().map(ToString::to_string).unwrap_or_default();
            let total = before.saturating_add(lost.into());
            warn!(
                device_id,
                lost, total, "properties were left out: unreadable, or without a value"
            );
        }
    }

    fn open(&mut self, connect: &Connect) {
        let claim = match connect.claim(self.chain.take()) {
            Ok(claim) => claim,
            Err(refusal) => return self.wire.handle_refused(&refusal),
        };
        let api = Arc::clone(&self.shared.api);
        let link = LinkKind::Mqtt { clean: connect.clean };
        let deadline = self.deadline();
        self.opening = Some(Box::pin(async move { api.open(claim, link, deadline).await }));
    }

    fn submit(&mut self, batch: Batch) {
        let Some(session) = &self.session else { return };
        let subscribes =
            batch.0.iter().filter(|one| matches!(one, DeviceRequest::Subscribe(_))).count();
        if subscribes > 0 {
            debug!(device_id = %session.identity(), subscribes, "subscribe");
            let count = u64::try_from(subscribes).unwrap_or(u64::MAX);
            self.shared.counts.subscribes.fetch_add(count, Ordering::Relaxed);
        }
        match session.submit(batch, self.deadline()) {
            Ok(completion) => {
                let bytes = self.wire.take_charge();
                self.waiting.push_back((completion, Charge::new(&self.shared.counts, bytes)));
            }
            Err(Full(batch)) => self.pending = Some(batch),
        }
    }

    fn deadline(&self) -> Tick {
        self.shared.world.now().tick.after(REQUEST_TIMEOUT)
    }

    /// Keeps one coarse timer; whether a time passed that changes something.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if let Some(timer) = &mut self.timer {
                if timer.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.timer = None;
            }
            let now = self.shared.world.now();
            if self.valid_until.is_some_and(|end| now.wall >= end) {
                self.valid_until = None;
                self.wire.handle_event(DeviceEvent::Closed(CloseReason::Expired));
                return true;
            }
            let silence = self.wire.poll_timeout();
            if now.tick >= silence {
                self.wire.handle_timeout(now.tick);
                return true;
            }
            let mut span = silence.since(now.tick).min(SLEEP_MAX);
            if let Some(end) = self.valid_until {
                span = span.min(end.since(now.wall));
            }
            // A floor, so that coarse wall time cannot make this spin.
            let span = span.max(Duration::from_millis(1));
            self.timer = Some(Box::pin(tokio::time::sleep(span)));
        }
    }

    /// Gives the session back; whether last bytes are to be written.
    fn end(&mut self, end: &End) -> bool {
        if matches!(end, End::Told(Ending::ConnectTimeout)) {
            self.seat.counts().late.add();
        }
        match end {
            End::Told(ending) => debug!(?ending, "mqtt connection ends"),
            End::Broken(Some(error)) if error.kind() == io::ErrorKind::TimedOut => {
                let device_id = self.wire.identity().map(tracing::field::display);
                info!(device_id, "an mqtt client takes nothing and is cut off");
            }
            End::Broken(Some(error)) => debug!(%error, "mqtt connection broke"),
            End::Broken(None) => debug!("mqtt connection was closed by the peer"),
        }
        self.leave();
        matches!(end, End::Told(_))
    }

    /// Ends the session at the waist; what it had accepted is finished there.
    fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            session.close(self.wire.leave());
        }
        self.waiting = VecDeque::new();
        self.pending = None;
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.seat.poll_phase(cx) {
            Phase::Open => {}
            // Only the first of these is heard by the session.
            Phase::Draining => {
                this.wire.handle_event(DeviceEvent::Closed(CloseReason::ShuttingDown));
            }
            Phase::Cut => {
                this.wire.handle_event(DeviceEvent::Closed(CloseReason::ShuttingDown));
                return Poll::Ready(());
            }
        }
        if !this.closing {
            let end = ready!(this.poll_all(cx));
            if !this.end(&end) {
                return Poll::Ready(());
            }
            this.closing = true;
            this.timer = Some(Box::pin(tokio::time::sleep(FLUSH_TIMEOUT)));
        }
        match this.poll_write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) => {
                // The peer may be gone or deaf; either way we are done.
                if Pin::new(&mut this.stream).poll_shutdown(cx).is_ready() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending => {}
        }
        this.timer.as_mut().map_or(Poll::Ready(()), |timer| timer.as_mut().poll(cx))
    }
}

impl Drop for Connection {
    /// However the connection ended, the session hears of it.
    fn drop(&mut self) {
        self.leave();
        self.shared.counts.unread_bytes.fetch_sub(self.unread, Ordering::Relaxed);
    }
}
