//! What crosses the waist when something is not done: a kind chosen by what the caller can do
//! about it, and a reason fit for the caller's eyes.

use std::borrow::Cow;
use std::fmt;

/// What the caller can do about it. Each protocol maps this to its own codes, exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Fix the request; it will never be accepted as it is.
    InvalidRequest,
    /// Prove who you are, again or with other credentials.
    Unauthenticated,
    /// You are known and may not.
    Forbidden,
    /// The device named does not exist.
    DeviceNotFound,
    /// The module named does not exist.
    ModuleNotFound,
    /// Something else named does not exist.
    NotFound,
    /// It exists already; read it, then update.
    AlreadyExists,
    /// It changed meanwhile; read again.
    PreconditionFailed,
    /// Send less at once.
    TooLarge,
    /// A fixed number is used up.
    QuotaExceeded,
    /// Send again later.
    Throttled,
    /// The target of the method is not connected, or listens to no methods.
    TargetOffline,
    /// The target of the method did not answer in time.
    TargetTimedOut,
    /// A newer session of the same identity took over.
    TakenOver,
    /// Unknown outcome: it may have happened.
    TimedOut,
    /// Nothing was done; try again.
    Unavailable,
    /// Our fault; nothing you can do.
    Internal,
}

/// A refusal: kind for the program, reason for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the caller can do about it.
    pub kind: RefusalKind,
    /// One sentence for the caller; never an internal cause.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal of `kind` because of `reason`.
    pub fn new(kind: RefusalKind, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}
