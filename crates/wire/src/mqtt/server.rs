//! The server's side of one MQTT connection, without the connection.
//!
//! Feed it with `handle_*`, ask it with `poll*`, write [`Session::output`] to the peer:
//!
//! ```text
//! read n bytes        → handle_bytes(now, &bytes)         only while wants_bytes()
//! poll(now): Connect  → DeviceApi::open → handle_opened | handle_refused
//! poll(): Submit      → DeviceSession::submit → every answer, in order → handle_answer,
//!                       only while wants_answers()
//! poll(): Close       → flush output, close the socket, DeviceSession::close(session.leave())
//! poll_event(credit())→ handle_event
//! output()            → write k bytes → handle_written(k)
//! poll_timeout() due  → handle_timeout(now)
//! ```
//!
//! Answers are handed in as the requests went out, over all batches: PUBACKs then leave in the
//! order of the `PUBLISHes`, as MQTT demands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use model::feature::{FeatureSet, Subscription};
use model::id::IdentityId;
use model::message::Message;
use model::method::MethodResponse;
use model::model_id::{InvalidModelId, ModelId};
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::{Now, Tick};
use model::twin::TwinPatch;
use model::waist::{
    ANSWER_BYTES, Answer, BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, Batch, Claim, CloseReason, Credit,
    DeliveryToken, DeviceEvent, DeviceRequest, Leave, Outcome,
};

use super::packet::{self, Frame, InvalidPacket, Packet, PacketId, Publish, Qos};
use crate::topics::device::{self, DeviceTopic};
use crate::topics::filter::{Filter, Granted};
use crate::topics::user::UserName;
use crate::topics::{bag, hub, status};

/// How long a client may take from the connection to its CONNECT.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence granted, whatever keep-alive was asked, also if none was: a peer that is gone
/// without a word must not stay for ever. Source: IoT Hub, MQTT support.
pub const SILENCE_MAX: Duration = Duration::from_secs(1767);
/// Most requests without an answer; beyond it the socket is not read.
pub const UNANSWERED_MAX: usize = 1024;
/// Most messages handed to the client and not acknowledged.
pub const IN_FLIGHT_MAX: usize = 64;
/// Output that a client left unread, in bytes, beyond which neither socket nor answers nor events
/// are taken; what was taken last may come on top.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Longest request id, in bytes: it is held until the answer goes out.
pub const RID_BYTES_MAX: usize = 1024;

/// What a CONNECT asked.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Who it says it is; equal to the client id.
    pub user: UserName,
    /// The password: a shared access signature, or nothing with a certificate.
    pub password: Option<Secret>,
    /// Whether it wants to forget earlier state: `LinkKind::Mqtt { clean }`.
    pub clean: bool,
}

impl Connect {
    /// What to hand to `DeviceApi::open`: the password if there is one, else the certificates
    /// that TLS saw (DER, leaf first).
    ///
    /// # Errors
    /// `Unauthenticated` if there is neither.
    pub fn claim(&self, certificates: Option<Arc<[Bytes]>>) -> Result<Claim, Refusal> {
        let identity = self.user.identity.clone();
        match (&self.password, certificates) {
            (Some(token), _) if !self.user.auth_chain.is_empty() => Ok(Claim::OnBehalfOf {
                identity,
                chain: self.user.auth_chain.clone().into(),
                actor_token: token.clone(),
            }),
            (Some(token), _) => Ok(Claim::Sas { identity, token: token.clone() }),
            (None, Some(chain)) => Ok(Claim::Certificates { identity, chain }),
            (None, None) => Err(Refusal::new(
                RefusalKind::Unauthenticated,
                "neither a password nor a certificate came",
            )),
        }
    }
}

/// What the connection is to do next.
#[derive(Debug)]
pub enum Step {
    /// Prove it, then [`Session::handle_opened`] or [`Session::handle_refused`].
    Connect(Box<Connect>),
    /// Submit it; every answer comes back through [`Session::handle_answer`].
    Submit(Batch),
    /// Write what [`Session::output`] still holds, then close. Always last.
    Close(Ending),
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client sent DISCONNECT.
    Asked,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// Nothing came for one and a half keep-alive intervals.
    KeepAlive,
    /// The client broke the protocol; the text says how.
    Protocol(String),
    /// `open` refused the client.
    NotOpened(RefusalKind),
    /// A request was refused for which MQTT has no negative answer.
    Refused(RefusalKind),
    /// The session ended from our side.
    Closed(CloseReason),
}

/// Where the conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Proving,
    Open,
    Ending,
    Over,
}

/// What is owed for a request, in the order of the requests.
#[derive(Debug)]
struct Owed {
    acknowledge: Option<PacketId>,
    reply: Reply,
}

#[derive(Debug)]
enum Reply {
    /// Nothing, but a refusal ends the connection.
    Firm,
    /// Nothing, and a refusal is nobody's concern.
    Lax,
    Twin(Box<str>),
    /// A twin request that was refused here already; no answer will come for it.
    Known(Box<(Box<str>, Refusal)>),
    Subscribe(PacketId, Vec<Option<Filter>>),
    Unsubscribe(PacketId, Vec<Filter>),
}

/// The server's side of one MQTT connection; see the module.
#[derive(Debug)]
pub struct Session {
    identity: Option<IdentityId>,
    model_id: Option<ModelId>,
    will: Option<Box<Message>>,
    connect: Option<Box<Connect>>,
    ending: Option<Box<Ending>>,
    /// Bytes not worked off yet; empty and unallocated while idle.
    rest: BytesMut,
    output: BytesMut,
    batch: Vec<DeviceRequest>,
    owed: VecDeque<Owed>,
    in_flight: Vec<(PacketId, DeliveryToken)>,
    heard: Tick,
    silence_max: Duration,
    batch_bytes: usize,
    /// Bytes of the packets that became requests since they were last asked for.
    charge: usize,
    /// Requests handed out or in the batch, without an answer.
    unanswered: usize,
    /// Bytes `rest` must have before another look is worth while.
    needed: usize,
    /// Properties that were left out, since they were last asked for.
    lost_properties: u32,
    last_id: u16,
    /// Why the model that it announced was left aside, until somebody asks.
    model_fault: Option<InvalidModelId>,
    granted: Granted,
    phase: Phase,
    asked: bool,
    /// At the last poll we were not reading, or owed answers.
    busy: bool,
    /// The peer took bytes since the last time-out.
    taking: bool,
}

impl Session {
    /// A connection that was accepted at `now`.
    pub fn new(now: Tick) -> Self {
        Self {
            identity: None,
            model_id: None,
            will: None,
            connect: None,
            ending: None,
            rest: BytesMut::new(),
            output: BytesMut::new(),
            batch: Vec::new(),
            owed: VecDeque::new(),
            in_flight: Vec::new(),
            heard: now,
            silence_max: CONNECT_TIMEOUT,
            batch_bytes: 0,
            charge: 0,
            unanswered: 0,
            needed: 0,
            lost_properties: 0,
            last_id: 0,
            model_fault: None,
            granted: Granted::default(),
            phase: Phase::Waiting,
            asked: false,
            busy: false,
            taking: false,
        }
    }

    /// Bytes came. They may end or begin anywhere in a packet. Call only while
    /// [`Session::wants_bytes`]; what comes regardless is kept.
    pub fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        if self.phase != Phase::Waiting {
            self.heard = now;
        }
        if self.rest.is_empty() {
            let used = self.work(bytes, None);
            self.rest.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            self.rest.extend_from_slice(bytes);
            self.work_rest();
        }
    }

    /// Whether the socket is to be read: not while a CONNECT is being proven, while too many
    /// requests are unanswered, or while the peer does not read.
    pub fn wants_bytes(&self) -> bool {
        self.can_work()
    }

    fn can_work(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Open)
            && self.owed.len() < UNANSWERED_MAX
            && self.output.len() < OUTPUT_BYTES_MAX
            && self.batch.len() < BATCH_REQUESTS_MAX
            && self.batch_bytes < BATCH_BYTES_MAX
    }

    fn work_rest(&mut self) {
        if self.rest.len() < self.needed || !self.can_work() {
            return;
        }
        let whole = std::mem::take(&mut self.rest).freeze();
        let used = self.work(&whole, Some(whole.clone()));
        self.rest.extend_from_slice(whole.get(used..).unwrap_or_default());
    }

    /// Works off whole packets and says how many bytes they took. `shared` is the same bytes
    /// if they are shared already; otherwise they are copied once, at the first body.
    fn work(&mut self, bytes: &[u8], mut shared: Option<Bytes>) -> usize {
        let mut used = 0;
        self.needed = 0;
        while self.can_work() {
            let left = bytes.get(used..).unwrap_or_default();
            match packet::decode(left) {
                Ok(Frame::Whole { packet, len }) => {
                    used += len;
                    let requests = self.batch.len();
                    if let Packet::Publish(publish) = packet {
                        let end = used - publish.body.len();
                        let whole = shared.get_or_insert_with(|| Bytes::copy_from_slice(bytes));
                        let body = whole.slice(end..used);
                        self.handle_publish(&publish, body);
                    } else {
                        self.handle_packet(packet);
                    }
                    if self.batch.len() > requests {
                        self.charge += len;
                    }
                }
                Ok(Frame::Partial { len }) => {
                    self.needed = len;
                    break;
                }
                Err(invalid) => {
                    if matches!(invalid, InvalidPacket::ProtocolLevel(_)) {
                        self.say(&Packet::ConnAck { session_present: false, code: 1 });
                    }
                    self.end(Ending::Protocol(invalid.to_string()));
                }
            }
        }
        used
    }

    fn handle_packet(&mut self, packet: Packet<'_>) {
        match (self.phase, packet) {
            (Phase::Waiting, Packet::Connect(connect)) => self.handle_connect(&connect),
            (Phase::Open, Packet::PubAck(id)) => self.settle(id),
            (Phase::Open, Packet::Subscribe { id, filters }) => self.subscribe(id, &filters),
            (Phase::Open, Packet::Unsubscribe { id, filters }) => self.unsubscribe(id, &filters),
            (Phase::Open, Packet::PingReq) => self.say(&Packet::PingResp),
            (Phase::Open, Packet::Disconnect) => {
                self.asked = true;
                self.end(Ending::Asked);
            }
            _ => self.end(Ending::Protocol("a packet came that has no place here".into())),
        }
    }

    fn handle_connect(&mut self, connect: &packet::Connect<'_>) {
        let Some(Ok(user)) = connect.user_name.map(UserName::parse) else {
            return self.refuse(5, "the user name is missing or malformed");
        };
        if connect.client_id != user.identity.as_str() {
            return self.refuse(5, "client id and user name are not the same identity");
        }
        if let Some(will) = &connect.will {
            let parsed = device::parse(&user.identity, will.topic);
            let Ok(DeviceTopic::Telemetry { mut message, lost }) = parsed else {
                return self.end(Ending::Protocol("the will has a foreign topic".into()));
            };
            self.lost_properties = self.lost_properties.saturating_add(lost);
            message.body = Bytes::copy_from_slice(will.body);
            // Whoever sends it marks it as a will; it may come from another protocol.
            self.will = Some(message);
        }
        let asked = Duration::from_secs(connect.keep_alive.into()) * 3 / 2;
        let asked = if asked.is_zero() { SILENCE_MAX } else { asked };
        self.silence_max = asked.min(SILENCE_MAX);
        self.identity = Some(user.identity.clone());
        self.take_model(&user);
        let password = connect.password.map(Secret::new);
        self.connect = Some(Box::new(Connect { user, password, clean: connect.clean }));
        self.phase = Phase::Proving;
    }

    /// A model that nobody can read costs only itself; some SDKs say none as an empty one.
    fn take_model(&mut self, user: &UserName) {
        let said = user.model_id.as_deref().filter(|text| !text.is_empty());
        match said.map(str::parse) {
            None => {}
            Some(Ok(model)) => self.model_id = Some(model),
            Some(Err(fault)) => self.model_fault = Some(fault),
        }
    }

    fn refuse(&mut self, code: u8, why: &str) {
        self.say(&Packet::ConnAck { session_present: false, code });
        self.end(Ending::Protocol(why.into()));
    }

    fn handle_publish(&mut self, publish: &Publish<'_>, body: Bytes) {
        let Some(identity) = self.identity.clone().filter(|_| self.phase == Phase::Open) else {
            return self.end(Ending::Protocol("a PUBLISH came before its time".into()));
        };
        if publish.qos == Qos::ExactlyOnce {
            return self.end(Ending::Protocol("quality of service 2 is not supported".into()));
        }
        let topic = match device::parse(&identity, publish.topic) {
            Ok(topic) => topic,
            Err(invalid) => return self.end(Ending::Protocol(invalid.to_string())),
        };
        let len = body.len() + publish.topic.len();
        let (request, reply) = match topic {
            DeviceTopic::Telemetry { mut message, lost } => {
                self.lost_properties = self.lost_properties.saturating_add(lost);
                message.body = body;
                message.system.model_id = self.model_id.as_ref().map(|id| id.as_str().into());
                if publish.retain {
                    bag::add(&mut message, bag::RETAIN_PROPERTY, "true");
                }
                let firm = publish.qos == Qos::AtLeastOnce;
                let reply = if firm { Reply::Firm } else { Reply::Lax };
                (DeviceRequest::SendTelemetry(message), reply)
            }
            DeviceTopic::ReadTwin { rid } | DeviceTopic::PatchReported { rid, .. }
                if rid.len() > RID_BYTES_MAX =>
            {
                return self.end(Ending::Protocol("the request id is too long".into()));
            }
            DeviceTopic::ReadTwin { rid } => (DeviceRequest::ReadTwin, Reply::Twin(rid.into())),
            DeviceTopic::PatchReported { rid, if_version } => {
                if let Ok(patch) = serde_json::from_slice(&body) {
                    let patch = TwinPatch(patch);
                    let request = DeviceRequest::PatchReported { patch, if_version };
                    (request, Reply::Twin(rid.into()))
                } else {
                    let kind = RefusalKind::InvalidRequest;
                    let refusal = Refusal::new(kind, "the patch is not a JSON object");
                    let reply = Reply::Known(Box::new((rid.into(), refusal)));
                    self.owed.push_back(Owed { acknowledge: publish.id, reply });
                    return;
                }
            }
            DeviceTopic::MethodAnswer { call, status } => {
                let response = MethodResponse { status, payload: body };
                (DeviceRequest::AnswerMethod { call, response }, Reply::Lax)
            }
        };
        self.ask(request, len, Owed { acknowledge: publish.id, reply });
    }

    fn ask(&mut self, request: DeviceRequest, len: usize, owed: Owed) {
        // What is asked for must have room as well as what is asked with.
        let answer =
            if matches!(request, DeviceRequest::ReadTwin) { ANSWER_BYTES as usize } else { 0 };
        self.batch.push(request);
        self.batch_bytes += len + answer;
        self.unanswered += 1;
        self.owed.push_back(owed);
    }

    fn settle(&mut self, id: PacketId) {
        // An id we do not know is a late answer to an earlier connection.
        let Some(at) = self.in_flight.iter().position(|(held, _)| *held == id) else { return };
        let (_, token) = self.in_flight.remove(at);
        if self.in_flight.is_empty() {
            self.in_flight = Vec::new();
        }
        self.complete(token);
    }

    fn complete(&mut self, token: DeliveryToken) {
        let request = DeviceRequest::Settle { token, outcome: Outcome::Complete };
        self.ask(request, 0, Owed { acknowledge: None, reply: Reply::Lax });
    }

    fn subscribe(&mut self, id: PacketId, asked: &[(&str, Qos)]) {
        let Some(identity) = self.identity.clone() else { return };
        let filters: Vec<_> =
            asked.iter().map(|(text, _)| Filter::parse(&identity, text)).collect();
        let known = filters.iter().zip(asked).filter_map(|(filter, (text, qos))| {
            let feature = (*filter)?.feature();
            Some(Subscription { feature, qos: (*qos as u8).min(1), filter: (*text).into() })
        });
        let features: FeatureSet = known.collect();
        if features.is_empty() {
            return self.say(&Packet::SubAck { id, codes: &vec![0x80; asked.len()] });
        }
        let reply = Reply::Subscribe(id, filters);
        self.ask(DeviceRequest::Subscribe(features), 0, Owed { acknowledge: None, reply });
    }

    fn unsubscribe(&mut self, id: PacketId, asked: &[&str]) {
        let Some(identity) = self.identity.clone() else { return };
        let filters = asked.iter().filter_map(|text| Filter::parse(&identity, text)).collect();
        let request = DeviceRequest::Unsubscribe(asked.iter().map(|text| (*text).into()).collect());
        let reply = Reply::Unsubscribe(id, filters);
        self.ask(request, 0, Owed { acknowledge: None, reply });
    }

    /// What to do next; call until `None` after every `handle_*`.
    pub fn poll(&mut self, now: Now) -> Option<Step> {
        let step = self.next_step(now);
        let busy = self.is_busy();
        if self.busy && !busy {
            // What the peer said meanwhile was not read, so its silence begins now.
            self.heard = self.heard.max(now.tick);
        }
        self.busy = busy;
        step
    }

    fn is_busy(&self) -> bool {
        self.unanswered > 0 || !self.can_work()
    }

    fn next_step(&mut self, now: Now) -> Option<Step> {
        if let Some(connect) = self.connect.take() {
            return Some(Step::Connect(connect));
        }
        if self.batch.is_empty() {
            self.work_rest();
            if self.wants_answers() {
                self.pay_known(now);
            }
        }
        if !self.batch.is_empty() {
            self.batch_bytes = 0;
            return Some(Step::Submit(Batch(std::mem::take(&mut self.batch))));
        }
        if let Some(connect) = self.connect.take() {
            return Some(Step::Connect(connect));
        }
        let ending = self.ending.take()?;
        self.phase = Phase::Over;
        Some(Step::Close(*ending))
    }

    /// `open` succeeded.
    pub fn handle_opened(&mut self, now: Tick, resumed: bool, features: &FeatureSet) {
        if let (Phase::Proving, Some(identity)) = (self.phase, &self.identity) {
            self.granted.extend(identity, features);
            self.heard = now;
            self.phase = Phase::Open;
            self.say(&Packet::ConnAck { session_present: resumed, code: 0 });
            self.announce();
        }
    }

    /// Says which model the client follows, before anything that it asks. Whoever is refused
    /// says it again at the next connect.
    fn announce(&mut self) {
        let Some(model) = self.model_id.clone() else { return };
        let len = model.as_str().len();
        let owed = Owed { acknowledge: None, reply: Reply::Lax };
        self.ask(DeviceRequest::AnnounceModel(model), len, owed);
    }

    /// `open` refused; the CONNACK says so and a [`Step::Close`] follows.
    pub fn handle_refused(&mut self, refusal: &Refusal) {
        let code = status::connack_code(refusal.kind);
        self.say(&Packet::ConnAck { session_present: false, code });
        self.end(Ending::NotOpened(refusal.kind));
    }

    /// The answer to the oldest request that has none yet. Call only while
    /// [`Session::wants_answers`]; what comes regardless is kept.
    pub fn handle_answer(&mut self, now: Now, answer: Result<Answer, Refusal>) {
        self.pay_known(now);
        self.unanswered = self.unanswered.saturating_sub(1);
        if let Some(owed) = self.owed.pop_front() {
            self.pay(now, owed, answer);
        }
        self.pay_known(now);
        if self.owed.is_empty() {
            self.owed = VecDeque::new();
        }
    }

    /// Whether [`Session::handle_answer`] may be called: not while the peer leaves its output
    /// unread. Answers wait meanwhile where they were made.
    pub fn wants_answers(&self) -> bool {
        self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Bytes of the packets that became requests since the last call, for whoever budgets them.
    pub fn take_charge(&mut self) -> usize {
        std::mem::take(&mut self.charge)
    }

    /// Answers what was refused here and is next in line.
    fn pay_known(&mut self, now: Now) {
        while let Some(Owed { reply: Reply::Known(_), .. }) = self.owed.front() {
            let Some(Owed { acknowledge, reply: Reply::Known(known) }) = self.owed.pop_front()
            else {
                return;
            };
            let (rid, refusal) = *known;
            self.pay(now, Owed { acknowledge, reply: Reply::Twin(rid) }, Err(refusal));
        }
    }

    fn pay(&mut self, now: Now, owed: Owed, answer: Result<Answer, Refusal>) {
        if self.phase != Phase::Open {
            return;
        }
        // MQTT 3.1.1 has no negative PUBACK. To acknowledge would lose the message in silence, to
        // say nothing would leave the client waiting; so the connection ends, whatever the kind,
        // and the client sends it again. Azure does the same.
        if let (Reply::Firm, Err(refusal)) = (&owed.reply, &answer) {
            return self.end(Ending::Refused(refusal.kind));
        }
        if let Some(id) = owed.acknowledge {
            self.say(&Packet::PubAck(id));
        }
        match owed.reply {
            Reply::Firm | Reply::Lax | Reply::Known(_) => {}
            Reply::Twin(rid) => self.answer_twin(now, &rid, answer),
            Reply::Subscribe(id, filters) => self.answer_subscribe(id, &filters, answer),
            Reply::Unsubscribe(id, filters) => match answer {
                Ok(_) => {
                    for filter in filters {
                        self.granted.remove(filter);
                    }
                    self.say(&Packet::UnsubAck(id));
                }
                // UNSUBACK cannot say no.
                Err(refusal) => self.end(Ending::Refused(refusal.kind)),
            },
        }
    }

    fn answer_twin(&mut self, now: Now, rid: &str, answer: Result<Answer, Refusal>) {
        if self.granted.qos(Filter::TwinAnswers).is_none() {
            return;
        }
        let (topic, body) = match answer {
            Ok(Answer::Twin(twin)) => (hub::twin_answer(200, rid, None), hub::twin_body(*twin)),
            Ok(Answer::Patched(version)) => {
                (hub::twin_answer(204, rid, Some(version)), Bytes::new())
            }
            other => {
                let wrong = || Refusal::new(RefusalKind::Internal, "the answer does not fit");
                let refusal = other.err().unwrap_or_else(wrong);
                let topic = hub::twin_answer(status::status(refusal.kind).0, rid, None);
                (topic, status::error_body(&refusal, rid, now.wall).into())
            }
        };
        self.publish(&topic, &body, None);
    }

    fn answer_subscribe(
        &mut self,
        id: PacketId,
        filters: &[Option<Filter>],
        answer: Result<Answer, Refusal>,
    ) {
        let Some(identity) = self.identity.clone() else { return };
        let mut now = Granted::default();
        if let Ok(Answer::Subscribed(features)) = &answer {
            now.extend(&identity, features);
        }
        let code = |filter: &Option<Filter>| filter.and_then(|filter| now.qos(filter));
        let codes: Vec<u8> = filters.iter().map(|filter| code(filter).unwrap_or(0x80)).collect();
        for filter in filters.iter().flatten() {
            if let Some(qos) = now.qos(*filter) {
                self.granted.insert(*filter, qos);
            }
        }
        self.say(&Packet::SubAck { id, codes: &codes });
    }

    /// Something came for the device.
    pub fn handle_event(&mut self, event: DeviceEvent) {
        if let DeviceEvent::Closed(reason) = event {
            if reason == CloseReason::ShuttingDown {
                // It is we who go: nobody is to be told that the client was lost.
                self.will = None;
            }
            return self.end(Ending::Closed(reason));
        }
        let Some(identity) = self.identity.clone().filter(|_| self.phase == Phase::Open) else {
            return;
        };
        match event {
            DeviceEvent::Desired { patch, version } => {
                if self.granted.qos(Filter::DesiredChanges).is_some() {
                    let (topic, body) = hub::desired(patch, version);
                    self.publish(&topic, &body, None);
                }
            }
            DeviceEvent::Method { call, request, .. } => {
                if self.granted.qos(Filter::Methods).is_some() {
                    self.publish(&hub::method(&request.name, call), &request.payload, None);
                }
            }
            DeviceEvent::Message(delivery) => {
                // Without a filter it stays locked until the session ends.
                let message = &delivery.message;
                let Some((topic, qos)) = hub::message(&identity, self.granted, message) else {
                    return;
                };
                let lost = u32::try_from(message.properties.without_value()).unwrap_or(u32::MAX);
                self.lost_properties = self.lost_properties.saturating_add(lost);
                if qos == 0 {
                    self.publish(&topic, &message.body, None);
                    return self.complete(delivery.token);
                }
                let id = self.next_id();
                self.in_flight.push((id, delivery.token));
                self.publish(&topic, &message.body, Some(id));
            }
            DeviceEvent::Closed(_) => {}
        }
    }

    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.in_flight.iter().all(|(held, _)| *held != id)
            {
                return id;
            }
        }
    }

    fn publish(&mut self, topic: &str, body: &[u8], id: Option<PacketId>) {
        let qos = if id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        self.say(&Packet::Publish(Publish { topic, body, qos, id, dup: false, retain: false }));
    }

    fn say(&mut self, packet: &Packet<'_>) {
        packet::encode(packet, &mut self.output);
    }

    fn end(&mut self, ending: Ending) {
        if !matches!(self.phase, Phase::Ending | Phase::Over) {
            self.phase = Phase::Ending;
            self.ending = Some(Box::new(ending));
            self.rest = BytesMut::new();
        }
    }

    /// What the connection can take now, for `DeviceSession::poll_event`.
    pub fn credit(&self) -> Credit {
        if self.phase != Phase::Open || self.output.len() >= OUTPUT_BYTES_MAX {
            return Credit::NONE;
        }
        let free = IN_FLIGHT_MAX.saturating_sub(self.in_flight.len());
        Credit::of_messages(u16::try_from(free).unwrap_or(u16::MAX))
    }

    /// How many properties of messages were left out since the last call, to be told: those that
    /// could not be read, and those without a value on their way to a device, for Java's SDK
    /// throws on them. The messages go on, for a refusal would only bring them back.
    pub fn take_lost_properties(&mut self) -> u32 {
        std::mem::take(&mut self.lost_properties)
    }

    /// Why the model id of the CONNECT was left aside, if it was; told once.
    pub fn take_model_fault(&mut self) -> Option<InvalidModelId> {
        self.model_fault.take()
    }

    /// Bytes to write to the peer.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The first `count` bytes of [`Session::output`] were written.
    pub fn handle_written(&mut self, count: usize) {
        self.taking |= count > 0;
        self.output.advance(count.min(self.output.len()));
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
    }

    /// When [`Session::handle_timeout`] wants to be called; [`Tick::NEVER`] for never.
    /// Moves later with every read, so a coarse timer may ask again when it fires.
    pub fn poll_timeout(&self) -> Tick {
        match self.phase {
            Phase::Waiting | Phase::Open => self.heard.after(self.silence_max),
            Phase::Proving | Phase::Ending | Phase::Over => Tick::NEVER,
        }
    }

    /// Time passed; ends the connection if the peer has been silent too long. Silence does not
    /// count while we do not read or owe answers; a peer that takes none of a full output does.
    pub fn handle_timeout(&mut self, now: Tick) {
        if now >= self.poll_timeout() {
            let taking = std::mem::take(&mut self.taking);
            let full = self.output.len() >= OUTPUT_BYTES_MAX;
            if self.is_busy() && (taking || !full) {
                self.heard = now;
                return;
            }
            let waiting = self.phase == Phase::Waiting;
            self.end(if waiting { Ending::ConnectTimeout } else { Ending::KeepAlive });
        }
    }

    /// Whose connection it is, once a CONNECT came.
    pub fn identity(&self) -> Option<&IdentityId> {
        self.identity.as_ref()
    }

    /// How to close the session at the waist: asked, or lost with the will if there is one.
    pub fn leave(&mut self) -> Leave {
        if self.asked { Leave::Asked } else { Leave::Lost { will: self.will.take() } }
    }
}

#[cfg(test)]
mod tests;
