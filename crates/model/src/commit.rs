//! Faults at the commit boundary of a table store: how a simulator cuts the power there.
//!
//! `SQLite` runs real in every simulation, on a file that outlives its host; what is injected is
//! whether a commit happens and whether anybody hears of it. Hub and edge ask the same trait.

use std::fmt;

/// Where in a commit of the tables a fault may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStage {
    /// Everything is staged, nothing is durable.
    Before,
    /// It is durable, nobody was told.
    After,
}

/// A fault at the commit boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// Go on.
    None,
    /// The power goes: the store ends at once and answers nobody.
    Cut,
    /// The commit fails (only [`CommitStage::Before`]): rolled back, everybody is told.
    Fail,
}

/// Decides which commits meet a fault.
pub trait CommitFaults: Send + Sync + fmt::Debug {
    /// The fault of this commit at `stage`.
    fn strike(&self, stage: CommitStage) -> CommitFault;
}

/// Never a fault.
#[derive(Clone, Copy, Debug)]
pub struct NoFaults;

impl CommitFaults for NoFaults {
    fn strike(&self, _: CommitStage) -> CommitFault {
        CommitFault::None
    }
}
