//! A small HTTP/1.1 client: one connection a request, bounded waits, bodies as a stream.
//!
//! For the command line, the SDK's workload calls and the runtime's registry calls, all of
//! which ask seldom. It follows no redirects.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming as Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::world::World;
use thiserror::Error;
use tokio::time::timeout;

use crate::network::{Address, ByteStream, Network};
use crate::patience::{Patient, WRITE_PATIENCE};
use crate::tls;

/// Largest body that is read whole, in bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpClientError {
    /// Nobody was reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// Who was dialled.
        address: Address,
        /// What went wrong.
        #[source]
        cause: io::Error,
    },
    /// The other side broke off.
    #[error("the connection broke before the answer was complete")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Whom to ask.
#[derive(Clone)]
pub struct HttpClient {
    network: Arc<dyn Network>,
    world: World,
    address: Address,
    tls: Option<(tls::Client, Box<str>)>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl HttpClient {
    /// Asks `address`; over TLS, proving to be the name given, unless `tls` is `None`.
    pub fn new(
        network: Arc<dyn Network>,
        world: World,
        address: Address,
        tls: Option<(tls::Client, Box<str>)>,
    ) -> Self {
        Self { network, world, address, tls }
    }

    /// Sends `request` (with an absolute path and a `Host` header) and gives the answer as soon
    /// as its head is there.
    ///
    /// # Errors
    /// [`HttpClientError`]; nothing says whether the request was carried out if the connection
    /// broke.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Response<Body>, HttpClientError> {
        let connect = timeout(CONNECT_TIMEOUT, self.connect()).await;
        let connected = connect.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut sender = connected
            .map_err(|cause| HttpClientError::Connect { address: self.address.clone(), cause })?;
        match timeout(patience, sender.send_request(request)).await {
            Err(_) => Err(HttpClientError::TimedOut(patience)),
            Ok(answer) => answer.map_err(|error| HttpClientError::Broken(error.into())),
        }
    }

    async fn connect(&self) -> io::Result<http1::SendRequest<Full<Bytes>>> {
        let stream = self.network.dial(&self.address).await?.stream;
        let mut stream: Box<dyn ByteStream> =
            Box::new(Patient::new(stream, WRITE_PATIENCE, Arc::default()));
        if let Some((tls, name)) = &self.tls {
            stream = tls.connect(name, stream).await?;
        }
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        self.world.spawn(async move {
            // The sender's side learns of the fault; there is nobody else to tell.
            connection.await.ok();
        });
        Ok(sender)
    }
}

/// Reads a body whole, at most [`BODY_BYTES_MAX`].
///
/// # Errors
/// [`HttpClientError::Broken`] if it is larger or ends early; `TimedOut` after `patience`.
pub async fn read_whole(body: Body, patience: Duration) -> Result<Bytes, HttpClientError> {
    let whole = Limited::new(body, BODY_BYTES_MAX).collect();
    match timeout(patience, whole).await {
        Err(_) => Err(HttpClientError::TimedOut(patience)),
        Ok(whole) => {
            whole.map(http_body_util::Collected::to_bytes).map_err(HttpClientError::Broken)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use credentials::certificate::{Authority, Validity};

    use super::*;
    use crate::http::{HttpServer, RequestPeer};
    use crate::network::{Peer, SystemNetwork};
    use crate::testbed::Pipes;

    #[tokio::test]
    async fn a_router_answers_over_a_unix_socket_and_sees_who_asks_and_stops_in_order() {
        let world = crate::world::system(tokio::runtime::Handle::current());
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("s.sock"));
        let router = Router::new().route(
            "/who",
            get(|axum::Extension(RequestPeer(peer)): axum::Extension<RequestPeer>| async move {
                matches!(peer, Peer::Unix { pid, .. } if pid == std::process::id()).to_string()
            }),
        );
        let incoming = SystemNetwork.listen(&address).await.unwrap();
        let server = HttpServer::start(incoming, None, router, &world);
        let client = HttpClient::new(Arc::new(SystemNetwork), world, address.clone(), None);
        let ask =
            || Request::get("/who").header("host", "x").body(Full::new(Bytes::new())).unwrap();
        let patience = Duration::from_secs(20);
        let answer = client.send(ask(), patience).await.unwrap();
        assert_eq!(read_whole(answer.into_body(), patience).await.unwrap(), "true");
        server.shut_down(patience).await;
        let after = client.send(ask(), patience).await;
        assert!(matches!(after, Err(HttpClientError::Connect { .. })), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up_after_the_timeout() {
        let now = model::time::WallTime::parse_rfc3339("2025-01-01T00:00:00Z").unwrap();
        let validity = Validity { now, life: Duration::from_hours(24), serial: 1 };
        let authority = Authority::generate("root", validity).unwrap();
        let trust = tls::Client::trusting(authority.to_pem()).unwrap();
        let (pipes, address) = (Arc::new(Pipes::default()), Address::Memory("mute".into()));
        let _listening = pipes.listen(&address).await.unwrap();
        let world = crate::testbed::world();
        let tls = Some((trust, "hub.test".into()));
        let client = HttpClient::new(pipes, world.clone(), address, tls);
        let ask = Request::get("/").header("host", "x").body(Full::default()).unwrap();
        let begun = world.now().tick;
        let outcome = client.send(ask, 9 * CONNECT_TIMEOUT).await;
        let took = world.now().tick.since(begun);
        let Err(HttpClientError::Connect { cause, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
        assert!(took >= CONNECT_TIMEOUT && took < CONNECT_TIMEOUT + Duration::from_secs(1));
    }
}
