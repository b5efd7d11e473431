//! The server's side of one MQTT connection, without the connection.
//!
//! Feed it with `handle_*`, ask it with `poll*`, write [`Session::output`] to the peer:
//!
//! ```text
//! read n bytes        → handle_bytes(now, &bytes)         only while wants_bytes()
//! poll(): Connect     → DeviceApi::open → handle_opened | handle_refused
//! poll(): Submit      → DeviceSession::submit → every answer, in order → handle_answer
//! poll(): Close       → flush output, close the socket, DeviceSession::close(session.leave())
//! poll_event(credit())→ handle_event
//! output()            → write k bytes → handle_written(k)
//! poll_timeout() due  → handle_timeout(now)
//! ```
//!
//! Answers are handed in as the requests went out, over all batches: PUBACKs then leave in the
//! order of the PUBLISHes, as MQTT demands.

use std::sync::Arc;

use bytes::Bytes;
use model::feature::FeatureSet;
use model::id::IdentityId;
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::Tick;
use model::waist::{Answer, Batch, Claim, CloseReason, Credit, DeviceEvent, Leave};

use crate::topics::user::UserName;

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
        todo!("{certificates:?}")
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

/// The server's side of one MQTT connection; see the module.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// A connection that was accepted at `now`.
    pub fn new(now: Tick) -> Self {
        todo!("{now:?}")
    }

    /// Bytes came. They may end or begin anywhere in a packet. Call only while
    /// [`Session::wants_bytes`]; what comes regardless is kept, up to one packet.
    pub fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        todo!("{now:?} {bytes:?}")
    }

    /// Whether the socket is to be read: not while a CONNECT is being proven, while too many
    /// requests are unanswered, or while the peer does not read.
    pub fn wants_bytes(&self) -> bool {
        todo!()
    }

    /// What to do next; call until `None` after every `handle_*`.
    pub fn poll(&mut self, now: Tick) -> Option<Step> {
        todo!("{now:?}")
    }

    /// `open` succeeded.
    pub fn handle_opened(&mut self, now: Tick, resumed: bool, features: &FeatureSet) {
        todo!("{now:?} {resumed} {features:?}")
    }

    /// `open` refused; the CONNACK says so and a [`Step::Close`] follows.
    pub fn handle_refused(&mut self, refusal: &Refusal) {
        todo!("{refusal:?}")
    }

    /// The answer to the oldest request that has none yet.
    pub fn handle_answer(&mut self, now: model::time::Now, answer: Result<Answer, Refusal>) {
        todo!("{now:?} {answer:?}")
    }

    /// Something came for the device.
    pub fn handle_event(&mut self, event: DeviceEvent) {
        todo!("{event:?}")
    }

    /// How many messages the connection can take now, for `DeviceSession::poll_event`.
    pub fn credit(&self) -> Credit {
        todo!()
    }

    /// Bytes to write to the peer.
    pub fn output(&self) -> &[u8] {
        todo!()
    }

    /// The first `count` bytes of [`Session::output`] were written.
    pub fn handle_written(&mut self, count: usize) {
        todo!("{count}")
    }

    /// When [`Session::handle_timeout`] wants to be called; [`Tick::NEVER`] for never.
    /// Moves later with every read, so a coarse timer may ask again when it fires.
    pub fn poll_timeout(&self) -> Tick {
        todo!()
    }

    /// Time passed; ends the connection if the peer has been silent too long.
    pub fn handle_timeout(&mut self, now: Tick) {
        todo!("{now:?}")
    }

    /// Whose connection it is, once a CONNECT came.
    pub fn identity(&self) -> Option<&IdentityId> {
        todo!()
    }

    /// How to close the session at the waist: asked, or lost with the will if there is one.
    pub fn leave(&mut self) -> Leave {
        todo!()
    }
}
