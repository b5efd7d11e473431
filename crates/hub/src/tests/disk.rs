//! Telemetry on a disk that fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::disk::simulated::{DiskFault, Operation, PowerCut, SimulatedDisk};
use model::message::Message;
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::waist::{Answer, Batch, DeviceRequest, DeviceSession, LinkKind, ask};

use testkit::world::Host;

use super::Machine;
use super::conformance::telemetry;

#[tokio::test(start_paused = true)]
async fn what_the_disk_refuses_is_refused_and_what_was_accepted_survives_the_power() {
    for (seed, how) in PowerCut::ALL.into_iter().enumerate() {
        let machine = Machine::new();
        let disk = Arc::new(SimulatedDisk::new(seed as u64));
        let running = machine.start_on(1, Arc::<SimulatedDisk>::clone(&disk), |_| {});
        let claim = running.device("d1").await;
        let link = LinkKind::Mqtt { clean: true };
        let session = running.api.open(claim, link, Tick::NEVER).await.unwrap().session;
        let send = async |body: &'static str| {
            let message =
                Message { body: Bytes::from_static(body.as_bytes()), ..Message::default() };
            let request = DeviceRequest::SendTelemetry(Box::new(message));
            ask(&*session, request, Tick::NEVER).await.map_err(|refusal| refusal.kind)
        };
        assert_eq!(send("one").await, Ok(Answer::Accepted));
        for fault in [DiskFault::Io, DiskFault::NoSpace] {
            disk.fail(Operation::Sync, 0, fault);
            assert_eq!(send("never").await, Err(RefusalKind::Unavailable), "{fault:?}");
            disk.heal();
        }
        assert_eq!(send("two").await, Ok(Answer::Accepted), "the hub goes on");
        drop(session);
        running.kill().await;
        disk.power_cut(how);
        let running = machine.start_on(2, disk, |_| {});
        let read = telemetry(&running, "d1").await;
        let bodies: Vec<_> = read.iter().map(|message| message.body.clone()).collect();
        // What was refused may be there all the same: the sender was told to try again.
        let accepted: Vec<_> = bodies.iter().filter(|body| **body != "never").collect();
        assert_eq!(accepted, ["one", "two"], "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_behind_a_message_that_met_a_failing_disk_does_not_overtake_it() {
    let machine = Machine::new();
    let disk = Arc::new(SimulatedDisk::new(1));
    let running = machine.start_on(1, Arc::<SimulatedDisk>::clone(&disk), |_| {});
    let claim = running.device("d1").await;
    let link = LinkKind::Mqtt { clean: true };
    let session = running.api.open(claim, link, Tick::NEVER).await.unwrap().session;
    let send = |body: &'static str| {
        let message = Message { body: Bytes::from_static(body.as_bytes()), ..Message::default() };
        let batch = Batch::from(DeviceRequest::SendTelemetry(Box::new(message)));
        session.submit(batch, Tick::NEVER).unwrap()
    };
    let kind = |answer: Option<Result<Answer, Refusal>>| answer.unwrap().map_err(|it| it.kind);
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    let mut first = send("one");
    // The disk fails before the sender looks; meanwhile it sends more.
    Host::sleep(Duration::from_secs(1)).await;
    disk.heal();
    let mut second = send("two");
    assert_eq!(kind(first.next().await), Err(RefusalKind::Unavailable));
    assert_eq!(kind(second.next().await), Err(RefusalKind::Unavailable), "it would overtake");
    // Whoever was told sends all of it again, and that is kept.
    let (mut first, mut second) = (send("one"), send("two"));
    assert_eq!(kind(first.next().await), Ok(Answer::Accepted));
    assert_eq!(kind(second.next().await), Ok(Answer::Accepted));
    let bodies: Vec<_> = telemetry(&running, "d1").await.into_iter().map(|it| it.body).collect();
    assert_eq!(bodies, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_for_a_while_costs_no_telemetry() {
    let machine = Machine::new();
    let disk = Arc::new(SimulatedDisk::new(1));
    let running = machine.start_on(1, Arc::<SimulatedDisk>::clone(&disk), |_| {});
    let clock = running.host.as_ref().unwrap().clock().clone();
    let clients = async |name: &str| {
        let (claim, link) = (running.device(name).await, LinkKind::Mqtt { clean: true });
        running.api.open(claim, link, Tick::NEVER).await.unwrap().session
    };
    let send = async |session: &dyn DeviceSession, body: &'static str| {
        let message = Message { body: Bytes::from_static(body.as_bytes()), ..Message::default() };
        ask(session, DeviceRequest::SendTelemetry(Box::new(message)), Tick::NEVER).await
    };
    let first = clients("d1").await;
    assert_eq!(send(&*first, "one").await, Ok(Answer::Accepted));
    // A disk that fails closes the segment, so that there is one to give up.
    disk.fail(Operation::Sync, 0, DiskFault::Io);
    assert!(send(&*first, "never").await.is_err());
    disk.heal();
    assert_eq!(send(&*first, "two").await, Ok(Answer::Accepted));
    clock.set_skew_ms(30 * 24 * 3_600_000);
    assert_eq!(send(&*clients("d2").await, "later").await, Ok(Answer::Accepted));
    clock.set_skew_ms(0);
    let bodies: Vec<_> = telemetry(&running, "d1").await.into_iter().map(|it| it.body).collect();
    let kept: Vec<_> = bodies.iter().filter(|it| **it != "never").collect();
    assert_eq!(kept, ["one", "two"]);
}
