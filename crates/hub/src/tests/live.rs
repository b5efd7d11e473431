//! What is seen while it happens: presence, streams, desired changes of a deployment.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use model::message::Message;
use model::time::Tick;
use model::waist::{Answer, Claim, DeviceRequest, LinkKind, ModuleOperation, ask};
use serde_json::{Value, json};
use testkit::world::Host;
use tower::ServiceExt as _;

use super::{Machine, NAME, Running, token};

const CLEAN: LinkKind = LinkKind::Mqtt { clean: true };

async fn send(running: &Running, claim: &Claim, body: &'static str) {
    let session = running.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    let message = Message { body: Bytes::from_static(body.as_bytes()), ..Message::default() };
    let request = DeviceRequest::SendTelemetry(Box::new(message));
    assert_eq!(ask(&*session, request, Tick::NEVER).await, Ok(Answer::Accepted));
}

/// Events of a stream as `(id, body)`.
struct Stream(axum::body::BodyDataStream, String);

impl Stream {
    async fn open(running: &Running, query: &str, last: Option<&str>) -> Self {
        let key = running.hub.policy_key("service").unwrap();
        let token = token(&running.world(), NAME, Some("service"), &key, Duration::from_hours(9));
        let mut request = Request::builder()
            .uri(format!("/api/v1/telemetry/stream{query}"))
            .header("authorization", token.expose_str().unwrap());
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = running.service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response.into_body().into_data_stream(), String::new())
    }

    async fn next(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.1.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.1 = rest;
                if let Some(read) = Self::read(&event) {
                    return Some(read);
                }
                continue;
            }
            self.1 += std::str::from_utf8(&self.0.next().await?.unwrap()).unwrap();
        }
    }

    fn read(event: &str) -> Option<(String, String)> {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(field("data: ")?).unwrap();
        Some((field("id: ")?.to_owned(), data["body"].as_str()?.to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_what_comes_and_goes_on_where_it_was_cut() {
    let machine = Machine::new();
    let r = machine.start(1);
    let (one, two) = (r.device("d1").await, r.device("d2").await);
    send(&r, &one, "before").await;
    let mut live = Stream::open(&r, "?from=now", None).await;
    let mut only = Stream::open(&r, "?from=start&device=d1", None).await;
    send(&r, &two, "a").await;
    send(&r, &one, "b").await;
    send(&r, &two, "c").await;
    let mut ids = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (id, body) = live.next().await.unwrap();
        ids.push(id);
        seen.push(body);
    }
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"]);
    assert_eq!(only.next().await.unwrap().1, "before");
    assert_eq!(only.next().await.unwrap().1, "b");
    drop(live);
    let mut resumed = Stream::open(&r, "?from=now", Some(&ids[1])).await;
    send(&r, &one, "d").await;
    let rest = [resumed.next().await.unwrap().1, resumed.next().await.unwrap().1];
    assert!(rest.contains(&"d".to_owned()), "{rest:?}");
    // Silence for hours ends nothing; the hub's end does.
    Host::sleep(Duration::from_hours(3)).await;
    r.hub.close().await;
    assert_eq!(resumed.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn presence_is_known_at_once_and_survives_a_restart_lazily() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let state = async |r: &Running| {
        let (_, device) = r.call("GET", "/devices/d1", Value::Null).await;
        let text = |name: &str| device[name].as_str().unwrap().to_owned();
        (text("connectionState"), text("lastActivityTime"))
    };
    let session = r.api.open(claim, CLEAN, Tick::NEVER).await.unwrap().session;
    let (connected, seen) = state(&r).await;
    assert_eq!(connected, "Connected");
    assert_ne!(seen, "0001-01-01T00:00:00Z");
    let (_, counts) = r.call("GET", "/statistics/service", Value::Null).await;
    assert_eq!(counts, json!({"connectedDeviceCount": 1}));
    drop(session);
    let (gone, left) = state(&r).await;
    assert_eq!(gone, "Disconnected");
    Host::sleep(Duration::from_mins(2)).await;
    r.kill().await;
    let r = machine.start(2);
    assert_eq!(state(&r).await, ("Disconnected".to_owned(), left));
}

#[tokio::test(start_paused = true)]
async fn a_known_certificate_opens_a_session_until_it_ends() {
    use credentials::certificate::{Authority, Leaf, Validity};
    use credentials::skew::CLOCK_SKEW;

    let machine = Machine::new();
    let r = machine.start(1);
    let now = r.world().now().wall;
    let validity = Validity { now, life: Duration::from_hours(2), serial: 7 };
    let der = Authority::generate("d1", validity).unwrap().der().clone();
    let leaf = Leaf::parse(&der).unwrap();
    let put = async |name: &str, thumbprint: &str| {
        let x509 = json!({"primaryThumbprint": thumbprint});
        let body = json!({"authentication": {"type": "selfSigned", "x509Thumbprint": x509}});
        let (status, answer) = r.call("PUT", &format!("/devices/{name}"), body).await;
        assert_eq!(status, 200, "{answer}");
    };
    put("d1", &leaf.thumbprint_sha1).await;
    put("d2", &"0".repeat(40)).await;
    let open = async |name: &str| {
        let identity = name.parse().unwrap();
        let claim = Claim::Certificates { identity, chain: [der.clone()].into() };
        r.api.open(claim, CLEAN, Tick::NEVER).await.map(|opened| opened.valid_until)
    };
    let grace = leaf.not_after.after(CLOCK_SKEW);
    assert_eq!(open("d1").await, Ok(Some(grace)));
    assert!(open("d2").await.is_err(), "another device's certificate");
    r.device("d3").await;
    assert!(open("d3").await.is_err(), "a device with keys");
    Host::sleep(Duration::from_hours(2)).await;
    assert_eq!(open("d1").await, Ok(Some(grace)));
    Host::sleep(CLOCK_SKEW).await;
    assert!(open("d1").await.is_err(), "the certificate has ended");
}

#[tokio::test(start_paused = true)]
async fn the_device_policy_opens_sessions_of_any_device_and_others_open_none() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let open = async |policy: &str| {
        let key = r.hub.policy_key(policy).unwrap();
        let token = token(&r.world(), NAME, Some(policy), &key, Duration::from_hours(1));
        let claim = Claim::Sas { identity: "d1".parse().unwrap(), token };
        r.api.open(claim, CLEAN, Tick::NEVER).await.map(|_| ())
    };
    assert_eq!(open("device").await, Ok(()));
    assert_eq!(open("iothubowner").await, Ok(()));
    assert!(open("service").await.is_err());
    assert!(open("registryReadWrite").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_changed_key_ends_sessions_and_a_new_reason_does_not() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let session = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    let put = async |body: Value| {
        let call = ("PUT", "/devices/d1");
        let (status, answer) = r.call_as("iothubowner", call, Some("*"), body).await;
        assert_eq!(status, 200, "{answer}");
    };
    put(json!({"statusReason": "looked at"})).await;
    assert!(ask(&*session, DeviceRequest::ReadTwin, Tick::NEVER).await.is_ok());
    let key = json!({"primaryKey": "bmV3IGtleSBuZXcga2V5IG5ldw=="});
    put(json!({"authentication": {"symmetricKey": key}})).await;
    assert!(ask(&*session, DeviceRequest::ReadTwin, Tick::NEVER).await.is_err());
    assert!(r.api.open(claim, CLEAN, Tick::NEVER).await.is_err(), "the old key is gone");
}

#[tokio::test(start_paused = true)]
async fn https_takes_nobody_over_and_ends_with_its_device() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let mqtt = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    let https = r.api.open(claim, LinkKind::Https, Tick::NEVER).await.unwrap().session;
    let modules = || DeviceRequest::Modules(ModuleOperation::List);
    assert!(ask(&*mqtt, DeviceRequest::ReadTwin, Tick::NEVER).await.is_ok());
    assert_eq!(ask(&*https, modules(), Tick::NEVER).await, Ok(Answer::Modules(Vec::new())));
    let call = ("PUT", "/devices/d1");
    r.call_as("iothubowner", call, Some("*"), json!({"status": "disabled"})).await;
    assert!(ask(&*mqtt, modules(), Tick::NEVER).await.is_err());
    assert!(ask(&*https, modules(), Tick::NEVER).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_edge_device_keeps_its_own_module_identities() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("e").await;
    let session = r.api.open(claim, LinkKind::Https, Tick::NEVER).await.unwrap().session;
    let work = async |operation: ModuleOperation| match ask(
        &*session,
        DeviceRequest::Modules(operation),
        Tick::NEVER,
    )
    .await
    .unwrap()
    {
        Answer::Modules(modules) => modules,
        Answer::Accepted => Vec::new(),
        other => panic!("{other:?}"),
    };
    let ensure =
        || ModuleOperation::Ensure { name: "m".parse().unwrap(), managed_by: "IotEdge".into() };
    let made = work(ensure()).await;
    assert!(made[0].primary_key.is_some() && &*made[0].managed_by == "IotEdge");
    assert_eq!(work(ensure()).await, made, "once made it stays as it is");
    assert_eq!(work(ModuleOperation::List).await, made);
    for _ in 0..2 {
        work(ModuleOperation::Delete { name: "m".parse().unwrap() }).await;
    }
    let again = work(ensure()).await;
    assert_ne!(again[0].generation_id, made[0].generation_id);
}
