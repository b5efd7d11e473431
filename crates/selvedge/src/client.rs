//! The service API as the command line asks it: one request a connection, a fresh token each.

use std::sync::Arc;
use std::time::Duration;

use api::error::{ERROR_CODE_HEADER, ErrorBody};
use bytes::{Buf, Bytes, BytesMut};
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use model::world::World;
use net::http_client::{HttpClient, HttpClientError, read_whole};
use net::network::{Address, SystemNetwork};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::PlaceArgs;
use crate::failure::{Failure, FailureKind, chain};
use crate::place::Place;

/// What a request says about its version; the newest that Azure's own tools send.
const API_VERSION: &str = "2021-04-12";
/// How long a token holds. Each request makes its own.
const TOKEN_LIFE: Duration = Duration::from_mins(10);
/// Longest method call: connect and response time-outs together, and some for the way.
const PATIENCE: Duration = Duration::from_secs(615);
/// Longest event of a stream, in bytes.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as one segment of a path or one value of a query.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A hub, and the right to ask it.
pub(crate) struct Service {
    client: HttpClient,
    world: World,
    host: String,
    address: String,
    server_name: String,
    policy: String,
    key: SymmetricKey,
}

impl Service {
    /// Finds the hub and prepares to ask it; connects at the first request.
    pub(crate) fn connect(args: &PlaceArgs) -> Result<Self, Failure> {
        let place = Place::find(args)?;
        let connection = place.connection;
        let key = connection.key.as_ref().and_then(|key| key.expose_str()).unwrap_or_default();
        let key = SymmetricKey::parse(key)
            .map_err(|error| Failure::usage(format!("SharedAccessKey: {error}")))?;
        let (host, port) = place
            .address
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.trim_matches(['[', ']']), port.parse().ok()?)))
            .ok_or_else(|| Failure::usage(format!("{:?} is no host:port", place.address)))?;
        let Some(pem) = place.ca_pem else {
            return Err(Failure::usage("no authority to trust is known")
                .with_help("give the hub's ca.pem with --ca FILE"));
        };
        let tls = net::tls::Client::trusting(&pem)
            .map_err(|error| Failure::usage(format!("the authority to trust: {error}")))?;
        let world = net::world::system(tokio::runtime::Handle::current());
        let client = HttpClient::new(
            Arc::new(SystemNetwork),
            world.clone(),
            Address::Tcp(host.into(), port),
            Some((tls, place.server_name.clone().into())),
        );
        Ok(Self {
            client,
            world,
            host: connection.host_name,
            address: place.address,
            server_name: place.server_name,
            policy: connection.policy.unwrap_or_default(),
            key,
        })
    }

    /// Where a browser finds the hub.
    pub(crate) fn base(&self) -> String {
        crate::commands::hub::console_base(&self.server_name, &self.address)
    }

    /// The name that devices use for the hub.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None, None).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        etag: Option<&str>,
    ) -> Result<T, Failure> {
        self.ask(Method::PUT, path, Some(encode(body)?), etag).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        etag: &str,
    ) -> Result<T, Failure> {
        self.ask(Method::PATCH, path, Some(encode(body)?), Some(etag)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(encode(body)?), None).await
    }

    /// Posts `text` as it is.
    pub(crate) async fn post_text<T: DeserializeOwned>(
        &self,
        path: &str,
        text: String,
    ) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(Bytes::from(text)), None).await
    }

    pub(crate) async fn post_nothing(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<(), Failure> {
        self.send(Method::POST, path, Some(encode(body)?), None).await.map(drop)
    }

    pub(crate) async fn delete(&self, path: &str, etag: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, None, Some((header::IF_MATCH, etag))).await.map(drop)
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn events(&self, path: &str) -> Result<Events<'_>, Failure> {
        let body = self.send(Method::GET, path, None, None).await?.into_body();
        let (path, last_id) = (path.to_owned(), String::new());
        Ok(Events { service: self, path, last_id, expired: false, body, buffer: BytesMut::new() })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        etag: Option<&str>,
    ) -> Result<T, Failure> {
        let extra = etag.map(|etag| (header::IF_MATCH, etag));
        let answer = self.send(method, path, body, extra).await?;
        let body = read_whole(answer.into_body(), PATIENCE).await.map_err(unreachable)?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::failed(format!("the hub's answer makes no sense: {error}")))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        extra: Option<(HeaderName, &str)>,
    ) -> Result<Response<Body>, Failure> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let expiry = self.world.now().wall.after(TOKEN_LIFE);
        let token = SasToken::sign(&self.host, Some(&self.policy), expiry, &self.key);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{path}{joint}api-version={API_VERSION}"))
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, token.expose_str().unwrap_or_default());
        if let Some((name, value)) = extra {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| Failure::usage(format!("cannot ask for {path}: {error}")))?;
        let answer = self.client.send(request, PATIENCE).await.map_err(unreachable)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refused(answer).await)
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| Failure::failed(format!("cannot write the request: {error}")))
}

fn unreachable(error: HttpClientError) -> Failure {
    Failure::new(FailureKind::Unreachable, chain(&error))
        .with_help("is the hub running, and is this its address?")
}

async fn refused(answer: Response<Body>) -> Failure {
    let status = answer.status();
    let code = answer.headers().get(ERROR_CODE_HEADER).and_then(|code| code.to_str().ok());
    let code = code.map(str::to_owned);
    let body = read_whole(answer.into_body(), PATIENCE).await.unwrap_or_default();
    let body: Option<ErrorBody> = serde_json::from_slice(&body).ok();
    let manifest = body.as_ref().is_some_and(|body| !body.details.is_empty());
    let kind = match status {
        _ if manifest => FailureKind::InvalidManifest,
        StatusCode::NOT_FOUND => FailureKind::NotFound,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => FailureKind::Conflict,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::NotAllowed,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => FailureKind::Unreachable,
        _ => FailureKind::Failed,
    };
    let reason = body.as_ref().map(|body| words(&body.message)).unwrap_or_default();
    let code = code.unwrap_or_else(|| status.to_string());
    let mut failure = Failure::new(kind, format!("{code}: {reason}"));
    for fault in body.into_iter().flat_map(|body| body.details) {
        let module = fault.module.map(|module| format!("{module} ")).unwrap_or_default();
        let path = fault.path.map(|path| format!("{path}: ")).unwrap_or_default();
        let at = fault.place.map(|at| format!("{}:{}: ", at.line, at.column)).unwrap_or_default();
        failure.details.push(format!("{at}{module}{path}{} [{}]", fault.message, fault.code));
    }
    failure
}

/// The words of an error message: after `ErrorCode:Name;`, or inside the JSON of a method error.
fn words(message: &str) -> String {
    if let Ok(inner) = serde_json::from_str::<serde_json::Value>(message)
        && let Some(text) = inner.get("message").and_then(serde_json::Value::as_str)
    {
        return text.to_owned();
    }
    message.split_once(';').map_or(message, |(_, words)| words).trim().to_owned()
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

/// A stream of server-sent events. It goes on with a fresh token where the hub ended it because
/// the old one had.
pub(crate) struct Events<'s> {
    service: &'s Service,
    path: String,
    /// Behind what was read last.
    last_id: String,
    /// The token has ended; the stream is to be opened anew.
    expired: bool,
    body: Body,
    buffer: BytesMut,
}

impl Events<'_> {
    /// The next event; `None` when the hub ended the stream. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if self.expired {
                self.open_again().await?;
            }
            if let Some(event) = take_event(&mut self.buffer) {
                if !event.id.is_empty() {
                    self.last_id.clone_from(&event.id);
                }
                self.expired = is_expiry(&event);
                if self.expired {
                    continue;
                }
                return Ok(Some(event));
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(Failure::failed("the hub sent an event that is too large"));
            }
            let broken = |error: hyper::Error| {
                Failure::new(
                    FailureKind::Unreachable,
                    format!("the stream broke: {}", chain(&error)),
                )
            };
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broken)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

impl Events<'_> {
    async fn open_again(&mut self) -> Result<(), Failure> {
        let last = Some(self.last_id.as_str()).filter(|id| !id.is_empty());
        let extra = last.map(|id| (HeaderName::from_static("last-event-id"), id));
        let answer = self.service.send(Method::GET, &self.path, None, extra).await?;
        self.body = answer.into_body();
        self.buffer.clear();
        self.expired = false;
        Ok(())
    }
}

/// Whether the hub ended the stream because its token has.
fn is_expiry(event: &Event) -> bool {
    let data = || serde_json::from_str::<serde_json::Value>(&event.data).ok();
    event.kind == "bye"
        && data().is_some_and(|data| data.get("reason").is_some_and(|it| it == "expired"))
}

/// Takes the first whole event out of `buffer`; comments are passed over.
fn take_event(buffer: &mut BytesMut) -> Option<Event> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = buffer.split_to(end);
        buffer.advance(2);
        let text = String::from_utf8_lossy(&block);
        let mut event = Event::default();
        let mut data = Vec::new();
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut event.kind),
                "id" => value.clone_into(&mut event.id),
                "data" => data.push(value),
                _ => {}
            }
        }
        if !data.is_empty() || !event.kind.is_empty() {
            event.data = data.join("\n");
            return Some(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_whole_and_comments_are_passed_over() {
        let mut buffer =
            BytesMut::from(": hello\n\nevent: message\nid: 0:1\ndata: {\"a\":\ndata: 1}\n\nev");
        let event = take_event(&mut buffer).unwrap();
        let expected =
            Event { kind: "message".into(), id: "0:1".into(), data: "{\"a\":\n1}".into() };
        assert_eq!(event, expected);
        assert_eq!(take_event(&mut buffer), None);
        assert_eq!(&buffer[..], b"ev");
    }

    #[test]
    fn only_the_end_of_a_token_opens_a_stream_again() {
        let check = |kind: &str, data: &str, expected: bool| {
            let event = Event { kind: kind.into(), id: String::new(), data: data.into() };
            assert_eq!(is_expiry(&event), expected, "{kind} {data}");
        };
        check("bye", r#"{"reason":"expired"}"#, true);
        check("bye", r#"{"reason":"stopping"}"#, false);
        check("message", r#"{"reason":"expired"}"#, false);
        check("bye", "", false);
    }

    #[test]
    fn the_words_of_both_forms_of_error_are_found() {
        let check = |message: &str, expected: &str| assert_eq!(words(message), expected);
        check("ErrorCode:DeviceNotFound;no such device", "no such device");
        check("{\"errorCode\":404103,\"message\":\"not online\"}", "not online");
        check("plain", "plain");
    }
}
