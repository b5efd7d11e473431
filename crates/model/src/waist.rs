//! The waist: one enum of requests, one enum of events, one trait, three implementers.
//!
//! Left of it are protocols, which know no rules; right of it are rules, which know no
//! protocol. The hub, the edge router and the upstream client implement [`DeviceApi`] and pass
//! one conformance suite.
//!
//! Who proves: the network side collects a [`Claim`] and hands it to [`DeviceApi::open`]; the
//! implementer checks it and says until when it holds. Push is pull with a wake-up: the
//! connection asks for events with the credit it has, and nothing is allocated while idle.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::feature::FeatureSet;
use crate::id::{IdentityId, ModuleName};
use crate::message::Message;
use crate::method::{MethodCallId, MethodRequest, MethodResponse};
use crate::model_id::ModelId;
use crate::refusal::{Refusal, RefusalKind};
use crate::secret::Secret;
use crate::time::{Tick, WallTime};
use crate::twin::{TwinDocument, TwinPatch, Version};
use crate::world::Boxed;

/// Most requests in one batch.
pub const BATCH_REQUESTS_MAX: usize = 256;
/// Most payload bytes in one batch; one request larger than this travels alone.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What an answer with a twin or a module's answer in it is reckoned at before it is known, in
/// bytes of memory: whoever asks needs room for it.
pub const ANSWER_BYTES: u32 = 256 * 1024;
/// Bytes of answers, so reckoned, that a session may ask for before earlier ones are taken; what
/// is asked beyond it is [`Full`]. One batch is taken while no more than a half waits.
pub const SESSION_ANSWER_BYTES_MAX: u32 = 2 * 1024 * 1024;

/// What somebody says to prove who they are.
#[derive(Clone, Debug)]
pub enum Claim {
    /// A shared access signature.
    Sas {
        /// Who it is.
        identity: IdentityId,
        /// The token, as received.
        token: Secret,
    },
    /// A client certificate: DER, leaf first. TLS proved possession of the key, nothing else.
    Certificates {
        /// Who it is.
        identity: IdentityId,
        /// The chain as sent.
        chain: Arc<[Bytes]>,
    },
    /// A gateway that speaks for a child.
    OnBehalfOf {
        /// The child.
        identity: IdentityId,
        /// From the child up to the actor.
        chain: Arc<[IdentityId]>,
        /// The token of the actor, the last of the chain.
        actor_token: Secret,
    },
    /// A process on a Unix socket, as the kernel describes it.
    Peer {
        /// Its user.
        uid: u32,
        /// Its process.
        pid: u32,
        /// The module whose socket it used.
        module: ModuleName,
    },
}

/// How the session is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// MQTT; `clean` wipes what persisted.
    Mqtt {
        /// The clean-session flag.
        clean: bool,
    },
    /// AMQP.
    Amqp,
    /// HTTPS; the only kind that never takes over an older session.
    Https,
    /// Inside one process or over a Unix socket.
    Local,
}

/// Orders sessions of one identity, also across restarts: `incarnation` is stored and raised at
/// every start, `counter` at every open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Which run of the process.
    pub incarnation: u32,
    /// Which session of that run.
    pub counter: u32,
}

/// Whoever answers the questions of devices: hub, edge router, upstream client.
pub trait DeviceApi: Send + Sync {
    /// Proves `claim`, takes over an older session of the identity (not for
    /// [`LinkKind::Https`]), gives back what persisted.
    ///
    /// # Errors
    /// `Unauthenticated` for a bad claim, an unknown identity or a disabled one (never saying
    /// which); `Throttled`, `Unavailable` or `TimedOut` when it may be tried again.
    fn open(
        &self,
        claim: Claim,
        link: LinkKind,
        deadline: Tick,
    ) -> Boxed<'_, Result<Opened, Refusal>>;
}

/// An open session and what persisted from earlier ones.
pub struct Opened {
    /// The session.
    pub session: Arc<dyn DeviceSession>,
    /// Whether state of an earlier session was found (MQTT's session present).
    pub resumed: bool,
    /// The subscriptions in force.
    pub features: FeatureSet,
    /// When the claim stops holding; the connection closes then unless renewed.
    pub valid_until: Option<WallTime>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("identity", self.session.identity())
            .field("resumed", &self.resumed)
            .field("features", &self.features)
            .field("valid_until", &self.valid_until)
            .finish()
    }
}

/// One identity, open.
pub trait DeviceSession: Send + Sync {
    /// Whose session it is.
    fn identity(&self) -> &IdentityId;

    /// Its place in the order of sessions.
    fn epoch(&self) -> Epoch;

    /// Enqueues now; the order of calls is the order of effects. Each request gets its own
    /// answer, in order. Dropping the completion cancels nothing. A session that was taken
    /// over or closed answers every item `TakenOver` or `Unavailable`.
    ///
    /// # Errors
    /// [`Full`] gives the batch back when there is no room; wait with
    /// [`DeviceSession::poll_ready`] and stop reading the socket meanwhile.
    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full>;

    /// Ready when there is room again after [`Full`].
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The next event that `credit` allows. After [`DeviceEvent::Closed`] nothing follows.
    /// One task polls; the latest waker is woken.
    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent>;

    /// Proves a fresh claim for the same identity and prolongs the session.
    ///
    /// # Errors
    /// As [`DeviceApi::open`]; the session then still ends at its old time.
    fn renew(&self, claim: Claim, deadline: Tick) -> Boxed<'_, Result<WallTime, Refusal>>;

    /// Ends the session. Dropping the last handle is the same as [`Leave::Lost`].
    fn close(&self, how: Leave);
}

/// How a session ends from the device's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The client said goodbye; a will is discarded.
    Asked,
    /// The connection broke; `will` is sent if the client left one.
    Lost {
        /// The will message.
        will: Option<Box<Message>>,
    },
}

/// How many events of each kind the connection can take right now. What has no credit stays in
/// its slot, queue or lane, where its bound acts. [`DeviceEvent::Closed`] needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Messages beyond those already handed out and not settled.
    pub messages: u16,
    /// Method calls.
    pub methods: u16,
    /// Changes of desired properties.
    pub desired: u16,
}

impl Credit {
    /// Nothing can be taken.
    pub const NONE: Self = Self { messages: 0, methods: 0, desired: 0 };

    /// Room for `messages`, a method call and a desired change.
    pub const fn of_messages(messages: u16) -> Self {
        Self { messages, methods: 1, desired: 1 }
    }

    /// Whether `event` may be handed out.
    pub fn allows(self, event: &DeviceEvent) -> bool {
        match event {
            DeviceEvent::Desired { .. } => self.desired > 0,
            DeviceEvent::Method { .. } => self.methods > 0,
            DeviceEvent::Message(_) => self.messages > 0,
            DeviceEvent::Closed(_) => true,
        }
    }
}

/// All requests that one read yielded for one identity, in order.
///
/// At most [`BATCH_REQUESTS_MAX`] requests; see [`BATCH_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Batch(pub Vec<DeviceRequest>);

impl From<DeviceRequest> for Batch {
    fn from(request: DeviceRequest) -> Self {
        Self(vec![request])
    }
}

/// No room; here is the batch back, untouched.
#[derive(Debug)]
pub struct Full(pub Batch);

/// What a device or module asks.
#[derive(Debug)]
pub enum DeviceRequest {
    /// Telemetry, or a module output. Answered [`Answer::Accepted`] once it is on disk.
    SendTelemetry(Box<Message>),
    /// Reads its own twin. Answered [`Answer::Twin`].
    ReadTwin,
    /// Merges into its own reported properties. Answered [`Answer::Patched`].
    PatchReported {
        /// The merge patch.
        patch: TwinPatch,
        /// Only if the reported version is this.
        if_version: Option<Version>,
    },
    /// Switches features on; durable before it is answered [`Answer::Subscribed`].
    Subscribe(FeatureSet),
    /// Switches features off by filter; durable before it is answered [`Answer::Accepted`].
    Unsubscribe(Vec<Box<str>>),
    /// Ends the lock of a delivered message. Answered [`Answer::Accepted`].
    Settle {
        /// Which delivery.
        token: DeliveryToken,
        /// What became of it.
        outcome: Outcome,
    },
    /// Answers a method call. Answered [`Answer::Accepted`], also when nobody waits any more.
    AnswerMethod {
        /// Which call.
        call: MethodCallId,
        /// The answer.
        response: MethodResponse,
    },
    /// Calls a method of another identity on the same device. Answered [`Answer::Method`].
    InvokeMethod {
        /// Whose method.
        target: IdentityId,
        /// The question.
        request: MethodRequest,
    },
    /// Takes one cloud-to-device message (HTTPS). Answered [`Answer::Message`].
    PullMessage {
        /// How long it stays locked.
        lock: Duration,
    },
    /// Works on the module identities of its own device (the edge runtime does).
    Modules(ModuleOperation),
    /// Says which model it follows; a connection asks it first. Answered [`Answer::Accepted`]:
    /// the hub keeps it with the twin, writing only what changed; the router takes it and lets it
    /// be; the client refuses it, for MQTT says it in CONNECT and nowhere else.
    AnnounceModel(ModelId),
}

/// Module identities of one's own device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleOperation {
    /// All of them. Answered [`Answer::Modules`].
    List,
    /// Creates it if absent, else leaves it as it is. Answered [`Answer::Modules`] with one.
    Ensure {
        /// Its name.
        name: ModuleName,
        /// Who manages it; the edge agent writes `IotEdge`.
        managed_by: Box<str>,
    },
    /// Removes it; fine if absent. Answered [`Answer::Accepted`].
    Delete {
        /// Its name.
        name: ModuleName,
    },
}

/// A module identity with its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleIdentity {
    /// Its name.
    pub name: ModuleName,
    /// Changes when the identity is deleted and made again.
    pub generation_id: Box<str>,
    /// Who manages it; empty if nobody said.
    pub managed_by: Box<str>,
    /// The primary key, base64, if it has keys.
    pub primary_key: Option<Secret>,
    /// The secondary key, base64, if it has keys.
    pub secondary_key: Option<Secret>,
}

/// What became of a delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; it is removed.
    Complete,
    /// Hand it out again.
    Abandon,
    /// Never hand it out again.
    Reject,
}

/// Names one delivery of one message within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryToken(pub u64);

/// A message handed to the device, locked until settled or until the session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// For [`DeviceRequest::Settle`].
    pub token: DeliveryToken,
    /// The message; `system.input_name` says which input, none means cloud-to-device.
    pub message: Message,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, and on disk where the request says so.
    Accepted,
    /// The twin as the device sees it.
    Twin(Box<TwinDocument>),
    /// The reported properties were merged; this is their version now.
    Patched(Version),
    /// The subscriptions as granted; those missing were refused.
    Subscribed(FeatureSet),
    /// The method was answered.
    Method(MethodResponse),
    /// The message, if there was one.
    Message(Option<Box<Delivery>>),
    /// Module identities.
    Modules(Vec<ModuleIdentity>),
}

/// What comes to the device without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// Desired properties changed. Coalesced: later values win, nulls are kept, the highest
    /// version is told. Never dropped.
    Desired {
        /// The merged patch, nulls meaning deletion.
        patch: TwinPatch,
        /// The desired version after it.
        version: Version,
    },
    /// A method is called.
    Method {
        /// For [`DeviceRequest::AnswerMethod`].
        call: MethodCallId,
        /// The question.
        request: MethodRequest,
        /// An answer after this finds nobody.
        deadline: Tick,
    },
    /// A message for it.
    Message(Box<Delivery>),
    /// The session is over. Always last, and overtakes everything else.
    Closed(CloseReason),
}

/// Why a session ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A newer session of the identity.
    TakenOver,
    /// The claim stopped holding.
    Expired,
    /// The identity was deleted, disabled, or got other keys.
    Revoked,
    /// The upstream connection of this session is gone (client implementer only).
    Disconnected,
    /// The process is stopping.
    ShuttingDown,
}

/// Answers of one batch, one by one, in order.
pub struct Completion(Box<dyn Answers>);

/// Where a [`Completion`] gets its answers; written by implementers of [`DeviceSession`].
pub trait Answers: Send {
    /// The next answer; `None` after the last.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>>;
}

impl Completion {
    /// A completion that asks `answers`.
    pub fn new(answers: impl Answers + 'static) -> Self {
        Self(Box::new(answers))
    }

    /// Answers that are known already.
    pub fn ready(answers: Vec<Result<Answer, Refusal>>) -> Self {
        struct Ready(std::vec::IntoIter<Result<Answer, Refusal>>);
        impl Answers for Ready {
            fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
                Poll::Ready(self.0.next())
            }
        }
        Self::new(Ready(answers.into_iter()))
    }

    /// The next answer; `None` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
        self.0.poll_next(cx)
    }

    /// The next answer; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Answer, Refusal>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The answer of a batch of one; `Internal` if the implementer broke its word.
    ///
    /// # Errors
    /// The refusal, if the request was refused.
    pub async fn only(mut self) -> Result<Answer, Refusal> {
        self.next()
            .await
            .unwrap_or_else(|| Err(Refusal::new(RefusalKind::Internal, "no answer came")))
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Completion")
    }
}

/// Submits one request, waiting for room, and gives its answer.
///
/// # Errors
/// The refusal, if the request was refused.
pub async fn ask(
    session: &dyn DeviceSession,
    request: DeviceRequest,
    deadline: Tick,
) -> Result<Answer, Refusal> {
    let mut batch = Batch::from(request);
    loop {
        match session.submit(batch, deadline) {
            Ok(completion) => return completion.only().await,
            Err(Full(back)) => batch = back,
        }
        std::future::poll_fn(|cx| session.poll_ready(cx)).await;
    }
}

/// Gives fresh claims to a client, at every connect and renewal.
pub trait ClaimSource: Send + Sync {
    /// A claim that holds from now on, and until when it holds.
    ///
    /// # Errors
    /// `Unavailable` if the key cannot be used right now.
    fn claim(&self) -> Pin<Box<dyn Future<Output = Result<FreshClaim, Refusal>> + Send + '_>>;
}

/// A claim and the end of its life.
#[derive(Clone, Debug)]
pub struct FreshClaim {
    /// The claim.
    pub claim: Claim,
    /// When it stops holding.
    pub valid_until: WallTime,
}
