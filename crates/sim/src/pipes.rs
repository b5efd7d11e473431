//! A network of pipes in memory: bytes are delayed and arrive in pieces; connections are cut,
//! fall silent, and end with their hosts.
#![expect(clippy::disallowed_methods, reason = "relays belong to the network, not to a host")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use model::world::Boxed;
use net::network::{Address, Arrival, Connected, Incoming, Network, Peer};
use testkit::chance::Chance;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Connections that wait to be accepted, per listener.
const BACKLOG: usize = 64;
/// Bytes in flight in one direction.
const WINDOW_BYTES: usize = 16 * 1024;
/// Largest piece.
const PIECE_BYTES: usize = 8 * 1024;
/// Longest delay of a piece.
const DELAY_MAX: Duration = Duration::from_millis(20);
/// A connection that is doomed breaks within so many pieces.
const DOOM_PIECES: u64 = 4;
/// How late the last words of a dialler arrive that went elsewhere.
const LATE_MAX: Duration = Duration::from_secs(8);
/// How long the other end keeps a connection whose dialler went elsewhere.
const LEFT_OPEN: Duration = Duration::from_mins(2);

/// The network of one simulation. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Pipes {
    shared: Arc<Mutex<Shared>>,
    chance: Chance,
}

#[derive(Debug, Default)]
struct Shared {
    listeners: BTreeMap<Box<str>, Listener>,
    links: Vec<Arc<Link>>,
    cuts: Arc<AtomicU64>,
    silences: u64,
    /// Hosts that nobody can be reached from.
    parted: BTreeSet<Box<str>>,
}

#[derive(Debug)]
struct Listener {
    host: Box<str>,
    arriving: mpsc::Sender<Connected>,
}

/// One connection.
#[derive(Debug)]
struct Link {
    hosts: [Box<str>; 2],
    relays: OnceLock<[AbortHandle; 2]>,
    /// Nothing that is sent arrives any more, and nobody is told.
    silent: AtomicBool,
    /// Breaks after so many pieces; 0 is never.
    doom: AtomicU64,
    /// Whether the dialler went elsewhere.
    left: watch::Sender<bool>,
    cuts: Arc<AtomicU64>,
}

impl Link {
    fn cut(&self) {
        self.relays.get().into_iter().flatten().for_each(AbortHandle::abort);
    }

    fn is_open(&self) -> bool {
        self.relays.get().is_some_and(|both| both.iter().all(|relay| !relay.is_finished()))
    }

    /// One piece passes; whether it is the last one, which is lost.
    fn strike(&self) -> bool {
        let left = self.doom.load(Ordering::Relaxed);
        self.doom.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            self.cuts.fetch_add(1, Ordering::Relaxed);
            self.cut();
        }
        left == 1
    }
}

impl Pipes {
    /// A network that draws from `chance`.
    pub fn new(chance: Chance) -> Self {
        Self { shared: Arc::default(), chance }
    }

    /// The network as `host` sees it.
    pub fn of(&self, host: &str) -> HostNetwork {
        HostNetwork { pipes: self.clone(), host: host.into() }
    }

    /// Cuts one open connection, both directions at once: now, or in the middle of what it
    /// carries next. Whether there was one.
    pub fn cut_one(&self) -> bool {
        let Some(link) = self.pick() else { return false };
        if self.chance.below(2) == 0 {
            link.doom.store(1 + self.chance.below(DOOM_PIECES), Ordering::Relaxed);
        } else {
            link.cuts.fetch_add(1, Ordering::Relaxed);
            link.cut();
        }
        true
    }

    /// Lets one open connection fall silent: both ends think it stands. Whether there was one.
    pub fn silence_one(&self) -> bool {
        let Some(link) = self.pick() else { return false };
        link.silent.store(true, Ordering::Relaxed);
        self.lock().silences += 1;
        true
    }

    /// The dialler of one open connection went elsewhere, as a device that changes its network:
    /// for it the connection is over at once, the other end knows nothing, and what was on its
    /// way arrives late. Whether there was one.
    pub fn roam_one(&self) -> bool {
        let Some(link) = self.pick() else { return false };
        link.cuts.fetch_add(1, Ordering::Relaxed);
        link.left.send_replace(true);
        true
    }

    /// Ends all connections of `host`, as when its process dies.
    pub fn cut_all_of(&self, host: &str) {
        self.links_of(host).iter().for_each(|link| link.cut());
    }

    /// All connections of `host` fall silent, as when its power goes.
    pub fn silence_all_of(&self, host: &str) {
        self.links_of(host).iter().for_each(|link| link.silent.store(true, Ordering::Relaxed));
    }

    /// The line of `host` is cut: its connections end, and new ones are refused.
    pub fn part(&self, host: &str) {
        self.lock().parted.insert(host.into());
        self.cut_all_of(host);
    }

    /// The line of `host` is whole again.
    pub fn join(&self, host: &str) {
        self.lock().parted.remove(host);
    }

    /// Connections cut beneath living hosts so far.
    pub fn cuts(&self) -> u64 {
        self.lock().cuts.load(Ordering::Relaxed)
    }

    /// Connections that fell silent between living hosts so far.
    pub fn silences(&self) -> u64 {
        self.lock().silences
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self) -> Option<Arc<Link>> {
        let mut shared = self.lock();
        shared.links.retain(|link| link.is_open());
        let whole: Vec<_> = shared.links.iter().filter(|it| it.is_whole()).collect();
        let which = self.chance.below(u64::try_from(whole.len()).unwrap_or(u64::MAX));
        whole.get(usize::try_from(which).unwrap_or(0)).map(|&link| Arc::clone(link))
    }

    fn links_of(&self, host: &str) -> Vec<Arc<Link>> {
        let shared = self.lock();
        let own = shared.links.iter().filter(|link| link.hosts.iter().any(|end| &**end == host));
        own.cloned().collect()
    }

    fn open(&self, address: &Address, host: &str) -> Box<dyn Incoming> {
        let (sender, arriving) = mpsc::channel(BACKLOG);
        let listener = Listener { host: host.into(), arriving: sender };
        self.lock().listeners.insert(address.to_string().into(), listener);
        Box::new(Arriving { arriving, address: address.clone() })
    }

    fn connect(&self, dialler: &str, name: &str) -> io::Result<Connected> {
        let mut shared = self.lock();
        if shared.parted.contains(dialler) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let open = shared.listeners.get(name).filter(|it| !it.arriving.is_closed());
        let listener = open.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, near_relay) = tokio::io::duplex(WINDOW_BYTES);
        let (far, far_relay) = tokio::io::duplex(WINDOW_BYTES);
        listener
            .arriving
            .try_send(Connected { stream: Box::new(far), peer: Peer::Memory })
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let link = Arc::new(Link {
            hosts: [dialler.into(), listener.host.clone()],
            relays: OnceLock::new(),
            silent: AtomicBool::new(false),
            doom: AtomicU64::new(0),
            left: watch::Sender::new(false),
            cuts: Arc::clone(&shared.cuts),
        });
        let (near_read, near_write) = tokio::io::split(near_relay);
        let (far_read, far_write) = tokio::io::split(far_relay);
        let ways = [(Way::There, near_read, far_write), (Way::Back, far_read, near_write)];
        let relays = ways.map(|(way, from, to)| {
            let chance = self.chance.fork("relay");
            tokio::spawn(relay(way, (from, to), Arc::clone(&link), chance)).abort_handle()
        });
        link.relays.get_or_init(|| relays);
        if shared.links.len() == shared.links.capacity() {
            shared.links.retain(|link| link.is_open());
        }
        shared.links.push(link);
        Ok(Connected { stream: Box::new(near), peer: Peer::Memory })
    }
}

impl Link {
    /// Whether nothing is wrong with it yet.
    fn is_whole(&self) -> bool {
        let fits = !self.silent.load(Ordering::Relaxed) && self.doom.load(Ordering::Relaxed) == 0;
        fits && !*self.left.borrow()
    }
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the dialler.
    There,
    /// To the dialler.
    Back,
}

async fn relay(
    way: Way,
    (mut from, mut to): (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>),
    link: Arc<Link>,
    chance: Chance,
) {
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = link.left.subscribe();
    let mut is_late = false;
    loop {
        let most = 1 + usize::try_from(chance.below(PIECE_BYTES as u64)).unwrap_or(0);
        let room = piece.get_mut(..most).unwrap_or_default();
        let read = tokio::select! {
            biased;
            Ok(_) = left.wait_for(|left| *left), if way == Way::Back => break,
            read = from.read(room) => read,
        };
        let Ok(count @ 1..) = read else { break };
        let has_left = *link.left.borrow();
        let late = if has_left && !is_late { LATE_MAX } else { DELAY_MAX };
        is_late |= has_left;
        tokio::time::sleep(chance.span(late)).await;
        if link.silent.load(Ordering::Relaxed) {
            continue;
        }
        let bytes = piece.get(..count).unwrap_or_default();
        if link.strike() || to.write_all(bytes).await.is_err() {
            break;
        }
    }
    if way == Way::There && *link.left.borrow() {
        // The other end hears of it when its system gives up.
        tokio::time::sleep(LEFT_OPEN).await;
    }
    // Of a silent connection the other end hears nothing, its end included.
    if !link.silent.load(Ordering::Relaxed) {
        // The other end may be gone already.
        to.shutdown().await.ok();
    }
}

/// The network as one host sees it: what it opens ends with it.
#[derive(Clone, Debug)]
pub struct HostNetwork {
    pipes: Pipes,
    host: Box<str>,
}

impl Network for HostNetwork {
    fn listen(&self, address: &Address) -> Boxed<'_, io::Result<Box<dyn Incoming>>> {
        let arriving = self.pipes.open(address, &self.host);
        Box::pin(async { Ok(arriving) })
    }

    fn dial(&self, address: &Address) -> Boxed<'_, io::Result<Connected>> {
        let connected = self.pipes.connect(&self.host, &address.to_string());
        Box::pin(async { connected })
    }
}

/// A host without a name, for tests that kill none.
impl Network for Pipes {
    fn listen(&self, address: &Address) -> Boxed<'_, io::Result<Box<dyn Incoming>>> {
        let arriving = self.open(address, "");
        Box::pin(async { Ok(arriving) })
    }

    fn dial(&self, address: &Address) -> Boxed<'_, io::Result<Connected>> {
        let connected = self.connect("", &address.to_string());
        Box::pin(async { connected })
    }
}

struct Arriving {
    arriving: mpsc::Receiver<Connected>,
    address: Address,
}

impl Incoming for Arriving {
    fn accept(&mut self) -> Boxed<'_, io::Result<Arrival>> {
        Box::pin(async {
            let arrived = self.arriving.recv().await.map(Arrival::from);
            arrived.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}
