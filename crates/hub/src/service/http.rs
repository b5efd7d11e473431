//! From a request to the handler of its path, and from its outcome to a response.
//!
//! Paths are matched here and not by a router of patterns: SDKs differ in trailing slashes, and
//! ids hold any sign. Nothing is done before the token is proven.

use std::net::IpAddr;
use std::sync::Arc;

use api::error::{ApiError, ERROR_CODE_HEADER, ErrorCode};
use api::health::{DamagedTelemetry, Health};
use api::proof::Proof;
use api::statistics::{DeviceStatistics, ServiceStatistics};
use api::tolerant;
use api::version::{API_VERSION, INVALID_VERSION, is_version};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use credentials::sas::SasToken;
use credentials::skew;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use model::id::{DeviceId, IdentityId, ModuleName};
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::WallTime;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ignored::IgnoredFields;
use super::offers;
use crate::access::{self, POLICIES, Rights};
use crate::configurations;
use crate::console;
use crate::console::http::Arrival;
use crate::console::sessions::{Session, SessionId};
use crate::fleet;
use crate::live;
use crate::methods;
use crate::registry;
use crate::registry::IfMatch;
use crate::session::shell::Core;
use crate::storage::rows;
use crate::telemetry;
use crate::twins;

/// Largest body, in bytes: a deployment with every module's twin full.
pub(crate) const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest body of an exchange, in bytes.
pub(crate) const EXCHANGE_BYTES_MAX: usize = 1024;
/// Most calls of policies and browsers at a time.
pub(crate) const CALLS_MAX: usize = 1024;
/// Most calls of devices at a time: they may shut out one another, and nobody else.
pub(crate) const DEVICE_CALLS_MAX: usize = 256;
/// The parameters that calls under Azure's paths may carry.
const QUERY_KNOWN: [&str; 3] = [API_VERSION, "top", "after"];

/// What every handler gives.
pub(crate) type Outcome = Result<Response, ApiError>;

/// Finds the peer's address among the extensions of a request.
pub type PeerOf = fn(&http::Extensions) -> Option<IpAddr>;

/// The service over `core`.
///
/// With `peer_of` the listener speaks TLS: the console and its cookies are served too.
pub(crate) fn router(core: Arc<Core>, peer_of: Option<PeerOf>) -> Router {
    let room = Arc::new(Semaphore::new(CALLS_MAX));
    let device_room = Arc::new(Semaphore::new(DEVICE_CALLS_MAX));
    let door = Door { core, room, device_room, ignored: Arc::default(), peer_of };
    Router::new().fallback(enter).with_state(door)
}

#[derive(Clone)]
struct Door {
    core: Arc<Core>,
    room: Arc<Semaphore>,
    device_room: Arc<Semaphore>,
    ignored: Arc<IgnoredFields>,
    peer_of: Option<PeerOf>,
}

impl Door {
    /// A place for one call of somebody who is proven, until it is answered.
    fn place(&self, caller: &Caller) -> Result<OwnedSemaphorePermit, ApiError> {
        let room = match caller {
            Caller::Token(token) if token.policy().is_none() => &self.device_room,
            Caller::Token(_) | Caller::Session(_) => &self.room,
        };
        let full = |_| ApiError::new(ErrorCode::ThrottlingException, "too many calls at once");
        Arc::clone(room).try_acquire_owned().map_err(full)
    }
}

async fn enter(State(door): State<Door>, request: Request) -> Response {
    let core = Arc::clone(&door.core);
    let arrival = door.peer_of.map(|peer_of| Arrival { peer: peer_of(request.extensions()) });
    let (head, body) = request.into_parts();
    if arrival.is_some() {
        let page = console::http::page(&core, &head.method, &head.uri, &head.headers).await;
        if let Some(page) = page {
            return page;
        }
    }
    let outcome = serve(&door, head, body, arrival).await;
    let mut response = outcome.unwrap_or_else(|error| refuse(&core, &error));
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Who calls.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Somebody with a token, read but not yet proven to allow anything.
    Token(SasToken),
    /// A browser, proven by its cookie.
    Session(Session),
}

/// One call.
pub(crate) struct Call {
    pub(crate) core: Arc<Core>,
    pub(crate) method: Method,
    /// The path without its first slash, decoded.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) caller: Caller,
    query: Vec<(String, String)>,
    ignored: Arc<IgnoredFields>,
}

async fn serve(
    door: &Door,
    head: http::request::Parts,
    body: Body,
    arrival: Option<Arrival>,
) -> Outcome {
    let core = Arc::clone(&door.core);
    let segments = api::segments(head.uri.path())
        .map_err(|fault| ApiError::new(ErrorCode::ArgumentInvalid, fault.to_string()))?;
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let too_large = |_| ApiError::new(ErrorCode::MessageTooLarge, "the body is too large");
    if let Some(arrival) = arrival
        && names == console::http::EXCHANGE
        && head.method == Method::POST
    {
        let body = axum::body::to_bytes(body, EXCHANGE_BYTES_MAX).await.map_err(too_large)?;
        let session = console::http::exchange(&core, arrival, (&head.uri, &head.headers), &body)?;
        tell_proven(&head);
        return Ok(session);
    }
    if let Some(refusal) = offers::refuse(&head.method, &names) {
        return Err(refusal);
    }
    let caller = caller(&core, &head, arrival)?;
    // Nothing of the body is read and no place is taken for a caller who is not proven.
    prove_caller(&core, &caller, &names).await?;
    tell_proven(&head);
    let _place = door.place(&caller)?;
    let query = query(head.uri.query().unwrap_or_default())?;
    if !names.starts_with(&["api"]) {
        check_version(&query, &caller)?;
        note_strangers(&query, &door.ignored);
    }
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(too_large)?;
    let call = Call {
        core,
        method: head.method,
        path: segments.join("/"),
        headers: head.headers,
        body,
        query,
        ignored: Arc::clone(&door.ignored),
        caller,
    };
    dispatch(call, &names).await
}

/// Calls under Azure's paths name a version. A session is our own console, which ships with the
/// hub that it talks to.
fn check_version(query: &[(String, String)], caller: &Caller) -> Result<(), ApiError> {
    let named = query.iter().find(|(name, _)| name.eq_ignore_ascii_case(API_VERSION));
    let good = named.is_some_and(|(_, version)| is_version(version));
    if good || matches!(caller, Caller::Session(_)) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::InvalidProtocolVersion, INVALID_VERSION))
}

/// Counts parameters that Azure's paths do not know; they are left aside, as Azure does. Only
/// for proven callers: names of others fill no log.
fn note_strangers(query: &[(String, String)], ignored: &IgnoredFields) {
    let known = |name: &str| QUERY_KNOWN.iter().any(|known| known.eq_ignore_ascii_case(name));
    let strange = query.iter().map(|(name, _)| name).filter(|name| !known(name));
    for name in strange.take(tolerant::IGNORED_FIELDS_MAX) {
        ignored.note("query", name);
    }
}

/// Tells the listener, which grants little before.
fn tell_proven(head: &http::request::Parts) {
    if let Some(proof) = head.extensions.get::<Proof>() {
        proof.give();
    }
}

/// A token speaks louder than a cookie, which counts over TLS only.
fn caller(
    core: &Core,
    head: &http::request::Parts,
    arrival: Option<Arrival>,
) -> Result<Caller, ApiError> {
    let token = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if token.is_none() && arrival.is_some() {
        let session = console::http::session_of(core, &head.method, &head.uri, &head.headers)?;
        if let Some(session) = session {
            return Ok(Caller::Session(session));
        }
    }
    Ok(Caller::Token(access::read(&Secret::from(token.unwrap_or_default()))?))
}

/// Proves who calls; what the caller may do is for the handler to say.
async fn prove_caller(core: &Core, caller: &Caller, path: &[&str]) -> Result<(), ApiError> {
    let Caller::Token(token) = caller else { return Ok(()) };
    if token.policy().is_some() {
        let now = core.world.now().wall;
        return Ok(core.access.service(token, &path.join("/"), Rights::NONE, now)?);
    }
    // A device has nothing to ask but below its own name.
    let ["devices", name, ..] = path else { return Err(access::refused().into()) };
    prove_device(core, token, &device(name)?).await
}

/// Proves that `device` itself made `token`.
async fn prove_device(core: &Core, token: &SasToken, device: &DeviceId) -> Result<(), ApiError> {
    let identity = IdentityId::device(device);
    let entry = core.reader.look(move |db| rows::entry(db, &identity)).await?;
    let entry = entry.ok_or_else(access::refused)?;
    core.access.prove_token(token, &entry, &entry, core.world.now().wall)?;
    Ok(())
}

async fn dispatch(call: Call, path: &[&str]) -> Outcome {
    match path {
        ["devices"] => registry::http::list(call).await,
        ["devices", d] => registry::http::device(call, device(d)?).await,
        ["devices", d, "modules"] => registry::http::modules(call, device(d)?).await,
        ["devices", d, "modules", m] => {
            registry::http::module(call, IdentityId::module(&device(d)?, &module(m)?)).await
        }
        ["devices", d, "applyConfigurationContent"] => {
            configurations::http::apply(call, device(d)?).await
        }
        ["twins", d] => twins::http::twin(call, IdentityId::device(&device(d)?)).await,
        ["twins", d, "modules", m] => {
            twins::http::twin(call, IdentityId::module(&device(d)?, &module(m)?)).await
        }
        ["twins", d, "methods"] => {
            methods::http::invoke(call, IdentityId::device(&device(d)?)).await
        }
        ["twins", d, "modules", m, "methods"] => {
            methods::http::invoke(call, IdentityId::module(&device(d)?, &module(m)?)).await
        }
        ["statistics", "devices"] => device_statistics(call).await,
        ["statistics", "service"] => service_statistics(&call),
        ["api", "v1", "health"] => health(&call),
        ["api", "v1", "telemetry"] => telemetry::http::page(call).await,
        ["api", "v1", "telemetry", "stream"] => telemetry::http::stream(call),
        ["api", "v1", "changes"] => twins::http::changes(call).await,
        ["api", "v1", "validate", "modules-content"] => configurations::http::check(&call),
        ["api", "v1", "events"] => live::http::events(&call),
        ["api", "v1", "events", stream, "topics"] => live::http::set_topics(&call, stream),
        ["api", "v1", "overview"] => fleet::http::overview(call).await,
        ["api", "v1", "devices"] => fleet::http::devices(call).await,
        ["api", "v1", "devices", d] => fleet::http::device(call, device(d)?).await,
        ["api", "v1", "devices", d, "methods"] => methods::http::history(call, device(d)?).await,
        ["api", "v1", "console", "session"] => console::http::session(&call),
        ["api", "v1", "console", "sessions"] => console::http::sessions(&call),
        ["api", "v1", "console", "sessions", id] => console::http::revoke(&call, id),
        ["api", "v1", "console", "links"] => console::http::links(&call),
        _ => {
            call.prove(Rights::NONE)?;
            Err(ApiError::new(ErrorCode::NotFound, "there is nothing at this path"))
        }
    }
}

impl Call {
    /// Proves that a policy with the right `wanted` made the call.
    pub(crate) fn prove(&self, wanted: Rights) -> Result<(), ApiError> {
        let now = self.core.world.now().wall;
        match &self.caller {
            Caller::Token(token) => Ok(self.core.access.service(token, &self.path, wanted, now)?),
            Caller::Session(session) if access::policy(session.policy.0).1.allow(wanted) => Ok(()),
            Caller::Session(_) => Err(self.not_allowed("the session does not allow this")),
        }
    }

    /// The caller is proven and lacks a right. A browser must not take that for the end of its
    /// session.
    pub(crate) fn not_allowed(&self, words: &'static str) -> ApiError {
        match &self.caller {
            Caller::Token(_) => Refusal::new(RefusalKind::Forbidden, words).into(),
            Caller::Session(_) => ApiError::new(ErrorCode::Forbidden, words),
        }
    }

    /// The policy behind the call, by its place; `None` if a device calls.
    pub(crate) fn policy(&self) -> Option<usize> {
        match &self.caller {
            Caller::Token(token) => {
                let name = token.policy()?;
                POLICIES.iter().position(|(known, _)| *known == name)
            }
            Caller::Session(session) => Some(session.policy.0),
        }
    }

    /// The session that calls, if one does.
    pub(crate) fn session_id(&self) -> Option<SessionId> {
        match &self.caller {
            Caller::Token(_) => None,
            Caller::Session(session) => Some(session.id),
        }
    }

    /// Until when what proved the caller holds; what goes on for longer ends then.
    pub(crate) fn valid_until(&self) -> WallTime {
        match &self.caller {
            Caller::Token(token) => skew::end_of_grace(token.expiry()),
            Caller::Session(session) => session.end(),
        }
    }

    /// Proves that a policy with the right `wanted`, or `device` itself, made the call.
    pub(crate) async fn prove_or_device(
        &self,
        wanted: Rights,
        device: &DeviceId,
    ) -> Result<(), ApiError> {
        let token = match &self.caller {
            Caller::Token(token) if token.policy().is_none() => token,
            _ => return self.prove(wanted),
        };
        prove_device(&self.core, token, device).await
    }

    /// Only this method is known at this path.
    pub(crate) fn only(&self, method: &Method) -> Result<(), ApiError> {
        if self.method == *method { Ok(()) } else { Err(no_such_method()) }
    }

    /// Refuses query parameters besides `known` and `api-version`: a call of our own API that
    /// mistypes a filter would otherwise be answered with what it did not ask for.
    pub(crate) fn only_query(&self, known: &[&str]) -> Result<(), ApiError> {
        let stranger = self
            .query
            .iter()
            .find(|(name, _)| name != "api-version" && !known.contains(&name.as_str()));
        match stranger {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::new(
                ErrorCode::ArgumentInvalid,
                format!("the query parameter `{name}` is not known here"),
            )),
        }
    }

    /// One query parameter; its name in any letter case, as Azure's.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let held = self.query.iter().find(|(held, _)| held.eq_ignore_ascii_case(name));
        held.map(|(_, value)| value.as_str())
    }

    /// Every query parameter, in order.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// One query parameter as a number, or `default`.
    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, ApiError> {
        self.query(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| {
                ApiError::new(ErrorCode::ArgumentInvalid, format!("`{name}` must be a number"))
            })
        })
    }

    /// The header `If-Match`.
    pub(crate) fn if_match(&self) -> IfMatch {
        IfMatch::parse(self.headers.get(IF_MATCH).and_then(|value| value.to_str().ok()))
    }

    /// The body as a `T` that an SDK filled from its caller's object. `what` it is goes into
    /// the log with the fields that are left aside. Callers prove first.
    pub(crate) fn taken<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, ApiError> {
        let taken = tolerant::read(&self.body).map_err(|error| {
            ApiError::new(ErrorCode::IotHubFormatError, format!("the body is wrong: {error}"))
        })?;
        for field in &taken.ignored {
            self.ignored.note(what, field);
        }
        Ok(taken.value)
    }

    /// The body as JSON of shape `T`, which only our own clients write.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            ApiError::new(ErrorCode::IotHubFormatError, format!("the body is wrong: {error}"))
        })
    }
}

/// The path does not know the method.
pub(crate) fn no_such_method() -> ApiError {
    ApiError::new(ErrorCode::MethodNotAllowed, "the path does not know this method")
}

/// A JSON answer; `etag` goes into the header, quoted.
pub(crate) fn answer(value: &impl Serialize, etag: Option<&str>) -> Outcome {
    let text = serde_json::to_vec(value)
        .map_err(|error| ApiError::new(ErrorCode::ServerError, error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(value) = etag.and_then(|etag| HeaderValue::try_from(format!("\"{etag}\"")).ok()) {
        headers.insert(ETAG, value);
    }
    Ok(response)
}

/// 204.
pub(crate) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn refuse(core: &Core, error: &ApiError) -> Response {
    let tracking = format!("{:032x}", core.world.random.number());
    let body = error.body(&tracking, &core.world.now().wall.to_string());
    let text = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(ERROR_CODE_HEADER, HeaderValue::from_static(error.code.name()));
    if error.code == ErrorCode::ThrottlingException {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
    }
    response
}

fn device(text: &str) -> Result<DeviceId, ApiError> {
    text.parse().map_err(|error: model::id::InvalidId| {
        ApiError::new(ErrorCode::ArgumentInvalid, format!("device id: {error}"))
    })
}

fn module(text: &str) -> Result<ModuleName, ApiError> {
    text.parse().map_err(|error: model::id::InvalidId| {
        ApiError::new(ErrorCode::ArgumentInvalid, format!("module id: {error}"))
    })
}

fn query(text: &str) -> Result<Vec<(String, String)>, ApiError> {
    let decode = |raw: &str| {
        percent_encoding::percent_decode_str(raw)
            .decode_utf8()
            .map(String::from)
            .map_err(|_| ApiError::new(ErrorCode::ArgumentInvalid, "the query is not UTF-8"))
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

async fn device_statistics(call: Call) -> Outcome {
    call.prove(Rights::REGISTRY_READ)?;
    call.only(&Method::GET)?;
    let totals = call.core.reader.look(rows::device_totals).await?;
    let counts = DeviceStatistics {
        total_device_count: totals.total,
        enabled_device_count: totals.enabled,
        disabled_device_count: totals.total.saturating_sub(totals.enabled),
    };
    answer(&counts, None)
}

fn service_statistics(call: &Call) -> Outcome {
    call.prove(Rights::REGISTRY_READ)?;
    call.only(&Method::GET)?;
    let (_, connected_device_count) = call.core.connections.counts();
    answer(&ServiceStatistics { connected_device_count }, None)
}

fn damaged(damage: &journal::log::Damage) -> DamagedTelemetry {
    DamagedTelemetry { file: damage.file.clone(), from: damage.from.0, to: damage.to.0 }
}

fn health(call: &Call) -> Outcome {
    call.prove(Rights::NONE)?;
    call.only(&Method::GET)?;
    let core = &call.core;
    let (sessions, _) = core.connections.counts();
    let stopping = core.connections.is_stopping();
    let health = Health {
        status: if stopping { "stopping" } else { "ok" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: core.incarnation,
        sessions,
        partitions: core.telemetry.partitions,
        messages_accepted: core.telemetry.accepted(),
        requests_full: core.budget.full(),
        answers_full: core.answers.full(),
        live: core.live.totals(),
        listening: core.listening.look(),
        damaged: core.telemetry.damaged.iter().map(damaged).collect(),
    };
    answer(&health, None)
}
