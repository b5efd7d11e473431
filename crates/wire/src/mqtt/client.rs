//! The client's side of MQTT, without the connection: requests of the waist in, answers and
//! events out. One [`Session`] may outlive many connections: telemetry in flight is sent again.
//!
//! ```text
//! dialled            → connect(now, Login)
//! read n bytes       → handle_bytes(now, &bytes)
//! request(id, …)     → sooner or later Step::Answer { id, … }
//! output()           → write k bytes → handle_written(k)
//! poll_timeout() due → handle_timeout(now)
//! socket gone        → handle_disconnected(), dial again, connect
//! ```
//!
//! What MQTT cannot say: `Abandon` leaves the message with the server, which hands it out again
//! in the next connection; `Reject`, `InvokeMethod`, `PullMessage`, `Modules` and
//! `AnnounceModel` are refused as `InvalidRequest`.

mod incoming;
mod outgoing;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use model::feature::{FeatureSet, Subscription};
use model::id::IdentityId;
use model::message::Message;
use model::method::MethodCallId;
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::Tick;
use model::waist::{Answer, DeliveryToken, DeviceEvent, DeviceRequest};

use super::packet::{self, Packet, PacketId, Qos, Will};
use crate::topics::device;
use crate::topics::user::UserName;

/// How long the server may take to answer CONNECT.
pub const CONNACK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server may take to answer a ping, or to say anything else meanwhile.
pub const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// Most messages delivered and not settled; a server that sends more breaks the protocol.
pub const HELD_MAX: usize = 1024;
/// Most method calls remembered without an answer; the oldest is forgotten first.
pub const CALLS_MAX: usize = 256;
/// Output waiting for the socket, in bytes, beyond which requests stay in the queue.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// What stays the same over all connections.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who connects.
    pub identity: IdentityId,
    /// The host of the hub, as it stands in user name and token (not the gateway's).
    pub host: Box<str>,
    /// `DeviceClientType` of the user name: library and version, for people.
    pub client_type: Box<str>,
    /// Whether the server is to forget earlier state at the first connect.
    pub clean: bool,
    /// How often it pings; the server gives up after one and a half times this.
    pub keep_alive: Duration,
    /// Most requests sent and not answered at once.
    pub window: u16,
    /// Most requests waiting for room in the window.
    pub queue: usize,
}

impl Options {
    /// The usual: clean false, keep-alive 60 s, window 64, queue 256.
    pub fn new(identity: IdentityId, host: &str) -> Self {
        Self {
            identity,
            host: host.into(),
            client_type: concat!("selvedge/", env!("CARGO_PKG_VERSION")).into(),
            clean: false,
            keep_alive: Duration::from_mins(1),
            window: 64,
            queue: 256,
        }
    }
}

/// What changes with every connection.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// A shared access signature; none with a certificate.
    pub password: Option<Secret>,
    /// Published by the server if the connection breaks.
    pub will: Option<Box<Message>>,
    /// From the identity up to the gateway whose password it is; empty for one's own.
    pub auth_chain: Vec<IdentityId>,
}

/// Names a request, chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Step {
    /// The server accepted the connection.
    Connected {
        /// Whether it knew this client.
        resumed: bool,
    },
    /// The answer to a request. Requests of different kinds may be answered out of order.
    Answer {
        /// Which request.
        id: RequestId,
        /// Its answer.
        answer: Result<Answer, Refusal>,
    },
    /// Something came for the device. `Message` deliveries wait for a `Settle` request.
    Event(DeviceEvent),
    /// The connection is over; close the socket, then [`Session::handle_disconnected`].
    Close(Ending),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// [`Session::disconnect`] was called.
    Asked,
    /// The server refused the connection.
    Refused(Refusal),
    /// The server did not answer in time.
    Silent,
    /// The server broke the protocol; the text says how.
    Protocol(String),
}

/// No room in the queue; here is the request back, untouched.
#[derive(Debug)]
pub struct Full(pub DeviceRequest);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Greeting,
    Open,
    Closing,
}

/// A request that was not sent yet, or is to be sent again.
#[derive(Debug)]
struct Queued {
    id: RequestId,
    deadline: Tick,
    work: Work,
}

#[derive(Debug)]
enum Work {
    First(DeviceRequest),
    Again(Flight),
}

/// Telemetry on its way, kept until acknowledged.
#[derive(Debug)]
struct Flight {
    packet: PacketId,
    topic: String,
    body: Bytes,
}

/// A request that was sent; `request` is `None` for a SUBSCRIBE of our own.
#[derive(Debug)]
struct Pending {
    request: Option<RequestId>,
    deadline: Tick,
    awaits: Awaits,
}

#[derive(Debug)]
enum Awaits {
    Telemetry(Flight),
    MethodAnswer(PacketId),
    Twin { rid: u64, patch: bool },
    Subscribe { packet: PacketId, asked: Vec<Subscription> },
    Unsubscribe { packet: PacketId, filters: Vec<Box<str>> },
}

impl Awaits {
    fn packet(&self) -> Option<PacketId> {
        match self {
            Self::Telemetry(flight) => Some(flight.packet),
            Self::MethodAnswer(packet)
            | Self::Subscribe { packet, .. }
            | Self::Unsubscribe { packet, .. } => Some(*packet),
            Self::Twin { .. } => None,
        }
    }
}

/// Whether answers to twin requests will come; granted is in the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TwinPath {
    Unknown,
    Asked,
    Refused,
}

/// A method that was called here.
#[derive(Debug)]
struct Call {
    id: MethodCallId,
    rid: Box<str>,
    deadline: Tick,
}

/// The client's side; see the module.
#[derive(Debug)]
pub struct Session {
    options: Options,
    phase: Phase,
    /// The latest time anybody told us.
    clock: Tick,
    heard: Tick,
    said: Tick,
    /// When the CONNECT or a ping went out that is not answered.
    asked_at: Option<Tick>,
    /// Whether the server accepted us at least once.
    met: bool,
    rest: BytesMut,
    /// Bytes `rest` must have before another look is worth while.
    needed: usize,
    output: BytesMut,
    steps: VecDeque<Step>,
    queue: VecDeque<Queued>,
    pending: VecDeque<Pending>,
    /// Messages delivered and not settled; no packet id at `QoS` 0.
    held: Vec<(DeliveryToken, Option<PacketId>)>,
    calls: VecDeque<Call>,
    features: FeatureSet,
    /// What the server forgot and was not told again yet.
    lost: FeatureSet,
    twin_path: TwinPath,
    last_packet: u16,
    last_rid: u64,
    last_token: u64,
    /// The last token of the connection before this one.
    lost_token: u64,
    last_call: u64,
}

impl Session {
    /// A session that is not connected yet.
    pub fn new(options: Options) -> Self {
        Self::resume(options, FeatureSet::new())
    }

    /// A session not connected yet, whose server may remember `features` from an earlier one.
    /// They are in force if it does, and forgotten if it does not.
    pub fn resume(options: Options, features: FeatureSet) -> Self {
        Self {
            options,
            phase: Phase::Idle,
            clock: Tick(0),
            heard: Tick(0),
            said: Tick(0),
            asked_at: None,
            met: false,
            rest: BytesMut::new(),
            needed: 0,
            output: BytesMut::new(),
            steps: VecDeque::new(),
            queue: VecDeque::new(),
            pending: VecDeque::new(),
            held: Vec::new(),
            calls: VecDeque::new(),
            features,
            lost: FeatureSet::new(),
            twin_path: TwinPath::Unknown,
            last_packet: 0,
            last_rid: 0,
            last_token: 0,
            lost_token: 0,
            last_call: 0,
        }
    }

    /// A connection stands; writes the CONNECT.
    ///
    /// # Errors
    /// `InvalidRequest` if a password or will is longer than MQTT can say (65,535 bytes).
    pub fn connect(&mut self, now: Tick, login: &Login) -> Result<(), Refusal> {
        if self.phase != Phase::Idle {
            self.handle_disconnected();
        }
        self.see(now);
        let identity = self.options.identity.clone();
        let mut user = UserName::new(&self.options.host, identity.clone());
        user.client_type = Some(self.options.client_type.clone());
        user.auth_chain.clone_from(&login.auth_chain);
        let user_name = user.to_string();
        let will = login.will.as_deref().map(|will| (device::telemetry(&identity, will), will));
        let will = will.as_ref().map(|(topic, will)| Will {
            topic,
            body: &will.body,
            qos: Qos::AtLeastOnce,
            retain: false,
        });
        let password = login.password.as_ref().map(Secret::expose);
        let lengths = [
            password.map_or(0, <[u8]>::len),
            will.as_ref().map_or(0, |will| will.topic.len().max(will.body.len())),
            user_name.len(),
        ];
        if lengths.into_iter().any(|len| len > usize::from(u16::MAX)) {
            let kind = RefusalKind::InvalidRequest;
            return Err(Refusal::new(
                kind,
                "password, user name or will is longer than 65535 bytes",
            ));
        }
        self.phase = Phase::Greeting;
        self.asked_at = Some(self.clock);
        self.say(&Packet::Connect(packet::Connect {
            client_id: identity.as_str(),
            clean: self.options.clean && !self.met,
            keep_alive: u16::try_from(self.options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            will,
            user_name: Some(&user_name),
            password,
        }));
        Ok(())
    }

    /// Says goodbye; [`Step::Close`] follows once the DISCONNECT is in the output.
    pub fn disconnect(&mut self) {
        if matches!(self.phase, Phase::Greeting | Phase::Open) {
            self.say(&Packet::Disconnect);
        }
        self.close(Ending::Asked);
    }

    /// The connection is gone. What was not sent waits for the next [`Session::connect`], and
    /// telemetry in flight is sent again before it; other requests in flight are answered
    /// `TimedOut`. Deliveries and method calls of the old connection are forgotten.
    pub fn handle_disconnected(&mut self) {
        self.phase = Phase::Idle;
        self.asked_at = None;
        self.rest = BytesMut::new();
        self.needed = 0;
        self.output = BytesMut::new();
        self.held = Vec::new();
        self.lost_token = self.last_token;
        self.calls = VecDeque::new();
        self.twin_path = TwinPath::Unknown;
        let mut again = VecDeque::new();
        for Pending { request, deadline, awaits } in std::mem::take(&mut self.pending) {
            match (request, awaits) {
                (Some(id), Awaits::Telemetry(flight)) => {
                    again.push_back(Queued { id, deadline, work: Work::Again(flight) });
                }
                (Some(id), _) => self.answer(id, Err(unknown_outcome())),
                (None, _) => {}
            }
        }
        again.append(&mut self.queue);
        self.queue = again;
    }

    /// Bytes came. They may end or begin anywhere in a packet.
    pub fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        self.see(now);
        if !matches!(self.phase, Phase::Greeting | Phase::Open) || bytes.is_empty() {
            return;
        }
        self.heard = self.clock;
        if self.phase == Phase::Open {
            // Whatever it said, it is there.
            self.asked_at = None;
        }
        self.rest.extend_from_slice(bytes);
        self.work();
    }

    /// Asks the server; `deadline` ends the wait. Telemetry that was sent by then is answered
    /// `TimedOut`: it may have arrived.
    ///
    /// # Errors
    /// [`Full`] gives the request back when the queue is full.
    pub fn request(
        &mut self,
        now: Tick,
        id: RequestId,
        request: DeviceRequest,
        deadline: Tick,
    ) -> Result<(), Full> {
        self.see(now);
        if self.room() == 0 {
            return Err(Full(request));
        }
        self.queue.push_back(Queued { id, deadline, work: Work::First(request) });
        Ok(())
    }

    /// How many more requests fit.
    pub fn room(&self) -> usize {
        self.options.queue.saturating_sub(self.queue.len())
    }

    /// What happened; call until `None` after every other call.
    pub fn poll(&mut self, now: Tick) -> Option<Step> {
        self.see(now);
        self.fill();
        let step = self.steps.pop_front();
        if self.steps.is_empty() {
            self.steps = VecDeque::new();
        }
        step
    }

    /// Bytes to write to the server.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The first `count` bytes of [`Session::output`] were written.
    pub fn handle_written(&mut self, count: usize) {
        self.output.advance(count.min(self.output.len()));
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// When [`Session::handle_timeout`] wants to be called; [`Tick::NEVER`] for never. Looks at
    /// every open request.
    pub fn poll_timeout(&self) -> Tick {
        let deadlines = self.pending.iter().map(|one| one.deadline);
        let deadlines = deadlines.chain(self.queue.iter().map(|one| one.deadline));
        self.silence_end().min(deadlines.min().unwrap_or(Tick::NEVER))
    }

    /// When to ping or to give up.
    fn silence_end(&self) -> Tick {
        match (self.phase, self.asked_at) {
            (Phase::Greeting, Some(at)) => at.after(CONNACK_TIMEOUT),
            (Phase::Open, Some(at)) => at.after(PING_TIMEOUT),
            (Phase::Open, None) if !self.options.keep_alive.is_zero() => {
                self.said.min(self.heard).after(self.options.keep_alive * 3 / 4)
            }
            _ => Tick::NEVER,
        }
    }

    /// Time passed: pings, gives the connection up, or answers requests that waited too long.
    pub fn handle_timeout(&mut self, now: Tick) {
        self.see(now);
        self.expire();
        if self.clock < self.silence_end() {
            return;
        }
        if self.asked_at.is_some() {
            return self.close(Ending::Silent);
        }
        self.asked_at = Some(self.clock);
        self.say(&Packet::PingReq);
    }

    /// Whether the server has accepted the current connection.
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The subscriptions in force, as far as this client knows.
    pub fn features(&self) -> &FeatureSet {
        &self.features
    }

    fn see(&mut self, now: Tick) {
        self.clock = self.clock.max(now);
    }

    fn say(&mut self, packet: &Packet<'_>) {
        self.said = self.clock;
        packet::encode(packet, &mut self.output);
    }

    fn answer(&mut self, id: RequestId, answer: Result<Answer, Refusal>) {
        self.steps.push_back(Step::Answer { id, answer });
    }

    fn close(&mut self, ending: Ending) {
        if matches!(self.phase, Phase::Greeting | Phase::Open) {
            self.phase = Phase::Closing;
            self.steps.push_back(Step::Close(ending));
        }
    }
}

fn unknown_outcome() -> Refusal {
    Refusal::new(RefusalKind::TimedOut, "no answer came; it may have happened")
}

fn not_sent() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "it could not be sent in time")
}

#[cfg(test)]
mod tests;
