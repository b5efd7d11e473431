//! What the tests of this room share: virtual time, pipes that can be cut, and a small cloud
//! that keeps what it is sent and answers when it is told to.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use model::feature::FeatureSet;
use model::id::IdentityId;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Now, Tick, WallTime};
use model::twin::{TwinDocument, Version};
use model::waist::{
    Answer, Answers, Batch, Claim, CloseReason, Completion, Credit, DeviceApi, DeviceEvent,
    DeviceRequest, DeviceSession, Epoch, Full, Leave, LinkKind, Opened,
};
use model::world::{Boxed, Clock, World};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use crate::gate::{Gate, Seat};
use crate::network::{Address, Arrival, Connected, Incoming, Network, Peer};

/// tokio's clock, which tests pause.
struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Now {
        let span = self.0.elapsed();
        Now { tick: Tick(0).after(span), wall: WallTime(1_700_000_000_000).after(span) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of the tests")]
pub(crate) fn world() -> World {
    let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
    World { clock, ..crate::world::system(tokio::runtime::Handle::current()) }
}

/// A network in memory whose cables can be cut.
#[derive(Default)]
pub(crate) struct Pipes {
    listeners: Mutex<HashMap<Box<str>, mpsc::Sender<Pipe>>>,
    cables: Mutex<Vec<Arc<Cable>>>,
    pub(crate) down: AtomicBool,
}

#[derive(Default)]
struct Cable {
    cut: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

struct Pipe {
    inner: DuplexStream,
    cable: Arc<Cable>,
}

/// Bytes in flight in one direction.
const WINDOW: usize = 4096;

impl Pipes {
    /// Cuts every connection that stands.
    pub(crate) fn cut(&self) {
        for cable in self.cables.lock().unwrap().drain(..) {
            cable.cut.store(true, Ordering::SeqCst);
            cable.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
        }
    }
}

impl Pipe {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.cable.wakers.lock().unwrap().push(cx.waker().clone());
        if self.cable.cut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

struct Arrivals(mpsc::Receiver<Pipe>, Address);

impl Incoming for Arrivals {
    fn accept(&mut self) -> Boxed<'_, io::Result<Arrival>> {
        Box::pin(async {
            match self.0.recv().await {
                Some(pipe) => Ok(Connected { stream: Box::new(pipe), peer: Peer::Memory }.into()),
                None => std::future::pending().await,
            }
        })
    }

    fn address(&self) -> Address {
        self.1.clone()
    }
}

impl Network for Pipes {
    fn listen(&self, address: &Address) -> Boxed<'_, io::Result<Box<dyn Incoming>>> {
        let (sender, receiver) = mpsc::channel(64);
        self.listeners.lock().unwrap().insert(address.to_string().into(), sender);
        let arrivals = Arrivals(receiver, address.clone());
        Box::pin(async { Ok(Box::new(arrivals) as Box<dyn Incoming>) })
    }

    fn dial(&self, address: &Address) -> Boxed<'_, io::Result<Connected>> {
        let listener = self.listeners.lock().unwrap().get(&*address.to_string()).cloned();
        Box::pin(async move {
            if self.down.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let (near, far) = tokio::io::duplex(WINDOW);
            let cable = Arc::new(Cable::default());
            self.cables.lock().unwrap().push(Arc::clone(&cable));
            let far = Pipe { inner: far, cable: Arc::clone(&cable) };
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            listener.ok_or_else(refused)?.send(far).await.map_err(|_| refused())?;
            let near = Pipe { inner: near, cable };
            Ok(Connected { stream: Box::new(near), peer: Peer::Memory })
        })
    }
}

/// A small cloud: it believes the token `good` and remembers everything.
#[derive(Clone)]
pub(crate) struct Cloud(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Keep answers back until released.
    holding: bool,
    held: Vec<(oneshot::Sender<Result<Answer, Refusal>>, Answer)>,
    /// Most answers kept back before `Full`.
    held_max: usize,
    opens: Vec<(IdentityId, LinkKind)>,
    batches: Vec<usize>,
    bodies: Vec<Bytes>,
    calls: Vec<(IdentityId, String)>,
    leaves: Vec<Leave>,
    sessions: HashMap<IdentityId, Arc<Mutex<Mail>>>,
    features: HashMap<IdentityId, FeatureSet>,
    reported: Version,
    desired: serde_json::Map<String, serde_json::Value>,
    life: Option<Duration>,
    room: Vec<Waker>,
}

#[derive(Default)]
struct Mail {
    events: VecDeque<DeviceEvent>,
    waker: Option<Waker>,
    over: bool,
}

impl Mail {
    fn push(&mut self, event: DeviceEvent) {
        self.events.push_back(event);
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Cloud {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner { held_max: 1000, ..Inner::default() })))
    }

    /// From now on answers are kept back, and beyond `max` of them there is no room.
    pub(crate) fn hold(&self, max: usize) {
        let mut inner = self.0.lock().unwrap();
        (inner.holding, inner.held_max) = (true, max);
    }

    /// Gives every answer that was kept back, and all later ones at once.
    pub(crate) fn release(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.holding = false;
        for (sender, answer) in std::mem::take(&mut inner.held) {
            // The connection may be gone.
            sender.send(Ok(answer)).ok();
        }
        inner.room.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn held(&self) -> usize {
        self.0.lock().unwrap().held.len()
    }

    pub(crate) fn live_for(&self, life: Duration) {
        self.0.lock().unwrap().life = Some(life);
    }

    /// From now on every twin holds a text of so many bytes.
    pub(crate) fn fill_twins(&self, bytes: usize) {
        self.0.lock().unwrap().desired.insert("k".into(), "x".repeat(bytes).into());
    }

    pub(crate) fn push(&self, identity: &str, event: DeviceEvent) {
        let inner = self.0.lock().unwrap();
        inner.sessions[&identity.parse().unwrap()].lock().unwrap().push(event);
    }

    pub(crate) fn opens(&self) -> Vec<LinkKind> {
        self.0.lock().unwrap().opens.iter().map(|(_, link)| *link).collect()
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        self.0.lock().unwrap().batches.clone()
    }

    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.0.lock().unwrap().bodies.clone()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.iter().map(|(_, call)| call.clone()).collect()
    }

    pub(crate) fn leaves(&self) -> Vec<Leave> {
        self.0.lock().unwrap().leaves.clone()
    }
}

impl Inner {
    fn answer(&mut self, identity: &IdentityId, request: DeviceRequest) -> Answer {
        let mut called = format!("{request:?}");
        called.truncate(called.find(['(', ' ']).unwrap_or(called.len()));
        self.calls.push((identity.clone(), called));
        match request {
            DeviceRequest::SendTelemetry(message) => {
                self.bodies.push(message.body);
                Answer::Accepted
            }
            DeviceRequest::ReadTwin => {
                let desired_version = Version(1);
                let desired = self.desired.clone();
                let document = TwinDocument { desired, desired_version, ..TwinDocument::default() };
                Answer::Twin(Box::new(TwinDocument { reported_version: self.reported, ..document }))
            }
            DeviceRequest::PatchReported { .. } => {
                self.reported.0 += 1;
                Answer::Patched(self.reported)
            }
            DeviceRequest::Subscribe(features) => {
                let held = self.features.entry(identity.clone()).or_default();
                features.iter().for_each(|one| held.insert(one.clone()));
                Answer::Subscribed(features)
            }
            _ => Answer::Accepted,
        }
    }
}

impl DeviceApi for Cloud {
    fn open(&self, claim: Claim, link: LinkKind, _: Tick) -> Boxed<'_, Result<Opened, Refusal>> {
        let mut inner = self.0.lock().unwrap();
        let identity = match claim {
            Claim::Sas { identity, token } if token.expose() == b"good" => identity,
            Claim::Certificates { identity, .. } => identity,
            _ => {
                let refusal = Refusal::new(RefusalKind::Unauthenticated, "not believed");
                return Box::pin(std::future::ready(Err(refusal)));
            }
        };
        let mail = Arc::<Mutex<Mail>>::default();
        if let Some(old) = inner.sessions.insert(identity.clone(), Arc::clone(&mail)) {
            old.lock().unwrap().push(DeviceEvent::Closed(CloseReason::TakenOver));
        }
        let clean = matches!(link, LinkKind::Mqtt { clean: true });
        let resumed = !clean && inner.opens.iter().any(|(known, _)| *known == identity);
        inner.opens.push((identity.clone(), link));
        let features = inner.features.get(&identity).cloned().unwrap_or_default();
        let valid_until = inner.life.map(|life| WallTime(1_700_000_000_000).after(life));
        let session = Arc::new(Visit { identity, cloud: self.clone(), mail });
        Box::pin(std::future::ready(Ok(Opened { session, resumed, features, valid_until })))
    }
}

struct Visit {
    identity: IdentityId,
    cloud: Cloud,
    mail: Arc<Mutex<Mail>>,
}

struct Receivers(VecDeque<oneshot::Receiver<Result<Answer, Refusal>>>);

impl Answers for Receivers {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
        let Some(first) = self.0.front_mut() else { return Poll::Ready(None) };
        let answer = std::task::ready!(Pin::new(first).poll(cx)).unwrap();
        self.0.pop_front();
        Poll::Ready(Some(answer))
    }
}

impl DeviceSession for Visit {
    fn identity(&self) -> &IdentityId {
        &self.identity
    }

    fn epoch(&self) -> Epoch {
        Epoch::default()
    }

    fn submit(&self, batch: Batch, _: Tick) -> Result<Completion, Full> {
        let mut inner = self.cloud.0.lock().unwrap();
        if inner.held.len() >= inner.held_max {
            return Err(Full(batch));
        }
        inner.batches.push(batch.0.len());
        let mut receivers = VecDeque::new();
        for request in batch.0 {
            let answer = inner.answer(&self.identity, request);
            let (sender, receiver) = oneshot::channel();
            receivers.push_back(receiver);
            if inner.holding {
                inner.held.push((sender, answer));
            } else {
                sender.send(Ok(answer)).unwrap();
            }
        }
        Ok(Completion::new(Receivers(receivers)))
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.cloud.0.lock().unwrap();
        if inner.held.len() < inner.held_max {
            return Poll::Ready(());
        }
        inner.room.push(cx.waker().clone());
        Poll::Pending
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        let mut mail = self.mail.lock().unwrap();
        let at = mail.events.iter().position(|event| credit.allows(event));
        if let Some(at) = at.filter(|_| !mail.over) {
            let event = mail.events.remove(at).unwrap();
            mail.over = matches!(event, DeviceEvent::Closed(_));
            return Poll::Ready(event);
        }
        mail.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn renew(&self, _: Claim, _: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        let refusal = Refusal::new(RefusalKind::InvalidRequest, "not in these tests");
        Box::pin(std::future::ready(Err(refusal)))
    }

    fn close(&self, how: Leave) {
        self.cloud.0.lock().unwrap().leaves.push(how);
    }
}

/// Lets every task run until nothing moves. Virtual time goes on by a millisecond a turn.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never happened");
}

/// So many seats of proven peers, without their connections.
pub(crate) fn seat_proven(gate: &Arc<Gate>, count: usize) -> Vec<Seat> {
    let seated = |_| {
        let mut seat = Gate::seat(gate, None).unwrap();
        seat.prove();
        seat
    };
    (0..count).map(seated).collect()
}
