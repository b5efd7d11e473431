//! What to do next so that the modules are as desired. Pure: no clock, no engine, no waiting.
//!
//! A plan is computed from what is desired, what is there, what was tried before, and the
//! time. Its commands run in order; each may happen twice. Rules:
//!
//! - What is no longer desired goes first, then lower `startupOrder` before higher.
//! - The image of a new version is prepared while the old version runs. Only then is the old
//!   one removed, so a missing image costs nothing that works; if the old one ends meanwhile,
//!   it is started again as it is.
//! - Preparing runs beside everything else. A module that is to be *created* waits for those
//!   of lower order that still prepare; a *restart* waits for nobody.
//! - A command that failed is tried again after 10 s · 2ⁿ, at most 5 min, and at once if the
//!   module's specification changes.

use std::collections::BTreeMap;
use std::time::Duration;

use model::id::ModuleName;
use model::manifest::{DesiredStatus, RestartPolicy};
use model::planted;
use model::time::{Now, Tick, WallTime};

use super::restart::{self, Exit, History, Verdict};

/// A module as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Names everything that a running module cannot change: image, options, variables.
    pub spec: Box<str>,
    /// Whether it is to run.
    pub status: DesiredStatus,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// Lower starts earlier.
    pub startup_order: u32,
}

/// A module as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The specification it was created from; empty if it is none of ours.
    pub spec: Box<str>,
    /// What it does.
    pub state: State,
}

impl Current {
    /// Whether it is what `wanted` says: whatever failed on the way is over.
    pub fn is_as(&self, wanted: &Wanted) -> bool {
        let state = match wanted.status {
            DesiredStatus::Running => matches!(self.state, State::Running(_)),
            DesiredStatus::Stopped => matches!(self.state, State::Created | State::Ended(_)),
        };
        state && self.spec == wanted.spec
    }
}

/// What a module does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made and never started.
    Created,
    /// Running since then.
    Running(Option<WallTime>),
    /// Ended.
    Ended(Exit),
    /// Broken beyond starting; only removing helps.
    Dead,
    /// Starting or ending right now; soon the engine can tell.
    Unknown,
}

/// What is remembered about a module between passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its restarts.
    pub history: History,
    /// The specification whose image is there and which the engine found good.
    pub prepared: Option<Box<str>>,
    /// The specification that is being prepared right now.
    pub preparing: Option<Box<str>>,
    /// The last command that failed.
    pub failure: Option<Failure>,
    /// Somebody asked for a restart.
    pub restart_asked: bool,
}

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For which specification.
    pub spec: Box<str>,
    /// How often in a row.
    pub times: u32,
    /// When it failed last.
    pub at: Tick,
    /// Why, for the report.
    pub words: String,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Get the image and check the specification; runs beside the others.
    Prepare(ModuleName),
    /// End it, with the engine's grace.
    Stop(ModuleName),
    /// Take it away, ending it first if need be.
    Remove(ModuleName),
    /// Make it from its specification.
    Create(ModuleName),
    /// Start what is made.
    Start(ModuleName),
    /// Start what ended, and count it.
    Restart(ModuleName),
    /// It has recovered: forget its restarts.
    Forget(ModuleName),
}

impl Command {
    /// Whom it is about.
    pub fn module(&self) -> &ModuleName {
        match self {
            Self::Prepare(name)
            | Self::Stop(name)
            | Self::Remove(name)
            | Self::Create(name)
            | Self::Start(name)
            | Self::Restart(name)
            | Self::Forget(name) => name,
        }
    }
}

/// What to do now, and when to look again at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order. If one fails, the later ones of the same module are left out.
    pub commands: Vec<Command>,
    /// Look again after this span even if nothing happens.
    pub wake: Option<Duration>,
}

/// When to look again at a module of which nothing is known.
const UNKNOWN_LOOK: Duration = Duration::from_millis(200);

/// Modules by name, as desired.
pub type Desired = BTreeMap<ModuleName, Wanted>;
/// Modules by name, as they are.
pub type Observed = BTreeMap<ModuleName, Current>;
/// What is remembered, by name.
pub type Memories = BTreeMap<ModuleName, Memory>;

/// Computes the next commands. Empty means done, for now.
pub fn plan(desired: &Desired, current: &Observed, memories: &Memories, now: Now) -> Plan {
    let mut plan = Plan::default();
    let gone = current.keys().filter(|name| !desired.contains_key(*name));
    for name in gone {
        if due(&mut plan, memories.get(name), "", now) {
            // Planted: a step is skipped.
            if !planted::is("plan_step_skipped") {
                plan.commands.push(Command::Remove(name.clone()));
            }
        }
    }
    let mut order: Vec<_> = desired.iter().collect();
    order.sort_by_key(|(name, wanted)| (wanted.startup_order, (*name).clone()));
    let nothing = Memory::default();
    // The lowest order of a module whose image is still on its way.
    let mut preparing: Option<u32> = None;
    for (name, wanted) in order {
        let one = One {
            name,
            wanted,
            current: current.get(name),
            memory: memories.get(name).unwrap_or(&nothing),
            now,
        };
        let waits = preparing.is_some_and(|lowest| lowest < wanted.startup_order);
        if one.plan(&mut plan, waits) == Ready::Preparing && preparing.is_none() {
            preparing = Some(wanted.startup_order);
        }
    }
    plan
}

/// Whether a module still waits for its image.
#[derive(PartialEq, Eq)]
enum Ready {
    Settled,
    Preparing,
}

struct One<'a> {
    name: &'a ModuleName,
    wanted: &'a Wanted,
    current: Option<&'a Current>,
    memory: &'a Memory,
    now: Now,
}

impl One<'_> {
    fn plan(&self, plan: &mut Plan, waits: bool) -> Ready {
        match self.current {
            Some(current) if current.spec == self.wanted.spec => {
                self.state(plan, current.state);
                Ready::Settled
            }
            _ => self.replace(plan, waits),
        }
    }

    /// It is absent, or made from another specification.
    fn replace(&self, plan: &mut Plan, waits: bool) -> Ready {
        let spec = &self.wanted.spec;
        if self.memory.prepared.as_ref() != Some(spec) {
            let ready = self.prepare(plan);
            self.keep_old(plan);
            return ready;
        }
        if waits || !due(plan, Some(self.memory), spec, self.now) {
            return Ready::Settled;
        }
        if self.current.is_some() {
            plan.commands.push(Command::Remove(self.name.clone()));
        }
        plan.commands.push(Command::Create(self.name.clone()));
        if self.wanted.status == DesiredStatus::Running {
            plan.commands.push(Command::Start(self.name.clone()));
        }
        Ready::Settled
    }

    fn prepare(&self, plan: &mut Plan) -> Ready {
        if self.memory.preparing.is_some() {
            return Ready::Preparing;
        }
        if !due(plan, Some(self.memory), &self.wanted.spec, self.now) {
            return Ready::Settled;
        }
        plan.commands.push(Command::Prepare(self.name.clone()));
        Ready::Preparing
    }

    /// What ran before runs on until then, also after an end or a power cut.
    fn keep_old(&self, plan: &mut Plan) {
        let Some(old) = self.current.filter(|old| !old.spec.is_empty()) else { return };
        let history = self.memory.history;
        let exit = match old.state {
            State::Ended(exit) => exit,
            // It cannot be made again from what is desired now, so it is tried as it is.
            State::Dead => Exit { failed: true, at: history.last_restart, is_earlier: false },
            State::Created | State::Running(_) | State::Unknown => return,
        };
        if self.wanted.status == DesiredStatus::Running {
            match restart::judge(self.wanted.restart, exit, history, self.now.wall) {
                Verdict::Leave | Verdict::GiveUp => {}
                Verdict::Restart if exit.is_earlier => {
                    self.push(plan, &[Command::Start(self.name.clone())]);
                }
                // That the new version fails is no reason to wait.
                Verdict::Restart => plan.commands.push(Command::Restart(self.name.clone())),
                Verdict::Wait(until) => self.wait(plan, until),
            }
        }
    }

    fn wait(&self, plan: &mut Plan, until: WallTime) {
        // One millisecond more: the rule says "longer than".
        soonest(plan, until.since(self.now.wall) + Duration::from_millis(1));
    }

    /// It is made from the right specification.
    fn state(&self, plan: &mut Plan, state: State) {
        let name = || self.name.clone();
        match (self.wanted.status, state) {
            (_, State::Dead) => self.push(plan, &[Command::Remove(name())]),
            (_, State::Unknown) => soonest(plan, UNKNOWN_LOOK),
            (DesiredStatus::Stopped, State::Running(_)) => {
                self.push(plan, &[Command::Stop(name())]);
            }
            (DesiredStatus::Stopped, State::Created | State::Ended(_)) => {}
            (DesiredStatus::Running, State::Created) => {
                self.push(plan, &[Command::Start(name())]);
            }
            (DesiredStatus::Running, State::Running(_)) if self.memory.restart_asked => {
                self.push(plan, &[Command::Stop(name()), Command::Start(name())]);
            }
            (DesiredStatus::Running, State::Running(started)) => self.recovery(plan, started),
            (DesiredStatus::Running, State::Ended(_)) if self.memory.restart_asked => {
                self.push(plan, &[Command::Start(name())]);
            }
            (DesiredStatus::Running, State::Ended(exit)) => self.ended(plan, exit),
        }
    }

    fn ended(&self, plan: &mut Plan, exit: Exit) {
        let verdict = restart::judge(self.wanted.restart, exit, self.memory.history, self.now.wall);
        match verdict {
            Verdict::Leave | Verdict::GiveUp => {}
            // Starting the device is nobody's failure.
            Verdict::Restart if exit.is_earlier => {
                self.push(plan, &[Command::Start(self.name.clone())]);
            }
            Verdict::Restart => self.push(plan, &[Command::Restart(self.name.clone())]),
            // Planted: nobody waits before a restart.
            Verdict::Wait(_) if planted::is("backoff_forgotten") => {
                self.push(plan, &[Command::Restart(self.name.clone())]);
            }
            Verdict::Wait(until) => self.wait(plan, until),
        }
    }

    fn recovery(&self, plan: &mut Plan, started: Option<WallTime>) {
        if restart::has_recovered(started, self.memory.history, self.now.wall) {
            plan.commands.push(Command::Forget(self.name.clone()));
        } else if self.memory.history.restarts > 0 {
            let up = started.map_or(Duration::ZERO, |started| self.now.wall.since(started));
            soonest(plan, restart::INTENSIVE_CARE.saturating_sub(up) + Duration::from_millis(1));
        }
    }

    fn push(&self, plan: &mut Plan, commands: &[Command]) {
        if due(plan, Some(self.memory), &self.wanted.spec, self.now) {
            plan.commands.extend_from_slice(commands);
        }
    }
}

/// Whether a command for `spec` may be tried now; if not, the plan wakes when it may.
fn due(plan: &mut Plan, memory: Option<&Memory>, spec: &str, now: Now) -> bool {
    let failure = memory.and_then(|memory| memory.failure.as_ref());
    let Some(failure) = failure.filter(|failure| &*failure.spec == spec) else { return true };
    let until = failure.at.after(restart::cool_off(failure.times.saturating_sub(1)));
    if now.tick >= until {
        return true;
    }
    soonest(plan, until.since(now.tick));
    false
}

fn soonest(plan: &mut Plan, span: Duration) {
    plan.wake = Some(plan.wake.map_or(span, |wake| wake.min(span)));
}

#[cfg(test)]
mod tests;
