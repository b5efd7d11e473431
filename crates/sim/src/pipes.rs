//! A network of pipes in memory: bytes are delayed, arrive in pieces, and connections are cut.
#![expect(clippy::disallowed_methods, reason = "relays belong to the network, not to a host")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::world::Boxed;
use net::network::{Address, Connected, Incoming, Network, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use testkit::chance::Chance;

/// Connections that wait to be accepted, per listener.
const BACKLOG: usize = 64;
/// Bytes in flight in one direction.
const WINDOW_BYTES: usize = 16 * 1024;
/// Longest delay of a piece.
const DELAY_MAX: Duration = Duration::from_millis(20);

/// The network of one simulation.
#[derive(Clone, Debug)]
pub struct Pipes {
    shared: Arc<Mutex<Shared>>,
    chance: Chance,
}

#[derive(Debug, Default)]
struct Shared {
    listeners: BTreeMap<Box<str>, mpsc::Sender<Connected>>,
    relays: Vec<[AbortHandle; 2]>,
    cuts: u64,
}

impl Pipes {
    /// A network that draws from `chance`.
    pub fn new(chance: Chance) -> Self {
        Self { shared: Arc::default(), chance }
    }

    /// Cuts one open connection, both directions at once; whether there was one.
    pub fn cut_one(&self) -> bool {
        let mut shared = self.lock();
        shared.relays.retain(|pair| pair.iter().any(|relay| !relay.is_finished()));
        if shared.relays.is_empty() {
            return false;
        }
        let count = u64::try_from(shared.relays.len()).unwrap_or(u64::MAX);
        let which = usize::try_from(self.chance.below(count)).unwrap_or(0);
        for relay in shared.relays.swap_remove(which) {
            relay.abort();
        }
        shared.cuts += 1;
        true
    }

    /// Cuts all open connections, as when a host dies.
    pub fn cut_all(&self) {
        for relay in std::mem::take(&mut self.lock().relays).into_iter().flatten() {
            relay.abort();
        }
    }

    /// Connections cut one by one so far.
    pub fn cuts(&self) -> u64 {
        self.lock().cuts
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, name: &str) -> io::Result<Connected> {
        let mut shared = self.lock();
        let listener = shared.listeners.get(name).filter(|listener| !listener.is_closed()).cloned();
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, near_relay) = tokio::io::duplex(WINDOW_BYTES);
        let (far, far_relay) = tokio::io::duplex(WINDOW_BYTES);
        listener
            .try_send(Connected { stream: Box::new(far), peer: Peer::Memory })
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let (near_read, near_write) = tokio::io::split(near_relay);
        let (far_read, far_write) = tokio::io::split(far_relay);
        let relays = [(near_read, far_write), (far_read, near_write)].map(|(from, to)| {
            tokio::spawn(relay(from, to, self.chance.fork("relay"))).abort_handle()
        });
        shared.relays.push(relays);
        Ok(Connected { stream: Box::new(near), peer: Peer::Memory })
    }
}

async fn relay(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, chance: Chance) {
    let mut piece = vec![0; 4096];
    loop {
        let most = 1 + usize::try_from(chance.below(4096)).unwrap_or(0);
        let room = piece.get_mut(..most).unwrap_or_default();
        let Ok(count @ 1..) = from.read(room).await else { break };
        tokio::time::sleep(chance.span(DELAY_MAX)).await;
        let bytes = piece.get(..count).unwrap_or_default();
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    // The other end may be gone already.
    to.shutdown().await.ok();
}

impl Network for Pipes {
    fn listen(&self, address: &Address) -> Boxed<'_, io::Result<Box<dyn Incoming>>> {
        let name = match address {
            Address::Memory(name) => name.clone(),
            _ => return Box::pin(async { Err(io::ErrorKind::Unsupported.into()) }),
        };
        let (sender, arriving) = mpsc::channel(BACKLOG);
        self.lock().listeners.insert(name.clone(), sender);
        let incoming: Box<dyn Incoming> = Box::new(Arriving { arriving, name });
        Box::pin(async { Ok(incoming) })
    }

    fn dial(&self, address: &Address) -> Boxed<'_, io::Result<Connected>> {
        let connected = match address {
            Address::Memory(name) => self.connect(name),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        Box::pin(async { connected })
    }
}

struct Arriving {
    arriving: mpsc::Receiver<Connected>,
    name: Box<str>,
}

impl Incoming for Arriving {
    fn accept(&mut self) -> Boxed<'_, io::Result<Connected>> {
        Box::pin(async {
            self.arriving.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        })
    }

    fn address(&self) -> Address {
        Address::Memory(self.name.clone())
    }
}
