//! What survives a cut: everything that was answered, and nothing that was refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use model::feature::{Feature, FeatureSet, Subscription};
use model::message::Message;
use model::refusal::RefusalKind;
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{
    Answer, Claim, CloseReason, Credit, DeviceEvent, DeviceRequest, DeviceSession, Leave, LinkKind,
    Opened, ask,
};
use serde_json::json;

use super::conformance::telemetry;
use super::{Machine, Running};
use crate::{CommitFault, CommitFaults, CommitStage, OpenHubError};

const CLEAN: LinkKind = LinkKind::Mqtt { clean: true };
const KEPT: LinkKind = LinkKind::Mqtt { clean: false };

async fn open(running: &Running, claim: &Claim, link: LinkKind) -> Opened {
    running.api.open(claim.clone(), link, Tick::NEVER).await.unwrap()
}

fn send(body: String) -> DeviceRequest {
    let message = Message { body: Bytes::from(body), ..Message::default() };
    DeviceRequest::SendTelemetry(Box::new(message))
}

fn report(number: u64) -> DeviceRequest {
    let serde_json::Value::Object(patch) = json!({ "n": number }) else { unreachable!() };
    DeviceRequest::PatchReported { patch: TwinPatch(patch), if_version: None }
}

async fn asked(session: &dyn DeviceSession, request: DeviceRequest) -> Answer {
    ask(session, request, Tick::NEVER).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_survives_ten_cuts() {
    let machine = Machine::new();
    let mut running = machine.start(0);
    let claim = running.device("d1").await;
    let mut last_epoch = None;
    for round in 0..10_u64 {
        let opened = open(&running, &claim, KEPT).await;
        assert_eq!(opened.resumed, round > 0);
        assert_eq!(opened.features.has(Feature::Methods), round > 0);
        let epoch = opened.session.epoch();
        assert!(last_epoch < Some(epoch), "epochs ascend across restarts");
        last_epoch = Some(epoch);
        for at in 0..5 {
            let answer = asked(&*opened.session, send(format!("{round}-{at}"))).await;
            assert_eq!(answer, Answer::Accepted);
        }
        let patched = asked(&*opened.session, report(round)).await;
        assert_eq!(patched, Answer::Patched(Version(round + 2)));
        let methods = Subscription { feature: Feature::Methods, qos: 1, filter: "m/#".into() };
        let wanted: FeatureSet = [methods].into_iter().collect();
        asked(&*opened.session, DeviceRequest::Subscribe(wanted)).await;
        running.kill().await;
        drop(opened);
        running = machine.start(round + 1);
        let read = telemetry(&running, "d1").await;
        assert_eq!(read.len() as u64, (round + 1) * 5);
        assert_eq!(read.last().unwrap().body, format!("{round}-4"));
    }
    let opened = open(&running, &claim, CLEAN).await;
    let Answer::Twin(twin) = asked(&*opened.session, DeviceRequest::ReadTwin).await else {
        panic!("a twin was asked for");
    };
    assert_eq!((twin.reported["n"].as_u64(), twin.reported_version), (Some(9), Version(11)));
}

/// Strikes the commit with this number, once.
#[derive(Debug)]
struct Strike {
    at: AtomicU32,
    stage: CommitStage,
    fault: CommitFault,
}

impl CommitFaults for Strike {
    fn strike(&self, stage: CommitStage) -> CommitFault {
        if stage != self.stage || self.at.fetch_sub(1, Ordering::Relaxed) != 1 {
            return CommitFault::None;
        }
        self.fault
    }
}

/// Commits of the tables before the patch: the device, the session row, its answer.
async fn struck(
    stage: CommitStage,
    fault: CommitFault,
) -> (Machine, Claim, Result<Answer, RefusalKind>) {
    let machine = Machine::new();
    let quiet = machine.start(0);
    let claim = quiet.device("d1").await;
    quiet.kill().await;
    let strike = Strike { at: AtomicU32::new(1), stage, fault };
    let running = machine.start_faulty(1, Arc::new(strike));
    let opened = open(&running, &claim, CLEAN).await;
    let answer = ask(&*opened.session, report(1), Tick::NEVER).await;
    running.kill().await;
    (machine, claim, answer.map_err(|refusal| refusal.kind))
}

async fn reported(machine: &Machine, claim: &Claim) -> Version {
    let running = machine.start(9);
    let opened = open(&running, claim, CLEAN).await;
    let Answer::Twin(twin) = asked(&*opened.session, DeviceRequest::ReadTwin).await else {
        panic!("a twin was asked for");
    };
    twin.reported_version
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_answered_only_when_it_is_done() {
    let check = async |stage, fault, version: u64| {
        let (machine, claim, answer) = struck(stage, fault).await;
        assert_eq!(answer, Err(RefusalKind::Unavailable), "{stage:?} {fault:?}");
        assert_eq!(reported(&machine, &claim).await, Version(version), "{stage:?} {fault:?}");
    };
    check(CommitStage::Before, CommitFault::Cut, 1).await;
    check(CommitStage::Before, CommitFault::Fail, 1).await;
    // Done but not answered: the caller cannot know, and may do it again.
    check(CommitStage::After, CommitFault::Cut, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_harms_only_its_own_turn() {
    let machine = Machine::new();
    let strike =
        Strike { at: AtomicU32::new(3), stage: CommitStage::Before, fault: CommitFault::Fail };
    let running = machine.start_faulty(1, Arc::new(strike));
    let claim = running.device("d1").await;
    let opened = open(&running, &claim, CLEAN).await;
    assert_eq!(asked(&*opened.session, report(1)).await, Answer::Patched(Version(2)));
    let failed = ask(&*opened.session, report(2), Tick::NEVER).await;
    assert_eq!(failed.unwrap_err().kind, RefusalKind::Unavailable);
    assert_eq!(asked(&*opened.session, report(3)).await, Answer::Patched(Version(3)));
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_tells_sessions_and_takes_nothing_more() {
    let machine = Machine::new();
    let running = machine.start(1);
    let claim = running.device("d1").await;
    let opened = open(&running, &claim, CLEAN).await;
    asked(&*opened.session, send("last".to_owned())).await;
    running.hub.close().await;
    let event = std::future::poll_fn(|cx| opened.session.poll_event(cx, Credit::of_messages(1)));
    assert_eq!(event.await, DeviceEvent::Closed(CloseReason::ShuttingDown));
    let late = ask(&*opened.session, report(1), Tick::NEVER).await;
    assert_eq!(late.unwrap_err().kind, RefusalKind::Unavailable);
    let again = running.api.open(claim.clone(), CLEAN, Tick::NEVER).await;
    assert_eq!(again.unwrap_err().kind, RefusalKind::Unavailable);
    drop(opened);
    running.kill().await;
    assert_eq!(telemetry(&machine.start(2), "d1").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_will_is_sent_when_the_connection_breaks_and_only_then() {
    let machine = Machine::new();
    let running = machine.start(1);
    let claim = running.device("d1").await;
    let will = || Box::new(Message { body: Bytes::from_static(b"gone"), ..Message::default() });
    open(&running, &claim, CLEAN).await.session.close(Leave::Asked);
    let lost = open(&running, &claim, CLEAN).await;
    lost.session.close(Leave::Lost { will: Some(will()) });
    lost.session.close(Leave::Lost { will: Some(will()) });
    // The will is on its way without anybody waiting for it.
    testkit::world::Host::sleep(Duration::from_secs(1)).await;
    let read = telemetry(&running, "d1").await;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].properties.get("iothub-MessageType").as_deref(), Some("Will"));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_foreign_folder_is_an_error_that_names_the_file() {
    let check = async |file: &str, bytes: &[u8], expected: &str| {
        let machine = Machine::new();
        machine.start(1).kill().await;
        std::fs::write(machine.path().join(file), bytes).unwrap();
        let host = testkit::world::Host::new(2);
        let disk = journal::disk::file::FileDisk::open(machine.path().join("telemetry")).unwrap();
        let settings = crate::Settings::new(machine.path(), "hub.test");
        let error = crate::Hub::open(settings, host.world(), Arc::new(disk)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(file) && text.contains(expected), "{text}");
        assert_eq!(std::fs::read(machine.path().join(file)).unwrap(), bytes, "not replaced");
    };
    check("policies.json", b"{", "keys of all policies").await;
    check("hub.db", &[b'x'; 8192], "not a database").await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_partitions_never_changes() {
    let machine = Machine::new();
    machine.start(1).kill().await;
    let host = testkit::world::Host::new(2);
    let disk = journal::disk::file::FileDisk::open(machine.path().join("telemetry")).unwrap();
    let mut settings = crate::Settings::new(machine.path(), "hub.test");
    settings.partitions = 8;
    let error = crate::Hub::open(settings, host.world(), Arc::new(disk)).unwrap_err();
    assert!(matches!(error, OpenHubError::Setting { name: "partitions", .. }), "{error}");
}
