//! The console's stream: topics, limits, slow browsers, and browsers that come back.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use model::feature::{Feature, Subscription};
use model::id::IdentityId;
use model::message::Message;
use model::method::MethodResponse;
use model::time::{Tick, WallTime};
use model::waist::{
    Answer, BATCH_REQUESTS_MAX, Batch, Claim, Credit, DeviceEvent, DeviceRequest, LinkKind, ask,
};
use serde_json::{Value, json};
use testkit::world::Host;
use tower::ServiceExt as _;

use super::console::Browser;
use super::{Machine, NAME, Running, resource, token};

const CLEAN: LinkKind = LinkKind::Mqtt { clean: true };
/// Longer than any test waits for one event, in virtual time.
const PATIENCE: Duration = Duration::from_mins(2);

/// One event: kind, id, data.
#[derive(Debug)]
struct Event {
    kind: String,
    id: String,
    data: Value,
}

struct Watcher {
    body: axum::body::BodyDataStream,
    text: String,
    /// Updates of other topics than the one that was waited for.
    aside: Vec<Value>,
}

fn encoded(topics: &[&str]) -> String {
    let pairs: Vec<_> = topics
        .iter()
        .map(|topic| {
            let all = percent_encoding::NON_ALPHANUMERIC;
            format!("topic={}", percent_encoding::utf8_percent_encode(topic, all))
        })
        .collect();
    pairs.join("&")
}

async fn request(
    router: &Router,
    topics: &[&str],
    headers: &[(&str, &str)],
) -> http::Response<Body> {
    let mut request =
        Request::builder().uri(format!("/api/v1/events?{}", encoded(topics))).header("host", NAME);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn owner_token(r: &Running) -> String {
    let key = r.hub.policy_key("iothubowner").unwrap();
    let token = token(&r.world(), NAME, Some("iothubowner"), &key, Duration::from_hours(9));
    token.expose_str().unwrap().to_owned()
}

impl Watcher {
    fn of(response: http::Response<Body>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
            aside: Vec::new(),
        }
    }

    async fn open(r: &Running, topics: &[&str]) -> Self {
        Self::open_with(r, topics, &[]).await
    }

    async fn open_with(r: &Running, topics: &[&str], headers: &[(&str, &str)]) -> Self {
        let token = owner_token(r);
        let own = [("authorization", token.as_str())];
        let all: Vec<_> = own.iter().chain(headers).copied().collect();
        Self::of(request(&r.service, topics, &all).await)
    }

    /// The next event; `None` when the stream ended. Comments are passed over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let Some(data) = field("data: ") {
                    return Some(Event {
                        kind: field("event: ").unwrap().to_owned(),
                        id: field("id: ").unwrap_or_default().to_owned(),
                        data: serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")),
                    });
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next()).await;
            let chunk = chunk.expect("the stream is silent for too long")?;
            self.text += std::str::from_utf8(&chunk.unwrap()).unwrap();
        }
    }

    async fn expect(&mut self, kind: &str) -> Event {
        let event = self.next().await.expect("the stream ended");
        assert_eq!(event.kind, kind, "{event:?}");
        event
    }

    /// The next update of `topic`.
    async fn update(&mut self, topic: &str) -> Value {
        if let Some(at) = self.aside.iter().position(|data| data["topic"] == topic) {
            return self.aside.remove(at);
        }
        loop {
            let event = self.next().await.expect("the stream ended");
            match event.kind.as_str() {
                "update" if event.data["topic"] == topic => return event.data,
                "update" => self.aside.push(event.data),
                _ => {}
            }
        }
    }
}

async fn send(r: &Running, claim: &Claim, bodies: &[String]) {
    let session = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    for body in bodies {
        let mut message = Message { body: Bytes::from(body.clone()), ..Message::default() };
        message.system.content_type = Some("application/json".into());
        message.system.content_encoding = Some("utf-8".into());
        let request = DeviceRequest::SendTelemetry(Box::new(message));
        assert_eq!(ask(&*session, request, Tick::NEVER).await, Ok(Answer::Accepted));
    }
}

/// As [`send`], many in one batch.
async fn send_at_once(r: &Running, claim: &Claim, bodies: &[String]) {
    let session = r.api.open(claim.clone(), CLEAN, Tick::NEVER).await.unwrap().session;
    let request = |body: &String| {
        let message = Message { body: Bytes::from(body.clone()), ..Message::default() };
        DeviceRequest::SendTelemetry(Box::new(message))
    };
    for bodies in bodies.chunks(BATCH_REQUESTS_MAX) {
        let batch = Batch(bodies.iter().map(request).collect());
        let mut completion = session.submit(batch, Tick::NEVER).unwrap();
        for _ in bodies {
            assert_eq!(completion.next().await, Some(Ok(Answer::Accepted)));
        }
    }
}

fn bodies(data: &Value) -> Vec<&str> {
    let rows = data["data"]["rows"].as_array().unwrap();
    rows.iter().map(|row| row["body"].as_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn state_comes_at_once_and_again_when_it_changes() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let mut watcher = Watcher::open(&r, &["overview", "device:d1", "changes"]).await;
    let hello = watcher.expect("hello").await;
    assert_eq!(hello.data["resumed"], false);
    assert_eq!(hello.data["topics"].as_array().unwrap().len(), 3);
    assert_eq!(watcher.update("overview").await["data"]["devices"]["total"], 1);
    let shown = watcher.update("device:d1").await;
    let version = shown["data"]["twins"][0]["desiredVersion"].as_u64().unwrap();
    let patch = json!({"properties": {"desired": {"x": 1}}});
    assert_eq!(r.call("PATCH", "/twins/d1", patch).await.0, StatusCode::OK);
    let change = watcher.update("changes").await;
    assert_eq!(change["data"]["changes"][0]["kind"], "desiredUpdated");
    let shown = watcher.update("device:d1").await;
    assert_eq!(shown["data"]["twins"][0]["desiredVersion"], version + 1);
    r.device("d2").await;
    while watcher.update("overview").await["data"]["devices"]["total"] != 2 {}
    assert_eq!(r.call("DELETE", "/devices/d1", Value::Null).await.0, StatusCode::NO_CONTENT);
    loop {
        let event = watcher.next().await.unwrap();
        if event.kind == "gone" {
            assert_eq!(event.data["topic"], "device:d1");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn telemetry_is_filtered_by_the_hub_and_no_other_device_is_seen() {
    let machine = Machine::new();
    let r = machine.start(1);
    let (one, two) = (r.device("d1").await, r.device("d2").await);
    let hot = "telemetry:d1?$body.t > 10";
    let mut watcher = Watcher::open(&r, &["telemetry:d1", hot]).await;
    watcher.expect("hello").await;
    let readings: Vec<_> = (0..5).map(|n| format!("{{\"t\":{}}}", n * 5)).collect();
    send(&r, &two, &readings).await;
    send(&r, &one, &readings).await;
    let (mut all, mut matching) = (Vec::new(), Vec::new());
    while all.len() < 5 || matching.len() < 2 {
        let event = watcher.expect("update").await;
        let rows: Vec<_> = bodies(&event.data).into_iter().map(str::to_owned).collect();
        assert_eq!(event.data["dropped"], 0);
        if event.data["topic"] == hot { &mut matching } else { &mut all }.extend(rows);
    }
    assert_eq!(all, readings);
    assert_eq!(matching, readings[3..]);
}

/// Every body of a page after page, and how many pages that took.
async fn pages(r: &Running, query: &str) -> (Vec<String>, usize) {
    let (mut all, mut place, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/api/v1/telemetry?{query}{place}");
        let (status, page) = r.call("GET", &path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {page}");
        let rows = page["messages"].as_array().unwrap();
        all.extend(rows.iter().map(|row| row["body"].as_str().unwrap().to_owned()));
        pages += 1;
        if page["next"] == page["end"] {
            return (all, pages);
        }
        place = format!("&partition={}&from={}", page["partition"], page["next"]);
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_telemetry_are_filtered_by_the_hub_from_any_time_on() {
    let machine = Machine::new();
    let r = machine.start(1);
    let (one, two) = (r.device("d1").await, r.device("d2").await);
    let readings = |from: u32| (from..from + 5).map(|n| format!("{{\"t\":{n}}}")).collect();
    let (early, late): (Vec<String>, Vec<String>) = (readings(0), readings(5));
    send(&r, &one, &early).await;
    send(&r, &two, &early).await;
    Host::sleep(Duration::from_mins(10)).await;
    let since = r.world().now().wall;
    send(&r, &one, &late).await;
    let all: Vec<_> = early.iter().chain(&late).cloned().collect();
    assert_eq!(pages(&r, "device=d1").await.0, all);
    assert_eq!(pages(&r, "device=d1&module=m").await.0, [""; 0]);
    let odd = "device=d1&max=2&filter=%24body.t%20%3E%203%20AND%20%24body.t%20%3C%209";
    assert_eq!(pages(&r, odd).await, (all[4..9].to_vec(), 3));
    let of = |query: &str| format!("/api/v1/telemetry?device=d1&{query}");
    let (_, page) = r.call("GET", &of(&format!("since={since}")), Value::Null).await;
    assert_eq!(bodies(&json!({"data": {"rows": page["messages"]}})), late);
    let never = WallTime(since.0 + 3_600_000);
    let (_, page) = r.call("GET", &of(&format!("since={never}")), Value::Null).await;
    assert_eq!((&page["messages"], &page["next"]), (&json!([]), &page["end"]));
    for (query, words) in [
        ("filter=%24body.t%20%3E", "`filter`: at position 9"),
        ("since=yesterday", "`since` must be a time"),
        ("since=2026-11-23T00:00:00Z&from=0", "give one"),
    ] {
        let (status, said) = r.call("GET", &of(query), Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{said}");
        assert!(said["Message"].as_str().unwrap().contains(words), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_finds_nothing_looks_at_so_much_and_says_where_to_go_on() {
    let machine = Machine::new();
    let r = machine.start(1);
    let one = r.device("d1").await;
    let flood: Vec<_> = (0..21_000).map(|n| n.to_string()).collect();
    send_at_once(&r, &one, &flood).await;
    let path = "/api/v1/telemetry?device=d1&filter=a%20%3D%20%27b%27";
    let (_, page) = r.call("GET", path, Value::Null).await;
    assert_eq!(page["messages"], json!([]));
    assert_eq!(page["next"].as_u64().unwrap() - page["first"].as_u64().unwrap(), 20_000);
    assert_eq!(pages(&r, "device=d1&filter=a%20%3D%20%27b%27").await, (Vec::new(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_told_four_times_a_second_with_what_was_left_out() {
    let machine = Machine::new();
    let r = machine.start(1);
    let one = r.device("d1").await;
    let mut watcher = Watcher::open(&r, &["telemetry:d1"]).await;
    watcher.expect("hello").await;
    let began = r.world().now().tick;
    let flood: Vec<_> = (0..3000).map(|n| n.to_string()).collect();
    send(&r, &one, &flood).await;
    let (mut seen, mut dropped, mut updates) = (0, 0, 0);
    while seen + dropped < 3000 {
        let data = watcher.update("telemetry:d1").await;
        seen += bodies(&data).len() as u64;
        dropped += data["dropped"].as_u64().unwrap();
        updates += 1;
    }
    assert_eq!(seen + dropped, 3000);
    assert!(dropped > 0, "the limit was reached");
    let quarters = r.world().now().tick.since(began).as_millis() / 250 + 1;
    assert!(updates <= quarters, "{updates} updates in {quarters} quarters of a second");
}

#[tokio::test(start_paused = true)]
async fn topics_are_changed_without_a_new_stream() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let mut watcher = Watcher::open(&r, &["overview"]).await;
    let hello = watcher.expect("hello").await;
    let path = format!("/api/v1/events/{}/topics", hello.data["stream"].as_str().unwrap());
    let (status, body) = r.call("POST", &path, json!({"topics": ["device:d1"]})).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"topics": ["device:d1"]})));
    watcher.update("device:d1").await;
    Host::sleep(Duration::from_secs(5)).await;
    for wrong in [json!({"topics": ["x"]}), json!({"topics": ["telemetry:d1?a ="]}), json!({})] {
        assert_eq!(r.call("POST", &path, wrong).await.0, StatusCode::BAD_REQUEST);
    }
    let many: Vec<_> = (0..17).map(|n| format!("device:{n}")).collect();
    assert_eq!(r.call("POST", &path, json!({"topics": many})).await.0, StatusCode::BAD_REQUEST);
    let unknown = ("POST", "/api/v1/events/0000000000000000/topics");
    let (status, _) = r.call(unknown.0, unknown.1, json!({"topics": []})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let service = r.call_as("service", ("POST", &path), None, json!({"topics": []})).await;
    assert_eq!(service.0, StatusCode::NOT_FOUND, "another policy's stream is not there");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_soon_goes_on_where_it_was_and_who_comes_late_begins_anew() {
    let machine = Machine::new();
    let r = machine.start(1);
    let one = r.device("d1").await;
    let mut watcher = Watcher::open(&r, &["telemetry:d1"]).await;
    watcher.expect("hello").await;
    send(&r, &one, &["1".into()]).await;
    let first = watcher.expect("update").await;
    drop(watcher);
    send(&r, &one, &["2".into()]).await;
    Host::sleep(Duration::from_secs(20)).await;
    let mut back = Watcher::open_with(&r, &["telemetry:d1"], &[("last-event-id", &first.id)]).await;
    let hello = back.expect("hello").await;
    assert_eq!((&hello.data["resumed"], &hello.data["missed"]), (&json!(true), &json!(0)));
    assert_eq!(bodies(&back.expect("update").await.data), ["2"]);
    // Again from the first: what was sent since comes a second time.
    let mut again =
        Watcher::open_with(&r, &["telemetry:d1"], &[("last-event-id", &first.id)]).await;
    assert_eq!(again.expect("hello").await.data["missed"], 0);
    assert_eq!(bodies(&again.expect("update").await.data), ["2"]);
    assert!(back.next().await.is_none(), "only the newest connection serves a stream");
    drop(again);
    Host::sleep(Duration::from_mins(1)).await;
    let mut late = Watcher::open_with(&r, &["telemetry:d1"], &[("last-event-id", &first.id)]).await;
    assert_eq!(late.expect("hello").await.data["resumed"], false);
    let (_, health) = r.call("GET", "/api/v1/health", Value::Null).await;
    assert_eq!((&health["live"]["open"], &health["live"]["cut"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_browser_that_takes_nothing_is_cut_off_and_harms_nobody() {
    let machine = Machine::new();
    let r = machine.start(1);
    let one = r.device("d1").await;
    let mut slow = Watcher::open(&r, &["telemetry:d1", "overview"]).await;
    slow.expect("hello").await;
    let mut quick = Watcher::open(&r, &["telemetry:d1"]).await;
    quick.expect("hello").await;
    let (mut seen, mut most) = (0, 0);
    for round in 0..60 {
        let rows: Vec<_> = (0..20).map(|_| format!("\"{}\"", "x".repeat(900))).collect();
        send(&r, &one, &rows).await;
        while seen < (round + 1) * 20 {
            seen += bodies(&quick.update("telemetry:d1").await).len();
        }
        let (_, health) = r.call("GET", "/api/v1/health", Value::Null).await;
        most = most.max(health["live"]["pendingBytes"].as_u64().unwrap());
        Host::sleep(Duration::from_secs(1)).await;
    }
    assert!(most > 200 * 1024, "the room was used: {most}");
    assert!(most <= 256 * 1024, "and never more than that: {most}");
    let (_, health) = r.call("GET", "/api/v1/health", Value::Null).await;
    let live = &health["live"];
    assert_eq!((&live["cut"], &live["open"]), (&json!(1), &json!(1)));
    assert!(live["overflows"].as_u64().unwrap() > 0, "{live}");
    assert!(live["dropped"].as_u64().unwrap() > 0, "{live}");
    loop {
        let Some(event) = slow.next().await else { panic!("it is told why") };
        if event.kind == "bye" {
            assert_eq!(event.data["reason"], "tooSlow");
            break;
        }
    }
    assert!(slow.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_session_and_has_no_more_rights() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let peer: fn(&http::Extensions) -> Option<IpAddr> = |_| None;
    let router = r.hub.service_over_tls(peer);
    let reader = Browser::sign_in(&r, "registryRead").await;
    let cookie = [("cookie", reader.cookie.as_str())];
    let refused = request(&router, &["telemetry:d1"], &cookie).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let mut watcher = Watcher::of(request(&router, &["overview"], &cookie).await);
    let hello = watcher.expect("hello").await;
    let path = format!("/api/v1/events/{}/topics", hello.data["stream"].as_str().unwrap());
    let more = reader.send(("POST", &path), json!({"topics": ["changes"]})).await;
    assert_eq!(more.status, StatusCode::FORBIDDEN);
    let other = Browser::sign_in(&r, "iothubowner").await;
    let stolen = other.send(("POST", &path), json!({"topics": []})).await;
    assert_eq!(stolen.status, StatusCode::NOT_FOUND);
    Host::sleep(Duration::from_secs(10)).await;
    let out = reader.send(("DELETE", "/api/v1/console/session"), Value::Null).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    loop {
        let event = watcher.next().await.unwrap();
        if event.kind == "bye" {
            assert_eq!(event.data["reason"], "signedOut");
            break;
        }
    }
    assert!(watcher.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_per_session_and_end_with_the_hub() {
    let machine = Machine::new();
    let r = machine.start(1);
    let peer: fn(&http::Extensions) -> Option<IpAddr> = |_| None;
    let router = r.hub.service_over_tls(peer);
    let b = Browser::sign_in(&r, "iothubowner").await;
    let cookie = [("cookie", b.cookie.as_str())];
    let mut all = Vec::new();
    for _ in 0..16 {
        all.push(Watcher::of(request(&router, &["overview"], &cookie).await));
    }
    let more = request(&router, &["overview"], &cookie).await;
    assert_eq!(more.status(), StatusCode::TOO_MANY_REQUESTS);
    // One that was left makes room, long before it would be forgotten.
    drop(all.remove(3));
    let mut more = Watcher::of(request(&router, &["overview"], &cookie).await);
    more.update("overview").await;
    all.push(more);
    r.hub.end_streams();
    for watcher in &mut all {
        loop {
            let event = watcher.next().await.unwrap();
            if event.kind == "bye" {
                assert_eq!(event.data["reason"], "stopping");
                break;
            }
        }
        assert!(watcher.next().await.is_none());
    }
    let late = request(&router, &["overview"], &cookie).await;
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// An agent that answers every method with what `answer` makes of name and payload.
async fn start_agent(
    r: &Running,
    answer: impl Fn(&str, &Value, i64) -> (i32, Value) + Send + 'static,
) {
    let edge = json!({"capabilities": {"iotEdge": true}});
    assert_eq!(r.call("PUT", "/devices/e", edge).await.0, StatusCode::OK);
    let (_, made) = r.call("GET", "/devices/e/modules/$edgeAgent", Value::Null).await;
    let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
    let identity: IdentityId = "e/$edgeAgent".parse().unwrap();
    let life = Duration::from_hours(9);
    let token = token(&r.world(), &resource(&identity), None, &key.into(), life);
    let claim = Claim::Sas { identity, token };
    let session = r.api.open(claim, CLEAN, Tick::NEVER).await.unwrap().session;
    let filter = "$iothub/methods/POST/#".into();
    let methods = Subscription { feature: Feature::Methods, qos: 0, filter };
    let subscribe = DeviceRequest::Subscribe([methods].into_iter().collect());
    ask(&*session, subscribe, Tick::NEVER).await.unwrap();
    let world = r.world();
    let clock = r.world();
    world.spawn(async move {
        loop {
            let credit = Credit::of_messages(0);
            let event = std::future::poll_fn(|cx| session.poll_event(cx, credit)).await;
            let DeviceEvent::Method { call, request, .. } = event else { continue };
            let payload = serde_json::from_slice(&request.payload).unwrap();
            let (status, body) = answer(&request.name, &payload, clock.now().wall.0);
            let response = MethodResponse { status, payload: body.to_string().into() };
            let told = DeviceRequest::AnswerMethod { call, response };
            ask(&*session, told, Tick::NEVER).await.ok();
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_log_is_followed_while_somebody_watches_and_each_line_comes_once() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let machine = Machine::new();
    let r = machine.start(1);
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let began = r.world().now().wall.0;
    // A line every half second since the beginning.
    let answer = move |name: &str, payload: &Value, now: i64| {
        assert_eq!(name, "GetModuleLogs");
        counter.fetch_add(1, Ordering::Relaxed);
        let since = payload["items"][0]["filter"]["since"].as_str();
        let since = since.map_or(0, |at| WallTime::parse_rfc3339(at).unwrap().0);
        let lines: Vec<Value> = (0..100_000)
            .map(|n| (n, began + n * 500))
            .take_while(|(_, at)| *at <= now)
            .filter(|(_, at)| *at >= since)
            .map(|(n, at)| {
                json!({"timestamp": WallTime(at).to_string(), "loglevel": 6,
                                  "text": format!("line {n}")})
            })
            .collect();
        (200, json!([{"id": "m", "payload": Value::Array(lines).to_string()}]))
    };
    start_agent(&r, answer).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody watches, nobody asks");
    let mut watcher = Watcher::open(&r, &["logs:e/m"]).await;
    let mut lines: Vec<String> = Vec::new();
    while lines.len() < 30 {
        let data = watcher.update("logs:e/m").await;
        assert_eq!(data["data"]["problem"], Value::Null);
        let news = data["data"]["lines"].as_array().unwrap();
        lines.extend(news.iter().map(|line| line["text"].as_str().unwrap().to_owned()));
    }
    let expected: Vec<_> = (0..lines.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
    let mut late = Watcher::open(&r, &["logs:e/m"]).await;
    let seen = late.update("logs:e/m").await["data"]["lines"].clone();
    assert_eq!(seen.as_array().unwrap().len(), lines.len(), "who comes later sees the last lines");
    drop((watcher, late));
    Host::sleep(Duration::from_mins(1)).await;
    let before = asked.load(Ordering::Relaxed);
    Host::sleep(Duration::from_mins(1)).await;
    assert_eq!(asked.load(Ordering::Relaxed), before, "the last watcher left");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_away_or_refuses_is_a_problem_in_words() {
    let machine = Machine::new();
    let r = machine.start(1);
    let edge = json!({"capabilities": {"iotEdge": true}});
    assert_eq!(r.call("PUT", "/devices/away", edge).await.0, StatusCode::OK);
    start_agent(&r, |_, _, _| (400, json!({"message": "no such module"}))).await;
    let topics = ["logs:away/m", "logs:e/m", "pipeline:e", "pipeline:away"];
    let mut watcher = Watcher::open(&r, &topics).await;
    watcher.expect("hello").await;
    for (topic, code) in topics.into_iter().zip(["offline", "refused", "refused", "offline"]) {
        let mut fresh = Watcher::open(&r, &[topic]).await;
        let problem = fresh.update(topic).await["data"]["problem"].clone();
        assert_eq!(problem["code"], code, "{topic} {problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_shows_totals_and_rates() {
    let machine = Machine::new();
    let r = machine.start(1);
    let began = r.world().now().wall.0;
    let answer = move |name: &str, _: &Value, now: i64| {
        assert_eq!(name, "GetRouterMetrics");
        let seconds = u64::try_from((now - began) / 1000).unwrap();
        let metrics = json!({
            "schemaVersion": "1.0", "uptimeSeconds": seconds,
            "routes": [{"name": "up", "source": "/messages/*", "condition": null,
                "endpoint": "$upstream", "priority": 0, "timeToLiveSecs": null}],
            "edgehub_messages_received_total": [{"id": "m", "value": seconds * 7}],
            "edgehub_messages_sent_total":
                [{"endpoint": "$upstream", "priority": 0, "value": seconds * 7}],
            "edgehub_queue_length":
                [{"endpoint": "$upstream", "priority": 0, "value": 3, "oldest_age_ms": 1500}],
            "edgehub_messages_dropped_total": [{"reason": "no_route", "value": 1}],
        });
        (200, metrics)
    };
    start_agent(&r, answer).await;
    let mut watcher = Watcher::open(&r, &["pipeline:e"]).await;
    let first = watcher.update("pipeline:e").await;
    assert_eq!(first["data"]["received"][0]["perSecond"], Value::Null);
    let second = watcher.update("pipeline:e").await;
    let rate = second["data"]["received"][0]["perSecond"].as_f64().unwrap();
    assert!((rate - 7.0).abs() < 0.1, "{rate}");
    assert_eq!(second["data"]["queues"][0]["oldestAgeSeconds"], 1.5);
    assert_eq!(second["data"]["routes"][0]["name"], "up");
}

#[tokio::test(start_paused = true)]
async fn calls_of_methods_are_remembered_without_their_payloads() {
    let machine = Machine::new();
    let r = machine.start(1);
    start_agent(&r, |name, _, _| (if name == "good" { 200 } else { 400 }, json!("secret"))).await;
    r.device("d").await;
    let call = async |path: &str, name: &str| {
        r.call("POST", path, json!({"methodName": name, "payload": {"key": "secret"}})).await
    };
    for (path, name) in [
        ("/twins/e/modules/$edgeAgent/methods", "good"),
        ("/twins/e/modules/$edgeAgent/methods", "bad"),
        ("/twins/e/methods", "lost"),
        ("/twins/d/methods", "other"),
    ] {
        call(path, name).await;
    }
    let (status, page) = r.call("GET", "/api/v1/devices/e/methods?max=2", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let [lost, bad] = &page["calls"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!((&lost["method"], &lost["status"]), (&json!("lost"), &Value::Null));
    assert!(lost["error"].as_str().unwrap().contains("not online"), "{lost}");
    assert_eq!((&bad["moduleId"], &bad["status"]), (&json!("$edgeAgent"), &json!(400)));
    assert_eq!(bad["by"], "policy iothubowner");
    let path = format!("/api/v1/devices/e/methods?before={}", page["next"]);
    let (_, rest) = r.call("GET", &path, Value::Null).await;
    assert_eq!(rest["calls"].as_array().unwrap().len(), 1);
    assert_eq!((&rest["calls"][0]["method"], &rest["next"]), (&json!("good"), &Value::Null));
    assert!(!page.to_string().contains("secret") && !rest.to_string().contains("secret"));
    let (_, feed) = r.call("GET", "/api/v1/changes", Value::Null).await;
    assert!(!feed.to_string().contains("secret"));
    assert!(feed.to_string().contains("methodInvoked"));
    let (status, _) =
        r.call_as("registryRead", ("GET", "/api/v1/devices/e/methods"), None, Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_token_and_goes_on_with_a_fresh_one() {
    let machine = Machine::new();
    let r = machine.start(1);
    let (life, start) = (Duration::from_mins(20), r.world().now().tick);
    let key = r.hub.policy_key("iothubowner").unwrap();
    let short = token(&r.world(), NAME, Some("iothubowner"), &key, life);
    let headers = [("authorization", short.expose_str().unwrap())];
    let mut watcher = Watcher::of(request(&r.service, &["changes"], &headers).await);
    let hello = watcher.expect("hello").await;
    r.device("d1").await;
    let seen = watcher.expect("update").await.id;
    let bye = watcher.expect("bye").await;
    assert_eq!(bye.data["reason"], "expired");
    assert!(watcher.next().await.is_none(), "nothing follows a goodbye");
    let span = r.world().now().tick.since(start);
    assert!(span >= life && span < life + Duration::from_mins(7), "{span:?}");
    r.device("d2").await;
    let mut again = Watcher::open_with(&r, &["changes"], &[("last-event-id", &seen)]).await;
    let back = again.expect("hello").await;
    assert_eq!(
        (&back.data["resumed"], &back.data["stream"]),
        (&json!(true), &hello.data["stream"])
    );
    let change = again.update("changes").await;
    assert_eq!(change["data"]["changes"][0]["deviceId"], "d2", "what came meanwhile is told");
}
