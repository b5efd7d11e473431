use std::net::TcpStream as Blocking;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use model::world::Boxed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::limits::SeatLimits;
use crate::network::{Address, Network as _, Peer, SystemNetwork};
use crate::testbed::world;

const RESETS: u64 = 1000;
const HONEST: u32 = 100;
/// The ordinary deadline of an honest connect.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// Answers each connection with one byte.
async fn greet(arrival: Arrival, seat: Seat) {
    let Some(mut connected) = open(arrival, &seat) else { return };
    // A reset peer takes nothing.
    connected.stream.write_all(b"!").await.ok();
}

#[expect(clippy::disallowed_methods, reason = "sockets of the system need the system's time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the slowest is shown")]
async fn connections_reset_before_they_are_accepted_make_it_wait_for_none() {
    let listening = SystemNetwork.listen(&Address::Tcp("127.0.0.1".into(), 0)).await.unwrap();
    let Address::Tcp(_, port) = listening.address() else { panic!("no port") };
    let gate = Arc::new(Gate::new(SeatLimits::of(4096)));
    let world = crate::world::system(tokio::runtime::Handle::current());
    // They wait in the kernel: nobody accepts before this thread waits.
    for _ in 0..RESETS {
        let stream = Blocking::connect(("127.0.0.1", port)).unwrap();
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap().set_zero_linger().unwrap();
    }
    world.spawn(accept_all(listening, Arc::clone(&gate), world.clone(), greet));
    let mut slowest = Duration::ZERO;
    for number in 0..HONEST {
        let begun = now();
        let greeted = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.read_u8().await.unwrap()
        };
        let greeted = tokio::time::timeout(CONNECT_DEADLINE, greeted).await;
        assert_eq!(greeted, Ok(b'!'), "connect {number}");
        slowest = slowest.max(begun.elapsed());
    }
    println!("{RESETS} resets: the slowest of {HONEST} honest connects took {slowest:?}");
    assert_eq!(gate.counts.pauses.get(), 0);
    let arrived = gate.counts.accepted.get() + gate.counts.lost.get();
    assert_eq!(arrived, RESETS + u64::from(HONEST));
    gate.enter(crate::gate::Phase::Cut);
}

/// A listener that fails as it is told, and then has a connection for ever.
struct Failing {
    errors: Vec<i32>,
    given: Arc<AtomicU64>,
}

impl Incoming for Failing {
    fn accept(&mut self) -> Boxed<'_, io::Result<Arrival>> {
        if let Some(error) = self.errors.pop() {
            return Box::pin(async move { Err(io::Error::from_raw_os_error(error)) });
        }
        if self.given.fetch_add(1, Ordering::Relaxed) > 0 {
            return Box::pin(std::future::pending());
        }
        let (stream, _) = tokio::io::duplex(1);
        let connected = Connected { stream: Box::new(stream), peer: Peer::Memory };
        Box::pin(async { Ok(connected.into()) })
    }

    fn address(&self) -> Address {
        Address::Memory("failing".into())
    }
}

/// How long the connection behind `errors` waits, what was lost, and how often it waited.
async fn accept_after(errors: Vec<Errno>) -> (Duration, u64, u64) {
    let gate = Arc::new(Gate::new(SeatLimits::of(16)));
    let given = Arc::default();
    let errors = errors.into_iter().rev().map(|errno| errno as i32).collect();
    let incoming = Box::new(Failing { errors, given: Arc::clone(&given) });
    let world = world();
    let (begun, served) = (world.now().tick, Arc::new(Mutex::new(None)));
    let (clock, told) = (world.clone(), Arc::clone(&served));
    let serve = move |_, seat: Seat| {
        *told.lock().unwrap() = Some(clock.now().tick.since(begun));
        async move { drop(seat) }
    };
    world.spawn(accept_all(incoming, Arc::clone(&gate), world.clone(), serve));
    while served.lock().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    gate.enter(crate::gate::Phase::Cut);
    let waited = served.lock().unwrap().unwrap();
    (waited, gate.counts.lost.get(), gate.counts.pauses.get())
}

#[tokio::test(start_paused = true)]
async fn only_a_shortage_makes_it_wait() {
    for peer in [
        Errno::ECONNABORTED,
        Errno::ENOTCONN,
        Errno::EPROTO,
        Errno::ENETDOWN,
        Errno::EHOSTUNREACH,
        Errno::EPERM,
        Errno::ECONNRESET,
    ] {
        let (waited, lost, pauses) = accept_after(vec![peer; 100]).await;
        assert_eq!((lost, pauses), (100, 0), "{peer}");
        assert!(waited < ACCEPT_PAUSE, "{peer}: {waited:?}");
    }
    for machine in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC] {
        let (waited, lost, pauses) = accept_after(vec![machine; 3]).await;
        assert_eq!((lost, pauses), (0, 3), "{machine}");
        assert!(waited >= 3 * ACCEPT_PAUSE, "{machine}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_only_fails_does_not_spin() {
    let many = usize::try_from(FAILURES_IN_A_ROW_MAX).unwrap() + 2;
    let (_, lost, pauses) = accept_after(vec![Errno::EBADF; many]).await;
    assert_eq!((lost, pauses), (u64::from(FAILURES_IN_A_ROW_MAX), 2));
}
