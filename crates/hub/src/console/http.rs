//! The console's files and its sign-in, over TLS only.

use std::net::IpAddr;

use api::Key;
use api::console::{
    CSRF_HEADER, Exchange, HubInfo, Link, LinkWanted, SIGN_IN_PATH, SessionInfo, Sessions,
};
use api::error::{ApiError, ErrorCode};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use model::secret::Secret;

use super::assets::{self, Asset};
use super::sessions::{ExchangeFault, PolicyIndex, SESSION_LIFE, Session, SessionId};
use crate::access::{self, POLICIES, Rights};
use crate::service::http::{Call, Caller, Outcome, answer, no_such_method, nothing};
use crate::session::shell::Core;

/// The path of the only call that needs no credentials.
pub(crate) const EXCHANGE: [&str; 4] = ["api", "v1", "console", "exchange"];
/// Largest file that is read from a folder, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Serves `/` and `/console/…`; `None` for every other path.
pub(crate) async fn page(
    core: &Core,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Response> {
    let path = uri.path();
    let below = path.strip_prefix("/console");
    let below = below.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if path != "/" && below.is_none() {
        return None;
    }
    if *method != Method::GET && *method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    let Some(below) = below.and_then(|rest| rest.strip_prefix('/')) else {
        let mut response = plain(StatusCode::FOUND);
        response.headers_mut().insert(LOCATION, HeaderValue::from_static("/console/"));
        return Some(response);
    };
    let below = percent_encoding::percent_decode_str(below).decode_utf8().unwrap_or_default();
    let accepted = headers.get(http::header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let name = assets::file_of(&below);
    let found = match name {
        Some(name) => find(core, name, accepted.unwrap_or_default()).await,
        None => None,
    };
    Some(match found {
        Some(asset) => file(asset, method, headers),
        None if name == Some(assets::PAGE) => not_built(),
        None => plain(StatusCode::NOT_FOUND),
    })
}

async fn find(core: &Core, name: &str, accepted: &str) -> Option<Asset> {
    let Some(folder) = &core.console.folder else { return assets::embedded(name, accepted) };
    for (candidate, encoding) in assets::candidates(name, accepted) {
        let path = folder.join(candidate);
        let fits = tokio::fs::metadata(&path)
            .await
            .is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_BYTES_MAX);
        if fits && let Ok(content) = tokio::fs::read(&path).await {
            return Some(assets::read(name, content, encoding));
        }
    }
    None
}

fn file(asset: Asset, method: &Method, headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    assets::dress(&asset, response.headers_mut());
    if assets::is_known(&asset, headers) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if *method == Method::GET {
        *response.body_mut() = match asset.content {
            std::borrow::Cow::Borrowed(content) => Body::from(Bytes::from_static(content)),
            std::borrow::Cow::Owned(content) => Body::from(content),
        };
    }
    response
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    assets::harden(response.headers_mut());
    response
}

fn not_built() -> Response {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    *response.body_mut() = Body::from(assets::NOT_BUILT);
    response
}

/// Where a request over TLS came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The peer's address.
    pub(crate) peer: Option<IpAddr>,
}

/// POST `/api/v1/console/exchange`: a token for a session and its cookie.
pub(crate) fn exchange(
    core: &Core,
    arrival: Arrival,
    (uri, headers): (&Uri, &HeaderMap),
    body: &[u8],
) -> Outcome {
    same_origin(core, &Method::POST, uri, headers)?;
    let wanted: Exchange = serde_json::from_slice(body).map_err(|error| {
        ApiError::new(ErrorCode::IotHubFormatError, format!("the body is wrong: {error}"))
    })?;
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    let (now, random) = (core.world.now(), &*core.world.random);
    let opened = core.console.exchange(&wanted.token.0, (arrival.peer, agent), now, random);
    let (session, cookie) = opened.map_err(|fault| match fault {
        ExchangeFault::Unknown => ApiError::new(
            ErrorCode::IotHubUnauthorizedAccess,
            "the link was used or has expired; `selvedge console` prints a fresh one",
        ),
        ExchangeFault::TooMany => {
            ApiError::new(ErrorCode::ThrottlingException, "too many failed sign-ins; wait a minute")
        }
    })?;
    let mut response = answer(&own(core, &session), None)?;
    let value = cookie.expose_str().unwrap_or_default();
    set_cookie(core, &mut response, value, SESSION_LIFE.as_secs());
    Ok(response)
}

fn set_cookie(core: &Core, response: &mut Response, value: &str, seconds: u64) {
    let name = &core.console.cookie;
    let text =
        format!("{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict");
    if let Ok(mut value) = HeaderValue::try_from(text) {
        value.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, value);
    }
}

/// The session of the request's cookie, if it has one that lasts and comes from our own page.
///
/// # Errors
/// What of the request shows that another page made it.
pub(crate) fn session_of(
    core: &Core,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<Session>, ApiError> {
    let name = core.console.cookie.as_str();
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(held, _)| held.trim() == name).map(|(_, value)| value);
    let found = value.and_then(|value| core.console.check(value.trim(), core.world.now()));
    let Some(session) = found else { return Ok(None) };
    same_origin(core, method, uri, headers)?;
    if !method.is_safe() {
        let said = headers.get(CSRF_HEADER).map(|value| Secret::new(value.as_bytes()));
        if said.as_ref() != Some(&session.csrf) {
            return Err(rejected("the header x-selvedge-csrf does not hold the session's token"));
        }
    }
    Ok(Some(session))
}

/// Refuses what another page than the console's sent. A cookie says nothing about that: to a
/// browser, all ports of a host are one site.
fn same_origin(
    core: &Core,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| uri.authority().map(http::uri::Authority::as_str));
    let Some(host) = host.filter(|host| core.access.is_our_host(host)) else {
        return Err(rejected("the host is not one of this hub's names; see --host"));
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site")
        && !["same-origin", "none"].contains(&site)
    {
        return Err(rejected("another site sent the request"));
    }
    let own = |origin: &str| {
        origin.strip_prefix("https://").is_some_and(|rest| rest.eq_ignore_ascii_case(host))
    };
    match text(ORIGIN.as_str()) {
        Some(origin) if own(origin) => Ok(()),
        None if method.is_safe() => Ok(()),
        _ => Err(rejected("the header Origin does not name this hub")),
    }
}

fn rejected(reason: &'static str) -> ApiError {
    ApiError::new(ErrorCode::CsrfRejected, reason)
}

fn own(core: &Core, session: &Session) -> api::console::Session {
    api::console::Session {
        info: info(session, Some(session.id)),
        csrf_token: Key(session.csrf.clone()),
        hub: HubInfo {
            host_name: core.access.hosts.first().cloned().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    }
}

fn info(session: &Session, caller: Option<SessionId>) -> SessionInfo {
    let (policy, rights) = access::policy(session.policy.0);
    SessionInfo {
        id: session.id.text(),
        policy: policy.to_owned(),
        rights: rights.names().map(str::to_owned).collect(),
        created_time: session.created.wall.to_string(),
        last_used_time: session.used.wall.to_string(),
        idle_expires_time: session.idle_end().to_string(),
        expires_time: session.end().to_string(),
        current: caller == Some(session.id),
        user_agent: session.user_agent.clone(),
    }
}

/// GET and DELETE `/api/v1/console/session`: the caller's own.
pub(crate) fn session(call: &Call) -> Outcome {
    call.only_query(&[])?;
    let Caller::Session(session) = &call.caller else {
        call.prove(Rights::NONE)?;
        return Err(ApiError::new(ErrorCode::NotFound, "the call was not made by a session"));
    };
    match call.method {
        Method::GET => answer(&own(&call.core, session), None),
        Method::DELETE => {
            call.core.console.end(session.id, call.core.world.now());
            let mut response = nothing();
            set_cookie(&call.core, &mut response, "", 0);
            Ok(response)
        }
        _ => Err(no_such_method()),
    }
}

/// GET `/api/v1/console/sessions`: everybody's.
pub(crate) fn sessions(call: &Call) -> Outcome {
    call.prove(Rights::ALL)?;
    call.only(&Method::GET)?;
    call.only_query(&[])?;
    let all = call.core.console.list(call.core.world.now());
    let caller = call.session_id();
    let sessions = all.iter().map(|session| info(session, caller)).collect();
    answer(&Sessions { sessions }, None)
}

/// DELETE `/api/v1/console/sessions/{id}`.
pub(crate) fn revoke(call: &Call, id: &str) -> Outcome {
    call.prove(Rights::ALL)?;
    call.only(&Method::DELETE)?;
    call.only_query(&[])?;
    let now = call.core.world.now();
    if SessionId::parse(id).is_some_and(|id| call.core.console.end(id, now)) {
        return Ok(nothing());
    }
    Err(ApiError::new(ErrorCode::NotFound, "there is no such session"))
}

/// POST `/api/v1/console/links`: a fresh link with the caller's rights or fewer.
pub(crate) fn links(call: &Call) -> Outcome {
    call.prove(Rights::NONE)?;
    call.only(&Method::POST)?;
    call.only_query(&[])?;
    let wanted: LinkWanted =
        if call.body.is_empty() { LinkWanted::default() } else { call.json()? };
    let own = call.policy().ok_or_else(access::refused)?;
    let policy = match &wanted.policy {
        None => own,
        Some(name) => policy_named(name)?,
    };
    if !access::policy(own).1.allow(access::policy(policy).1) {
        let words = "a link cannot have more rights than whoever asks for it";
        return Err(call.not_allowed(words));
    }
    answer(&issue(&call.core, policy), None)
}

fn policy_named(name: &str) -> Result<usize, ApiError> {
    POLICIES.iter().position(|(known, _)| *known == name).ok_or_else(|| {
        let known: Vec<_> = POLICIES.iter().map(|(name, _)| *name).collect();
        let words = format!("there is no policy {name:?}; there are {}", known.join(", "));
        ApiError::new(ErrorCode::ArgumentInvalid, words)
    })
}

/// A fresh link for the policy at `policy`.
pub(crate) fn issue(core: &Core, policy: usize) -> Link {
    let (now, random) = (core.world.now(), &*core.world.random);
    let (token, until) = core.console.issue(PolicyIndex(policy), now, random);
    let path = format!("{SIGN_IN_PATH}{}", token.expose_str().unwrap_or_default());
    Link {
        token: Key(token),
        path: Key(Secret::from(path)),
        policy: access::policy(policy).0.to_owned(),
        expires_time: until.to_string(),
    }
}
