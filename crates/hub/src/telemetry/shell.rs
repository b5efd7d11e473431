//! Telemetry on its way into the journal and out of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use api::fleet::Ingest;
use bytes::Bytes;
use journal::disk::Disk;
use journal::log::{
    Budget, CommitError, Committed, Damage, LaneId, Log, LogOptions, Position, ReadBatch, Reader,
    Record,
};
use journal::worker::{Chain, Intake, IntakeLimits, Writer, WriterTurn, channel};
use model::planted;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Now, WallTime};
use model::waist::Answer;
use model::world::{Turn, Worker, World};
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

use super::partition_of;
use crate::OpenHubError;
use crate::fleet::rates::Rates;
use crate::settings::Settings;
use crate::storage::trust::WallTrust;
use crate::storage::writer::{Reply, pair, settle};

/// Size of one journal segment, in bytes.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The handle of the telemetry journal.
#[derive(Debug)]
pub(crate) struct Telemetry {
    world: World,
    intake: Intake<Log>,
    reader: Arc<Reader>,
    pub(crate) partitions: u16,
    /// What could not be read when the journal was opened.
    pub(crate) damaged: Box<[Damage]>,
    accepted: Arc<AtomicU64>,
    rates: Arc<Mutex<Rates>>,
    /// Raised after every commit; live readers follow it.
    commits: watch::Sender<u64>,
    finished: watch::Receiver<bool>,
}

impl Telemetry {
    /// Opens the journal on `disk` and starts its writer.
    pub(crate) fn open(
        settings: &Settings,
        world: &World,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, OpenHubError> {
        let age_ms = i64::try_from(settings.telemetry.age.as_millis()).unwrap_or(i64::MAX);
        let retention =
            journal::log::Retention { age_ms: Some(age_ms), bytes: Some(settings.telemetry.bytes) };
        let options = LogOptions { segment_bytes: SEGMENT_BYTES, bytes_max: None, retention };
        let mut instance = [0; 16];
        world.random.fill(&mut instance);
        let instance = u128::from_le_bytes(instance);
        let (log, recovered) = Log::open(disk, options, instance, world.now().wall.0)
            .map_err(|error| OpenHubError::Journal(error.to_string()))?;
        tracing::info!(?recovered, "telemetry journal opened");
        for damage in &recovered.damaged {
            tracing::warn!(?damage, "a part of the telemetry cannot be read");
        }
        let reader = Arc::new(log.reader());
        let (intake, writer) = channel(log, IntakeLimits::default());
        let (finish, finished) = watch::channel(false);
        let worker = Inner { writer, retention, trust: WallTrust::default(), finish };
        let worker = Box::new(worker);
        intake.set_waker(world.spawner.start("hub-telemetry", worker));
        Ok(Self {
            world: world.clone(),
            intake,
            reader,
            partitions: settings.partitions,
            damaged: recovered.damaged.into(),
            accepted: Arc::new(AtomicU64::new(0)),
            rates: Arc::default(),
            commits: watch::Sender::new(0),
            finished,
        })
    }

    /// Enqueues `records` of `device` as one; they are refused if an earlier link of `chain` was.
    /// `kept` is dropped when they are answered. `None` when there is no room.
    pub(crate) fn submit(
        &self,
        (device, chain): (&str, &Chain),
        records: Vec<Bytes>,
        kept: impl Send + 'static,
    ) -> Option<Reply<Answer>> {
        let (answer, reply) = pair();
        let count = records.len() as u64;
        let accepted = Arc::clone(&self.accepted);
        let commits = self.commits.clone();
        let (rates, clock) = (Arc::clone(&self.rates), Arc::clone(&self.world.clock));
        let callback = move |result: &Result<Committed, CommitError>| {
            let mut result = result.as_ref().copied().map(accepted_by).map_err(refuse);
            // Planted: a disk that failed is none of the sender's business.
            if planted::is("failed_batch_accepted") {
                result = Ok(Answer::Accepted);
            }
            if result.is_ok() {
                accepted.fetch_add(count, Ordering::Relaxed);
                let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
                rates.handle_messages(count, clock.now().tick);
                drop(rates);
                commits.send_modify(|commit| *commit += 1);
            }
            // Nobody may be waiting any more; the messages stand all the same.
            answer.send(result).ok();
            drop(kept);
        };
        let mut records = self.records(device, records);
        // Planted: it is written twice.
        if planted::is("written_twice") {
            records.extend(records.clone());
        }
        self.intake.submit_in(chain, records, Box::new(callback)).ok().map(|()| reply)
    }

    /// Enqueues one record that nobody waits for; lost when there is no room.
    pub(crate) fn forget(&self, device: &str, record: Bytes) {
        if self.submit((device, &Chain::default()), vec![record], ()).is_none() {
            warn!(device_id = device, "no room for a will");
        }
    }

    /// Ready when there is room again.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.intake.poll_ready(cx)
    }

    /// Messages taken since the start.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Messages taken over time.
    pub(crate) fn series(&self, now: Now) -> Ingest {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).series(now)
    }

    /// Follows commits.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Where the journal begins and ends.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        let bounds = self.reader.bounds();
        (bounds.oldest.0, bounds.end.0)
    }

    /// Reads `partition` from `from` on, off the connection threads.
    pub(crate) async fn read(
        &self,
        partition: u16,
        from: u64,
        budget: Budget,
    ) -> Result<ReadBatch, Refusal> {
        let (answer, reply) = oneshot::channel();
        let reader = Arc::clone(&self.reader);
        self.world.spawner.offload(Box::new(move || {
            let batch = reader.read(LaneId(u32::from(partition)), Position(from), budget);
            let batch = batch.map_err(|cause| {
                error!(error = %cause, "telemetry not read");
                Refusal::new(RefusalKind::Unavailable, "the hub could not read")
            });
            // Nobody may be waiting any more.
            answer.send(batch).ok();
        }));
        settle(reply).await
    }

    /// The first offset of `partition` that was taken at or after `since`; the end if none was.
    pub(crate) async fn seek(&self, partition: u16, since: WallTime) -> Result<u64, Refusal> {
        let (answer, reply) = oneshot::channel();
        let reader = Arc::clone(&self.reader);
        self.world.spawner.offload(Box::new(move || {
            let found = reader.seek(LaneId(u32::from(partition)), since.0).map_err(|cause| {
                error!(error = %cause, "telemetry not looked through");
                Refusal::new(RefusalKind::Unavailable, "the hub could not read")
            });
            // Nobody may be waiting any more.
            answer.send(found.map(|position| position.0)).ok();
        }));
        settle(reply).await
    }

    /// Finishes what is queued, then ends the writer; returns when it is done.
    pub(crate) async fn close(&self) {
        self.stop();
        let mut finished = self.finished.clone();
        // An error means that the writer is gone, which is what we wait for.
        finished.wait_for(|finished| *finished).await.ok();
    }

    /// Ends the writer after what is queued, without waiting; live readers look once more.
    pub(crate) fn stop(&self) {
        self.intake.close();
        self.wake_readers();
    }

    /// Has live readers look once more.
    pub(crate) fn wake_readers(&self) {
        self.commits.send_modify(|commit| *commit += 1);
    }

    fn records(&self, device: &str, payloads: Vec<Bytes>) -> Vec<Record> {
        let lane = LaneId(u32::from(partition_of(device, self.partitions)));
        let enqueued_ms = self.world.now().wall.0;
        let record =
            |payload| Record { lanes: Box::new([lane]), enqueued_ms, expires_ms: None, payload };
        payloads.into_iter().map(record).collect()
    }
}

/// Only a commit accepts.
fn accepted_by(_: Committed) -> Answer {
    Answer::Accepted
}

fn refuse(error: &CommitError) -> Refusal {
    error!(error = %error, "telemetry not written");
    Refusal::new(RefusalKind::Unavailable, "the hub could not write")
}

struct Inner {
    writer: Writer<Log>,
    retention: journal::log::Retention,
    trust: WallTrust,
    finish: watch::Sender<bool>,
}

impl Inner {
    /// Only a clock that runs evenly says what is too old.
    fn retain(&mut self, now: Now) {
        let believed = self.trust.handle(now);
        let age_ms = self.retention.age_ms.filter(|_| believed);
        let retention = journal::log::Retention { age_ms, ..self.retention };
        self.writer.store().set_retention(retention);
    }
}

impl Worker for Inner {
    fn turn(&mut self, now: Now) -> Turn {
        if self.writer.begin() {
            return Turn::Again;
        }
        self.retain(now);
        match self.writer.turn(now.wall.0) {
            WriterTurn::Idle => Turn::Idle,
            WriterTurn::Again => Turn::Again,
            WriterTurn::Finished => {
                self.finish.send_replace(true);
                Turn::Finished
            }
        }
    }
}
