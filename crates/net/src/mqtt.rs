//! The server's side of MQTT: a listener, and one task per connection.
//!
//! A connection is one future that polls: it reads into a scratch buffer of its thread, feeds
//! `wire`'s session, submits what one read yielded as one batch, and writes what is due in one
//! write. Nothing is held while idle but the session, the TLS state and the task.

mod connection;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use model::waist::DeviceApi;
use model::world::World;

use connection::Connection;

use crate::gate::{Gate, Phase, Seat};
use crate::limits::{SeatLimits, Watch};
use crate::listener::{accept_all, open};
use crate::network::{Arrival, ByteStream, Connected, Incoming};
use crate::patience::{Patient, WRITE_PATIENCE};
use crate::tls;

/// Connections at once on one listener, if the machine has descriptors for so many.
pub const MQTT_CONNECTIONS_MAX: usize = 1 << 20;

/// A listener that serves MQTT until it is told to stop. Dropping it cuts every connection.
#[derive(Debug)]
pub struct MqttServer {
    gate: Arc<Gate>,
    counts: Arc<Counts>,
}

/// What a listener has seen since it started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) subscribes: AtomicU64,
    pub(crate) lost_properties: AtomicU64,
    pub(crate) lost_models: AtomicU64,
    /// Bytes read whose requests have no answers yet, over all connections.
    pub(crate) unanswered_bytes: AtomicUsize,
    /// Bytes of output that peers have not read, over all connections.
    pub(crate) unread_bytes: AtomicUsize,
}

/// What all connections of a listener have in common.
struct Shared {
    tls: Option<tls::Server>,
    api: Arc<dyn DeviceApi>,
    world: World,
    counts: Arc<Counts>,
}

impl MqttServer {
    /// Serves `api` on `incoming`; over TLS unless `tls` is `None`, which only simulations may
    /// choose.
    pub fn start(
        incoming: Box<dyn Incoming>,
        tls: Option<tls::Server>,
        api: Arc<dyn DeviceApi>,
        world: &World,
    ) -> Self {
        Self::start_within(SeatLimits::of(MQTT_CONNECTIONS_MAX), incoming, tls, api, world)
    }

    /// As [`MqttServer::start`], with other limits than those of the protocol.
    pub fn start_within(
        limits: SeatLimits,
        incoming: Box<dyn Incoming>,
        tls: Option<tls::Server>,
        api: Arc<dyn DeviceApi>,
        world: &World,
    ) -> Self {
        let gate = Arc::new(Gate::new(limits));
        let counts = Arc::new(Counts::default());
        let world = world.clone();
        let shared = Shared { tls, api, world: world.clone(), counts: Arc::clone(&counts) };
        let shared = Arc::new(shared);
        let serve = move |arrival, seat| serve(arrival, Arc::clone(&shared), seat);
        world.spawn(accept_all(incoming, Arc::clone(&gate), world.clone(), serve));
        Self { gate, counts }
    }

    /// Its counters, for whoever shows them.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.gate))
    }

    /// Connections open now, handshakes included.
    pub fn open(&self) -> usize {
        self.gate.seated()
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.gate.counts.accepted.get()
    }

    /// Connections closed at once since the start, because there were too many.
    pub fn refused(&self) -> u64 {
        self.gate.counts.refused.get()
    }

    /// Properties of messages that could not be read, and were left out, since the start.
    pub fn lost_properties(&self) -> u64 {
        self.counts.lost_properties.load(Ordering::Relaxed)
    }

    /// Model ids of CONNECTs that were no model ids, and were left aside, since the start.
    pub fn lost_models(&self) -> u64 {
        self.counts.lost_models.load(Ordering::Relaxed)
    }

    /// SUBSCRIBE packets received since the start.
    pub fn subscribes(&self) -> u64 {
        self.counts.subscribes.load(Ordering::Relaxed)
    }

    /// Bytes of output that clients have not read, beside what the kernel holds.
    pub fn unread_bytes(&self) -> usize {
        self.counts.unread_bytes.load(Ordering::Relaxed)
    }

    /// Stops accepting and closes all connections; cuts those that are not gone when `patience`
    /// is over.
    pub async fn shut_down(&self, patience: Duration) {
        self.gate.close(patience).await;
    }
}

impl Drop for MqttServer {
    fn drop(&mut self) {
        self.gate.enter(Phase::Cut);
    }
}

/// The whole life of a connection. The handshake is boxed: its state is large, and gone when
/// the connection idles.
fn serve(
    arrival: Arrival,
    shared: Arc<Shared>,
    seat: Seat,
) -> impl Future<Output = ()> + Send + 'static {
    let secured = Box::pin(secure(arrival, shared, seat));
    async move {
        if let Some(connection) = secured.await {
            connection.await;
        }
    }
}

async fn secure(arrival: Arrival, shared: Arc<Shared>, mut seat: Seat) -> Option<Box<Connection>> {
    let Connected { stream, peer } = open(arrival, &seat)?;
    // Beneath TLS, so that a record which waits sealed counts too.
    let deaf = Arc::clone(&seat.counts().deaf);
    let stream: Box<dyn ByteStream> = Box::new(Patient::new(stream, WRITE_PATIENCE, deaf));
    let (stream, chain) = match &shared.tls {
        None => (stream, None),
        Some(tls) => match seat.while_open(tls.accept(stream)).await? {
            Ok(secured) => (secured.stream, secured.client_chain),
            Err(error) => {
                tls.tell_failed(&peer, &error);
                seat.counts().broken(&error);
                return None;
            }
        },
    };
    Some(Box::new(Connection::new(stream, chain, shared, seat)))
}

#[cfg(test)]
mod tests;
