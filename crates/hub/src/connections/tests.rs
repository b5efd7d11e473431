use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use model::commit::{CommitFault, CommitFaults, CommitStage};
use model::time::{Tick, WallTime};
use model::waist::{Claim, DeviceRequest, Leave, LinkKind, Opened, ask};
use rusqlite::Connection;
use serde_json::Value;
use testkit::world::Host;

use crate::connections::ledger::{ACTIVITY_SLICE_ROWS_MAX, ACTIVITY_STEP};
use crate::connections::{Connections, EXPIRY_LOOK, WAITING_MAX};
use crate::registry::Ordinal;
use crate::tests::{Machine, Running, resource, token};

const LINK: LinkKind = LinkKind::Mqtt { clean: true };

async fn open(r: &Running, claim: &Claim) -> Opened {
    r.api.open(claim.clone(), LINK, Tick::NEVER).await.unwrap()
}

/// The same identity with another end.
fn until(r: &Running, claim: &Claim, key: &str, lifetime: Duration) -> Claim {
    let Claim::Sas { identity, .. } = claim else { panic!("devices have keys here") };
    let token = token(&r.world(), &resource(identity), None, &key.into(), lifetime);
    Claim::Sas { identity: identity.clone(), token }
}

async fn key(r: &Running, device: &str) -> String {
    let (_, made) = r.call("GET", &format!("/devices/{device}"), Value::Null).await;
    made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap().to_owned()
}

async fn time(r: &Running, field: &str) -> WallTime {
    let (_, device) = r.call("GET", "/devices/d", Value::Null).await;
    WallTime::parse_rfc3339(device[field].as_str().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_expiry_is_kept_as_long_as_its_session_and_no_longer() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d").await;
    let key = key(&r, "d").await;
    let expiries = || r.hub.core.connections.expiries();
    // Away and back again, each time with a token that ends later.
    for hours in 1..50 {
        let opened = open(&r, &until(&r, &claim, &key, Duration::from_hours(hours))).await;
        assert_eq!(expiries(), 1);
        opened.session.close(Leave::Asked);
        assert_eq!(expiries(), 0, "whoever left has no expiry");
    }
    let mut taken_over = Vec::new();
    for hours in 1..50 {
        taken_over.push(open(&r, &until(&r, &claim, &key, Duration::from_hours(hours))).await);
        assert_eq!(expiries(), 1, "a session that was taken over has none");
    }
    let newest = taken_over.pop().unwrap();
    for hours in 50..100 {
        let renewed = until(&r, &claim, &key, Duration::from_hours(hours));
        newest.session.renew(renewed, Tick::NEVER).await.unwrap();
        assert_eq!(expiries(), 1, "a renewed session has its last one");
    }
    // One that is not the identity's own any more renews nothing of it.
    let late = until(&r, &claim, &key, Duration::from_hours(200));
    taken_over[0].session.renew(late, Tick::NEVER).await.ok();
    assert_eq!(expiries(), 1);
    drop(taken_over);
    assert_eq!(expiries(), 1);
    drop(newest);
    assert_eq!(expiries(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_the_last_activity_is_younger_than_two_steps() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d").await;
    let opened = open(&r, &claim).await;
    let connected = r.world().now().wall;
    for _ in 0..60 {
        Host::sleep(Duration::from_secs(10)).await;
        ask(&*opened.session, DeviceRequest::ReadTwin, Tick::NEVER).await.unwrap();
    }
    let killed = r.world().now().wall;
    assert_eq!(time(&r, "lastActivityTime").await, killed, "memory knows it exactly");
    r.kill().await;
    // A session holds the hub's folders.
    drop(opened);
    let r = machine.start(2);
    let known = time(&r, "lastActivityTime").await;
    let lag = killed.since(known);
    assert!(lag <= ACTIVITY_STEP + EXPIRY_LOOK, "{lag:?} behind");
    let updated = time(&r, "connectionStateUpdatedTime").await;
    assert!(connected.since(updated) < Duration::from_secs(1), "{updated} {connected}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_connected_and_silent_is_written_once() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d").await;
    let opened = open(&r, &claim).await;
    Host::sleep(2 * ACTIVITY_STEP).await;
    let db = Connection::open(machine.path().join("hub.db")).unwrap();
    let version = || -> i64 { db.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap() };
    let before = version();
    Host::sleep(10 * ACTIVITY_STEP).await;
    assert_eq!(version(), before, "nobody wrote while nobody did anything");
    ask(&*opened.session, DeviceRequest::ReadTwin, Tick::NEVER).await.unwrap();
    Host::sleep(2 * ACTIVITY_STEP).await;
    assert_ne!(version(), before, "what was done was written");
}

/// Counts rows of activity after each commit.
#[derive(Debug)]
struct Counting {
    path: PathBuf,
    seen: Mutex<Vec<usize>>,
}

impl CommitFaults for Counting {
    fn strike(&self, stage: CommitStage) -> CommitFault {
        if stage == CommitStage::After {
            let db = Connection::open(&self.path).unwrap();
            let count = "SELECT count(*) FROM activity";
            let count: u32 = db.query_row(count, [], |row| row.get(0)).unwrap();
            self.seen.lock().unwrap().push(count as usize);
        }
        CommitFault::None
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_is_written_in_slices_and_all_of_it() {
    let fleet = u32::try_from(2 * ACTIVITY_SLICE_ROWS_MAX + 7).unwrap();
    let machine = Machine::new();
    let path = machine.path().join("hub.db");
    let counting = Arc::new(Counting { path: path.clone(), seen: Mutex::default() });
    let r = machine.start_faulty(1, Arc::<Counting>::clone(&counting));
    // To make each by a call would be slow; those who left are known by their ordinals alone.
    let db = Connection::open(&path).unwrap();
    let made = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                INSERT INTO identity (device, module, generation, etag, enabled, \
                status_updated, auth, iot_edge, managed_by) \
                SELECT 'f' || i, '', '1', 1, 1, 0, 0, 0, '' FROM n";
    db.execute(made, [fleet]).unwrap();
    let first: u32 = db.query_row("SELECT min(ord) FROM identity", [], |row| row.get(0)).unwrap();
    for at in 0..fleet {
        r.hub.core.connections.leave(Ordinal(first + at), r.world().now());
    }
    Host::sleep(2 * ACTIVITY_STEP).await;
    let seen = counting.seen.lock().unwrap().clone();
    let slice = ACTIVITY_SLICE_ROWS_MAX;
    assert_eq!(seen, [slice, 2 * slice, 2 * slice + 7], "rows after each commit");
    assert!(r.hub.core.connections.presence(Ordinal(first)).activity.is_none(), "it is told");
}

/// The tables fail while it is set.
#[derive(Debug, Default)]
struct Failing(AtomicBool);

impl CommitFaults for Failing {
    fn strike(&self, stage: CommitStage) -> CommitFault {
        let fails = stage == CommitStage::Before && self.0.load(Ordering::Relaxed);
        if fails { CommitFault::Fail } else { CommitFault::None }
    }
}

#[tokio::test(start_paused = true)]
async fn activity_that_met_a_full_disk_is_written_when_there_is_room() {
    let machine = Machine::new();
    let faults = Arc::new(Failing::default());
    let r = machine.start_faulty(1, Arc::<Failing>::clone(&faults));
    let claim = r.device("d").await;
    let opened = open(&r, &claim).await;
    faults.0.store(true, Ordering::Relaxed);
    Host::sleep(Duration::from_secs(5)).await;
    ask(&*opened.session, DeviceRequest::ReadTwin, Tick::NEVER).await.unwrap();
    let active = r.world().now().wall;
    Host::sleep(5 * ACTIVITY_STEP).await;
    faults.0.store(false, Ordering::Relaxed);
    Host::sleep(3 * ACTIVITY_STEP).await;
    r.kill().await;
    // A session holds the hub's folders.
    drop(opened);
    let r = machine.start(2);
    assert_eq!(time(&r, "lastActivityTime").await, active);
}

struct Counted(Arc<AtomicUsize>);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn so_many_wait_for_somebody_to_connect_and_beyond_it_all_look_again() {
    let connections = Connections::new(1);
    let woken = Arc::new(AtomicUsize::new(0));
    let wait = || connections.wait(&Waker::from(Arc::new(Counted(Arc::clone(&woken)))));
    (0..WAITING_MAX).for_each(|_| wait());
    assert_eq!(woken.load(Ordering::Relaxed), 0);
    wait();
    assert_eq!(woken.load(Ordering::Relaxed), WAITING_MAX);
    assert_eq!(connections.lock().waiting.len(), 1);
}

/// Spans between commits.
#[derive(Debug)]
struct Timing(Mutex<(std::time::Instant, Vec<Duration>)>);

impl CommitFaults for Timing {
    #[expect(clippy::disallowed_methods, reason = "a measurement of the machine")]
    fn strike(&self, stage: CommitStage) -> CommitFault {
        if stage == CommitStage::After {
            let mut timing = self.0.lock().unwrap();
            let span = timing.0.elapsed();
            timing.1.push(span);
            timing.0 = std::time::Instant::now();
        }
        CommitFault::None
    }
}

/// Also a measurement: `SELVEDGE_FLEET=1000000 cargo test -p hub --lib a_fleet_of_any -- --nocapture`
/// gave the figures of decision 0041.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "a measurement of the machine")]
async fn a_fleet_of_any_size_is_written_round_after_round() {
    let fleet = std::env::var("SELVEDGE_FLEET").map_or(10_000, |text| text.parse::<u32>().unwrap());
    let machine = Machine::new();
    let timing = Arc::new(Timing(Mutex::new((std::time::Instant::now(), Vec::new()))));
    let r = machine.start_faulty(1, Arc::<Timing>::clone(&timing));
    let db = Connection::open(machine.path().join("hub.db")).unwrap();
    let made = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
                INSERT INTO identity (device, module, generation, etag, enabled, \
                status_updated, auth, iot_edge, managed_by) \
                SELECT 'device-' || i, '', '1', 1, 1, 0, 0, 0, '' FROM n";
    db.execute(made, [fleet]).unwrap();
    drop(db);
    for round in ["first", "again"] {
        let now = r.world().now();
        for ord in 1..=fleet {
            r.hub.core.connections.leave(Ordinal(ord), now);
        }
        timing.0.lock().unwrap().1.clear();
        let begun = std::time::Instant::now();
        Host::sleep(2 * ACTIVITY_STEP).await;
        let whole = begun.elapsed();
        let mut spans = timing.0.lock().unwrap().1.split_off(1);
        assert_eq!(spans.len() + 1, (fleet as usize).div_ceil(ACTIVITY_SLICE_ROWS_MAX), "{round}");
        spans.sort_unstable();
        let at = |part: usize| spans[(spans.len() - 1) * part / 100];
        eprintln!(
            "{round}: {fleet} rows in {} slices, {whole:?}; a slice p50 {:?}, p99 {:?}, longest {:?}",
            spans.len() + 1,
            at(50),
            at(99),
            at(100)
        );
    }
    let all: Vec<_> = (1..=fleet)
        .map(|ord| {
            let now = r.world().now().wall;
            let seen =
                crate::storage::rows::Activity { connection_updated: now, last_activity: now };
            (Ordinal(ord), seen)
        })
        .collect();
    let begun = std::time::Instant::now();
    let write = move |w: &mut crate::storage::writer::Writing<'_>| {
        Ok(crate::storage::rows::put_activity(w.db, &all)?)
    };
    r.hub.core.tables.write(write).await.unwrap();
    eprintln!("before: all of them in one write that everybody waits for: {:?}", begun.elapsed());
}
