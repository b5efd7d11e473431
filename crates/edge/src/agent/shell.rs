//! The loop of the agent: reads what is desired and what there is, plans, does it, reports.
//!
//! Woken by desired changes, by the engine, by the hub coming back and by a timer; it takes
//! nothing from any of them but the wake-up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api::router::RouterMetrics;
use engine::error::EngineError;
use engine::runtime::{ModuleRuntime, ModuleSpec as EngineSpec, ModuleState, ModuleStatus};
use model::id::ModuleName;
use model::manifest::{DesiredStatus, InvalidManifest, Manifest};
use model::method::{MethodRequest, MethodResponse};
use model::names::EDGE_AGENT;
use model::planted;
use model::time::{Tick, WallTime};
use model::twin::patch::difference;
use model::twin::slot::DesiredChange;
use model::twin::{TwinPatch, Version};
use model::world::{Boxed, World};
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, error, info, warn};

use super::logs::shell as logs;
use super::methods::{self, AgentMethod};
use super::plan::{
    Command, Current, Desired, Failure, Memories, Memory, Observed, State, Wanted, plan,
};
use super::report::{DesiredOutcome, ModuleFacts, Report, RuntimeStatus, ended_status, reported};
use super::restart::{self, Exit, History, Verdict};
use super::spec::Surroundings;
use super::stop::shell::stop_all;
use crate::identity::shell::Identities;
use crate::status::ModuleStatus as StatusOfModule;
use crate::storage::store::{Area, Store};
use crate::storage::tables;
use crate::upstream::shell::{Link, Owner, told};
use crate::workload::WorkloadSockets;
use crate::workload::http::ModuleSecrets;

/// A pass is made at least this often.
const PASS_EVERY: Duration = Duration::from_secs(30);
/// The next pass after one that did something.
const PASS_AGAIN: Duration = Duration::from_millis(500);
/// How long a module may take to end when asked. Source: Docker.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long the last report may take before the runtime stops all the same.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the identities are compared with the hub's when nothing changed.
const IDENTITIES_EVERY: Duration = Duration::from_hours(1);
/// The shortest time between two looks that are not needed for a change. Source: edge hub.
const IDENTITIES_APART: Duration = Duration::from_mins(2);
/// The wait before identities that could not be read are asked for again.
const IDENTITIES_AGAIN: Duration = Duration::from_secs(5);

/// Asks the router what it counted.
pub(crate) type RouterMeter = Arc<dyn Fn() -> Boxed<'static, RouterMetrics> + Send + Sync>;

/// What an agent is made from.
pub(crate) struct AgentParts {
    pub(crate) world: World,
    pub(crate) runtime: Arc<dyn ModuleRuntime>,
    pub(crate) identities: Arc<Identities>,
    /// The link of `$edgeAgent`.
    pub(crate) link: Arc<Link>,
    pub(crate) store: Store,
    pub(crate) surroundings: Surroundings,
    pub(crate) sockets: Arc<dyn WorkloadSockets>,
    pub(crate) secrets: Arc<dyn ModuleSecrets>,
    pub(crate) meter: RouterMeter,
    /// The desired properties that were in force last.
    pub(crate) last_good: Option<(Map<String, Value>, Version)>,
    pub(crate) histories: BTreeMap<ModuleName, History>,
    /// Counts how often the hub came back.
    pub(crate) ups: watch::Receiver<u64>,
    /// Counts signs that the hub's identities are others than those known here.
    pub(crate) doubts: watch::Receiver<u64>,
    pub(crate) stopped: watch::Receiver<bool>,
}

/// The agent.
pub(crate) struct Agent {
    world: World,
    runtime: Arc<dyn ModuleRuntime>,
    identities: Arc<Identities>,
    link: Arc<Link>,
    store: Store,
    surroundings: Surroundings,
    sockets: Arc<dyn WorkloadSockets>,
    secrets: Arc<dyn ModuleSecrets>,
    meter: RouterMeter,
    started: WallTime,
    state: Mutex<AgentState>,
    wake: Notify,
    /// Told to do nothing more; the pass that is under way ends first.
    halted: watch::Sender<bool>,
    /// Whether the loop has ended.
    ended: watch::Sender<bool>,
}

struct AgentState {
    manifest: Option<Manifest>,
    desired_version: Version,
    outcome: DesiredOutcome,
    /// Whether the desired properties were read and refused.
    is_refused: bool,
    memories: Memories,
    facts: BTreeMap<ModuleName, ModuleFacts>,
    engine: Option<String>,
    identities_at: Tick,
    /// When they were compared last.
    identities_seen: Tick,
    /// Modules whose workload sockets are open.
    doors: BTreeSet<ModuleName>,
}

impl Agent {
    pub(crate) fn start(parts: AgentParts) -> Arc<Self> {
        let memory = |history| Memory { history, ..Memory::default() };
        let histories = parts.histories.into_iter();
        let mut state = AgentState {
            manifest: None,
            desired_version: Version(0),
            outcome: DesiredOutcome::unknown(),
            is_refused: false,
            memories: histories.map(|(name, history)| (name, memory(history))).collect(),
            facts: BTreeMap::new(),
            engine: None,
            identities_at: Tick(0),
            identities_seen: Tick(0),
            doors: BTreeSet::new(),
        };
        if let Some((desired, version)) = parts.last_good {
            match Manifest::parse(&desired) {
                Ok(manifest) => {
                    state.manifest = Some(manifest);
                    state.desired_version = version;
                    state.outcome = DesiredOutcome::applied();
                }
                Err(refused) => error!(%refused, "the last good manifest is not understood"),
            }
        }
        let agent = Arc::new(Self {
            started: parts.world.now().wall,
            world: parts.world,
            runtime: parts.runtime,
            identities: parts.identities,
            link: parts.link,
            store: parts.store,
            surroundings: parts.surroundings,
            sockets: parts.sockets,
            secrets: parts.secrets,
            meter: parts.meter,
            state: Mutex::new(state),
            wake: Notify::new(),
            halted: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        });
        let owner: Weak<dyn Owner> = Arc::<Self>::downgrade(&agent);
        agent.link.set_owner(owner);
        agent.link.set_methods(true);
        agent.world.spawn(run(Arc::clone(&agent), (parts.ups, parts.doubts), parts.stopped));
        agent
    }

    fn state(&self) -> MutexGuard<'_, AgentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at everything: version, outcome and modules.
    pub(crate) fn status(&self) -> (Version, DesiredOutcome, Vec<StatusOfModule>) {
        let state = self.state();
        let desired = state.manifest.as_ref().map(|manifest| &manifest.modules);
        let mut names: BTreeSet<&ModuleName> = state.facts.keys().collect();
        names.extend(desired.into_iter().flat_map(BTreeMap::keys));
        let nothing = ModuleFacts::default();
        let modules = names.into_iter().map(|name| {
            let facts = state.facts.get(name).unwrap_or(&nothing);
            let wanted = desired.and_then(|all| all.get(name));
            StatusOfModule {
                name: name.to_string(),
                desired: wanted.map(|one| one.status.as_str().to_owned()).unwrap_or_default(),
                actual: facts.status.as_str().to_owned(),
                image: wanted.map(|one| one.image.to_string()).unwrap_or_default(),
                restarts: facts.history.restarts,
                exit_code: facts.exited.map(|_| facts.exit_code),
                started_ms: facts.started.map(|at| at.0),
                exited_ms: facts.exited.map(|at| at.0),
                connected: false,
                words: facts.words.clone(),
            }
        });
        (state.desired_version, state.outcome.clone(), modules.collect())
    }

    /// Names of the modules that are desired.
    pub(crate) fn desired_modules(&self) -> Vec<ModuleName> {
        let state = self.state();
        let desired = state.manifest.iter().flat_map(|manifest| manifest.modules.keys());
        desired.cloned().collect()
    }

    /// Asks for a restart of `module`; whether it is desired at all.
    pub(crate) fn restart(&self, module: &ModuleName) -> bool {
        let mut state = self.state();
        let is_known =
            state.manifest.as_ref().is_some_and(|manifest| manifest.modules.contains_key(module));
        if is_known {
            state.memories.entry(module.clone()).or_default().restart_asked = true;
            drop(state);
            self.wake.notify_one();
        }
        is_known
    }

    /// The text of `module`'s log.
    pub(crate) async fn logs(
        &self,
        module: &ModuleName,
        item: &methods::LogItem,
    ) -> Result<String, EngineError> {
        logs::text(&*self.runtime, module, item).await
    }

    /// Reads the desired properties afresh; what cannot be used changes nothing but the outcome.
    async fn read_desired(&self) {
        let Some(twin) = self.link.view() else { return };
        {
            let state = self.state();
            let is_known = state.desired_version == twin.desired_version;
            if is_known && (state.manifest.is_some() || state.is_refused) {
                return;
            }
        }
        let (desired, version) = (twin.desired, twin.desired_version);
        match Manifest::parse(&desired) {
            Ok(manifest) => {
                let fact = tables::from_desired(&desired, version);
                // Planted: what is in force is not kept.
                let kept = if planted::is("last_good_not_kept") {
                    Ok(())
                } else {
                    self.store.save(Area::LastGood, EDGE_AGENT, move || Some(fact)).await
                };
                if let Err(error) = kept {
                    error!(%error, "manifest not kept; a restart would find the older one");
                }
                info!(version = version.0, modules = manifest.modules.len(), "manifest in force");
                let mut state = self.state();
                state.manifest = Some(manifest);
                state.desired_version = version;
                state.is_refused = false;
                state.identities_at = Tick(0);
            }
            Err(refused) => {
                if refused != InvalidManifest::Empty {
                    warn!(%refused, version = version.0, "manifest refused; the older one stays");
                }
                let mut state = self.state();
                state.desired_version = version;
                state.outcome = DesiredOutcome::from(&refused);
                state.is_refused = true;
            }
        }
    }

    async fn ensure_identities(&self, is_back: bool) {
        let now = self.world.now().tick;
        let wanted = {
            let state = self.state();
            if now < state.identities_at && !is_back {
                return;
            }
            state.manifest.as_ref().map(|manifest| manifest.modules.keys().cloned().collect())
        };
        let next = match self.identities.ensure(wanted.as_ref()).await {
            Ok(()) => IDENTITIES_EVERY,
            Err(refusal) => {
                debug!(%refusal, "identities not compared with the hub's");
                IDENTITIES_AGAIN
            }
        };
        let now = self.world.now().tick;
        let mut state = self.state();
        state.identities_at = now.after(next);
        state.identities_seen = now;
    }

    /// Somebody was not proven, here or at the hub: looks again soon, but not too often.
    fn doubt(&self) {
        let mut state = self.state();
        state.identities_at =
            state.identities_at.min(state.identities_seen.after(IDENTITIES_APART));
    }

    /// One pass; gives when to look again at the latest.
    async fn pass(self: &Arc<Self>, is_back: bool) -> Duration {
        self.read_desired().await;
        self.ensure_identities(is_back).await;
        let list = match self.runtime.list().await {
            Ok(list) => list,
            Err(error) => {
                warn!(%error, "the engine does not answer");
                self.state().engine = Some(error.to_string());
                self.settle(&[], &BTreeMap::new());
                self.report().await;
                return PASS_AGAIN * 4;
            }
        };
        self.state().engine = None;
        let specs = self.specs();
        let plan = {
            let mut state = self.state();
            let (desired, observed) = sides(&state, &specs, &list, self.started);
            forget_failures(&mut state.memories, &desired, &observed);
            // Nothing was ever desired: whatever runs is none of our business yet.
            let is_known = state.manifest.is_some();
            is_known.then(|| plan(&desired, &observed, &state.memories, self.world.now()))
        };
        let plan = plan.unwrap_or_default();
        let closed = self.open_sockets(&specs).await;
        let did = self.execute(&plan.commands, &specs, closed).await;
        let list = if did { self.runtime.list().await.unwrap_or(list) } else { list };
        self.settle(&list, &specs);
        self.report().await;
        let again = if did { PASS_AGAIN } else { PASS_EVERY };
        self.finish(&self.state(), plan.wake.map_or(Some(again), |wake| Some(wake.min(again))))
    }

    fn finish(&self, state: &AgentState, wake: Option<Duration>) -> Duration {
        let identities = state.identities_at.since(self.world.now().tick);
        wake.unwrap_or(PASS_EVERY).min(identities.max(PASS_AGAIN))
    }

    /// What the engine is to make of every desired module whose identity is known.
    fn specs(&self) -> BTreeMap<ModuleName, EngineSpec> {
        let state = self.state();
        let modules = state.manifest.iter().flat_map(|manifest| &manifest.modules);
        let known = modules.filter_map(|(name, spec)| {
            let keys = self.identities.keys(name)?;
            let made = self.surroundings.engine_spec(name, spec, &keys.generation_id);
            Some((name.clone(), made))
        });
        known.collect()
    }

    /// Opens what is missing and closes what is too much; gives the modules without a socket.
    async fn open_sockets(&self, specs: &BTreeMap<ModuleName, EngineSpec>) -> BTreeSet<ModuleName> {
        let (missing, gone) = {
            let state = self.state();
            let missing = specs.keys().filter(|name| !state.doors.contains(*name));
            let desired = state.manifest.iter().flat_map(|it| it.modules.keys());
            let desired: BTreeSet<_> = desired.collect();
            let gone = state.doors.iter().filter(|name| !desired.contains(name));
            (missing.cloned().collect::<Vec<_>>(), gone.cloned().collect::<Vec<_>>())
        };
        for name in gone {
            self.sockets.close(&name);
            self.state().doors.remove(&name);
        }
        let mut closed = BTreeSet::new();
        for name in missing {
            let path = self.surroundings.socket_folder(&name).join(super::spec::SOCKET);
            let service = crate::workload::http::router(name.clone(), Arc::clone(&self.secrets));
            match self.sockets.open(&name, &path, service).await {
                Ok(()) => drop(self.state().doors.insert(name)),
                Err(error) => {
                    let words = format!("cannot listen at {}: {error}", path.display());
                    self.handle_failure(&name, specs.get(&name), &words);
                    closed.insert(name);
                }
            }
        }
        closed
    }

    async fn execute(
        self: &Arc<Self>,
        commands: &[Command],
        specs: &BTreeMap<ModuleName, EngineSpec>,
        closed: BTreeSet<ModuleName>,
    ) -> bool {
        let mut failed: BTreeSet<&ModuleName> = closed.iter().collect();
        let mut did = false;
        for command in commands {
            let name = command.module();
            if failed.contains(name) {
                continue;
            }
            if *self.halted.borrow() {
                break;
            }
            let spec = specs.get(name);
            match self.one(command, spec).await {
                Ok(true) => {
                    did = true;
                    self.memory(name, |memory| memory.failure = None);
                }
                Ok(false) => {}
                Err(error) => {
                    did = true;
                    failed.insert(name);
                    self.handle_failure(name, spec, &error.to_string());
                }
            }
        }
        did
    }

    /// Does one command; whether it is done, not merely begun.
    async fn one(
        self: &Arc<Self>,
        command: &Command,
        spec: Option<&EngineSpec>,
    ) -> Result<bool, EngineError> {
        let name = command.module();
        debug!(?command, "agent");
        match command {
            Command::Prepare(_) => {
                if let Some(spec) = spec {
                    self.prepare(name, spec);
                }
                return Ok(false);
            }
            Command::Stop(_) => self.runtime.stop(name.to_string(), STOP_GRACE).await?,
            Command::Remove(_) => self.runtime.remove(name.to_string()).await?,
            Command::Create(_) => {
                if let Some(spec) = spec {
                    let made = self.runtime.create(spec.clone()).await?;
                    for warning in made.warnings {
                        warn!(module_id = %name, warning, "createOptions");
                    }
                    // Another container is another history.
                    self.keep_history(name, History::default()).await;
                }
            }
            Command::Start(_) => {
                self.runtime.start(name.to_string()).await?;
                self.memory(name, |memory| memory.restart_asked = false);
                info!(module_id = %name, "module started");
            }
            Command::Restart(_) => {
                let history = self.state().memories.get(name).map(|it| it.history);
                let history = history.unwrap_or_default();
                let next = History {
                    restarts: history.restarts.saturating_add(1),
                    last_restart: Some(self.world.now().wall),
                };
                // Counted before it is tried: a start that fails is a restart as well.
                self.keep_history(name, next).await;
                self.runtime.start(name.to_string()).await?;
                info!(module_id = %name, restarts = next.restarts, "module restarted");
            }
            Command::Forget(_) => self.keep_history(name, History::default()).await,
        }
        Ok(true)
    }

    fn memory(&self, name: &ModuleName, change: impl FnOnce(&mut Memory)) {
        change(self.state().memories.entry(name.clone()).or_default());
    }

    async fn keep_history(&self, name: &ModuleName, history: History) {
        let before = {
            let mut state = self.state();
            let memory = state.memories.entry(name.clone()).or_default();
            std::mem::replace(&mut memory.history, history)
        };
        if before == history {
            return;
        }
        let fact = tables::from_history(history);
        if let Err(error) = self.store.save(Area::Restarts, name.as_str(), move || fact).await {
            warn!(%error, module_id = %name, "restart count not kept");
        }
    }

    fn handle_failure(&self, name: &ModuleName, spec: Option<&EngineSpec>, words: &str) {
        warn!(module_id = %name, words, "module not as desired");
        let spec: Box<str> = spec.map(|spec| spec.digest.as_str()).unwrap_or_default().into();
        let at = self.world.now().tick;
        self.memory(name, |memory| {
            let earlier = memory.failure.as_ref().filter(|failure| failure.spec == spec);
            let times = earlier.map_or(0, |failure| failure.times).saturating_add(1);
            memory.failure = Some(Failure { spec, times, at, words: words.to_owned() });
        });
    }

    /// Gets the image beside everything else.
    fn prepare(self: &Arc<Self>, name: &ModuleName, spec: &EngineSpec) {
        self.memory(name, |memory| memory.preparing = Some(spec.digest.as_str().into()));
        let expected = {
            let state = self.state();
            let module = state.manifest.as_ref().and_then(|all| all.modules.get(name));
            module.and_then(|module| module.digest.clone())
        };
        let (agent, name, spec) = (Arc::clone(self), name.clone(), spec.clone());
        self.world.spawn(async move {
            let prepared = agent.runtime.prepare(spec.image.clone()).await;
            let checked = prepared.and_then(|image| match expected {
                Some(expected) if *expected != *image.digest => Err(EngineError::DigestMismatch {
                    subject: format!("image {}", spec.image),
                    expected: expected.to_string(),
                    found: image.digest,
                }),
                _ => Ok(()),
            });
            agent.memory(&name, |memory| memory.preparing = None);
            match checked {
                Ok(()) => agent.memory(&name, |memory| {
                    memory.prepared = Some(spec.digest.as_str().into());
                    memory.failure = None;
                }),
                Err(error) => agent.handle_failure(&name, Some(&spec), &error.to_string()),
            }
            agent.wake.notify_one();
        });
    }

    /// Takes what was observed into the facts, and what failed into the outcome.
    fn settle(&self, list: &[ModuleState], specs: &BTreeMap<ModuleName, EngineSpec>) {
        let now = self.world.now().wall;
        let mut state = self.state();
        let state = &mut *state;
        let Some(manifest) = &state.manifest else { return };
        let mut facts = BTreeMap::new();
        for one in list {
            let Ok(name) = one.name.parse::<ModuleName>() else { continue };
            let memory = state.memories.get(&name).cloned().unwrap_or_default();
            let wanted = manifest.modules.get(&name).map(|it| (it.status, it.restart));
            facts.insert(name, facts_of(one, wanted, &memory, (self.started, now)));
        }
        let mut failures: Vec<(&ModuleName, String)> = Vec::new();
        for name in manifest.modules.keys() {
            let failure = state.memories.get(name).and_then(|memory| memory.failure.as_ref());
            // What failed for an older specification says nothing about this one.
            let is_current = |it: &&Failure| specs.get(name).is_some_and(|s| *s.digest == *it.spec);
            let words = match failure.filter(is_current) {
                Some(failure) => failure.words.clone(),
                None if self.identities.keys(name).is_none() => {
                    "its identity is not known yet; the hub must be reached once".to_owned()
                }
                None => continue,
            };
            facts.entry(name.clone()).or_default().words.clone_from(&words);
            failures.push((name, words));
        }
        if !state.is_refused {
            let all = failures.iter().map(|(name, words)| (*name, words.as_str()));
            state.outcome = match &state.engine {
                Some(words) => DesiredOutcome { code: 500, words: words.clone() },
                None => DesiredOutcome::of(all, &manifest.notices),
            };
        }
        state.facts = facts;
        let desired = &manifest.modules;
        let there = &state.facts;
        state.memories.retain(|name, _| desired.contains_key(name) || there.contains_key(name));
    }

    async fn report(&self) {
        let Some(twin) = self.link.view() else { return };
        let whole = {
            let state = self.state();
            reported(&Report {
                version: env!("CARGO_PKG_VERSION"),
                desired_version: state.desired_version.0,
                outcome: &state.outcome,
                manifest: state.manifest.as_ref(),
                modules: &state.facts,
                started: self.started,
                platform: (std::env::consts::OS, std::env::consts::ARCH),
            })
        };
        let patch = TwinPatch(difference(&twin.reported, &whole));
        if !patch.0.is_empty()
            && let Err(refusal) = self.link.report(patch, None).await
        {
            warn!(%refusal, "agent not reported");
        }
    }

    /// Stops all modules. From now on the agent starts none; its methods still answer.
    pub(crate) async fn stop_modules(&self) {
        self.halted.send_replace(true);
        // A pass that is under way may just be starting a module.
        told(&mut self.ended.subscribe()).await;
        stop_all(&*self.runtime).await;
    }

    /// Says that nothing is known any more, for the runtime is stopping. Modules keep running.
    pub(crate) async fn say_unknown(&self) {
        {
            let mut state = self.state();
            state.outcome = DesiredOutcome::unknown();
            state.facts.values_mut().for_each(|facts| facts.status = RuntimeStatus::Unknown);
        }
        self.report().await;
        self.link.flush(FAREWELL).await;
    }
}

impl Owner for Agent {
    fn handle_desired(&self, _: DesiredChange) {
        self.wake.notify_one();
    }

    fn handle_method(
        &self,
        request: MethodRequest,
        _: Tick,
    ) -> Option<oneshot::Receiver<MethodResponse>> {
        let (answer, reply) = oneshot::channel();
        let response = match methods::parse(&request, self.world.now().wall) {
            Err(error) => methods::refused(&error),
            Ok(AgentMethod::Ping) => methods::done(),
            Ok(AgentMethod::RestartModule(name)) => {
                let words = format!("module {name} is not in the deployment");
                if self.restart(&name) { methods::done() } else { methods::failed(400, &words) }
            }
            Ok(AgentMethod::GetModuleLogs(asked)) => {
                let (runtime, desired) = (Arc::clone(&self.runtime), self.desired_modules());
                let surroundings = self.surroundings.clone();
                self.world.spawn(async move {
                    let response = logs::answer(&*runtime, &desired, &asked, &surroundings).await;
                    // The link may have gone; then nobody waits.
                    answer.send(response).ok();
                });
                return Some(reply);
            }
            Ok(AgentMethod::GetRouterMetrics) => {
                let metrics = (self.meter)();
                self.world.spawn(async move {
                    // The link may have gone; then nobody waits.
                    answer.send(methods::metrics_answer(&metrics.await)).ok();
                });
                return Some(reply);
            }
        };
        answer.send(response).ok();
        Some(reply)
    }
}

async fn run(
    agent: Arc<Agent>,
    wakes: (watch::Receiver<u64>, watch::Receiver<u64>),
    stopped: watch::Receiver<bool>,
) {
    passes(&agent, wakes, stopped).await;
    agent.ended.send_replace(true);
}

async fn passes(
    agent: &Arc<Agent>,
    (mut ups, mut doubts): (watch::Receiver<u64>, watch::Receiver<u64>),
    mut stopped: watch::Receiver<bool>,
) {
    let mut halted = agent.halted.subscribe();
    let mut desired = agent.link.desired_versions();
    let mut device = agent.identities.device_link().sessions();
    let runtime = Arc::clone(&agent.runtime);
    let mut is_back = false;
    loop {
        // Asked for before the engine is observed, so that no change falls between.
        let changed = runtime.changed();
        let wake = tokio::select! {
            biased;
            () = told(&mut stopped) => return,
            wake = agent.pass(is_back) => wake,
        };
        is_back = false;
        tokio::select! {
            biased;
            () = told(&mut stopped) => return,
            () = told(&mut halted) => return,
            Ok(()) = device.changed() => is_back = device.borrow_and_update().is_some(),
            () = changed => {}
            () = agent.wake.notified() => {}
            Ok(()) = desired.changed() => {}
            Ok(()) = ups.changed() => {}
            Ok(()) = doubts.changed() => agent.doubt(),
            () = tokio::time::sleep(wake) => {}
        }
    }
}

/// Both sides of the plan. A module without an identity is on neither: it cannot be made, and
/// what runs of it is left alone.
fn sides(
    state: &AgentState,
    specs: &BTreeMap<ModuleName, EngineSpec>,
    list: &[ModuleState],
    began: WallTime,
) -> (Desired, Observed) {
    let mut desired = Desired::new();
    let manifest = state.manifest.as_ref();
    let modules = || manifest.into_iter().flat_map(|manifest| &manifest.modules);
    for (name, module) in modules() {
        let Some(spec) = specs.get(name) else { continue };
        desired.insert(
            name.clone(),
            Wanted {
                spec: spec.digest.as_str().into(),
                status: module.status,
                restart: module.restart,
                startup_order: module.startup_order,
            },
        );
    }
    let mut observed = Observed::new();
    for one in list {
        let Ok(name) = one.name.parse::<ModuleName>() else { continue };
        if modules().any(|(known, _)| *known == name) && !specs.contains_key(&name) {
            continue;
        }
        let state = state_of(one, began);
        observed.insert(name, Current { spec: one.spec_digest.as_str().into(), state });
    }
    (desired, observed)
}

/// An engine may have done what it answered with an error; what is as desired has not failed.
fn forget_failures(memories: &mut Memories, desired: &Desired, observed: &Observed) {
    for (name, memory) in memories.iter_mut().filter(|(_, memory)| !memory.restart_asked) {
        let sides = desired.get(name).zip(observed.get(name));
        if sides.is_some_and(|(wanted, current)| current.is_as(wanted)) {
            memory.failure = None;
        }
    }
}

/// What the plan sees.
fn state_of(one: &ModuleState, began: WallTime) -> State {
    match one.status {
        ModuleStatus::Created => State::Created,
        ModuleStatus::Running => State::Running(one.started_at.map(WallTime)),
        ModuleStatus::Exited => State::Ended(exit_of(one, began)),
        ModuleStatus::Dead => State::Dead,
        ModuleStatus::Unknown => State::Unknown,
    }
}

fn exit_of(one: &ModuleState, began: WallTime) -> Exit {
    let at = one.finished_at.map(WallTime);
    Exit { failed: one.exit_code != Some(0), at, is_earlier: at.is_some_and(|at| at < began) }
}

fn facts_of(
    one: &ModuleState,
    wanted: Option<(DesiredStatus, model::manifest::RestartPolicy)>,
    memory: &Memory,
    (began, now): (WallTime, WallTime),
) -> ModuleFacts {
    let status = match (one.status, wanted) {
        (ModuleStatus::Running, _) => RuntimeStatus::Running,
        (ModuleStatus::Created, _) => RuntimeStatus::Stopped,
        (ModuleStatus::Dead, _) => RuntimeStatus::Dead,
        (ModuleStatus::Unknown, _) => RuntimeStatus::Unknown,
        (ModuleStatus::Exited, wanted) => {
            let exit = exit_of(one, began);
            let (status, policy) =
                wanted.unwrap_or((DesiredStatus::Stopped, model::manifest::RestartPolicy::Never));
            let verdict = restart::judge(policy, exit, memory.history, now);
            let again = matches!(verdict, Verdict::Restart | Verdict::Wait(_));
            ended_status(status, exit.failed, again)
        }
    };
    ModuleFacts {
        status,
        words: one.failure.clone().unwrap_or_default(),
        exit_code: one.exit_code.map_or(0, i64::from),
        started: one.started_at.map(WallTime),
        exited: one.finished_at.map(WallTime),
        history: memory.history,
        image_hash: one.image_digest.as_str().into(),
    }
}
