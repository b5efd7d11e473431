//! Serves an `axum::Router` over HTTP/1.1: bounded buffers, bounded waits, an orderly end.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
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
use crate::network::{ByteStream, Connected, Incoming as Arrivals, Peer};
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
/// Connections at once on one listener; more are closed as soon as they are accepted.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Wait after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        let gate = Arc::new(Gate::new(HTTP_CONNECTIONS_MAX));
        let shared = Shared { tls, router, world: world.clone() };
        world.spawn(accept_all(incoming, shared, Arc::clone(&gate)));
        Self { gate }
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
    world: World,
}

async fn accept_all(mut incoming: Box<dyn Arrivals>, shared: Shared, gate: Arc<Gate>) {
    while let Some(accepted) = gate.while_open(incoming.accept()).await {
        match (accepted, Gate::seat(&gate)) {
            (Ok(connected), Some(seat)) => {
                let task = shared.clone();
                shared.world.spawn(async move {
                    if let Err(error) = serve(connected, task, seat).await {
                        debug!(%error, "http connection ended");
                    }
                });
            }
            (Ok(_), None) => debug!("too many http connections"),
            (Err(error), _) => {
                debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(connected: Connected, shared: Shared, mut seat: Seat) -> io::Result<()> {
    let Connected { stream, peer } = connected;
    let stream = Box::new(Patient::new(stream, WRITE_TIMEOUT));
    let (stream, chain): (Box<dyn ByteStream>, _) = match &shared.tls {
        None => (stream, None),
        Some(tls) => match seat.while_open(tls.accept(stream)).await {
            None => return Ok(()),
            Some(secured) => secured.map(|secured| (secured.stream, secured.client_chain))?,
        },
    };
    let router = shared.router;
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request =
            request.map(|body| Body::new(Limited::new(Timely::new(body), BODY_BYTES_MAX)));
        request.extensions_mut().insert(RequestPeer(peer));
        if let Some(chain) = &chain {
            request.extensions_mut().insert(ClientChain(Arc::clone(chain)));
        }
        router.clone().oneshot(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            // Its clock is not the world's.
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut draining = false;
    poll_fn(|cx| {
        match seat.poll_phase(cx) {
            Phase::Open => {}
            Phase::Draining if draining => {}
            Phase::Draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Phase::Cut => return Poll::Ready(Ok(())),
        }
        connection.as_mut().poll(cx).map_err(io::Error::other)
    })
    .await
}

/// A body that fails once it has taken [`BODY_TIMEOUT`], however it drips.
struct Timely {
    body: Incoming,
    /// Set at the first wait: most bodies are there at once.
    late: Option<Pin<Box<Sleep>>>,
}

impl Timely {
    fn new(body: Incoming) -> Self {
        Self { body, late: None }
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
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_TIMEOUT)));
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
