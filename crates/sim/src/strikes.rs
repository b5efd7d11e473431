//! Faults at the commits of a table store, aimed by the scenario.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model::commit::{CommitFault, CommitFaults, CommitStage};

/// Lets one commit meet a fault, whenever the scenario says so.
#[derive(Debug, Default)]
pub struct Strikes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    aimed: Option<Aim>,
    cut: bool,
    failed: u64,
    missed: u64,
}

#[derive(Debug)]
struct Aim {
    skip: u64,
    stage: CommitStage,
    fault: CommitFault,
}

impl Strikes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After `skip` commits, one meets `fault` at `stage`.
    pub fn aim(&self, skip: u64, stage: CommitStage, fault: CommitFault) {
        let mut state = self.state();
        state.forget();
        state.aimed = Some(Aim { skip, stage, fault });
    }

    /// What was aimed and has not come is forgotten.
    pub fn heal(&self) {
        let mut state = self.state();
        state.forget();
        state.cut = false;
    }

    /// Failures that were aimed and met no commit.
    pub fn missed(&self) -> u64 {
        self.state().missed
    }

    /// Whether the power went in a commit since the last [`Strikes::heal`].
    pub fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// Commits that failed so far.
    pub fn failed(&self) -> u64 {
        self.state().failed
    }
}

impl State {
    /// A power cut that found no commit comes all the same; a failure does not.
    fn forget(&mut self) {
        let failure = self.aimed.take().is_some_and(|aim| aim.fault == CommitFault::Fail);
        self.missed += u64::from(failure);
    }
}

impl CommitFaults for Strikes {
    fn strike(&self, stage: CommitStage) -> CommitFault {
        let mut state = self.state();
        let Some(aim) = &mut state.aimed else { return CommitFault::None };
        if aim.stage != stage {
            return CommitFault::None;
        }
        if aim.skip > 0 {
            aim.skip -= 1;
            return CommitFault::None;
        }
        let fault = aim.fault;
        state.aimed = None;
        state.cut |= fault == CommitFault::Cut;
        state.failed += u64::from(fault == CommitFault::Fail);
        fault
    }
}
