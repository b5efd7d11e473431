//! The console's door: files, one-time links, sessions, and what a browser must prove.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use testkit::world::Host;
use tower::ServiceExt as _;

use super::{Machine, NAME, Running};

const ORIGIN: &str = "https://hub.test";

fn no_peer(_: &http::Extensions) -> Option<IpAddr> {
    None
}

/// A browser with one cookie and one CSRF token.
pub(crate) struct Browser {
    router: Router,
    pub(crate) cookie: String,
    pub(crate) csrf: String,
}

pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Page {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) async fn ask(
    router: &Router,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: Value,
) -> Page {
    let mut request = Request::builder().method(method).uri(path).header("host", NAME);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let response = router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Page { status: head.status, headers: head.headers, bytes }
}

fn fragment(running: &Running, policy: &str) -> String {
    let link = running.hub.sign_in_link(policy).unwrap();
    let path = link.path.expose_str().unwrap().to_owned();
    path.strip_prefix("/console/sign-in#token=").unwrap().to_owned()
}

async fn exchange(router: &Router, token: &str) -> Page {
    let call = ("POST", "/api/v1/console/exchange");
    ask(router, call, &[("origin", ORIGIN)], json!({"token": token})).await
}

impl Browser {
    pub(crate) async fn sign_in(running: &Running, policy: &str) -> Self {
        let router = running.hub.service_over_tls(no_peer);
        let page = exchange(&router, &fragment(running, policy)).await;
        assert_eq!(page.status, StatusCode::OK, "{:?}", page.json());
        let cookie = page.header("set-cookie").split(';').next().unwrap().to_owned();
        let csrf = page.json()["csrfToken"].as_str().unwrap().to_owned();
        Self { router, cookie, csrf }
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        let headers = [("cookie", self.cookie.as_str()), ("sec-fetch-site", "same-origin")];
        ask(&self.router, ("GET", path), &headers, Value::Null).await
    }

    pub(crate) async fn send(&self, call: (&str, &str), body: Value) -> Page {
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("origin", ORIGIN),
            ("x-selvedge-csrf", self.csrf.as_str()),
        ];
        ask(&self.router, call, &headers, body).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_opens_a_session_once_and_its_cookie_is_kept_to_host_and_tls() {
    let machine = Machine::new();
    let r = machine.start(1);
    let router = r.hub.service_over_tls(no_peer);
    let token = fragment(&r, "iothubowner");
    let page = exchange(&router, &token).await;
    assert_eq!(page.status, StatusCode::OK);
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with("__Host-selvedge-"), "{cookie}");
    for part in ["; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    let session = page.json();
    assert_eq!(session["policy"], "iothubowner");
    assert_eq!(session["rights"].as_array().unwrap().len(), 4);
    assert_eq!(session["hub"]["hostName"], NAME);
    let again = exchange(&router, &token).await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    let late = fragment(&r, "iothubowner");
    Host::sleep(Duration::from_mins(15)).await;
    assert_eq!(exchange(&router, &late).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn a_session_reads_and_writes_with_the_rights_of_its_policy() {
    let machine = Machine::new();
    let r = machine.start(1);
    let owner = Browser::sign_in(&r, "iothubowner").await;
    assert_eq!(owner.send(("PUT", "/devices/d1"), json!({})).await.status, StatusCode::OK);
    assert_eq!(owner.get("/devices/d1").await.status, StatusCode::OK);
    assert_eq!(owner.get("/api/v1/console/session").await.json()["csrfToken"], owner.csrf.as_str());
    let reader = Browser::sign_in(&r, "registryRead").await;
    assert_eq!(reader.get("/devices/d1").await.status, StatusCode::OK);
    assert_eq!(reader.get("/twins/d1").await.status, StatusCode::FORBIDDEN);
    assert_eq!(reader.get("/api/v1/console/sessions").await.status, StatusCode::FORBIDDEN);
    let put = reader.send(("PUT", "/devices/d2"), json!({})).await;
    assert_eq!(put.status, StatusCode::FORBIDDEN);
    assert_eq!(put.header("iothub-errorcode"), "Forbidden");
    let more = json!({"policy": "iothubowner"});
    let more = reader.send(("POST", "/api/v1/console/links"), more).await;
    assert_eq!(more.status, StatusCode::FORBIDDEN);
    let fewer = json!({"policy": "registryRead"});
    let fewer = owner.send(("POST", "/api/v1/console/links"), fewer).await.json();
    let token = fewer["token"].as_str().unwrap();
    let opened = exchange(&owner.router, token).await.json();
    assert_eq!(opened["rights"], json!(["registryRead"]));
}

#[tokio::test(start_paused = true)]
async fn what_another_page_sends_is_refused_although_the_cookie_is_good() {
    let machine = Machine::new();
    let r = machine.start(1);
    let b = Browser::sign_in(&r, "iothubowner").await;
    let csrf = ("x-selvedge-csrf", b.csrf.as_str());
    let origin = ("origin", ORIGIN);
    let check = async |method: &str, headers: &[(&str, &str)], expected: u16| {
        let cookie = [("cookie", b.cookie.as_str())];
        let all: Vec<_> = cookie.iter().chain(headers).copied().collect();
        let body = if method == "GET" { Value::Null } else { json!({}) };
        let page = ask(&b.router, (method, "/devices/d1"), &all, body).await;
        assert_eq!(page.status.as_u16(), expected, "{method} {headers:?}");
        if expected == 403 {
            assert_eq!(page.header("iothub-errorcode"), "CsrfRejected");
        }
    };
    check("PUT", &[origin], 403).await;
    check("PUT", &[csrf], 403).await;
    check("PUT", &[origin, ("x-selvedge-csrf", "wrong")], 403).await;
    check("PUT", &[csrf, ("origin", "https://hub.test:444")], 403).await;
    check("PUT", &[csrf, ("origin", "http://hub.test")], 403).await;
    check("PUT", &[csrf, ("origin", "null")], 403).await;
    check("PUT", &[csrf, origin, ("sec-fetch-site", "same-site")], 403).await;
    check("GET", &[("sec-fetch-site", "cross-site")], 403).await;
    check("GET", &[("origin", "https://evil.test")], 403).await;
    check("PUT", &[csrf, origin, ("sec-fetch-site", "same-origin")], 200).await;
    check("GET", &[], 200).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_not_ours_is_refused() {
    let machine = Machine::new();
    let r = machine.start(1);
    let router = r.hub.service_over_tls(no_peer);
    let token = fragment(&r, "iothubowner");
    let request = Request::post("/api/v1/console/exchange")
        .header("host", "rebound.test")
        .header("origin", "https://rebound.test")
        .body(Body::from(json!({"token": token}).to_string()))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(exchange(&router, &token).await.status, StatusCode::OK, "the token was not used up");
}

#[tokio::test(start_paused = true)]
async fn without_tls_there_is_no_sign_in_no_session_and_no_page() {
    let machine = Machine::new();
    let r = machine.start(1);
    let b = Browser::sign_in(&r, "iothubowner").await;
    let plain = r.hub.service();
    let cookie = [("cookie", b.cookie.as_str())];
    let page = ask(&plain, ("GET", "/devices"), &cookie, Value::Null).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    let opened = exchange(&plain, &fragment(&r, "iothubowner")).await;
    assert_eq!(opened.status, StatusCode::UNAUTHORIZED);
    let page = ask(&plain, ("GET", "/console/"), &[], Value::Null).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_revoked_signed_out_and_do_not_survive_a_restart() {
    let machine = Machine::new();
    let r = machine.start(1);
    let owner = Browser::sign_in(&r, "iothubowner").await;
    let other = Browser::sign_in(&r, "registryRead").await;
    let listed = owner.get("/api/v1/console/sessions").await.json();
    let all = listed["sessions"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    let id = |current: bool| {
        let found = all.iter().find(|session| session["current"] == current);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let path = format!("/api/v1/console/sessions/{}", id(false));
    assert_eq!(owner.send(("DELETE", &path), Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(owner.send(("DELETE", &path), Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(other.get("/devices").await.status, StatusCode::UNAUTHORIZED);
    let out = owner.send(("DELETE", "/api/v1/console/session"), Value::Null).await;
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(owner.get("/devices").await.status, StatusCode::UNAUTHORIZED);
    let survivor = Browser::sign_in(&r, "iothubowner").await;
    r.kill().await;
    let r = machine.start(2);
    let moved = Browser { router: r.hub.service_over_tls(no_peer), ..survivor };
    assert_eq!(moved.get("/devices").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn too_many_failed_exchanges_are_refused_with_a_time_to_wait() {
    let machine = Machine::new();
    let r = machine.start(1);
    let router = r.hub.service_over_tls(no_peer);
    for _ in 0..10 {
        assert_eq!(exchange(&router, "guess").await.status, StatusCode::UNAUTHORIZED);
    }
    let page = exchange(&router, "guess").await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(!page.header("retry-after").is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_are_served_compressed_with_tags_and_strict_headers() {
    let machine = Machine::new();
    let files = tempfile::TempDir::new().unwrap();
    fs::create_dir(files.path().join("assets")).unwrap();
    fs::write(files.path().join("index.html"), "<page>").unwrap();
    fs::write(files.path().join("assets/index.js"), "plain").unwrap();
    fs::write(files.path().join("assets/index.js.br"), "small").unwrap();
    let folder = files.path().to_owned();
    let r = machine.start_with(1, |settings| settings.console_folder = Some(folder));
    let router = r.hub.service_over_tls(no_peer);
    let get = async |path: &str, headers: &[(&str, &str)]| {
        ask(&router, ("GET", path), headers, Value::Null).await
    };
    let root = get("/", &[]).await;
    assert_eq!((root.status, root.header("location")), (StatusCode::FOUND, "/console/"));
    for view in ["/console/", "/console/devices/pump.1/twin", "/console/sign-in"] {
        let page = get(view, &[]).await;
        assert_eq!((page.status, page.bytes.as_slice()), (StatusCode::OK, &b"<page>"[..]));
        assert!(page.header("content-security-policy").contains("script-src 'self';"));
        assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        assert_eq!(page.header("cache-control"), "no-cache");
    }
    let small = get("/console/assets/index.js", &[("accept-encoding", "gzip, br")]).await;
    assert_eq!((small.bytes.as_slice(), small.header("content-encoding")), (&b"small"[..], "br"));
    assert_eq!(small.header("content-type"), "text/javascript; charset=utf-8");
    let plain = get("/console/assets/index.js", &[]).await;
    assert_eq!((plain.bytes.as_slice(), plain.header("content-encoding")), (&b"plain"[..], ""));
    assert_ne!(plain.header("etag"), small.header("etag"));
    let held = [("if-none-match", plain.header("etag"))];
    let known = get("/console/assets/index.js", &held).await;
    assert_eq!((known.status, known.bytes.len()), (StatusCode::NOT_MODIFIED, 0));
    for absent in ["/console/assets/none.js", "/console/assets/%2e%2e/%2e%2e/outside.js"] {
        assert_eq!(get(absent, &[]).await.status, StatusCode::NOT_FOUND, "{absent}");
    }
    let post = ask(&router, ("POST", "/console/"), &[], json!({})).await;
    assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn a_missing_build_is_a_page_that_says_what_to_do() {
    let machine = Machine::new();
    let empty = tempfile::TempDir::new().unwrap();
    let folder = empty.path().to_owned();
    let r = machine.start_with(1, |settings| settings.console_folder = Some(folder));
    let router = r.hub.service_over_tls(no_peer);
    let page = ask(&router, ("GET", "/console/"), &[], Value::Null).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8(page.bytes).unwrap().contains("cargo xtask console"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_session_that_opened_it() {
    let machine = Machine::new();
    let r = machine.start(1);
    let b = Browser::sign_in(&r, "iothubowner").await;
    let request = Request::get("/api/v1/telemetry/stream")
        .header("host", NAME)
        .header("cookie", &b.cookie)
        .body(Body::empty())
        .unwrap();
    let response = b.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let reading = axum::body::to_bytes(response.into_body(), usize::MAX);
    let ending = async {
        // Longer than the session lasts unused: the stream is a use of it.
        Host::sleep(Duration::from_mins(90)).await;
        b.send(("DELETE", "/api/v1/console/session"), Value::Null).await
    };
    let (read, out) = tokio::join!(reading, ending);
    assert!(read.is_ok());
    assert_eq!(out.status, StatusCode::NO_CONTENT);
}
