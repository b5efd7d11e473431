//! A TCP proxy in front of a hub, which cuts connections beneath living clients.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order of TCP: both sides see the end of the stream.
    End,
    /// Hard: both sides see a reset.
    Reset,
}

/// Forwards bytes, sees none of them, and cuts when told. Dropped, it stops.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    front: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    back: Mutex<SocketAddr>,
    pairs: Mutex<Vec<(TcpStream, TcpStream)>>,
    open: AtomicBool,
    stopped: AtomicBool,
    forwarded: AtomicU64,
}

impl Proxy {
    /// Listens at `front` and forwards to `back`.
    pub fn start(front: SocketAddr, back: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(front).with_context(|| format!("proxy at {front}"))?;
        let shared = Arc::new(Shared {
            back: Mutex::new(back),
            pairs: Mutex::default(),
            open: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            forwarded: AtomicU64::new(0),
        });
        let task = Arc::clone(&shared);
        let accepting = Some(thread::spawn(move || task.accept_all(&listener)));
        Ok(Self { shared, front, accepting })
    }

    /// Forwards new connections to `back` from now on.
    pub fn point_to(&self, back: SocketAddr) {
        *locked(&self.shared.back) = back;
    }

    /// Cuts all connections; how many there were.
    pub fn cut(&self, how: Cut) -> usize {
        let pairs = std::mem::take(&mut *locked(&self.shared.pairs));
        let count = pairs.len();
        for stream in pairs.into_iter().flat_map(|(front, back)| [front, back]) {
            if how == Cut::Reset {
                // No linger turns the close into a reset. Failure means it is closed already.
                setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).ok();
            }
            // It may be closed already; then there is nothing to cut.
            stream.shutdown(Shutdown::Both).ok();
        }
        count
    }

    /// Ends every new connection at once, until [`Proxy::open`].
    pub fn close(&self) {
        self.shared.open.store(false, Ordering::SeqCst);
    }

    /// Forwards new connections again.
    pub fn open(&self) {
        self.shared.open.store(true, Ordering::SeqCst);
    }

    /// Connections forwarded since the start.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop; it ends even if this fails later.
        TcpStream::connect(self.front).ok();
        self.cut(Cut::End);
        if let Some(task) = self.accepting.take() {
            // A panic there has been printed.
            task.join().ok();
        }
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        for accepted in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(front) = accepted else { continue };
            if self.open.load(Ordering::SeqCst) {
                // A hub that is down refuses; the client sees its connection end.
                self.forward(front).ok();
            }
        }
    }

    fn forward(self: &Arc<Self>, front: TcpStream) -> io::Result<()> {
        let back = TcpStream::connect(*locked(&self.back))?;
        front.set_nodelay(true)?;
        back.set_nodelay(true)?;
        locked(&self.pairs).push((front.try_clone()?, back.try_clone()?));
        self.forwarded.fetch_add(1, Ordering::SeqCst);
        let (front2, back2) = (front.try_clone()?, back.try_clone()?);
        thread::spawn(move || pour(front, back));
        thread::spawn(move || pour(back2, front2));
        Ok(())
    }
}

/// Copies until one side ends, then ends both: half-open connections are not of interest.
fn pour(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
