//! The writer: one worker, one connection, many operations per commit.
//!
//! A turn drains what waits, runs it in order inside one transaction, commits, applies the
//! effects on open sessions in the same order, and only then answers. Operations decide first
//! and write afterwards, so one that is refused has not written. Should one have done so all the
//! same, or meet a row that cannot be read, it is taken back alone, told to the log and counted:
//! no input may cost its neighbours anything. Only the disk's own error rolls a whole turn back,
//! and then everybody is told `Unavailable`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::commit::{CommitFault, CommitFaults, CommitStage};
use model::refusal::{Refusal, RefusalKind};
use model::time::{Now, Tick};
use model::twin::limits::TwinFault;
use model::world::{Random, Turn, Worker, World};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{oneshot, watch};
use tracing::error;

use super::feed::Feed;
use super::inbox::{Inbox, NotTaken};
use super::trust::WallTrust;
use crate::session::effect::Effect;
use crate::session::shell::Permit;

/// Most operations in one commit.
const TURN_OPERATIONS_MAX: usize = 512;

/// Why an operation did nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A rule said no; neighbours are not touched.
    Refused(Refusal),
    /// The store failed; the whole turn is rolled back.
    Store(rusqlite::Error),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<TwinFault> for Fault {
    fn from(fault: TwinFault) -> Self {
        Self::Refused(fault.into())
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error)
    }
}

/// What an operation works with.
pub(crate) struct Writing<'a> {
    /// The transaction.
    pub(crate) db: &'a Connection,
    /// The time of the turn.
    pub(crate) now: Now,
    /// Chance.
    pub(crate) random: &'a dyn Random,
    /// The change feed.
    pub(crate) feed: &'a mut Feed,
    /// What happens to sessions once all is durable.
    pub(crate) effects: &'a mut Vec<Effect>,
}

/// An answer on its way.
pub(crate) type Reply<T> = oneshot::Receiver<Result<T, Refusal>>;

/// Both ends of an answer.
pub(crate) fn pair<T>() -> (oneshot::Sender<Result<T, Refusal>>, Reply<T>) {
    oneshot::channel()
}

/// The handle of the writer.
#[derive(Clone)]
pub(crate) struct Tables {
    inbox: Arc<Inbox<Box<dyn Job>>>,
    taken_back: Arc<AtomicU64>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tables")
    }
}

/// What the worker needs.
pub(crate) struct WriterParts {
    pub(crate) db: Connection,
    pub(crate) feed: Feed,
    /// Told the newest change after each commit that made one.
    pub(crate) told: watch::Sender<u64>,
    pub(crate) faults: Arc<dyn CommitFaults>,
    pub(crate) apply: Box<dyn FnMut(Effect, Now) + Send>,
}

impl Tables {
    /// Starts the worker.
    pub(crate) fn start(world: &World, parts: WriterParts) -> Self {
        let inbox = Arc::new(Inbox::new());
        let taken_back = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            parts,
            inbox: Arc::clone(&inbox),
            taken_back: Arc::clone(&taken_back),
            random: Arc::clone(&world.random),
            jobs: Vec::new(),
            effects: Vec::new(),
            trust: WallTrust::default(),
            is_believed: false,
        };
        inbox.set_waker(world.spawner.start("hub-tables", Box::new(writer)));
        Self { inbox, taken_back }
    }

    /// Operations that wrote and were taken back alone; one means a fault in the hub or in its
    /// file.
    pub(crate) fn taken_back(&self) -> u64 {
        self.taken_back.load(Ordering::Relaxed)
    }

    /// Operations that found too many waiting.
    pub(crate) fn refused(&self) -> u64 {
        self.inbox.refused()
    }

    /// Enqueues `operation`; `kept` is dropped when it is answered.
    pub(crate) fn submit<T, F>(
        &self,
        deadline: Tick,
        kept: impl Send + 'static,
        operation: F,
    ) -> Reply<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writing<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let (answer, reply) = oneshot::channel();
        let job = Operation { deadline, work: Some(operation), result: None, answer, kept };
        give_back(self.inbox.push(Box::new(job)));
        reply
    }

    /// The same for a session's batch, whose room `permit` holds: it waits however many others do.
    pub(crate) fn submit_held<T, F>(
        &self,
        deadline: Tick,
        permit: Arc<Permit>,
        operation: F,
    ) -> Reply<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writing<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let (answer, reply) = oneshot::channel();
        let work = Some(operation);
        let job = Operation { deadline, work, result: None, answer, kept: permit };
        give_back(self.inbox.push_held(Box::new(job)));
        reply
    }

    /// Runs `operation` and waits for its commit.
    pub(crate) async fn write<T, F>(&self, operation: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writing<'_>) -> Result<T, Fault> + Send + 'static,
    {
        settle(self.submit(Tick::NEVER, (), operation)).await
    }

    /// Finishes what is queued, then ends the worker.
    pub(crate) fn close(&self) {
        self.inbox.close();
    }
}

fn give_back(pushed: Result<(), NotTaken<Box<dyn Job>>>) {
    let (mut job, refusal) = match pushed {
        Ok(()) => return,
        Err(NotTaken::Closed(job)) => (job, stopping()),
        Err(NotTaken::Full(job)) => (job, too_many()),
    };
    job.fail(refusal);
    job.answer();
}

/// Waits for a reply; a worker that is gone answers nobody.
pub(crate) async fn settle<T>(reply: Reply<T>) -> Result<T, Refusal> {
    reply.await.unwrap_or_else(|_| Err(stopping()))
}

/// The hub is going.
pub(crate) fn stopping() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "the hub is stopping")
}

/// More wait already than may.
pub(crate) fn too_many() -> Refusal {
    Refusal::new(RefusalKind::Throttled, "too much waits for the tables; try again later")
}

trait Job: Send {
    fn run(&mut self, writing: &mut Writing<'_>) -> Ran;
    fn fail(&mut self, refusal: Refusal);
    fn answer(self: Box<Self>);
}

enum Ran {
    Done,
    Refused,
    Failed(rusqlite::Error),
}

struct Operation<T, F, K> {
    deadline: Tick,
    work: Option<F>,
    result: Option<Result<T, Refusal>>,
    answer: oneshot::Sender<Result<T, Refusal>>,
    kept: K,
}

impl<T, F, K> Job for Operation<T, F, K>
where
    T: Send + 'static,
    F: FnOnce(&mut Writing<'_>) -> Result<T, Fault> + Send + 'static,
    K: Send + 'static,
{
    fn run(&mut self, writing: &mut Writing<'_>) -> Ran {
        let Some(operation) = self.work.take() else { return Ran::Done };
        if writing.now.tick > self.deadline {
            let late = Refusal::new(RefusalKind::TimedOut, "the request waited too long");
            self.result = Some(Err(late));
            return Ran::Refused;
        }
        match operation(writing) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Ran::Done
            }
            Err(Fault::Refused(refusal)) => {
                self.result = Some(Err(refusal));
                Ran::Refused
            }
            Err(Fault::Store(error)) => Ran::Failed(error),
        }
    }

    fn fail(&mut self, refusal: Refusal) {
        self.result = Some(Err(refusal));
    }

    fn answer(self: Box<Self>) {
        let Self { result, answer, kept, .. } = *self;
        let result = result.unwrap_or_else(|| Err(stopping()));
        // Nobody may be waiting any more; the effect stands all the same.
        answer.send(result).ok();
        drop(kept);
    }
}

struct Writer {
    parts: WriterParts,
    inbox: Arc<Inbox<Box<dyn Job>>>,
    taken_back: Arc<AtomicU64>,
    random: Arc<dyn Random>,
    jobs: Vec<Box<dyn Job>>,
    effects: Vec<Effect>,
    trust: WallTrust,
    /// Whether the wall clock of this turn says what is too old.
    is_believed: bool,
}

impl Worker for Writer {
    fn turn(&mut self, now: Now) -> Turn {
        self.is_believed = self.trust.handle(now);
        let last = self.inbox.drain(TURN_OPERATIONS_MAX, &mut self.jobs);
        if !self.jobs.is_empty() {
            match self.transact(now) {
                Ok(()) => {}
                Err(Broken::Cut) => {
                    self.inbox.cut();
                    self.jobs.clear();
                    return Turn::Finished;
                }
                Err(Broken::Store(error)) => self.roll_back(&error),
            }
            for effect in self.effects.drain(..) {
                (self.parts.apply)(effect, now);
            }
            for job in self.jobs.drain(..) {
                job.answer();
            }
        }
        match (last, self.inbox.is_empty()) {
            (true, _) => Turn::Finished,
            (false, true) => Turn::Idle,
            (false, false) => Turn::Again,
        }
    }
}

enum Broken {
    Cut,
    Store(rusqlite::Error),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error)
    }
}

/// Where an operation began, to go back to.
const BEGIN_ONE: &str = "SAVEPOINT one";
const END_ONE: &str = "RELEASE one";
const UNDO_ONE: &str = "ROLLBACK TO one";

/// Whether `error` is the disk's or the machine's, so that nothing of the turn can be kept.
fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::NotADatabase
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OperationInterrupted
        )
    )
}

impl Writer {
    /// Runs one job; what it wrote is taken back if it does not end well.
    fn run(&mut self, at: usize, now: Now) -> rusqlite::Result<()> {
        let WriterParts { db, feed, .. } = &mut self.parts;
        let Some(job) = self.jobs.get_mut(at) else { return Ok(()) };
        db.prepare_cached(BEGIN_ONE)?.execute([])?;
        let (mark, effects, changes) = (feed.mark(), self.effects.len(), db.total_changes());
        let random = &*self.random;
        let mut writing = Writing { db, now, random, feed, effects: &mut self.effects };
        let ran = job.run(&mut writing);
        let wrote = db.total_changes() != changes;
        let broken = match ran {
            Ran::Done => None,
            Ran::Refused if !wrote => None,
            Ran::Refused => Some("a refused operation wrote".to_owned()),
            // After some errors SQLite has rolled all of it back by itself.
            Ran::Failed(error) if is_of_the_disk(&error) || db.is_autocommit() => {
                return Err(error);
            }
            Ran::Failed(error) => {
                let words = "the hub could not do this; its log says why";
                job.fail(Refusal::new(RefusalKind::Internal, words));
                Some(error.to_string())
            }
        };
        if let Some(error) = broken {
            error!(error, wrote, "an operation is taken back");
            self.taken_back.fetch_add(u64::from(wrote), Ordering::Relaxed);
            db.prepare_cached(UNDO_ONE)?.execute([])?;
            feed.back_to(mark);
            self.effects.truncate(effects);
        }
        db.prepare_cached(END_ONE)?.execute([]).map(drop)
    }

    fn transact(&mut self, now: Now) -> Result<(), Broken> {
        self.parts.db.execute_batch("BEGIN")?;
        let before_all = self.parts.db.total_changes();
        for at in 0..self.jobs.len() {
            self.run(at, now)?;
        }
        let WriterParts { db, feed, told, faults, .. } = &mut self.parts;
        if db.total_changes() == before_all {
            db.execute_batch("COMMIT")?;
            return Ok(());
        }
        feed.trim(db, self.is_believed.then_some(now.wall))?;
        match faults.strike(CommitStage::Before) {
            CommitFault::None => {}
            CommitFault::Cut => return Err(Broken::Cut),
            CommitFault::Fail => {
                let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
                return Err(rusqlite::Error::SqliteFailure(full, None).into());
            }
        }
        db.execute_batch("COMMIT")?;
        feed.committed();
        let head = feed.head();
        told.send_if_modified(|known| std::mem::replace(known, head) != head);
        match faults.strike(CommitStage::After) {
            CommitFault::Cut => Err(Broken::Cut),
            CommitFault::None | CommitFault::Fail => Ok(()),
        }
    }

    fn roll_back(&mut self, cause: &rusqlite::Error) {
        error!(error = %cause, operations = self.jobs.len(), "tables not written");
        self.effects.clear();
        self.parts.feed.rolled_back();
        if let Err(second) = self.parts.db.execute_batch("ROLLBACK") {
            // SQLite rolls back by itself on some errors; then there is nothing to roll back.
            tracing::debug!(error = %second, "no transaction to roll back");
        }
        for job in &mut self.jobs {
            job.fail(Refusal::new(RefusalKind::Unavailable, "the hub could not write"));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
