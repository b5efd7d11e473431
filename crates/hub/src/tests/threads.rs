//! The same workers on real threads, many sessions at once.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use journal::disk::file::FileDisk;
use model::message::Message;
use model::refusal::RefusalKind;
use model::time::{Now, Tick, WallTime};
use model::twin::TwinPatch;
use model::waist::{Answer, Batch, Claim, DeviceApi, DeviceRequest, LinkKind, ask};
use model::world::{Boxed, Clock, Spawner, Turn, Worker, World};
use testkit::chance::Chance;

use super::conformance::telemetry;
use super::{Machine, Running};
use crate::{Hub, Settings};

#[derive(Debug)]
struct RealClock(Instant);

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this test is about real threads")]
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let wall = WallTime(i64::try_from(wall.as_millis()).unwrap());
        Now { tick: Tick(0).after(self.0.elapsed()), wall }
    }
}

struct Threads(Arc<RealClock>, tokio::runtime::Handle);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Spawner for Threads {
    fn spawn(&self, task: Boxed<'static, ()>) {
        self.1.spawn(task);
    }

    fn offload(&self, work: Box<dyn FnOnce() + Send>) {
        self.1.spawn_blocking(work);
    }

    #[expect(clippy::disallowed_methods, reason = "this test is about real threads")]
    fn start(&self, _: &'static str, mut worker: Box<dyn Worker>) -> Waker {
        let clock = Arc::clone(&self.0);
        let thread = thread::spawn(move || {
            loop {
                let now = clock.now();
                match worker.turn(now) {
                    Turn::Again => {}
                    Turn::Idle => thread::park(),
                    Turn::Until(tick) => thread::park_timeout(tick.since(now.tick)),
                    Turn::Finished => return,
                }
            }
        });
        Waker::from(Arc::new(Unpark(thread.thread().clone())))
    }
}

#[expect(clippy::disallowed_methods, reason = "this test is about real threads")]
fn real_world() -> World {
    let clock = Arc::new(RealClock(Instant::now()));
    let handle = tokio::runtime::Handle::current();
    World {
        clock: Arc::<RealClock>::clone(&clock),
        random: Arc::new(Chance::new(7)),
        spawner: Arc::new(Threads(clock, handle)),
    }
}

const MESSAGES: u64 = 200;

/// Sends in batches from sessions that take each other over; gives how many were accepted.
async fn talk(api: Arc<dyn DeviceApi>, claim: Claim, lane: u64) -> Vec<u64> {
    let mut accepted = Vec::new();
    let mut next = 0;
    while next < MESSAGES {
        let link = LinkKind::Mqtt { clean: false };
        let opened = api.open(claim.clone(), link, Tick::NEVER).await.unwrap();
        for _ in 0..10 {
            let numbers: Vec<_> = (next..(next + 8).min(MESSAGES)).collect();
            let mut requests: Vec<_> = numbers
                .iter()
                .map(|number| {
                    let body = Bytes::from(format!("{lane}-{number}"));
                    DeviceRequest::SendTelemetry(Box::new(Message { body, ..Message::default() }))
                })
                .collect();
            let patch = TwinPatch([("at".to_owned(), next.into())].into_iter().collect());
            requests.push(DeviceRequest::PatchReported { patch, if_version: None });
            let mut answers = opened.session.submit(Batch(requests), Tick::NEVER).unwrap();
            let mut taken_over = false;
            for number in numbers {
                match answers.next().await.unwrap() {
                    Ok(answer) => {
                        assert_eq!(answer, Answer::Accepted);
                        accepted.push(number);
                        next = number + 1;
                    }
                    Err(refusal) => {
                        assert_eq!(refusal.kind, RefusalKind::TakenOver);
                        taken_over = true;
                    }
                }
            }
            if taken_over {
                break;
            }
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_real_threads_nothing_that_was_accepted_is_lost_or_out_of_order() {
    let machine = Machine::new();
    let disk = Arc::new(FileDisk::open(machine.path().join("telemetry")).unwrap());
    let world = real_world();
    let hub = Hub::open(Settings::new(machine.path(), super::NAME), world.clone(), disk).unwrap();
    let (api, service) = (hub.device_api(), hub.service());
    let running = Running { hub, host: None, world, api, service };
    let mut tasks = tokio::task::JoinSet::new();
    for device in 0..6 {
        let claim = running.device(&format!("d{device}")).await;
        // Two of each, so that they keep taking each other over.
        for half in 0..2 {
            let (api, claim) = (Arc::clone(&running.api), claim.clone());
            let lane = device * 2 + half;
            tasks.spawn(async move { (lane, talk(api, claim, lane).await) });
        }
    }
    let deadline = Duration::from_mins(2);
    let all = tokio::time::timeout(deadline, tasks.join_all()).await.unwrap();
    for (lane, accepted) in all {
        let read = telemetry(&running, &format!("d{}", lane / 2)).await;
        let prefix = format!("{lane}-");
        let numbers: Vec<u64> = read
            .iter()
            .filter_map(|message| std::str::from_utf8(&message.body).unwrap().strip_prefix(&prefix))
            .map(|number| number.parse().unwrap())
            .collect();
        assert_eq!(numbers, accepted, "lane {lane}");
        assert_eq!(accepted, (0..MESSAGES).collect::<Vec<_>>());
    }
    let twin = DeviceRequest::ReadTwin;
    let claim = running.device("last").await;
    let link = LinkKind::Mqtt { clean: true };
    let last = running.api.open(claim, link, Tick::NEVER).await.unwrap();
    assert!(ask(&*last.session, twin, Tick::NEVER).await.is_ok());
    running.hub.close().await;
}
