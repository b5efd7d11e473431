//! Serves an `axum::Router` over HTTP/1.1: bounded buffers, bounded waits, an orderly end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::Request;
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::world::World;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;
use tracing::debug;

use crate::network::{Connected, Incoming, Peer};
use crate::tls;

/// Headers must be complete by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Connections at once on one listener; more wait in the kernel.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Wait after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the client showed in the TLS handshake; an extension of each request.
#[derive(Clone, Debug)]
pub struct ClientChain(pub Arc<[Bytes]>);

/// Who is at the other end; an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct RequestPeer(pub Peer);

/// A listener that serves HTTP until it is told to stop.
#[derive(Debug)]
pub struct HttpServer {
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
}

impl HttpServer {
    /// Serves `router` on `incoming`; over TLS if `tls` is given, which only Unix sockets and
    /// simulations may omit.
    pub fn start(
        incoming: Box<dyn Incoming>,
        tls: Option<tls::Server>,
        router: Router,
        world: &World,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
        let shared = Shared { tls, router, world: world.clone(), stopped };
        world.spawn(accept_all(incoming, shared, Arc::clone(&connections)));
        Self { stop, connections }
    }

    /// Stops accepting, lets running requests end, and returns when all are gone or `patience`
    /// is over.
    pub async fn shut_down(&self, patience: Duration) {
        // Nobody listens if the accept loop has ended already.
        self.stop.send(true).ok();
        let all = u32::try_from(HTTP_CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let gone = tokio::time::timeout(patience, self.connections.acquire_many(all)).await;
        if gone.is_err() {
            debug!("http connections were cut at shutdown");
        }
    }
}

#[derive(Clone)]
struct Shared {
    tls: Option<tls::Server>,
    router: Router,
    world: World,
    stopped: watch::Receiver<bool>,
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
                let task = shared.clone();
                shared.world.spawn(async move {
                    if let Err(error) = serve(connected, task).await {
                        debug!(%error, "http connection ended");
                    }
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

async fn serve(connected: Connected, mut shared: Shared) -> io::Result<()> {
    let Connected { stream, peer } = connected;
    let (stream, chain) = match &shared.tls {
        None => (stream, None),
        Some(tls) => {
            let secured = tls.accept(stream).await?;
            (secured.stream, secured.client_chain)
        }
    };
    let router = shared.router;
    let service = service_fn(move |mut request: Request<Body>| {
        request.extensions_mut().insert(RequestPeer(peer));
        if let Some(chain) = &chain {
            request.extensions_mut().insert(ClientChain(Arc::clone(chain)));
        }
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = told(&mut shared.stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    served.map_err(io::Error::other)
}

/// Ends when the server is told to stop, or is gone.
async fn told(stopped: &mut watch::Receiver<bool>) {
    stopped.wait_for(|stop| *stop).await.ok();
}
