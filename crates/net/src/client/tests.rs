use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::routing::{get, put};
use credentials::certificate::{Authority, Validity, client_verifier};
use model::feature::{Feature, Subscription};
use model::message::Message;
use model::method::{MethodCallId, MethodRequest, MethodResponse};
use model::secret::Secret;
use model::twin::{TwinPatch, Version};
use model::waist::{
    Answer, Batch, Credit, DeviceEvent, DeviceRequest, DeviceSession, FreshClaim, Leave,
    ModuleOperation, ask,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::core::EVENTS_BYTES_MAX;
use super::*;
use crate::http::HttpServer;
use crate::mqtt::MqttServer;
use crate::network::SystemNetwork;
use crate::testbed::{Cloud, Pipes, until, world};

struct Bench {
    cloud: Cloud,
    pipes: Arc<Pipes>,
    server: MqttServer,
    client: MqttClient,
    world: World,
}

async fn bench() -> Bench {
    let (cloud, pipes, world) = (Cloud::new(), Arc::new(Pipes::default()), world());
    let (hub, api) = (Address::Memory("hub".into()), Address::Memory("api".into()));
    let incoming = pipes.listen(&hub).await.unwrap();
    let server = MqttServer::start(incoming, None, Arc::new(cloud.clone()), &world);
    let target = Target { mqtt: hub, https: Some(api), tls: None, host: "hub.test".into() };
    let network = Arc::<Pipes>::clone(&pipes);
    let client = MqttClient::new(world.clone(), network, target);
    Bench { cloud, pipes, server, client, world }
}

fn claim(token: &str) -> Claim {
    Claim::Sas { identity: "d".parse().unwrap(), token: Secret::from(token) }
}

fn telemetry(body: &str) -> DeviceRequest {
    let body = bytes::Bytes::copy_from_slice(body.as_bytes());
    DeviceRequest::SendTelemetry(Box::new(Message { body, ..Message::default() }))
}

fn patch() -> DeviceRequest {
    let patch = TwinPatch(serde_json::from_str(r#"{"a":1}"#).unwrap());
    DeviceRequest::PatchReported { patch, if_version: None }
}

fn methods() -> FeatureSet {
    let filter = "$iothub/methods/POST/#".into();
    [Subscription { feature: Feature::Methods, qos: 1, filter }].into_iter().collect()
}

const SOME: Credit = Credit::of_messages(8);

impl Bench {
    async fn open(&self) -> Opened {
        let link = LinkKind::Mqtt { clean: false };
        self.client.open(claim("good"), link, Tick::NEVER).await.unwrap()
    }
}

async fn event(session: &dyn DeviceSession) -> DeviceEvent {
    poll_fn(|cx| session.poll_event(cx, SOME)).await
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_request_is_answered_in_order() {
    let bench = bench().await;
    let opened = bench.open().await;
    let session = &*opened.session;
    assert_eq!((opened.resumed, session.identity().as_str()), (false, "d"));
    let batch = vec![
        telemetry("one"),
        DeviceRequest::ReadTwin,
        telemetry("two"),
        patch(),
        DeviceRequest::Subscribe(methods()),
    ];
    let mut completion = session.submit(Batch(batch), Tick::NEVER).unwrap();
    assert_eq!(completion.next().await, Some(Ok(Answer::Accepted)));
    assert!(matches!(completion.next().await, Some(Ok(Answer::Twin(_)))));
    assert_eq!(completion.next().await, Some(Ok(Answer::Accepted)));
    assert_eq!(completion.next().await, Some(Ok(Answer::Patched(Version(1)))));
    assert_eq!(completion.next().await, Some(Ok(Answer::Subscribed(methods()))));
    assert_eq!(completion.next().await, None);
    assert_eq!(bench.cloud.bodies(), ["one", "two"]);

    let request = MethodRequest {
        name: "go".into(),
        payload: "1".into(),
        response_timeout: Duration::from_secs(9),
        connect_timeout: Duration::ZERO,
    };
    let call = MethodCallId(5);
    bench.cloud.push("d", DeviceEvent::Method { call, request, deadline: Tick::NEVER });
    let DeviceEvent::Method { call, request, .. } = event(session).await else { panic!() };
    assert_eq!(request.name, "go");
    let response = MethodResponse { status: 200, payload: "2".into() };
    let answered = ask(session, DeviceRequest::AnswerMethod { call, response }, Tick::NEVER).await;
    assert_eq!(answered, Ok(Answer::Accepted));
}

#[tokio::test(start_paused = true)]
async fn a_bad_claim_is_refused_and_an_absent_server_is_unavailable() {
    let bench = bench().await;
    let link = LinkKind::Mqtt { clean: true };
    let refused = bench.client.open(claim("bad"), link, Tick::NEVER).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unauthenticated);
    bench.pipes.down.store(true, Ordering::SeqCst);
    let refused = bench.client.open(claim("good"), link, Tick::NEVER).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unavailable);
    assert!(bench.client.open(claim("good"), LinkKind::Amqp, Tick::NEVER).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_connection() {
    let bench = bench().await;
    let opened = bench.open().await;
    bench.cloud.hold(100);
    let waiting = opened.session.submit(Batch::from(telemetry("lost?")), Tick::NEVER).unwrap();
    until(|| bench.cloud.held() == 1).await;
    bench.pipes.cut();
    assert_eq!(waiting.only().await.unwrap_err().kind, RefusalKind::TimedOut);
    let closed = event(&*opened.session).await;
    assert_eq!(closed, DeviceEvent::Closed(CloseReason::Disconnected));
    let late = ask(&*opened.session, telemetry("late"), Tick::NEVER).await;
    assert_eq!(late.unwrap_err().kind, RefusalKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_newer_session_ends_the_older_one_and_close_says_goodbye() {
    let bench = bench().await;
    let older = bench.open().await;
    let newer = bench.open().await;
    assert!(newer.resumed);
    let closed = event(&*older.session).await;
    assert_eq!(closed, DeviceEvent::Closed(CloseReason::Disconnected));
    newer.session.close(Leave::Asked);
    until(|| bench.cloud.leaves().contains(&Leave::Asked)).await;
    until(|| bench.server.open() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_session_cuts_its_connection() {
    let bench = bench().await;
    let opened = bench.open().await;
    drop(opened);
    until(|| bench.cloud.leaves() == [Leave::Lost { will: None }]).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_session_gives_the_batch_back_and_tells_when_there_is_room() {
    let bench = bench().await;
    let opened = bench.open().await;
    bench.cloud.hold(100_000);
    let mut waiting = Vec::new();
    let mut given_back = loop {
        match opened.session.submit(Batch::from(telemetry("x")), Tick::NEVER) {
            Ok(completion) => waiting.push(completion),
            Err(model::waist::Full(batch)) => break batch,
        }
        assert!(waiting.len() < 10_000, "there is no bound");
    };
    assert_eq!(given_back.0.len(), 1);
    until(|| bench.cloud.held() > 0).await;
    bench.cloud.release();
    loop {
        poll_fn(|cx| opened.session.poll_ready(cx)).await;
        match opened.session.submit(given_back, Tick::NEVER) {
            Ok(completion) => break waiting.push(completion),
            Err(model::waist::Full(batch)) => given_back = batch,
        }
    }
    let count = waiting.len();
    for completion in waiting {
        assert_eq!(completion.only().await, Ok(Answer::Accepted));
    }
    assert_eq!(bench.cloud.bodies().len(), count);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_noticed() {
    let bench = bench().await;
    let quiet = Address::Memory("quiet".into());
    let mut incoming = bench.pipes.listen(&quiet).await.unwrap();
    bench.world.spawn(async move {
        let mut stream = incoming.accept().await.unwrap().open().unwrap().stream;
        // CONNACK, and never a word again.
        stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let mut swallowed = Vec::new();
        stream.read_to_end(&mut swallowed).await.ok();
    });
    let target = Target { mqtt: quiet, https: None, tls: None, host: "hub.test".into() };
    let network = Arc::<Pipes>::clone(&bench.pipes);
    let client = MqttClient::new(bench.world.clone(), network, target);
    let opened =
        client.open(claim("good"), LinkKind::Mqtt { clean: false }, Tick::NEVER).await.unwrap();
    let start = bench.world.now().tick;
    let closed = event(&*opened.session).await;
    assert_eq!(closed, DeviceEvent::Closed(CloseReason::Disconnected));
    assert!(bench.world.now().tick.since(start) <= 2 * KEEP_ALIVE);
}

struct Tokens {
    world: World,
    life: Duration,
    token: &'static str,
}

impl ClaimSource for Tokens {
    fn claim(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<FreshClaim, Refusal>> + Send + '_>> {
        let valid_until = self.world.now().wall.after(self.life);
        Box::pin(async move { Ok(FreshClaim { claim: claim(self.token), valid_until }) })
    }
}

impl Bench {
    fn keep(&self, life: Duration, token: &'static str) -> Kept {
        let tokens = Tokens { world: self.world.clone(), life, token };
        self.client.keep("d".parse().unwrap(), Arc::new(tokens))
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_outlives_cuts_and_sends_again_what_has_no_answer() {
    let bench = bench().await;
    let mut kept = bench.keep(Duration::from_hours(1), "good");
    kept.link.wait_for(|link| *link == Link::Up { resumed: false }).await.unwrap();
    let subscribed = ask(&*kept.session, DeviceRequest::Subscribe(methods()), Tick::NEVER).await;
    assert_eq!(subscribed, Ok(Answer::Subscribed(methods())));
    // Opens the way for answers of twins, so that the patch is sent at once.
    ask(&*kept.session, DeviceRequest::ReadTwin, Tick::NEVER).await.unwrap();
    bench.cloud.hold(100);
    let first = kept.session.submit(Batch(vec![telemetry("a"), patch()]), Tick::NEVER).unwrap();
    until(|| bench.cloud.held() == 2).await;
    bench.pipes.down.store(true, Ordering::SeqCst);
    bench.pipes.cut();
    kept.link.wait_for(|link| matches!(link, Link::Down(_))).await.unwrap();
    let second = kept.session.submit(Batch(vec![telemetry("b")]), Tick::NEVER).unwrap();
    bench.cloud.release();
    tokio::time::sleep(Duration::from_mins(5)).await;
    bench.pipes.down.store(false, Ordering::SeqCst);
    kept.link.wait_for(|link| *link == Link::Up { resumed: true }).await.unwrap();
    let mut first = first;
    assert_eq!(first.next().await, Some(Ok(Answer::Accepted)));
    assert_eq!(first.next().await, Some(Ok(Answer::Patched(Version(2)))));
    assert_eq!(second.only().await, Ok(Answer::Accepted));
    assert_eq!(bench.cloud.bodies(), ["a", "a", "b"]);
    let subscribes = bench.cloud.calls().iter().filter(|call| *call == "Subscribe").count();
    // Methods, and the answers of twins before the first patch of each connection at most.
    assert!(subscribes <= 3, "{:?}", bench.cloud.calls());
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_proves_itself_again_before_its_claim_ends() {
    let bench = bench().await;
    let kept = bench.keep(Duration::from_secs(100), "good");
    for round in 0..20 {
        let sent = ask(&*kept.session, telemetry(&round.to_string()), Tick::NEVER).await;
        assert_eq!(sent, Ok(Answer::Accepted));
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let opens = bench.cloud.opens().len();
    assert!((7..=10).contains(&opens), "{opens} connections in 600 s with claims of 100 s");
    assert_eq!(bench.cloud.bodies().len(), 20);
    assert!(bench.cloud.leaves().iter().all(|leave| *leave == Leave::Asked));
}

#[tokio::test(start_paused = true)]
async fn a_kept_session_says_why_it_is_down_and_ends_when_closed() {
    let bench = bench().await;
    let mut kept = bench.keep(Duration::from_hours(1), "bad");
    let down = kept.link.wait_for(|link| matches!(link, Link::Down(_))).await.unwrap().clone();
    let Link::Down(refusal) = down else { panic!() };
    assert_eq!(refusal.kind, RefusalKind::Unauthenticated);
    let deadline = bench.world.now().tick.after(Duration::from_secs(20));
    let waiting = kept.session.submit(Batch::from(DeviceRequest::ReadTwin), deadline).unwrap();
    let refused = waiting.only().await.unwrap_err();
    assert!(matches!(refused.kind, RefusalKind::TimedOut | RefusalKind::Unavailable));
    kept.session.close(Leave::Asked);
    let closed = event(&*kept.session).await;
    assert_eq!(closed, DeviceEvent::Closed(CloseReason::Disconnected));
}

fn module(name: &str) -> String {
    format!(
        r#"{{"deviceId":"d","moduleId":"{name}","managedBy":"IotEdge","generationId":"7",
        "authentication":{{"type":"sas","symmetricKey":{{"primaryKey":"a2V5","secondaryKey":"a2V5"}}}}}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn module_operations_go_over_https_with_the_token_of_the_claim() {
    let bench = bench().await;
    let known = |headers: &HeaderMap| headers["authorization"] == "good";
    let router = Router::new()
        .route("/devices/d/modules", get(async || format!("[{}]", module("a"))))
        .route(
            "/devices/d/modules/{name}",
            put(async move |Path(name): Path<String>, headers: HeaderMap| {
                if !known(&headers) {
                    return (http::StatusCode::UNAUTHORIZED, String::new());
                }
                if name == "$edgeAgent" {
                    return (http::StatusCode::CONFLICT, String::new());
                }
                (http::StatusCode::OK, module(&name))
            })
            .get(async |Path(name): Path<String>| module(&name))
            .delete(async || http::StatusCode::NO_CONTENT),
        );
    let incoming = bench.pipes.listen(&Address::Memory("api".into())).await.unwrap();
    let _server = HttpServer::start(incoming, None, router, &bench.world);
    let opened = bench.client.open(claim("good"), LinkKind::Https, Tick::NEVER).await.unwrap();
    let session = &*opened.session;
    let run = async |operation| ask(session, DeviceRequest::Modules(operation), Tick::NEVER).await;
    let names = |answer: Result<Answer, Refusal>| match answer {
        Ok(Answer::Modules(all)) => {
            assert!(all.iter().all(|one| one.primary_key == Some(Secret::from("a2V5"))));
            all.iter().map(|one| one.name.to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(names(run(ModuleOperation::List).await), ["a"]);
    for name in ["m", "$edgeAgent"] {
        let managed_by = "IotEdge".into();
        let ensure = ModuleOperation::Ensure { name: name.parse().unwrap(), managed_by };
        assert_eq!(names(run(ensure).await), [name]);
    }
    let delete = ModuleOperation::Delete { name: "m".parse().unwrap() };
    assert_eq!(run(delete).await, Ok(Answer::Accepted));
    let wrong = ask(session, telemetry("x"), Tick::NEVER).await.unwrap_err();
    assert_eq!(wrong.kind, RefusalKind::InvalidRequest);
    assert!(bench.cloud.opens().is_empty(), "HTTPS takes nobody's place");

    session.renew(claim("stale"), Tick::NEVER).await.unwrap();
    let managed_by = "IotEdge".into();
    let ensure = ModuleOperation::Ensure { name: "m".parse().unwrap(), managed_by };
    let refused = run(ensure).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unauthenticated);
}

#[tokio::test]
async fn a_large_message_passes_tcp_and_tls_and_a_certificate_can_be_the_claim() {
    let now = model::time::WallTime::parse_rfc3339("2025-01-01T00:00:00Z").unwrap();
    let validity = Validity { now, life: Duration::from_hours(24 * 365 * 50), serial: 1 };
    let authority = Authority::generate("root", validity).unwrap();
    let own = authority.issue_server("localhost", &["localhost"], validity).unwrap();
    let device = authority.issue_client("d", &[], validity).unwrap();
    let certificate = tls::ServerCertificate::new(&own.chain, &own.key_der).unwrap();
    let security = tls::Server::new(certificate, client_verifier()).unwrap();
    let world = crate::world::system(tokio::runtime::Handle::current());
    let incoming = SystemNetwork.listen(&Address::Tcp("127.0.0.1".into(), 0)).await.unwrap();
    let (mqtt, cloud) = (incoming.address(), Cloud::new());
    let server = MqttServer::start(incoming, Some(security), Arc::new(cloud.clone()), &world);
    let trust =
        tls::Client::trusting_and_showing(authority.to_pem(), &device.chain, &device.key_der);
    let tls = Some((trust.unwrap(), "localhost".into()));
    let target = Target { mqtt, https: None, tls, host: "hub.test".into() };
    let client = MqttClient::new(world, Arc::new(SystemNetwork), target);
    let claim = Claim::Certificates { identity: "d".parse().unwrap(), chain: device.chain };
    let link = LinkKind::Mqtt { clean: false };
    let opened = client.open(claim, link, Tick::NEVER).await.unwrap();
    let body = "x".repeat(200_000);
    let batch = Batch(vec![telemetry(&body), telemetry("small")]);
    let mut answers = opened.session.submit(batch, Tick::NEVER).unwrap();
    assert_eq!(answers.next().await, Some(Ok(Answer::Accepted)));
    assert_eq!(answers.next().await, Some(Ok(Answer::Accepted)));
    assert!(cloud.bodies()[0] == body && cloud.bodies()[1] == "small");
    server.shut_down(Duration::from_mins(1)).await;
    let closed = event(&*opened.session).await;
    assert_eq!(closed, DeviceEvent::Closed(CloseReason::Disconnected));
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_takes_stop_the_reading_at_a_bound_in_bytes() {
    let bench = bench().await;
    let opened = bench.open().await;
    let filter = "$iothub/twin/PATCH/properties/desired/#".into();
    let desired = Subscription { feature: Feature::DesiredChanges, qos: 1, filter };
    let subscribe = DeviceRequest::Subscribe([desired].into_iter().collect());
    ask(&*opened.session, subscribe, Tick::NEVER).await.unwrap();
    let text = "x".repeat(EVENTS_BYTES_MAX / 64);
    let all = 3 * 64;
    for version in 1..=all {
        let patch = TwinPatch([("k".to_owned(), text.clone().into())].into_iter().collect());
        bench.cloud.push("d", DeviceEvent::Desired { patch, version: Version(version) });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // What the client does not read stays with the server.
    assert!(bench.server.unread_bytes() > 0, "the client holds everything");
    for expected in 1..=all {
        let DeviceEvent::Desired { version, .. } = event(&*opened.session).await else { panic!() };
        assert_eq!(version, Version(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_nobody_is_given_up_after_the_timeout() {
    let bench = bench().await;
    let full = Address::Memory("full".into());
    let _listening = bench.pipes.listen(&full).await.unwrap();
    let mut queued = Vec::new();
    let wait = Duration::from_secs(1);
    while let Ok(one) = tokio::time::timeout(wait, bench.pipes.dial(&full)).await {
        queued.push(one.unwrap());
    }
    let target = Target { mqtt: full, https: None, tls: None, host: "hub.test".into() };
    let network = Arc::<Pipes>::clone(&bench.pipes);
    let client = MqttClient::new(bench.world.clone(), network, target);
    let begun = bench.world.now().tick;
    let link = LinkKind::Mqtt { clean: true };
    let refused = client.open(claim("good"), link, Tick::NEVER).await.unwrap_err();
    let took = bench.world.now().tick.since(begun);
    assert_eq!(refused.kind, RefusalKind::Unavailable, "{refused:?}");
    assert!(took >= CONNECT_TIMEOUT && took < CONNECT_TIMEOUT + wait, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_without_answers_stop_at_a_bound_in_bytes() {
    const BODY_BYTES: usize = 128 * 1024;
    let bench = bench().await;
    let opened = bench.open().await;
    bench.cloud.hold(100_000);
    let body = "x".repeat(BODY_BYTES);
    let most = core::UNANSWERED_BYTES_MAX / BODY_BYTES;
    let mut waiting = Vec::new();
    while let Ok(one) = opened.session.submit(Batch::from(telemetry(&body)), Tick::NEVER) {
        waiting.push(one);
        assert!(waiting.len() <= most, "there is no bound");
    }
    assert_eq!(waiting.len(), most);
    bench.cloud.release();
    for one in waiting {
        assert_eq!(one.only().await, Ok(Answer::Accepted));
    }
    poll_fn(|cx| opened.session.poll_ready(cx)).await;
    assert!(opened.session.submit(Batch::from(telemetry(&body)), Tick::NEVER).is_ok());
}
