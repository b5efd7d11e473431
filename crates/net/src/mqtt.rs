//! The server's side of MQTT: a listener, and one task per connection.
//!
//! A connection is one future that polls: it reads into a scratch buffer of its thread, feeds
//! `wire`'s session, submits what one read yielded as one batch, and writes what is due in one
//! write. Nothing is held while idle but the session, the TLS state and the task.

mod connection;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::waist::DeviceApi;
use model::world::World;
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use crate::network::{Connected, Incoming};
use crate::tls;

/// Connections at once on one listener; more wait in the kernel.
pub const MQTT_CONNECTIONS_MAX: usize = 1 << 20;
/// Wait after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that serves MQTT until it is told to stop.
#[derive(Debug)]
pub struct MqttServer {
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    counts: Arc<Counts>,
}

/// What a listener has seen since it started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    accepted: AtomicU64,
    pub(crate) subscribes: AtomicU64,
}

#[derive(Clone)]
struct Shared {
    tls: Option<tls::Server>,
    api: Arc<dyn DeviceApi>,
    world: World,
    stopped: watch::Receiver<bool>,
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
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(MQTT_CONNECTIONS_MAX));
        let counts = Arc::new(Counts::default());
        let shared =
            Shared { tls, api, world: world.clone(), stopped, counts: Arc::clone(&counts) };
        world.spawn(accept_all(incoming, shared, Arc::clone(&connections)));
        Self { stop, connections, counts }
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        MQTT_CONNECTIONS_MAX - self.connections.available_permits()
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// SUBSCRIBE packets received since the start.
    pub fn subscribes(&self) -> u64 {
        self.counts.subscribes.load(Ordering::Relaxed)
    }

    /// Stops accepting, answers what was accepted, closes all, and returns when all are gone
    /// or `patience` is over.
    pub async fn shut_down(&self, patience: Duration) {
        // Nobody listens if the accept loop has ended already.
        self.stop.send(true).ok();
        let all = u32::try_from(MQTT_CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let gone = tokio::time::timeout(patience, self.connections.acquire_many(all)).await;
        if gone.is_err() {
            debug!("mqtt connections were cut at shutdown");
        }
    }
}

async fn accept_all(
    mut incoming: Box<dyn Incoming>,
    mut shared: Shared,
    connections: Arc<Semaphore>,
) {
    loop {
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            biased;
            () = told(&mut shared.stopped) => return,
            accepted = incoming.accept() => accepted,
        };
        match accepted {
            Ok(connected) => {
                shared.counts.accepted.fetch_add(1, Ordering::Relaxed);
                let task = shared.clone();
                shared.world.spawn(async move {
                    serve(connected, task).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(connected: Connected, shared: Shared) {
    let Connected { stream, peer } = connected;
    // The handshake is boxed: its state is large, and gone when the connection idles.
    let secured = match &shared.tls {
        None => Ok((stream, None)),
        Some(tls) => Box::pin(tls.accept(stream)).await.map(|s| (s.stream, s.client_chain)),
    };
    match secured {
        Ok((stream, chain)) => connection::run(stream, chain, shared).await,
        Err(error) => debug!(?peer, %error, "handshake failed"),
    }
}

/// Ends when the server is told to stop, or is gone.
async fn told(stopped: &mut watch::Receiver<bool>) {
    stopped.wait_for(|stop| *stop).await.ok();
}
