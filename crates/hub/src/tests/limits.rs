//! Every limit of the service API that a caller can reach, reached: what is as large as it is
//! taken, what is one larger is refused with words that name it.

use std::sync::Arc;

use api::fleet::DEVICE_ROWS_MAX;
use api::registry::LIST_TOP_MAX;
use api::telemetry::PAGE_MAX;
use axum::body::Body;
use http::{Request, StatusCode};
use journal::disk::file::FileDisk;
use model::method::{METHOD_CONNECT_TIMEOUT_MAX, METHOD_NAME_LEN_MAX, METHOD_PAYLOAD_BYTES_MAX};
use model::twin::limits::{PROPERTIES_BYTES_MAX, TAGS_BYTES_MAX};
use serde_json::{Value, json};
use testkit::world::Host;
use tower::ServiceExt as _;

use super::{Machine, NAME, Running};
use crate::live::shell::TOPICS_MAX;
use crate::methods::http::CALLS_PAGE_MAX;
use crate::service::http::{BODY_BYTES_MAX, EXCHANGE_BYTES_MAX};
use crate::shell::PARTITIONS_MAX;
use crate::{Hub, Settings};

async fn status(r: &Running, method: &str, path: &str, body: Value) -> u16 {
    let (status, answer) = r.call(method, path, body).await;
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}: {answer}");
    status.as_u16()
}

#[tokio::test(start_paused = true)]
async fn pages_may_have_as_many_rows_as_their_limits() {
    let machine = Machine::new();
    let r = machine.start(1);
    let check = async |path: &str, most: usize| {
        assert_eq!(status(&r, "GET", &format!("{path}={most}"), Value::Null).await, 200, "{path}");
        let more = format!("{path}={}", most + 1);
        assert_eq!(status(&r, "GET", &more, Value::Null).await, 400, "{more}");
    };
    // As Azure does, a list of devices answers what it may when it is asked for more.
    for top in [LIST_TOP_MAX, LIST_TOP_MAX + 1] {
        let path = format!("/devices?top={top}");
        assert_eq!(status(&r, "GET", &path, Value::Null).await, 200, "{path}");
    }
    check("/api/v1/devices?top", DEVICE_ROWS_MAX).await;
    check("/api/v1/telemetry?partition=0&max", PAGE_MAX).await;
}

/// A section of a twin of exactly so many bytes.
fn section(bytes: usize) -> Value {
    const TEXT_BYTES: usize = 4000;
    let (whole, rest) = ((bytes - 1) / TEXT_BYTES, (bytes - 1) % TEXT_BYTES);
    let mut texts = vec!["x".repeat(TEXT_BYTES); whole];
    texts.push("x".repeat(rest));
    json!({ "k": texts })
}

#[tokio::test(start_paused = true)]
async fn sections_of_a_twin_may_be_as_large_as_their_limits() {
    let machine = Machine::new();
    let r = machine.start(2);
    r.device("d1").await;
    let check = async |body: &dyn Fn(Value) -> Value, most: usize| {
        let path = "/twins/d1";
        assert_eq!(status(&r, "PATCH", path, body(section(most))).await, 200, "{most}");
        assert_eq!(status(&r, "PATCH", path, body(section(most + 1))).await, 413, "{most}");
    };
    check(&|section| json!({ "tags": section }), TAGS_BYTES_MAX).await;
    check(&|section| json!({ "properties": { "desired": section } }), PROPERTIES_BYTES_MAX).await;
}

#[tokio::test(start_paused = true)]
async fn method_calls_may_be_as_large_as_their_limits() {
    let machine = Machine::new();
    let r = machine.start(3);
    r.device("d1").await;
    // Nobody is connected: what is good enough to be sent meets nobody.
    let check = async |body: Value, expected: u16| {
        let found = status(&r, "POST", "/twins/d1/methods", body).await;
        assert_eq!(found, expected);
    };
    let name = |length: usize| json!({ "methodName": "m".repeat(length) });
    check(name(METHOD_NAME_LEN_MAX), 404).await;
    check(name(METHOD_NAME_LEN_MAX + 1), 400).await;
    // Two quotation marks belong to it.
    let payload = |bytes: usize| json!({ "methodName": "m", "payload": "p".repeat(bytes - 2) });
    check(payload(METHOD_PAYLOAD_BYTES_MAX), 404).await;
    check(payload(METHOD_PAYLOAD_BYTES_MAX + 1), 413).await;
    let wait = |seconds: u64| json!({ "methodName": "m", "connectTimeoutInSeconds": seconds });
    let most = METHOD_CONNECT_TIMEOUT_MAX.as_secs();
    check(wait(most), 404).await;
    check(wait(most + 1), 400).await;
}

#[tokio::test(start_paused = true)]
async fn a_history_of_calls_comes_in_pages_of_the_limit() {
    let machine = Machine::new();
    let r = machine.start(4);
    r.device("d1").await;
    for _ in 0..=CALLS_PAGE_MAX {
        status(&r, "POST", "/twins/d1/methods", json!({ "methodName": "m" })).await;
    }
    let path = format!("/api/v1/devices/d1/methods?max={}", CALLS_PAGE_MAX + 1);
    let (_, page) = r.call("GET", &path, Value::Null).await;
    let rows = page["calls"].as_array().unwrap_or_else(|| panic!("{page}"));
    assert_eq!(rows.len() as u64, CALLS_PAGE_MAX);
}

#[tokio::test(start_paused = true)]
async fn bodies_may_be_as_large_as_their_limits() {
    let machine = Machine::new();
    let r = machine.start(5);
    r.device("d1").await;
    let body = |bytes: usize| {
        let start = "{\"tags\":{}}";
        format!("{start}{}", " ".repeat(bytes - start.len()))
    };
    let key = r.hub.policy_key("iothubowner").unwrap();
    let lifetime = std::time::Duration::from_hours(1);
    let token = super::token(&r.world(), NAME, Some("iothubowner"), &key, lifetime);
    let check = async |bytes: usize, expected: u16| {
        let request = Request::patch(format!("https://{NAME}/twins/d1?api-version=2021-04-12"))
            .header("authorization", token.expose_str().unwrap())
            .body(Body::from(body(bytes)))
            .unwrap();
        let answer = r.service.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{bytes}");
    };
    check(BODY_BYTES_MAX, 200).await;
    check(BODY_BYTES_MAX + 1, 413).await;
    // Whoever exchanges a link for a session has proven nothing yet, and may say little.
    let router = r.hub.service_over_tls(|_| None);
    let check = async |bytes: usize, too_large: bool| {
        let request = Request::post("/api/v1/console/exchange")
            .header("host", NAME)
            .header("origin", "https://hub.test")
            .body(Body::from(" ".repeat(bytes)))
            .unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16() == 413, too_large, "{bytes}: {}", answer.status());
    };
    check(EXCHANGE_BYTES_MAX, false).await;
    check(EXCHANGE_BYTES_MAX + 1, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_have_as_many_topics_as_its_limit() {
    let machine = Machine::new();
    let r = machine.start(6);
    let check = async |count: usize, expected: u16| {
        let topics: Vec<String> = (0..count).map(|at| format!("topic=device:d{at}")).collect();
        let path = format!("/api/v1/events?{}", topics.join("&"));
        let key = r.hub.policy_key("iothubowner").unwrap();
        let lifetime = std::time::Duration::from_hours(1);
        let token = super::token(&r.world(), NAME, Some("iothubowner"), &key, lifetime);
        let request = Request::get(format!("https://{NAME}{path}"))
            .header("authorization", token.expose_str().unwrap())
            .body(Body::empty())
            .unwrap();
        let answer = r.service.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{count}");
    };
    check(TOPICS_MAX, 200).await;
    check(TOPICS_MAX + 1, 400).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_may_have_as_many_partitions_as_its_limit() {
    let check = |partitions: u16, good: bool| {
        let machine = Machine::new();
        let disk = Arc::new(FileDisk::open(machine.path().join("telemetry")).unwrap());
        let mut settings = Settings::new(machine.path(), NAME);
        settings.partitions = partitions;
        let host = Host::new(7);
        assert_eq!(Hub::open(settings, host.world(), disk).is_ok(), good, "{partitions}");
    };
    check(PARTITIONS_MAX, true);
    check(PARTITIONS_MAX + 1, false);
}
