//! Many senders, one commit: the loop body of the thread that owns a log or a queue.
//!
//! Make both ends with [`channel`], wrap [`Writer::turn`] as a worker, and give its waker to
//! [`Intake::set_waker`]. Groups form by themselves while the previous sync runs.

use std::task::{Context, Poll, Waker};

use crate::log::{CommitError, Committed, Log, Position, Record, StageError};
use crate::queue::Queue;

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
    /// Most records waiting.
    pub records: usize,
    /// Most payload bytes waiting; one submission alone may exceed it.
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
#[derive(Debug)]
pub struct Intake<S>(std::marker::PhantomData<fn(S)>);

impl<S> Clone for Intake<S> {
    fn clone(&self) -> Self {
        todo!()
    }
}

/// No room; here is the submission back, untouched. Wait with [`Intake::poll_ready`].
pub struct IntakeFull {
    /// The records.
    pub records: Vec<Record>,
    /// The callback.
    pub callback: Callback,
}

impl<S: Store> Intake<S> {
    /// Enqueues `records` as one unit and returns at once; `callback` is called exactly once, in
    /// the order of submissions.
    ///
    /// # Errors
    /// [`IntakeFull`] gives everything back.
    pub fn submit(&self, records: Vec<Record>, callback: Callback) -> Result<(), IntakeFull> {
        todo!("{}", records.len() + size_of_val(&callback))
    }

    /// Enqueues work on the store, in order with submissions.
    ///
    /// # Errors
    /// The command back, if too many wait or the writer is gone.
    pub fn command(&self, command: Command<S>) -> Result<(), Command<S>> {
        Err(command)
    }

    /// Ready when there is room again.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        todo!("{cx:?}")
    }

    /// Whom to wake when there is work: the waker of the worker that calls [`Writer::turn`].
    pub fn set_waker(&self, waker: Waker) {
        todo!("{waker:?}")
    }

    /// Ends the writer after what is waiting; later submissions are answered `Closed`.
    pub fn close(&self) {
        todo!()
    }
}

/// The writer's end: owns the store.
#[derive(Debug)]
pub struct Writer<S>(S);

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
    todo!("{limits:?} {}", size_of_val(&store))
}

impl<S: Store> Writer<S> {
    /// Takes what waits (bounded by one write), stages it, commits once, calls back.
    pub fn turn(&mut self, now_ms: i64) -> WriterTurn {
        todo!("{now_ms}")
    }
}

/// The first position after a record, for cursors.
pub fn after(position: Position) -> Position {
    position.plus(1)
}
