//! Byte streams and where they come from.
//!
//! Everything above takes an `Arc<dyn Network>`; production gives [`SystemNetwork`], the
//! simulator its own pipes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use model::world::Boxed;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::unproven::Origin;

/// How many connections the kernel may hold that we did not accept yet.
const BACKLOG: u32 = 4096;
/// Bytes that the kernel keeps for a peer which connected to us and takes nothing; left to
/// itself it would grow to megabytes for each. The kernel doubles it for its own book-keeping.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// So long may nothing come from a peer before the kernel asks whether it is still there, in
/// seconds.
const PROBE_IDLE_S: u32 = 120;
/// Pause between two such questions, in seconds.
const PROBE_PAUSE_S: u32 = 20;
/// Questions in a row that may stay without an answer.
const PROBES: u32 = 3;
/// A peer that is gone without a word is given up after so long, whatever its protocol asks for:
/// also one that acknowledges nothing of what was sent, or whose window stays closed. In
/// milliseconds.
pub const DEAD_PEER_MS: u32 = (PROBE_IDLE_S + PROBE_PAUSE_S * PROBES) * 1000;

/// Where to listen or to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP: a host name or IP address, and a port; port 0 listens on a free one.
    Tcp(Box<str>, u16),
    /// A Unix socket.
    Unix(PathBuf),
    /// A name in the memory of a simulation.
    Memory(Box<str>),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address.ip().to_string().into(), address.port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix {
        /// Its user.
        uid: u32,
        /// Its process; 0 if the kernel does not say.
        pid: u32,
    },
    /// A host of a simulation.
    Memory,
}

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// An open connection.
pub struct Connected {
    /// Its bytes.
    pub stream: Box<dyn ByteStream>,
    /// Who is at the other end.
    pub peer: Peer,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A connection as it was accepted. Nothing was asked of it yet, so nothing failed.
pub struct Arrival(Raw);

enum Raw {
    Whole(Connected),
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("origin", &self.origin()).finish_non_exhaustive()
    }
}

impl From<Connected> for Arrival {
    fn from(connected: Connected) -> Self {
        Self(Raw::Whole(connected))
    }
}

impl Arrival {
    /// The network or the process it comes from, if that is known.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match &self.0 {
            Raw::Tcp(_, peer) => Some(peer.ip().into()),
            // The kernel kept it when the peer connected; it says so of one that is gone, too.
            Raw::Unix(stream) => stream.peer_cred().ok()?.pid().map(Origin::Process),
            Raw::Whole(_) => None,
        }
    }

    /// Makes a connection of it, which fails if the peer is gone already.
    ///
    /// # Errors
    /// What the system says about this one peer.
    pub(crate) fn open(self) -> io::Result<Connected> {
        match self.0 {
            Raw::Whole(connected) => Ok(connected),
            Raw::Tcp(stream, peer) => {
                setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
                tcp(stream, peer)
            }
            Raw::Unix(stream) => unix(stream),
        }
    }
}

/// A place where connections arrive.
pub trait Incoming: Send {
    /// The next connection. Dropping the future loses none.
    fn accept(&mut self) -> Boxed<'_, io::Result<Arrival>>;

    /// Where it listens, with the port that was taken.
    fn address(&self) -> Address;
}

/// Makes byte streams.
pub trait Network: Send + Sync {
    /// Listens at `address`.
    fn listen(&self, address: &Address) -> Boxed<'_, io::Result<Box<dyn Incoming>>>;

    /// Connects to `address`; the caller bounds the wait.
    fn dial(&self, address: &Address) -> Boxed<'_, io::Result<Connected>>;
}

/// The operating system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNetwork;

impl Network for SystemNetwork {
    fn listen(&self, address: &Address) -> Boxed<'_, io::Result<Box<dyn Incoming>>> {
        let address = address.clone();
        Box::pin(async move {
            let incoming: Box<dyn Incoming> = match address {
                Address::Tcp(host, port) => Box::new(Tcp(listen_tcp(&host, port).await?)),
                Address::Unix(path) => {
                    // A socket left by a process that was killed; a live one is noticed by its
                    // folder's lock before we get here.
                    if let Err(error) = std::fs::remove_file(&path)
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        return Err(error);
                    }
                    Box::new(Unix { listener: UnixListener::bind(&path)?, path })
                }
                Address::Memory(_) => return Err(io::ErrorKind::Unsupported.into()),
            };
            Ok(incoming)
        })
    }

    fn dial(&self, address: &Address) -> Boxed<'_, io::Result<Connected>> {
        let address = address.clone();
        Box::pin(async move {
            match address {
                Address::Tcp(host, port) => {
                    let stream = TcpStream::connect((&*host, port)).await?;
                    let peer = stream.peer_addr()?;
                    tcp(stream, peer)
                }
                Address::Unix(path) => unix(UnixStream::connect(path).await?),
                Address::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
            }
        })
    }
}

async fn listen_tcp(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

struct Tcp(TcpListener);

impl Incoming for Tcp {
    fn accept(&mut self) -> Boxed<'_, io::Result<Arrival>> {
        Box::pin(async {
            let (stream, peer) = self.0.accept().await?;
            Ok(Arrival(Raw::Tcp(stream, peer)))
        })
    }

    fn address(&self) -> Address {
        self.0.local_addr().map_or_else(|_| Address::Tcp("".into(), 0), Address::from)
    }
}

struct Unix {
    listener: UnixListener,
    path: PathBuf,
}

impl Incoming for Unix {
    fn accept(&mut self) -> Boxed<'_, io::Result<Arrival>> {
        Box::pin(async { Ok(Arrival(Raw::Unix(self.listener.accept().await?.0))) })
    }

    fn address(&self) -> Address {
        Address::Unix(self.path.clone())
    }
}

/// Asks the kernel to notice when the peer is gone without a word.
fn watch_peer(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &PROBE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_PAUSE_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &DEAD_PEER_MS)
}

fn tcp(stream: TcpStream, peer: SocketAddr) -> io::Result<Connected> {
    // A socket that is broken already shows it at the first read.
    watch_peer(&stream).ok();
    // Acknowledgements are small and must not wait for more.
    stream.set_nodelay(true)?;
    let peer = Peer::Tcp(peer);
    Ok(Connected { stream: Box::new(Resetting { stream, stuck: false }), peer })
}

/// A TCP stream that is reset when it is dropped while the peer takes nothing: an orderly end
/// would keep in the kernel, for minutes, what nobody will read.
struct Resetting {
    stream: TcpStream,
    /// Whether the last write found no room.
    stuck: bool,
}

impl AsyncRead for Resetting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Resetting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.stuck = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        if self.stuck {
            // A socket that cannot be told is closed in the kernel's own time.
            self.stream.set_zero_linger().ok();
        }
    }
}

fn unix(stream: UnixStream) -> io::Result<Connected> {
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Ok(Connected { stream: Box::new(stream), peer: Peer::Unix { uid: credentials.uid(), pid } })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo_over(address: Address) -> Peer {
        let mut incoming = SystemNetwork.listen(&address).await.unwrap();
        let there = incoming.address();
        let (dialled, accepted) = tokio::join!(SystemNetwork.dial(&there), incoming.accept());
        let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap().open().unwrap());
        dialled.stream.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        accepted.stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        accepted.peer
    }

    #[tokio::test]
    async fn a_stream_whose_peer_takes_nothing_is_reset_when_it_is_dropped() {
        // Dropped while stuck: the peer reads an error. Dropped in order: it reads an end.
        for stuck in [true, false] {
            let address = Address::Tcp("127.0.0.1".into(), 0);
            let mut incoming = SystemNetwork.listen(&address).await.unwrap();
            let there = incoming.address();
            let (dialled, accepted) = tokio::join!(SystemNetwork.dial(&there), incoming.accept());
            let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap().open().unwrap());
            let bytes = vec![0; 1 << 20];
            let fill = async {
                if stuck {
                    loop {
                        accepted.stream.write_all(&bytes).await.unwrap();
                    }
                }
                accepted.stream.write_all(b"all").await.unwrap();
            };
            let full = tokio::time::timeout(std::time::Duration::from_secs(1), fill).await;
            assert_eq!(full.is_err(), stuck);
            drop(accepted);
            let ended = dialled.stream.read_to_end(&mut Vec::new()).await;
            let reset = |error: io::Error| error.kind() == io::ErrorKind::ConnectionReset;
            assert_eq!(ended.is_err_and(reset), stuck);
        }
    }

    #[tokio::test]
    async fn the_kernel_watches_every_tcp_peer_accepted_or_dialled() {
        use nix::sys::socket::getsockopt;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(there), listener.accept());
        for stream in [dialled.unwrap(), accepted.unwrap().0] {
            let socket = stream.into_std().unwrap();
            let same = TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
            let _connected = tcp(same, there).unwrap();
            assert!(getsockopt(&socket, sockopt::KeepAlive).unwrap());
            let idle = getsockopt(&socket, sockopt::TcpKeepIdle).unwrap();
            let pause = getsockopt(&socket, sockopt::TcpKeepInterval).unwrap();
            let probes = getsockopt(&socket, sockopt::TcpKeepCount).unwrap();
            assert_eq!((idle + pause * probes) * 1000, DEAD_PEER_MS);
            assert_eq!(getsockopt(&socket, sockopt::TcpUserTimeout).unwrap(), DEAD_PEER_MS);
        }
    }

    #[tokio::test]
    async fn tcp_and_unix_streams_carry_bytes_and_say_who_is_there() {
        assert!(matches!(echo_over(Address::Tcp("127.0.0.1".into(), 0)).await, Peer::Tcp(_)));
        let folder = tempfile::tempdir().unwrap();
        let socket = Address::Unix(folder.path().join("s.sock"));
        let peer = echo_over(socket.clone()).await;
        assert_eq!(
            peer,
            Peer::Unix { uid: nix::unistd::getuid().as_raw(), pid: std::process::id() }
        );
        let mut incoming = SystemNetwork.listen(&socket).await.unwrap();
        let (dialled, accepted) = tokio::join!(SystemNetwork.dial(&socket), incoming.accept());
        drop(dialled.unwrap());
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(accepted.unwrap().origin(), Some(Origin::Process(own)));
        // The file of a dead listener is no obstacle.
        echo_over(socket).await;
    }
}
