//! Serves an `axum::Router` over HTTP/1.1: bounded buffers, bounded waits, an orderly end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use api::proof::Proof;
use axum::body::Body;
use axum::response::Response;
use axum::{BoxError, Router};
use bytes::Bytes;
use http::Request;
use http_body_util::Limited;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::world::World;
use tokio::time::Sleep;
use tower::ServiceExt;
use tracing::debug;

use crate::gate::{Gate, Phase, Seat};
use crate::limits::{SeatLimits, Watch};
use crate::listener::{accept_all, open};
use crate::network::{Arrival, ByteStream, Connected, Incoming as Arrivals, Peer};
use crate::patience::Patient;
use crate::tls;

/// A head must be complete by then, and an idle connection is closed after it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest body of a request, in bytes; a longer one fails where it is read.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A peer that takes nothing for so long, although something waits for it, is cut off. Longer
/// than what cuts off a single stream of events, so that such a stream ends for its own reason.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The body of a request must be whole by then.
pub const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// The same before anybody on the connection is proven.
pub const UNPROVEN_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nobody is proven by then ends after the request that it is at.
pub const PROOF_TIMEOUT: Duration = Duration::from_mins(1);
/// Requests on a connection on which nobody is proven: a browser gets its page by them, and a
/// peer that only asks and asks is shown out.
pub const UNPROVEN_REQUESTS_MAX: usize = 64;
/// Connections at once on one listener, if the machine has descriptors for so many.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;

/// What the client showed in the TLS handshake; an extension of each request.
#[derive(Clone, Debug)]
pub struct ClientChain(pub Arc<[Bytes]>);

/// Who is at the other end; an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct RequestPeer(pub Peer);

/// A listener that serves HTTP until it is told to stop. Dropping it cuts every connection.
#[derive(Debug)]
pub struct HttpServer {
    gate: Arc<Gate>,
}

impl HttpServer {
    /// Serves `router` on `incoming`; over TLS if `tls` is given, which only Unix sockets and
    /// simulations may omit.
    pub fn start(
        incoming: Box<dyn Arrivals>,
        tls: Option<tls::Server>,
        router: Router,
        world: &World,
    ) -> Self {
        Self::start_within(SeatLimits::of(HTTP_CONNECTIONS_MAX), incoming, tls, router, world)
    }

    /// As [`HttpServer::start`], with other limits than those of the protocol.
    pub fn start_within(
        limits: SeatLimits,
        incoming: Box<dyn Arrivals>,
        tls: Option<tls::Server>,
        router: Router,
        world: &World,
    ) -> Self {
        let gate = Arc::new(Gate::new(limits));
        let shared = Shared { tls, router };
        let serve = move |arrival, seat| {
            let task = shared.clone();
            async move {
                if let Err(error) = serve(arrival, task, seat).await {
                    debug!(%error, "http connection ended");
                }
            }
        };
        world.spawn(accept_all(incoming, Arc::clone(&gate), world.clone(), serve));
        Self { gate }
    }

    /// Its counters, for whoever shows them.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.gate))
    }

    /// Stops accepting, lets running requests end, and cuts those that are not done when
    /// `patience` is over; endless streams never are.
    pub async fn shut_down(&self, patience: Duration) {
        self.gate.close(patience).await;
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.gate.enter(Phase::Cut);
    }
}

#[derive(Clone)]
struct Shared {
    tls: Option<tls::Server>,
    router: Router,
}

async fn serve(arrival: Arrival, shared: Shared, mut seat: Seat) -> io::Result<()> {
    let Some(Connected { stream, peer }) = open(arrival, &seat) else { return Ok(()) };
    let deaf = Arc::clone(&seat.counts().deaf);
    let stream = Box::new(Patient::new(stream, WRITE_TIMEOUT, deaf));
    let (stream, chain): (Box<dyn ByteStream>, _) = match &shared.tls {
        None => (stream, None),
        Some(tls) => match seat.while_open(tls.accept(stream)).await {
            None => return Ok(()),
            Some(Ok(secured)) => (secured.stream, secured.client_chain),
            Some(Err(error)) => {
                tls.tell_failed(&peer, &error);
                seat.counts().broken(&error);
                return Err(error);
            }
        },
    };
    let proof = Proof::default();
    let asked = Arc::<AtomicUsize>::default();
    let (given, count) = (proof.clone(), Arc::clone(&asked));
    let service = Calls { router: shared.router, peer, chain, proof: given, asked: count };
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            // Its clock is not the world's.
            .auto_date_header(false)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| service.clone().answer(request))
            )
    );
    let mut draining = false;
    // Until somebody is proven.
    let mut late = Some(Box::pin(tokio::time::sleep(PROOF_TIMEOUT)));
    let ended = poll_fn(|cx| {
        let is_late = late.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready());
        let too_often = late.is_some() && asked.load(Ordering::Relaxed) > UNPROVEN_REQUESTS_MAX;
        match seat.poll_phase(cx) {
            Phase::Cut => return Poll::Ready(Ok(())),
            Phase::Open if !is_late && !too_often => {}
            Phase::Open | Phase::Draining if draining => {}
            Phase::Open | Phase::Draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
        if is_late {
            late = None;
            seat.counts().late.add();
        } else if too_often {
            late = None;
            seat.counts().too_large.add();
        }
        let ended = connection.as_mut().poll(cx);
        if late.is_some() && proof.is_given() {
            late = None;
            seat.prove();
        } else if late.is_some() && asked.load(Ordering::Relaxed) > UNPROVEN_REQUESTS_MAX {
            // Looked at above, whether or not the peer sends more.
            cx.waker().wake_by_ref();
        }
        ended
    })
    .await;
    if let Err(error) = &ended {
        count_end(&seat, error);
    }
    ended.map_err(io::Error::other)
}

/// Counts the limit that ended a connection, if one did.
fn count_end(seat: &Seat, error: &hyper::Error) {
    if error.is_timeout() {
        seat.counts().late.add();
    }
    if error.is_parse_too_large() {
        seat.counts().too_large.add();
    }
}

/// The requests of one connection.
#[derive(Clone)]
struct Calls {
    router: Router,
    peer: Peer,
    chain: Option<Arc<[Bytes]>>,
    proof: Proof,
    /// Requests so far.
    asked: Arc<AtomicUsize>,
}

impl Calls {
    async fn answer(self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let Self { router, peer, chain, proof, asked } = self;
        asked.fetch_add(1, Ordering::Relaxed);
        let whole = |body| Body::new(Limited::new(Timely::new(body, &proof), BODY_BYTES_MAX));
        let mut request = request.map(whole);
        let extensions = request.extensions_mut();
        extensions.insert(RequestPeer(peer));
        extensions.insert(proof.clone());
        if let Some(chain) = chain {
            extensions.insert(ClientChain(chain));
        }
        let answer = router.oneshot(request).await;
        if matches!(peer, Peer::Unix { .. }) {
            // Who may use a Unix socket is proven by the kernel; a whole request is all that is
            // asked besides.
            proof.give();
        }
        answer
    }
}

/// A body that fails once it has taken [`BODY_TIMEOUT`], or [`UNPROVEN_BODY_TIMEOUT`], however it
/// drips.
struct Timely {
    body: Incoming,
    proof: Proof,
    /// Set at the first wait: most bodies are there at once.
    late: Option<Pin<Box<Sleep>>>,
}

impl Timely {
    fn new(body: Incoming, proof: &Proof) -> Self {
        Self { body, proof: proof.clone(), late: None }
    }
}

impl hyper::body::Body for Timely {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let limit = if self.proof.is_given() { BODY_TIMEOUT } else { UNPROVEN_BODY_TIMEOUT };
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        late.as_mut().poll(cx).map(|()| Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
