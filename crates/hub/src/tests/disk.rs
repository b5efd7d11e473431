//! Telemetry on a disk that fails.

use std::sync::Arc;

use bytes::Bytes;
use journal::disk::simulated::{DiskFault, Operation, PowerCut, SimulatedDisk};
use model::message::Message;
use model::refusal::RefusalKind;
use model::time::Tick;
use model::waist::{Answer, DeviceRequest, LinkKind, ask};

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
