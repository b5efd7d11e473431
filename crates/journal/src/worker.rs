//! Many senders, one commit: the loop body of the thread that owns a log or a queue.
//!
//! Make both ends with [`channel`], wrap [`Writer::turn`] as a worker, and give its waker to
//! [`Intake::set_waker`]. Groups form by themselves while the previous sync runs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::log::{CommitError, Committed, Log, Record, StageError};
use crate::planted;
use crate::queue::Queue;

#[cfg(test)]
mod tests;

/// Told how a submission ended, from the writer's turn: be quick and do not call back into it.
pub type Callback = Box<dyn FnOnce(&Result<Committed, CommitError>) + Send>;

/// Work on the store itself, done in order within the writer's turn: reads of the queue,
/// acknowledgements, statistics. What it stages is committed by the same turn.
pub type Command<S> = Box<dyn FnOnce(&mut S, i64) + Send>;

/// What a [`Writer`] can own.
pub trait Store: Send {
    /// Takes records into the next commit, all or none.
    ///
    /// # Errors
    /// [`StageError`].
    fn stage(&mut self, records: &[Record]) -> Result<(), StageError>;

    /// One write, one sync.
    ///
    /// # Errors
    /// [`CommitError`].
    fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError>;

    /// Gives up what retention or expiry allows.
    fn tidy(&mut self, now_ms: i64);
}

impl Store for Log {
    fn stage(&mut self, records: &[Record]) -> Result<(), StageError> {
        Self::stage(self, records).map(|_| ())
    }

    fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError> {
        Self::commit(self, now_ms)
    }

    fn tidy(&mut self, now_ms: i64) {
        self.retain(now_ms);
    }
}

impl Store for Queue {
    fn stage(&mut self, records: &[Record]) -> Result<(), StageError> {
        Self::stage(self, records)
    }

    fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError> {
        Self::commit(self, now_ms)
    }

    fn tidy(&mut self, now_ms: i64) {
        self.reclaim(now_ms);
    }
}

/// How much may wait for the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntakeLimits {
    /// Most records waiting; the submission that reaches it may exceed it.
    pub records: usize,
    /// Most payload bytes waiting; the submission that reaches it may exceed it.
    pub bytes: usize,
    /// Most commands waiting.
    pub commands: usize,
}

impl Default for IntakeLimits {
    /// 64 Ki records, 32 MiB, 4,096 commands.
    fn default() -> Self {
        Self { records: 64 * 1024, bytes: 32 << 20, commands: 4096 }
    }
}

/// The senders' end.
pub struct Intake<S>(Arc<Mutex<Waiting<S>>>);

impl<S> Clone for Intake<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for Intake<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake")
    }
}

/// No room; here is the submission back, untouched. Wait with [`Intake::poll_ready`].
pub struct IntakeFull {
    /// The records.
    pub records: Vec<Record>,
    /// The callback.
    pub callback: Callback,
}

impl fmt::Debug for IntakeFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IntakeFull({} records)", self.records.len())
    }
}

/// Submissions of one sender, none of which may overtake another: once one has failed, those
/// that wait behind it fail as well, for the sender will send all of them again. After that the
/// sender goes on with another chain.
#[derive(Clone, Debug, Default)]
pub struct Chain(Arc<Mutex<Option<CommitError>>>);

impl Chain {
    /// Why a link of it failed; none while it holds.
    pub fn failure(&self) -> Option<CommitError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tears it without a submission: what its owner would not even submit was refused, and
    /// nothing sent behind that may be kept before its sender was told.
    pub fn break_off(&self) {
        self.tear(&CommitError::Behind);
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn tear(&self, error: &CommitError) {
        // Planted: what waits behind a failure is committed all the same.
        if planted::is("chain_not_torn") {
            return;
        }
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| error.clone());
    }
}

enum Job<S> {
    Submission { records: Vec<Record>, callback: Callback, chain: Option<Chain> },
    Command(Command<S>),
}

impl<S> fmt::Debug for Job<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submission { records, .. } => write!(f, "Submission({} records)", records.len()),
            Self::Command(_) => f.write_str("Command"),
        }
    }
}

struct Waiting<S> {
    limits: IntakeLimits,
    jobs: VecDeque<Job<S>>,
    records: usize,
    bytes: usize,
    commands: usize,
    closed: bool,
    writer: Option<Waker>,
    senders: Vec<Waker>,
}

impl<S> Waiting<S> {
    fn has_room(&self) -> bool {
        self.records < self.limits.records
            && self.bytes < self.limits.bytes
            && self.commands < self.limits.commands
    }
}

fn payload_bytes(records: &[Record]) -> usize {
    records.iter().map(|record| record.payload.len()).sum()
}

impl<S: Store> Intake<S> {
    /// Enqueues `records` as one unit and returns at once; `callback` is called exactly once, in
    /// the order of submissions. After [`Intake::close`] it is called at once with `Closed`.
    ///
    /// # Errors
    /// [`IntakeFull`] gives everything back.
    pub fn submit(&self, records: Vec<Record>, callback: Callback) -> Result<(), IntakeFull> {
        self.enqueue(records, callback, None)
    }

    /// As [`Intake::submit`], but fails if an earlier link of `chain` did.
    ///
    /// # Errors
    /// As [`Intake::submit`].
    pub fn submit_in(
        &self,
        chain: &Chain,
        records: Vec<Record>,
        callback: Callback,
    ) -> Result<(), IntakeFull> {
        let own = chain.clone();
        let callback: Callback = Box::new(move |outcome| {
            if let Err(error) = outcome {
                own.tear(error);
            }
            callback(outcome);
        });
        self.enqueue(records, callback, Some(chain.clone()))
    }

    fn enqueue(
        &self,
        records: Vec<Record>,
        callback: Callback,
        chain: Option<Chain>,
    ) -> Result<(), IntakeFull> {
        let bytes = payload_bytes(&records);
        let mut waiting = self.waiting();
        if waiting.closed {
            drop(waiting);
            callback(&Err(CommitError::Closed));
            return Ok(());
        }
        // As `poll_ready` asks, so that whoever was told to come finds room, whatever the size.
        if waiting.records >= waiting.limits.records || waiting.bytes >= waiting.limits.bytes {
            return Err(IntakeFull { records, callback });
        }
        waiting.records += records.len();
        waiting.bytes += bytes;
        push(waiting, Job::Submission { records, callback, chain });
        Ok(())
    }

    /// Enqueues work on the store, in order with submissions.
    ///
    /// # Errors
    /// The command back, if too many wait or the intake is closed.
    pub fn command(&self, command: Command<S>) -> Result<(), Command<S>> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.commands >= waiting.limits.commands {
            return Err(command);
        }
        waiting.commands += 1;
        push(waiting, Job::Command(command));
        Ok(())
    }

    /// Ready when there is room again.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.has_room() {
            return Poll::Ready(());
        }
        if !waiting.senders.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.senders.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whom to wake when there is work: the waker of the worker that calls [`Writer::turn`].
    pub fn set_waker(&self, waker: Waker) {
        let mut waiting = self.waiting();
        let pending = !waiting.jobs.is_empty() || waiting.closed;
        waiting.writer = Some(waker.clone());
        drop(waiting);
        if pending {
            waker.wake();
        }
    }

    /// Ends the writer after what is waiting; later submissions are answered `Closed`.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        let writer = waiting.writer.clone();
        drop(waiting);
        if let Some(waker) = writer {
            waker.wake();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<S>(mut waiting: MutexGuard<'_, Waiting<S>>, job: Job<S>) {
    let was_empty = waiting.jobs.is_empty();
    waiting.jobs.push_back(job);
    let writer = waiting.writer.clone().filter(|_| was_empty);
    drop(waiting);
    if let Some(waker) = writer {
        waker.wake();
    }
}

/// The writer's end: owns the store.
#[derive(Debug)]
pub struct Writer<S> {
    store: S,
    intake: Intake<S>,
    /// Taken by [`Writer::begin`], worked up by the next turn.
    begun: VecDeque<Job<S>>,
}

/// What the writer wants after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterTurn {
    /// Nothing until the next wake-up.
    Idle,
    /// More is waiting.
    Again,
    /// Closed and drained.
    Finished,
}

/// Both ends of `store`.
pub fn channel<S: Store>(store: S, limits: IntakeLimits) -> (Intake<S>, Writer<S>) {
    let intake = Intake(Arc::new(Mutex::new(Waiting {
        limits,
        jobs: VecDeque::new(),
        records: 0,
        bytes: 0,
        commands: 0,
        closed: false,
        writer: None,
        senders: Vec::new(),
    })));
    (intake.clone(), Writer { store, intake, begun: VecDeque::new() })
}

impl<S: Store> Writer<S> {
    /// Takes what waits for the next turn, if nothing is taken yet; whether something was. What
    /// comes between the two belongs to another commit, as what comes while a disk is busy; a
    /// worker that begins lets a simulation put time there.
    pub fn begin(&mut self) -> bool {
        if !self.begun.is_empty() {
            return false;
        }
        let senders;
        (self.begun, senders) = self.take();
        senders.into_iter().for_each(Waker::wake);
        !self.begun.is_empty()
    }

    /// Takes what waits unless that was begun, stages it, commits (once, unless it exceeds one
    /// write), calls back.
    pub fn turn(&mut self, now_ms: i64) -> WriterTurn {
        self.begin();
        let mut staged = Vec::new();
        for job in std::mem::take(&mut self.begun) {
            match job {
                Job::Command(command) => command(&mut self.store, now_ms),
                Job::Submission { records, callback, chain } => {
                    match chain.as_ref().and_then(Chain::failure) {
                        None => {
                            let submitted = (&*records, callback, chain.as_ref());
                            self.stage(submitted, &mut staged, now_ms);
                        }
                        Some(error) => {
                            self.commit(&mut staged, now_ms);
                            callback(&Err(error));
                        }
                    }
                }
            }
        }
        self.commit(&mut staged, now_ms);
        self.store.tidy(now_ms);
        let waiting = self.intake.waiting();
        match (waiting.jobs.is_empty(), waiting.closed) {
            (false, _) => WriterTurn::Again,
            (true, false) => WriterTurn::Idle,
            (true, true) => WriterTurn::Finished,
        }
    }

    /// What it owns, to give it back or to look at it between turns.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    fn take(&self) -> (VecDeque<Job<S>>, Vec<Waker>) {
        let mut waiting = self.intake.waiting();
        (waiting.records, waiting.bytes, waiting.commands) = (0, 0, 0);
        (std::mem::take(&mut waiting.jobs), std::mem::take(&mut waiting.senders))
    }

    fn stage(
        &mut self,
        (records, callback, chain): (&[Record], Callback, Option<&Chain>),
        staged: &mut Vec<Callback>,
        now_ms: i64,
    ) {
        let mut outcome = self.store.stage(records);
        if outcome == Err(StageError::CommitFirst) {
            self.commit(staged, now_ms);
            // An earlier link of its chain may have been in that commit.
            if let Some(error) = chain.and_then(Chain::failure) {
                return callback(&Err(error));
            }
            outcome = self.store.stage(records);
        }
        match outcome {
            Ok(()) => staged.push(callback),
            // Its neighbours go on; order among callbacks is kept by answering them first.
            Err(refused) => {
                self.commit(staged, now_ms);
                callback(&Err(CommitError::Refused(refused)));
            }
        }
    }

    fn commit(&mut self, staged: &mut Vec<Callback>, now_ms: i64) {
        let outcome = self.store.commit(now_ms);
        for callback in staged.drain(..) {
            callback(&outcome);
        }
    }
}
