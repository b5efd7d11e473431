//! An engine whose modules are no processes: the fake behind the seam `ModuleRuntime`.
//!
//! Its state is that of a machine, so it outlives the runtime that uses it, as containers do.
//! It can be slow, fail before or after the effect, and lose power. What a running module does
//! is up to [`Programs`].

mod runtime;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::error::EngineError;
use engine::runtime::{EngineResult, ModuleSpec, ModuleState, ModuleStatus};
use model::time::WallTime;
use model::world::Clock as _;
use tokio::sync::Notify;

use crate::chance::Chance;
use crate::world::VirtualClock;

/// Exit code of a module that was ended from outside: 128 + SIGKILL.
pub const KILLED: i32 = 137;

/// The shortest wait before a module that ended is started again. Source: Azure IoT Edge.
pub const PAUSE_MIN: Duration = Duration::from_secs(10);

/// What runs in modules.
pub trait Programs: Send + Sync {
    /// The first process of `spec` starts.
    fn started(&self, spec: &ModuleSpec);

    /// The first process of `name` is dead.
    fn ended(&self, name: &str);
}

/// Operations that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EngineCall {
    /// `list`
    List,
    /// `prepare`
    Prepare,
    /// `create`
    Create,
    /// `start`
    Start,
    /// `stop`
    Stop,
    /// `remove`
    Remove,
}

/// When an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineFault {
    /// Nothing was done.
    Before,
    /// It was done all the same.
    After,
}

/// An engine in memory. Clones are the same engine.
#[derive(Clone)]
pub struct FakeEngine(Arc<Inner>);

impl fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeEngine")
    }
}

struct Inner {
    clock: VirtualClock,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    images: BTreeSet<String>,
    modules: BTreeMap<String, Module>,
    calls: Vec<String>,
    lines: Vec<String>,
    programs: Option<Arc<dyn Programs>>,
    faults: BTreeMap<EngineCall, VecDeque<EngineFault>>,
    failed: u64,
    hasty: u64,
    slowness: Option<(Chance, Duration)>,
}

struct Module {
    spec: ModuleSpec,
    state: ModuleState,
    /// When it ended without being asked to, since the runtime began.
    fell: Option<WallTime>,
}

impl FakeEngine {
    /// An engine that has `images`, on a machine with `clock`.
    pub fn new(clock: VirtualClock, images: &[&str]) -> Self {
        let images = images.iter().map(|&name| name.to_owned()).collect();
        let state = Mutex::new(State { images, ..State::default() });
        Self(Arc::new(Inner { clock, state, changed: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs in modules from now on.
    pub fn set_programs(&self, programs: Arc<dyn Programs>) {
        self.state().programs = Some(programs);
    }

    /// Every operation takes up to twice `most`, half of it before its effect.
    pub fn set_slow(&self, chance: Chance, most: Duration) {
        self.state().slowness = Some((chance, most));
    }

    /// Lets the next `call` fail; several add up.
    pub fn fail(&self, call: EngineCall, fault: EngineFault) {
        self.state().faults.entry(call).or_default().push_back(fault);
    }

    /// Forgets the failures that have not come yet.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Operations that failed because they were made to.
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    /// A runtime begins: what ended before is nobody's failure and may start at once.
    pub fn handle_runtime_begins(&self) {
        self.state().modules.values_mut().for_each(|module| module.fell = None);
    }

    /// How often a module was started again sooner than [`PAUSE_MIN`] after it had ended by
    /// itself while its runtime ran, by this machine's wall clock.
    pub fn hasty(&self) -> u64 {
        self.state().hasty
    }

    /// Every change that was asked for, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Every module, by name.
    pub fn modules(&self) -> Vec<ModuleState> {
        self.state().modules.values().map(|module| module.state.clone()).collect()
    }

    /// Whether the first process of `name` lives.
    pub fn is_running(&self, name: &str) -> bool {
        let state = self.state();
        let module = state.modules.get(name);
        module.is_some_and(|module| module.state.status == ModuleStatus::Running)
    }

    /// What `name` was created from.
    pub fn spec(&self, name: &str) -> Option<ModuleSpec> {
        self.state().modules.get(name).map(|module| module.spec.clone())
    }

    /// A line that every module's log has from now on.
    pub fn say(&self, line: &str) {
        self.state().lines.push(line.to_owned());
    }

    /// The first process of `name` ends by itself; whether it ran.
    pub fn end(&self, name: &str, exit_code: i32) -> bool {
        let ended = self.state().fall(name, exit_code, self.0.clock.now().wall);
        if ended {
            self.0.changed.notify_one();
        }
        ended
    }

    /// The machine loses power: nothing runs any more, what was created stays.
    pub fn power_cut(&self) {
        let mut state = self.state();
        let names: Vec<_> = state.modules.keys().cloned().collect();
        for name in names {
            state.fall(&name, KILLED, self.0.clock.now().wall);
        }
    }
}

impl State {
    fn note(&mut self, call: &str, name: &str) {
        self.calls.push(format!("{call} {name}"));
    }

    fn module(&mut self, name: &str) -> EngineResult<&mut Module> {
        self.modules.get_mut(name).ok_or_else(|| EngineError::NotFound { name: name.to_owned() })
    }

    fn end(&mut self, name: &str, exit_code: i32, at: i64) -> bool {
        let programs = self.programs.clone();
        let Some(module) = self.modules.get_mut(name) else { return false };
        if module.state.status != ModuleStatus::Running {
            return false;
        }
        module.state.status = ModuleStatus::Exited;
        module.state.exit_code = Some(exit_code);
        module.state.finished_at = Some(at);
        if let Some(programs) = programs {
            programs.ended(name);
        }
        true
    }

    fn fall(&mut self, name: &str, exit_code: i32, at: WallTime) -> bool {
        let ended = self.end(name, exit_code, at.0);
        if let Some(module) = self.modules.get_mut(name).filter(|_| ended) {
            module.fell = Some(at);
        }
        ended
    }

    /// The fault of this call, if it is to fail.
    fn strike(&mut self, call: EngineCall) -> Option<EngineFault> {
        let fault = self.faults.get_mut(&call)?.pop_front();
        self.failed += u64::from(fault.is_some());
        fault
    }
}
