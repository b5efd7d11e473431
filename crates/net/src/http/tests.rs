use axum::Extension;
use axum::routing::{get, post};
use credentials::certificate::{Authority, Validity, client_verifier};
use http_body_util::{BodyExt, Full};
use model::time::WallTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http_client::{HttpClient, read_whole};
use crate::network::{Address, Network, SystemNetwork};
use crate::testbed::{Pipes, seat_proven, world};
use crate::tls::{Client, Server, ServerCertificate};

const PATIENCE: Duration = Duration::from_mins(1);

fn ask(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "hub.test").body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_router_answers_over_tls_and_sees_the_certificate_of_the_client() {
    let now = WallTime::parse_rfc3339("2025-01-01T00:00:00Z").unwrap();
    let validity = Validity { now, life: Duration::from_hours(24 * 365 * 50), serial: 1 };
    let authority = Authority::generate("root", validity).unwrap();
    let own = authority.issue_server("localhost", &["localhost"], validity).unwrap();
    let device = authority.issue_client("d1", &[], validity).unwrap();
    let certificate = ServerCertificate::new(&own.chain, &own.key_der).unwrap();
    let tls = Server::new(certificate, client_verifier()).unwrap();
    let router = Router::new().route(
        "/leaf",
        get(async |Extension(ClientChain(chain)): Extension<ClientChain>| chain[0].clone()),
    );
    let world = crate::world::system(tokio::runtime::Handle::current());
    let listening = SystemNetwork.listen(&Address::Tcp("127.0.0.1".into(), 0)).await.unwrap();
    let address = listening.address();
    let server = HttpServer::start(listening, Some(tls), router, &world);
    let trust =
        Client::trusting_and_showing(authority.to_pem(), &device.chain, &device.key_der).unwrap();
    let tls = Some((trust, "localhost".into()));
    let client = HttpClient::new(Arc::new(SystemNetwork), world, address, tls);
    let answer = client.send(ask("/leaf"), PATIENCE).await.unwrap();
    assert_eq!(read_whole(answer.into_body(), PATIENCE).await.unwrap(), device.chain[0]);
    server.shut_down(PATIENCE).await;
}

async fn serve_in_memory(router: Router) -> (Arc<Pipes>, HttpServer, Address) {
    let (pipes, address) = (Arc::new(Pipes::default()), Address::Memory("api".into()));
    let listening = pipes.listen(&address).await.unwrap();
    let server = HttpServer::start(listening, None, router, &world());
    (pipes, server, address)
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_fails_and_the_next_request_does_not() {
    let router = Router::new().route(
        "/",
        post(async |body: Body| match body.collect().await {
            Ok(whole) => whole.to_bytes().len().to_string(),
            Err(_) => "too long".into(),
        }),
    );
    let (pipes, _server, address) = serve_in_memory(router).await;
    let client = HttpClient::new(pipes, world(), address, None);
    for (len, expected) in [(BODY_BYTES_MAX, "4194304"), (BODY_BYTES_MAX + 1, "too long")] {
        let body = Full::from(vec![b'x'; len]);
        let request = Request::post("/").header("host", "x").body(body).unwrap();
        let answer = client.send(request, PATIENCE).await.unwrap();
        assert_eq!(read_whole(answer.into_body(), PATIENCE).await.unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_head_is_closed() {
    let (pipes, _server, address) = serve_in_memory(Router::new()).await;
    let mut stream = pipes.dial(&address).await.unwrap().stream;
    stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(2 * HEADER_TIMEOUT, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the server waits for ever");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_body_is_answered_and_holds_nothing() {
    let router = Router::new().route(
        "/",
        post(async |body: Body| if body.collect().await.is_ok() { "whole" } else { "too late" }),
    );
    let (pipes, _server, address) = serve_in_memory(router).await;
    let mut stream = pipes.dial(&address).await.unwrap().stream;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n").await.unwrap();
    // It drips: no single wait is long.
    let drip = async {
        for _ in 0..90 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if stream.write_all(b"x").await.is_err() {
                break;
            }
        }
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let answer = drip.await;
    assert!(answer.ends_with("too late"), "{answer}");
}

/// A router with an endless stream, and what tells that the stream was dropped.
fn endless(piece: usize) -> (Router, Arc<()>) {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let router = Router::new().route(
        "/",
        get(async move || {
            let piece = Bytes::from(vec![b'x'; piece]);
            Body::from_stream(futures_util::stream::unfold(held, move |held| {
                let piece = piece.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Some((Ok::<_, io::Error>(piece), held))
                }
            }))
        }),
    );
    (router, alive)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_and_its_stream_is_dropped() {
    let (router, alive) = endless(1000);
    let (pipes, _server, address) = serve_in_memory(router).await;
    let idle = Arc::strong_count(&alive);
    let mut stream = pipes.dial(&address).await.unwrap().stream;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(WRITE_TIMEOUT).await;
    // Its window took a while to fill.
    assert!(Arc::strong_count(&alive) > idle, "cut while there was room");
    tokio::time::sleep(WRITE_TIMEOUT).await;
    assert!(Arc::strong_count(&alive) <= idle, "its stream is kept");
    let mut rest = Vec::new();
    // What was in the pipe can be read; then it ends.
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection stands");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_that_takes_something_now_and_then_is_kept() {
    let (router, alive) = endless(1000);
    let (pipes, _server, address) = serve_in_memory(router).await;
    let idle = Arc::strong_count(&alive);
    let mut stream = pipes.dial(&address).await.unwrap().stream;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(WRITE_TIMEOUT / 2).await;
        let mut taken = [0; 4096];
        assert!(stream.read(&mut taken).await.unwrap() > 0);
    }
    assert!(Arc::strong_count(&alive) > idle, "a reader was cut");
}

#[tokio::test(start_paused = true)]
async fn an_endless_stream_arrives_piece_by_piece_and_is_cut_at_shutdown() {
    let (pieces, stream) = tokio::sync::mpsc::channel::<Bytes>(4);
    let stream = Arc::new(std::sync::Mutex::new(Some(stream)));
    let router = Router::new().route(
        "/",
        get(async move || {
            let receiver = stream.lock().unwrap().take().unwrap();
            let next = |mut receiver: tokio::sync::mpsc::Receiver<Bytes>| async move {
                let piece = receiver.recv().await?;
                Some((Ok::<_, io::Error>(piece), receiver))
            };
            Body::from_stream(futures_util::stream::unfold(receiver, next))
        }),
    );
    let (pipes, server, address) = serve_in_memory(router).await;
    let client = HttpClient::new(pipes, world(), address, None);
    let mut body = client.send(ask("/"), PATIENCE).await.unwrap().into_body();
    for piece in ["one", "two"] {
        pieces.send(piece.into()).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    server.shut_down(Duration::from_secs(1)).await;
    assert!(body.frame().await.is_none_or(|frame| frame.is_err()));
}

/// Answers whether the body was whole; `/proven` proves the caller first.
fn proving() -> Router {
    let read = async |body: Body| if body.collect().await.is_ok() { "whole" } else { "too late" };
    let prove = async move |Extension(proof): Extension<Proof>, body: Body| {
        proof.give();
        read(body).await
    };
    Router::new().route("/", post(read)).route("/proven", post(prove))
}

async fn read_some(stream: &mut Box<dyn ByteStream>) -> String {
    let mut answer = [0; 512];
    let count = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

#[tokio::test(start_paused = true)]
async fn the_body_of_who_is_proven_is_awaited_longer() {
    let (pipes, _server, address) = serve_in_memory(proving()).await;
    for (path, limit) in [("/", UNPROVEN_BODY_TIMEOUT), ("/proven", BODY_TIMEOUT)] {
        let mut stream = pipes.dial(&address).await.unwrap().stream;
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nx");
        stream.write_all(head.as_bytes()).await.unwrap();
        let early = limit.saturating_sub(Duration::from_millis(100));
        assert!(tokio::time::timeout(early, read_some(&mut stream)).await.is_err(), "{path}");
        let answer = tokio::time::timeout(Duration::from_millis(200), read_some(&mut stream));
        assert!(answer.await.unwrap().ends_with("too late"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_proves_anything_is_shown_out_after_a_request() {
    let (pipes, _server, address) = serve_in_memory(proving()).await;
    for (path, stays) in [("/", false), ("/proven", true)] {
        let mut stream = pipes.dial(&address).await.unwrap().stream;
        let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let mut answered = Duration::ZERO;
        while answered < 2 * PROOF_TIMEOUT {
            if stream.write_all(request.as_bytes()).await.is_err() {
                break;
            }
            if !read_some(&mut stream).await.ends_with("whole") {
                break;
            }
            answered += Duration::from_secs(10);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert_eq!(answered >= 2 * PROOF_TIMEOUT, stays, "{path}: {answered:?}");
        assert!(answered >= PROOF_TIMEOUT, "{path}: {answered:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_without_end_is_refused_and_counted() {
    let (pipes, server, address) = serve_in_memory(Router::new()).await;
    let mut stream = pipes.dial(&address).await.unwrap().stream;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut sent = 0;
    let line = format!("x: {}\r\n", "y".repeat(120));
    while stream.write_all(line.as_bytes()).await.is_ok() {
        sent += line.len();
        assert!(sent < 4 * HEAD_BYTES_MAX, "it reads on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(sent > HEAD_BYTES_MAX / 2, "{sent}");
    assert_eq!(server.watch().totals("https").too_large, 1);
}

#[tokio::test(start_paused = true)]
async fn silent_connections_give_way_to_a_caller() {
    let (pipes, address) = (Arc::new(Pipes::default()), Address::Memory("api".into()));
    let listening = pipes.listen(&address).await.unwrap();
    let limits = SeatLimits { seats: 8, unproven: 4 };
    let server = HttpServer::start_within(limits, listening, None, proving(), &world());
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(pipes.dial(&address).await.unwrap());
    }
    let client = HttpClient::new(Arc::<Pipes>::clone(&pipes), world(), address, None);
    let request = Request::post("/").header("host", "x").body(Full::default()).unwrap();
    let answer = client.send(request, PATIENCE).await.unwrap();
    assert_eq!(read_whole(answer.into_body(), PATIENCE).await.unwrap(), "whole");
    let totals = server.watch().totals("https");
    assert!(totals.gave_way >= 36 && totals.open <= 9, "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_asks_without_a_proof_is_shown_out() {
    let (pipes, server, address) = serve_in_memory(proving()).await;
    for (path, stays) in [("/", false), ("/proven", true)] {
        let mut stream = pipes.dial(&address).await.unwrap().stream;
        let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let mut answers = 0;
        while answers < 2 * UNPROVEN_REQUESTS_MAX {
            let sent = stream.write_all(request.as_bytes()).await;
            if sent.is_err() || !read_some(&mut stream).await.ends_with("whole") {
                break;
            }
            answers += 1;
        }
        assert_eq!(answers == 2 * UNPROVEN_REQUESTS_MAX, stays, "{path}: {answers}");
        assert!(answers >= UNPROVEN_REQUESTS_MAX, "{path}: {answers}");
    }
    assert_eq!(server.watch().totals("https").too_large, 1);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_seats_of_a_listener_a_connection_is_closed_at_once() {
    let router = Router::new().route("/", get(async || "here"));
    let (pipes, server, address) = serve_in_memory(router).await;
    let mut seats = seat_proven(&server.gate, HTTP_CONNECTIONS_MAX);
    let mut beyond = pipes.dial(&address).await.unwrap().stream;
    assert_eq!(beyond.read(&mut [0]).await.unwrap(), 0);
    let totals = server.watch().totals("");
    let full = u64::try_from(HTTP_CONNECTIONS_MAX).unwrap();
    assert_eq!((totals.open, totals.seats, totals.refused), (full, full, 1));
    // One who leaves makes room for one.
    seats.pop();
    let client = HttpClient::new(pipes, world(), address, None);
    let answer = client.send(ask("/"), PATIENCE).await.unwrap();
    assert_eq!(read_whole(answer.into_body(), PATIENCE).await.unwrap(), "here");
    assert_eq!(server.watch().totals("").refused, 1);
}
