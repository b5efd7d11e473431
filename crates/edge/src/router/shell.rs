//! The router at work: owns the journal of messages, knows who is connected, answers the waist.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use api::router::RouterMetrics;
use credentials::skew::Untimely;
use journal::disk::Disk;
use journal::log::{CommitError, LaneId, LogOptions, OpenLogError, ReadError, StageError};
use journal::queue::{LaneStats, Queue};
use journal::worker::{Chain, Intake, IntakeFull, IntakeLimits, Writer, WriterTurn, channel};
use model::feature::FeatureSet;
use model::id::{DeviceId, IdentityId, ModuleName};
use model::log_limit::LogLimit;
use model::names::{EDGE_HUB, UPSTREAM};
use model::planted;
use model::refusal::{Refusal, RefusalKind};
use model::router_plan::RouterPlan;
use model::time::{Now, Tick, WallTime};
use model::twin::patch::difference;
use model::twin::{TwinPatch, Version};
use model::waist::{Batch, Claim, CloseReason, DeviceApi, DeviceRequest, Epoch, LinkKind, Opened};
use model::world::{Boxed, Turn, Worker, World};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, info, warn};

use super::clients::Clients;
use super::dispatch::Table;
use super::metrics::{Drops, Tally};
use super::session::shell::{ModuleSession, commit_told};
use crate::access::{Access, ModuleKeys, Proven};
use crate::storage::store::{Area, Store};
use crate::storage::tables;
use crate::upstream::shell::{Link, Links, told, until};

/// Size of one segment of the journal, in bytes.
const SEGMENT_BYTES: u64 = 4 << 20;
/// The wait before a command is offered again to a writer that is behind.
const COMMAND_PAUSE: Duration = Duration::from_millis(10);
/// After so many offers the writer counts as gone.
const COMMAND_OFFERS: u32 = 500;
/// How often the journal is looked at for messages that outlived their life time.
const TIDY_EVERY: Duration = Duration::from_mins(1);

/// How long clients may come and go before that is reported; one report serves many.
const CLIENTS_PAUSE: Duration = Duration::from_secs(1);

/// What the router counted since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: AtomicU64,
    pub(crate) sent_upstream: AtomicU64,
    pub(crate) sent_inputs: AtomicU64,
    pub(crate) dropped_no_route: AtomicU64,
    pub(crate) dropped_poison: AtomicU64,
    pub(crate) dropped_no_sender: AtomicU64,
    pub(crate) dropped_damaged: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) tally: Tally,
}

/// Counts `more`.
pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// How the desired properties of `$edgeHub` fared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoutesOutcome {
    pub(crate) version: Version,
    pub(crate) code: u16,
    pub(crate) words: String,
}

/// What a router is made from.
pub(crate) struct RouterParts {
    pub(crate) world: World,
    pub(crate) device: DeviceId,
    /// Host names that tokens may name.
    pub(crate) hosts: Vec<Box<str>>,
    pub(crate) store: Store,
    pub(crate) links: Arc<Links>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) queue_bytes_max: u64,
    pub(crate) modules: BTreeMap<ModuleName, ModuleKeys>,
    pub(crate) features: BTreeMap<ModuleName, FeatureSet>,
    /// The desired properties of `$edgeHub` that were in force last.
    pub(crate) last_good: Option<(Map<String, Value>, Version)>,
    pub(crate) incarnation: u32,
    pub(crate) stopped: watch::Receiver<bool>,
}

/// What the sessions, the pump and the configuration share.
pub(crate) struct Core {
    pub(crate) world: World,
    pub(crate) device: DeviceId,
    pub(crate) intake: Intake<Queue>,
    pub(crate) links: Arc<Links>,
    pub(crate) counters: Arc<Counters>,
    /// Told when something for the hub was committed.
    pub(crate) upstream_work: Notify,
    pub(crate) stopped: watch::Receiver<bool>,
    store: Store,
    access: RwLock<Access>,
    /// Lines about claims that came too early or too late.
    denied: Mutex<LogLimit>,
    table: RwLock<Arc<Table>>,
    sessions: Mutex<BTreeMap<ModuleName, Weak<ModuleSession>>>,
    features: Mutex<BTreeMap<ModuleName, FeatureSet>>,
    /// Held while subscriptions are kept, and while a newer session takes over from an older one.
    pub(crate) keeping: tokio::sync::Mutex<()>,
    outcome: Mutex<RoutesOutcome>,
    clients: Mutex<Clients>,
    clients_changed: Notify,
    queue_bytes_max: u64,
    incarnation: u32,
    started: Tick,
    /// Segments that could not be read when the journal was opened.
    pub(crate) damaged_segments: usize,
    opened: AtomicU32,
    finished: watch::Receiver<bool>,
}

/// The thread that owns the journal.
struct JournalWorker {
    writer: Writer<Queue>,
    finished: watch::Sender<bool>,
}

impl Worker for JournalWorker {
    fn turn(&mut self, now: Now) -> Turn {
        if self.writer.begin() {
            return Turn::Again;
        }
        match self.writer.turn(now.wall.0) {
            WriterTurn::Again => Turn::Again,
            WriterTurn::Idle => Turn::Until(now.tick.after(TIDY_EVERY)),
            WriterTurn::Finished => {
                self.finished.send_replace(true);
                Turn::Finished
            }
        }
    }
}

impl Core {
    /// Opens the journal and puts the last good routes in force.
    pub(crate) async fn start(parts: RouterParts) -> Result<Arc<Self>, OpenLogError> {
        let RouterParts { world, device, hosts, store, links, disk, .. } = parts;
        let mut instance = [0; 16];
        world.random.fill(&mut instance);
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            bytes_max: Some(parts.queue_bytes_max),
            ..LogOptions::default()
        };
        let now_ms = world.now().wall.0;
        let (queue, recovered) = Queue::open(disk, options, u128::from_le_bytes(instance), now_ms)?;
        info!(?recovered, "journal of messages opened");
        for damage in &recovered.damaged {
            warn!(?damage, "a part of the waiting messages cannot be read");
        }
        let (intake, writer) = channel(queue, IntakeLimits::default());
        let (told_finished, finished) = watch::channel(false);
        let worker = Box::new(JournalWorker { writer, finished: told_finished });
        intake.set_waker(world.spawner.start("edge-journal", worker));
        let core = Arc::new(Self {
            started: world.now().tick,
            access: RwLock::new(Access { device: device.clone(), hosts, modules: parts.modules }),
            denied: Mutex::default(),
            world,
            device,
            intake,
            links,
            counters: Arc::default(),
            upstream_work: Notify::new(),
            stopped: parts.stopped,
            store,
            table: RwLock::new(Arc::new(Table::unheard())),
            sessions: Mutex::new(BTreeMap::new()),
            features: Mutex::new(parts.features),
            keeping: tokio::sync::Mutex::default(),
            outcome: Mutex::new(RoutesOutcome::default()),
            clients: Mutex::new(Clients::default()),
            clients_changed: Notify::new(),
            queue_bytes_max: parts.queue_bytes_max,
            incarnation: parts.incarnation,
            damaged_segments: recovered.damaged.len(),
            opened: AtomicU32::new(0),
            finished,
        });
        if let Some((desired, version)) = parts.last_good {
            match RouterPlan::parse(&desired) {
                Ok(plan) => core.put_in_force(plan, version).await,
                Err(error) => error!(%error, "the routes in force last are not understood"),
            }
        }
        core.world.spawn(super::pump::shell::run(Arc::clone(&core)));
        core.world.spawn(configure(Arc::clone(&core)));
        Ok(core)
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<ModuleName, Weak<ModuleSession>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open session of `module`.
    pub(crate) fn session(&self, module: &ModuleName) -> Option<Arc<ModuleSession>> {
        let session = self.sessions().get(module).and_then(Weak::upgrade);
        session.filter(|session| session.is_open())
    }

    /// How the routes fared.
    pub(crate) fn outcome(&self) -> RoutesOutcome {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks a claim.
    pub(crate) fn prove(&self, claim: &Claim) -> Result<Proven, Refusal> {
        let now = self.world.now().wall;
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access.check(claim, now).map_err(|denied| {
            if let Some(untimely) = denied.untimely {
                self.tell_untimely(claim, untimely, now);
            }
            denied.refusal
        })
    }

    /// The caller hears no reason; whoever runs the device reads it.
    fn tell_untimely(&self, claim: &Claim, untimely: Untimely, now: WallTime) {
        let admitted = self.denied.lock().unwrap_or_else(PoisonError::into_inner).admit(now.0);
        if let (Some(silenced), Claim::Sas { identity, .. }) = (admitted, claim) {
            warn!(%identity, silenced, reason = %untimely, "token refused");
        }
    }

    /// Whether messages of `identity` can still be sent upstream.
    pub(crate) fn has_keys(&self, identity: &IdentityId) -> bool {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        identity.module_name().is_some_and(|name| access.modules.contains_key(&name))
    }

    /// The keys of `module`.
    pub(crate) fn keys(&self, module: &ModuleName) -> Option<ModuleKeys> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access.modules.get(module).cloned()
    }

    /// These are the modules from now on. Whoever is gone or has other keys is closed.
    pub(crate) fn set_modules(&self, modules: BTreeMap<ModuleName, ModuleKeys>) {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        let same = |name: &ModuleName| access.modules.get(name) == modules.get(name);
        let revoked: Vec<_> = access.modules.keys().filter(|name| !same(name)).cloned().collect();
        let gone = |name: &ModuleName| !modules.contains_key(name);
        let gone: Vec<_> = revoked.iter().filter(|name| gone(name)).cloned().collect();
        access.modules = modules;
        drop(access);
        for name in revoked {
            if let Some(session) = self.session(&name) {
                session.end(CloseReason::Revoked);
            }
        }
        for name in gone {
            let identity = IdentityId::module(&self.device, &name);
            self.change_clients(|clients, _| clients.handle_removed(&identity));
        }
    }

    fn change_clients(&self, change: impl FnOnce(&mut Clients, WallTime)) {
        let now = self.world.now().wall;
        change(&mut self.clients.lock().unwrap_or_else(PoisonError::into_inner), now);
        self.clients_changed.notify_one();
    }

    /// The session of `identity` has ended.
    pub(crate) fn handle_disconnected(&self, identity: &IdentityId) {
        self.change_clients(|clients, now| clients.handle_disconnected(identity, now));
    }

    /// Keeps the subscriptions of `module`; none forgets that it ever had a session.
    pub(crate) async fn keep_features(
        &self,
        module: &ModuleName,
        features: Option<FeatureSet>,
    ) -> Result<(), Refusal> {
        let fact = features.as_ref().map(tables::from_features);
        let kept = self.store.save(Area::Sessions, module.as_str(), move || fact).await;
        kept.map_err(|error| {
            error!(%error, module_id = %module, "subscriptions not kept");
            Refusal::new(RefusalKind::Unavailable, "the subscription could not be kept")
        })?;
        let mut all = self.features.lock().unwrap_or_else(PoisonError::into_inner);
        match features {
            Some(features) => drop(all.insert(module.clone(), features)),
            None => drop(all.remove(module)),
        }
        Ok(())
    }

    /// Runs `work` on the queue, in order with everything else; none if the journal is closed.
    pub(crate) async fn on_queue<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Queue, i64) -> R + Send + 'static,
    ) -> Option<R> {
        let (told, done) = oneshot::channel();
        let mut command: journal::worker::Command<Queue> = Box::new(move |queue, now_ms| {
            // Nobody waits any more; it is done all the same.
            told.send(work(queue, now_ms)).ok();
        });
        for _ in 0..COMMAND_OFFERS {
            match self.intake.command(command) {
                Ok(()) => return done.await.ok(),
                Err(back) => command = back,
            }
            tokio::time::sleep(COMMAND_PAUSE).await;
        }
        None
    }

    /// Takes the telemetry of `batch`, all or none: gives what to wait for, and for each message
    /// whether it was taken.
    ///
    /// # Errors
    /// When the journal's intake has no room.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart at once")]
    pub(crate) fn take(
        self: &Arc<Self>,
        from: &Proven,
        batch: &Batch,
        chain: &Chain,
    ) -> Result<(Option<oneshot::Receiver<Result<(), Refusal>>>, VecDeque<Result<(), Refusal>>), ()>
    {
        let table = self.table();
        let is_telemetry =
            |request: &DeviceRequest| matches!(request, DeviceRequest::SendTelemetry(_));
        if !table.is_heard() && batch.0.iter().any(is_telemetry) {
            // Routes may be heard before this sender was told; nothing overtakes what was refused.
            chain.break_off();
        }
        let now = self.world.now().wall;
        let (mut records, mut modules, mut each) = (Vec::new(), Vec::new(), VecDeque::new());
        let (mut is_upstream, mut stored, mut unrouted) = (false, 0, 0);
        let mut outputs: BTreeMap<Option<Box<str>>, u64> = BTreeMap::new();
        for request in &batch.0 {
            let DeviceRequest::SendTelemetry(message) = request else { continue };
            match table.dispatch(from, message, now) {
                Ok(dispatch) => {
                    let counter =
                        if dispatch.records.is_empty() { &mut unrouted } else { &mut stored };
                    *counter += 1;
                    *outputs.entry(message.system.output_name.clone()).or_default() += 1;
                    records.extend(dispatch.records);
                    modules.extend(dispatch.modules);
                    is_upstream |= dispatch.is_upstream;
                    each.push_back(Ok(()));
                }
                Err(refusal) => each.push_back(Err(refusal)),
            }
        }
        if records.is_empty() {
            self.count_unrouted(unrouted);
            self.count_senders(&from.identity, &outputs);
            return Ok((None, each));
        }
        modules.sort();
        modules.dedup();
        let (told, done) = oneshot::channel();
        let (core, sender) = (Arc::clone(self), from.identity.clone());
        let callback = Box::new(move |outcome: &Result<_, _>| {
            commit_told(told, outcome);
            if outcome.is_ok() {
                core.count_senders(&sender, &outputs);
            }
            core.handle_committed(outcome.is_ok(), stored, is_upstream, &modules);
        });
        match self.intake.submit_in(chain, records, callback) {
            Ok(()) => {
                self.count_unrouted(unrouted);
                Ok((Some(done), each))
            }
            Err(IntakeFull { .. }) => Err(()),
        }
    }

    fn count_senders(&self, sender: &IdentityId, outputs: &BTreeMap<Option<Box<str>>, u64>) {
        let name = sender.module_str().unwrap_or_else(|| sender.device_str());
        for (output, messages) in outputs {
            self.counters.tally.handle_received(name, output.as_deref(), *messages);
        }
    }

    fn count_unrouted(&self, messages: u64) {
        count(&self.counters.received, messages);
        count(&self.counters.dropped_no_route, messages);
    }

    fn handle_committed(&self, ok: bool, messages: u64, upstream: bool, modules: &[ModuleName]) {
        if !ok {
            count(&self.counters.refused, messages);
            return;
        }
        count(&self.counters.received, messages);
        if upstream {
            self.upstream_work.notify_one();
        }
        for module in modules {
            if let Some(session) = self.session(module) {
                session.handle_work();
            }
        }
    }

    /// What was counted since the start: one moment of the queue and of the counters.
    pub(crate) async fn metrics(&self) -> RouterMetrics {
        let counters = Arc::clone(&self.counters);
        let found = self.on_queue(move |queue, now_ms| {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let drops = Drops {
                no_route: load(&counters.dropped_no_route),
                refused_upstream: load(&counters.dropped_poison),
                sender_removed: load(&counters.dropped_no_sender),
                damaged: load(&counters.dropped_damaged),
            };
            (queue.stats(now_ms), counters.tally.totals(), drops)
        });
        let (stats, totals, drops) = found
            .await
            .unwrap_or_else(|| (Ok(Vec::new()), self.counters.tally.totals(), Drops::default()));
        let uptime = self.world.now().tick.since(self.started).as_secs();
        totals.metrics(uptime, self.table().routes(), &counted(stats), drops)
    }

    /// How every lane stands.
    pub(crate) async fn lanes(&self) -> Vec<LaneStats> {
        let stats = self.on_queue(|queue, now_ms| queue.stats(now_ms)).await;
        stats.map(counted).unwrap_or_default()
    }

    async fn put_in_force(&self, plan: RouterPlan, version: Version) {
        let lanes_of = plan.clone();
        // What config.toml allows is never exceeded.
        let bytes_max = plan.store_bytes_max.unwrap_or(u64::MAX).min(self.queue_bytes_max);
        let lanes = self.on_queue(move |queue, _| {
            queue.set_bytes_max(Some(bytes_max));
            // Planted: what waited for the older routes is dropped.
            if planted::is("route_swap_drops_queue") {
                queue.drop_endpoint(UPSTREAM);
            }
            let lane = |endpoint: String, priority| {
                let id = queue.lane(&endpoint, priority);
                ((endpoint, priority), id)
            };
            let mut lane = lane;
            let routes = lanes_of.routes.values();
            let each = routes.map(|route| lane(route.endpoint.to_string(), route.priority));
            each.collect::<BTreeMap<(String, u32), LaneId>>()
        });
        let Some(lanes) = lanes.await else { return };
        let lane = |endpoint: &str, priority| {
            let key = (endpoint.to_owned(), priority);
            lanes.get(&key).copied().expect("the lane of every route was just made")
        };
        let words = plan.notices.join("; ");
        if !words.is_empty() {
            warn!(words, "accepted, but without effect");
        }
        let table = Arc::new(Table::new(plan, lane));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.set_outcome(RoutesOutcome { version, code: 200, words });
        // New routes may lead to inputs that wait already.
        let open: Vec<_> = self.sessions().values().filter_map(Weak::upgrade).collect();
        for session in &open {
            session.handle_work();
        }
    }

    fn set_outcome(&self, outcome: RoutesOutcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }

    async fn open(self: Arc<Self>, claim: Claim, link: LinkKind) -> Result<Opened, Refusal> {
        // Who is not known yet may have been made at the hub a moment ago.
        let proven = self.prove(&claim).inspect_err(|_| self.links.doubt())?;
        let module = proven.identity.module_name().ok_or_else(|| {
            Refusal::new(RefusalKind::Unauthenticated, "only modules connect to this router")
        })?;
        let clean = match link {
            LinkKind::Mqtt { clean } => clean,
            LinkKind::Amqp | LinkKind::Local => true,
            LinkKind::Https => {
                let reason = "this router keeps sessions; HTTPS has none";
                return Err(Refusal::new(RefusalKind::InvalidRequest, reason));
            }
        };
        let upstream = self.links.link(&proven.identity);
        if let Some(keys) = self.keys(&module) {
            upstream.set_key(keys.primary);
        }
        // From the look at what is kept until the older session is closed, nobody keeps anything.
        let turn = self.keeping.lock().await;
        let persisted = {
            let all = self.features.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&module).cloned()
        };
        let resumed = persisted.is_some() && !clean;
        let features = persisted.filter(|_| !clean).unwrap_or_default();
        if !resumed {
            let kept = (!clean).then(|| features.clone());
            self.keep_features(&module, kept).await?;
        }
        let valid_until = proven.valid_until;
        let identity = proven.identity.clone();
        let session = self.replace(&upstream, proven, (&module, clean), features.clone());
        drop(turn);
        self.change_clients(|clients, now| clients.handle_connected(&identity, now));
        self.rewind_inputs(&module).await;
        session.handle_work();
        Ok(Opened { session, resumed, features, valid_until: Some(valid_until) })
    }

    fn replace(
        self: &Arc<Self>,
        upstream: &Arc<Link>,
        proven: Proven,
        (module, is_clean): (&ModuleName, bool),
        features: FeatureSet,
    ) -> Arc<ModuleSession> {
        let mut sessions = self.sessions();
        let older = sessions.remove(module).and_then(|older| older.upgrade());
        if let Some(older) = &older {
            // Planted: the older session goes on beside the newer one.
            if !planted::is("router_lost_takeover") {
                older.end(CloseReason::TakenOver);
            }
        }
        let counter = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let epoch = Epoch { incarnation: self.incarnation, counter };
        let session = ModuleSession::start(
            Arc::clone(self),
            Arc::clone(upstream),
            proven,
            (module.clone(), is_clean),
            features,
            epoch,
        );
        sessions.insert(module.clone(), Arc::downgrade(&session));
        drop(sessions);
        // Its end may be its drop, which must not find the table locked.
        drop(older);
        session
    }

    /// What an earlier session took and did not settle is handed out again.
    async fn rewind_inputs(&self, module: &ModuleName) {
        let inputs = self.table().inputs_of(module);
        let rewound = self.on_queue(move |queue, _| {
            for (endpoint, _) in inputs {
                for lane in queue.lanes(&endpoint) {
                    queue.rewind(lane);
                }
            }
        });
        if rewound.await.is_none() {
            warn!(module_id = %module, "inputs not rewound: the journal is closed");
        }
    }

    /// Closes the sessions, then the journal; returns when it is synced.
    pub(crate) async fn close(&self) {
        let open: Vec<_> = self.sessions().values().filter_map(Weak::upgrade).collect();
        for session in &open {
            session.end(CloseReason::ShuttingDown);
        }
        self.intake.close();
        let mut finished = self.finished.clone();
        finished.wait_for(|finished| *finished).await.ok();
    }
}

/// Follows the desired properties of `$edgeHub`.
async fn configure(core: Arc<Core>) {
    let identity: ModuleName = EDGE_HUB.parse().expect("a name of the platform is a name");
    let link = core.links.link(&IdentityId::module(&core.device, &identity));
    let mut versions = link.desired_versions();
    versions.mark_changed();
    let mut stopped = core.stopped.clone();
    let mut report_at: Option<Tick> = None;
    loop {
        let now = core.world.now().tick;
        let is_desired = tokio::select! {
            biased;
            () = told(&mut stopped) => return,
            changed = versions.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            () = core.clients_changed.notified() => {
                report_at = report_at.or_else(|| Some(now.after(CLIENTS_PAUSE)));
                continue;
            }
            () = until(report_at, now) => false,
        };
        report_at = None;
        let Some(twin) = link.view() else { continue };
        // A device that never got a deployment: nothing was said, so nothing is wrong.
        let is_said = !twin.desired.is_empty() || twin.desired_version > Version(1);
        if is_desired && is_said {
            apply(&core, twin.desired, twin.desired_version).await;
        }
        report(&core, &link, &twin.reported).await;
    }
}

async fn apply(core: &Core, desired: Map<String, Value>, version: Version) {
    match RouterPlan::parse(&desired) {
        Ok(plan) => {
            let fact = tables::from_desired(&desired, version);
            let kept = core.store.save(Area::LastGood, EDGE_HUB, move || Some(fact)).await;
            if let Err(error) = kept {
                error!(%error, "routes not kept; a restart would find the older ones");
            }
            info!(routes = plan.routes.len(), version = version.0, "routes in force");
            core.put_in_force(plan, version).await;
        }
        Err(refused) => {
            warn!(%refused, version = version.0, "routes refused; the older ones stay in force");
            let outcome = RoutesOutcome { version, code: 400, words: refused.to_string() };
            core.set_outcome(outcome);
        }
    }
}

/// Reports what differs from what was reported.
async fn report(core: &Core, link: &Link, reported: &Map<String, Value>) {
    let outcome = core.outcome();
    let clients = {
        let now = core.world.now().wall;
        let mut clients = core.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.handle_reported(reported.get("clients"), now);
        clients.to_value()
    };
    let mut whole = reported.clone();
    let mut say = |field: &str, value: Value| drop(whole.insert(field.to_owned(), value));
    say("schemaVersion", json!("1.2"));
    let version = json!({ "version": env!("CARGO_PKG_VERSION"), "build": "", "commit": "" });
    say("version", version);
    say("clients", clients);
    // Before the first desired properties there is nothing to say about them.
    if outcome.code != 0 {
        say("lastDesiredVersion", json!(outcome.version.0));
        let status = json!({ "code": outcome.code, "description": outcome.words });
        say("lastDesiredStatus", status);
    }
    let patch = TwinPatch(difference(reported, &whole));
    if !patch.0.is_empty()
        && let Err(refusal) = link.report(patch, None).await
    {
        warn!(%refusal, "routes not reported");
    }
}

/// The waist that listeners offer to modules.
pub(crate) struct RouterApi(pub(crate) Arc<Core>);

impl DeviceApi for RouterApi {
    fn open(
        &self,
        claim: Claim,
        link: LinkKind,
        deadline: Tick,
    ) -> Boxed<'_, Result<Opened, Refusal>> {
        let core = Arc::clone(&self.0);
        Box::pin(async move {
            let wait = deadline.since(core.world.now().tick);
            let late = || Refusal::new(RefusalKind::TimedOut, "the session was not opened in time");
            tokio::time::timeout(wait, core.open(claim, link)).await.map_err(|_| late())?
        })
    }
}

/// How every lane stands, if the journal can be counted.
fn counted(stats: Result<Vec<LaneStats>, ReadError>) -> Vec<LaneStats> {
    stats.unwrap_or_else(|error| {
        warn!(%error, "the journal cannot be counted");
        Vec::new()
    })
}

/// What a sender is told about a commit that failed.
pub(crate) fn refusal_of(error: &CommitError) -> Refusal {
    let (kind, reason) = match error {
        CommitError::Refused(StageError::TooLarge { .. }) => {
            (RefusalKind::TooLarge, "the message is larger than this device keeps")
        }
        CommitError::Refused(StageError::Full { .. }) => {
            (RefusalKind::Throttled, "this device keeps as many messages as it may; try later")
        }
        CommitError::Refused(StageError::Lanes | StageError::CommitFirst) => {
            (RefusalKind::Internal, "the message could not be kept")
        }
        CommitError::NoSpace(_) | CommitError::Disk(_) => {
            (RefusalKind::Unavailable, "this device cannot write its disk; try later")
        }
        CommitError::Closed => (RefusalKind::Unavailable, "the router is stopping"),
        CommitError::Behind => {
            (RefusalKind::Unavailable, "what was sent before it was not kept; try again later")
        }
    };
    Refusal::new(kind, reason)
}
