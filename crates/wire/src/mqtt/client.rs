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

use std::time::Duration;

use model::feature::FeatureSet;
use model::id::IdentityId;
use model::message::Message;
use model::refusal::Refusal;
use model::secret::Secret;
use model::time::Tick;
use model::waist::{Answer, DeviceEvent, DeviceRequest};

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
    /// Most QoS 1 publishes unacknowledged at once.
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
            keep_alive: Duration::from_secs(60),
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

/// No room; here is the request back, untouched.
#[derive(Debug)]
pub struct Full(pub DeviceRequest);

/// The client's side; see the module.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// A session that is not connected yet.
    pub fn new(options: Options) -> Self {
        todo!("{options:?}")
    }

    /// A connection stands; writes the CONNECT.
    pub fn connect(&mut self, now: Tick, login: Login) {
        todo!("{now:?} {login:?}")
    }

    /// Says goodbye; [`Step::Close`] follows once the DISCONNECT is in the output.
    pub fn disconnect(&mut self) {
        todo!()
    }

    /// The connection is gone. Telemetry in flight is kept and sent again after the next
    /// [`Session::connect`]; all other open requests are answered `TimedOut`.
    pub fn handle_disconnected(&mut self) {
        todo!()
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, now: Tick, bytes: &[u8]) {
        todo!("{now:?} {bytes:?}")
    }

    /// Asks the server. `InvokeMethod`, `PullMessage` and `Modules` are answered
    /// `InvalidRequest`: MQTT has no words for them.
    ///
    /// # Errors
    /// [`Full`] gives the request back when window and queue are full.
    pub fn request(
        &mut self,
        now: Tick,
        id: RequestId,
        request: DeviceRequest,
    ) -> Result<(), Full> {
        todo!("{now:?} {id:?} {request:?}")
    }

    /// How many more requests fit.
    pub fn room(&self) -> usize {
        todo!()
    }

    /// What happened; call until `None` after every other call.
    pub fn poll(&mut self, now: Tick) -> Option<Step> {
        todo!("{now:?}")
    }

    /// Bytes to write to the server.
    pub fn output(&self) -> &[u8] {
        todo!()
    }

    /// The first `count` bytes of [`Session::output`] were written.
    pub fn handle_written(&mut self, count: usize) {
        todo!("{count}")
    }

    /// When [`Session::handle_timeout`] wants to be called; [`Tick::NEVER`] for never.
    pub fn poll_timeout(&self) -> Tick {
        todo!()
    }

    /// Time passed: pings, or gives the connection up.
    pub fn handle_timeout(&mut self, now: Tick) {
        todo!("{now:?}")
    }

    /// Whether the server has accepted the current connection.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// The subscriptions the server granted.
    pub fn features(&self) -> &FeatureSet {
        todo!()
    }
}
