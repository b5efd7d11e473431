//! Streams and the pumps that feed them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::health::LiveTotals;
use bytes::Bytes;
use model::refusal::RefusalKind;
use model::time::Tick;
use serde::Serialize;
use tokio::sync::Notify;
use tracing::{debug, info};

use super::queue::{Counters, Frame, Next, Piece, Queue};
use super::topic::Topic;
use super::{logs, pipeline, tail};
use crate::console::sessions::SessionId;
use crate::session::shell::Core;
use crate::storage::feed::{self, FeedPage};

/// Most streams at a time.
pub(crate) const STREAMS_MAX: usize = 1024;
/// Most streams of one browser's session.
pub(crate) const SESSION_STREAMS_MAX: usize = 16;
/// Most topics of one stream.
pub(crate) const TOPICS_MAX: usize = 16;
/// How long a stream waits for a browser that went away.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
/// How often it is looked for streams that stalled or were left.
const SWEEP: Duration = Duration::from_secs(5);
/// Pause between two counts of the whole fleet.
const OVERVIEW_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two slices of one count.
const SLICE_PAUSE: Duration = Duration::from_millis(100);
/// Slices between two looks of a watcher at a count that is not whole.
const SLICES_SHOWN: u32 = 5;
/// How late the change of a device's connection may be shown.
const DEVICE_LOOK: Duration = Duration::from_secs(2);
/// Shortest time between two looks at the change feed.
const FEED_PAUSE: Duration = Duration::from_millis(250);
/// Changes of one look at the feed.
const FEED_PAGE: u32 = 256;

/// Who may use a stream again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A browser's session.
    Session(SessionId),
    /// Whoever has the key of this policy.
    Policy(usize),
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bye {
    SignedOut,
    /// What the stream was let in with has ended; who comes back with more goes on.
    Expired,
    Stopping,
    TooSlow,
    /// The browser went away and did not come back.
    Left,
}

impl Bye {
    /// Its name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SignedOut => "signedOut",
            Self::Expired => "expired",
            Self::Stopping => "stopping",
            Self::TooSlow => "tooSlow",
            Self::Left => "left",
        }
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) notify: Notify,
    inner: Mutex<StreamInner>,
}

#[derive(Debug)]
struct StreamInner {
    queue: Queue,
    /// Counts the connections that served it; only the newest does.
    attachment: u64,
    left: Option<Tick>,
    ended: Option<Bye>,
}

/// What a connection does next.
#[derive(Debug)]
pub(crate) enum Step {
    Send(Frame),
    WaitUntil(Tick),
    Idle,
    End(Bye),
    /// Another connection serves the stream now.
    Lost,
}

impl Stream {
    /// Serves the stream from now on; gives the number of this connection.
    pub(crate) fn attach(&self) -> u64 {
        let mut inner = self.lock();
        inner.attachment += 1;
        inner.left = None;
        let attachment = inner.attachment;
        drop(inner);
        self.notify.notify_one();
        attachment
    }

    /// The connection `attachment` is gone.
    pub(crate) fn detach(&self, attachment: u64, now: Tick) {
        let mut inner = self.lock();
        if inner.attachment == attachment {
            inner.left = Some(now);
        }
    }

    /// What the connection `attachment` does next.
    pub(crate) fn poll(&self, attachment: u64, now: Tick) -> Step {
        let mut inner = self.lock();
        if inner.attachment != attachment {
            return Step::Lost;
        }
        if let Some(bye) = inner.ended {
            return Step::End(bye);
        }
        match inner.queue.poll(now) {
            Next::Send(frame) => Step::Send(frame),
            Next::WaitUntil(at) => Step::WaitUntil(at),
            Next::Idle => Step::Idle,
        }
    }

    /// Works on the queue.
    pub(crate) fn with_queue<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        work(&mut self.lock().queue)
    }

    fn offer(&self, topic: &str, piece: Piece, now: Tick) {
        self.lock().queue.handle_piece(topic, piece, now);
        self.notify.notify_one();
    }

    fn end(&self, bye: Bye) {
        self.lock().ended.get_or_insert(bye);
        self.notify.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, StreamInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One topic that somebody watches.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) name: Arc<str>,
    pub(crate) topic: Topic,
    /// Where the telemetry journal ended when somebody began to watch.
    pub(crate) began: u64,
    /// Woken when there may be news, and when nobody watches any more.
    pub(crate) wake: Notify,
    closed: AtomicBool,
    inner: Mutex<WatchedInner>,
}

#[derive(Debug, Default)]
struct WatchedInner {
    watchers: Vec<Arc<Stream>>,
    /// What those who come later are told first.
    latest: Option<Bytes>,
}

impl WatchedInner {
    fn tell(&self, name: &str, piece: &Piece, now: Tick) {
        for stream in &self.watchers {
            stream.offer(name, piece.clone(), now);
        }
    }
}

impl Watched {
    /// Whether nobody watches any more; its pump ends.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells all watchers.
    pub(crate) fn publish(&self, piece: &Piece, now: Tick) {
        self.lock().tell(&self.name, piece, now);
    }

    /// Tells all watchers the state, unless they know it.
    pub(crate) fn publish_state(&self, state: &impl Serialize, now: Tick) {
        // Shapes of strings and numbers always have JSON.
        let Ok(text) = serde_json::to_vec(state) else { return };
        let payload = Bytes::from(text);
        let mut inner = self.lock();
        if inner.latest.as_ref() == Some(&payload) {
            return;
        }
        inner.latest = Some(payload.clone());
        inner.tell(&self.name, &Piece::one(payload), now);
    }

    /// Tells all watchers, and keeps `latest` for those who begin to watch later.
    pub(crate) fn publish_and_keep(&self, piece: &Piece, latest: Bytes, now: Tick) {
        let mut inner = self.lock();
        inner.latest = Some(latest);
        inner.tell(&self.name, piece, now);
    }

    /// Waits for a wake-up or the end of `patience`; `false` when nobody watches any more.
    pub(crate) async fn pause(&self, patience: Duration) -> bool {
        if self.is_closed() {
            return false;
        }
        // Both ends are the same to the caller: look again.
        tokio::time::timeout(patience, self.wake.notified()).await.ok();
        !self.is_closed()
    }

    fn lock(&self) -> MutexGuard<'_, WatchedInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All streams and topics of a hub.
#[derive(Debug, Default)]
pub(crate) struct Live {
    registry: Mutex<Registry>,
    /// Woken when somebody begins to watch telemetry.
    pub(crate) tail_wake: Notify,
    feed_wake: Notify,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Registry {
    streams: HashMap<String, Arc<Stream>>,
    topics: BTreeMap<Arc<str>, Arc<Watched>>,
    /// The tasks that run for all streams.
    running: BTreeSet<Task>,
    stopped: bool,
}

/// A task that runs while a stream needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Sweep,
    Feed,
    Tail,
}

impl Registry {
    /// Whether nobody watches what `wanted` picks; `task` ends then.
    fn end_idle(&mut self, task: Task, wanted: impl Fn(&Topic) -> bool) -> bool {
        let idle = !self.topics.values().any(|watched| wanted(&watched.topic));
        if idle {
            self.running.remove(&task);
        }
        idle
    }
}

#[derive(Debug, Default)]
struct Totals {
    opened: AtomicU64,
    cut: AtomicU64,
    dropped: AtomicU64,
    overflows: AtomicU64,
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoStream {
    TooMany,
    Stopping,
}

impl Live {
    /// Opens a stream.
    pub(crate) fn open(&self, core: &Arc<Core>, owner: Owner) -> Result<Arc<Stream>, NoStream> {
        let id = format!("{:016x}", core.world.random.number());
        let inner = StreamInner {
            queue: Queue::new(id.clone()),
            attachment: 0,
            left: Some(core.world.now().tick),
            ended: None,
        };
        let stream =
            Arc::new(Stream { id, owner, notify: Notify::new(), inner: Mutex::new(inner) });
        self.make_room(owner);
        let mut registry = self.lock();
        if registry.stopped {
            return Err(NoStream::Stopping);
        }
        let own = || registry.streams.values().filter(|stream| stream.owner == owner).count();
        let is_session = matches!(owner, Owner::Session(_));
        if registry.streams.len() >= STREAMS_MAX || is_session && own() >= SESSION_STREAMS_MAX {
            return Err(NoStream::TooMany);
        }
        registry.streams.insert(stream.id.clone(), Arc::clone(&stream));
        let sweep = registry.running.insert(Task::Sweep);
        drop(registry);
        self.totals.opened.fetch_add(1, Ordering::Relaxed);
        if sweep {
            core.world.spawn(sweep_all(Arc::clone(core)));
        }
        Ok(stream)
    }

    /// A session at its limit gives up the stream that was left longest ago: a page that is loaded
    /// again and again leaves streams behind that nobody comes back to.
    fn make_room(&self, owner: Owner) {
        let all = self.lock();
        let own = all.streams.values().filter(|stream| stream.owner == owner);
        let own: Vec<_> = own.cloned().collect();
        drop(all);
        if own.len() < SESSION_STREAMS_MAX || !matches!(owner, Owner::Session(_)) {
            return;
        }
        let left = own.iter().filter_map(|stream| Some((stream.lock().left?, stream)));
        if let Some((_, oldest)) = left.min_by_key(|(left, _)| *left) {
            self.close(oldest, Bye::Left);
        }
    }

    /// The stream `id` of `owner`.
    pub(crate) fn find(&self, id: &str, owner: Owner) -> Option<Arc<Stream>> {
        let stream = self.lock().streams.get(id).cloned();
        stream.filter(|stream| stream.owner == owner && stream.lock().ended.is_none())
    }

    /// These are the topics of `stream` from now on.
    pub(crate) fn set_topics(
        &self,
        core: &Arc<Core>,
        stream: &Arc<Stream>,
        topics: Vec<(Arc<str>, Topic)>,
    ) {
        let held = stream.with_queue(|queue| queue.topics());
        for name in held.iter().filter(|held| !topics.iter().any(|(name, _)| name == *held)) {
            stream.with_queue(|queue| queue.remove(name));
            self.unwatch(stream, name);
        }
        for (name, topic) in topics {
            if !held.contains(&name) {
                stream.with_queue(|queue| queue.add(Arc::clone(&name), topic.kind()));
                self.watch(core, stream, name, topic);
            }
        }
    }

    fn watch(&self, core: &Arc<Core>, stream: &Arc<Stream>, name: Arc<str>, topic: Topic) {
        let mut registry = self.lock();
        if let Some(watched) = registry.topics.get(&name) {
            let mut inner = watched.lock();
            inner.watchers.push(Arc::clone(stream));
            // Told under the lock, so that nothing newer comes before it.
            if let Some(latest) = inner.latest.clone() {
                stream.offer(&name, Piece::one(latest), core.world.now().tick);
            }
            return;
        }
        let inner = WatchedInner { watchers: vec![Arc::clone(stream)], latest: None };
        let watched = Arc::new(Watched {
            name: Arc::clone(&name),
            topic,
            began: core.telemetry.bounds().1,
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            inner: Mutex::new(inner),
        });
        registry.topics.insert(name, Arc::clone(&watched));
        let feed = needs_feed(&watched.topic) && registry.running.insert(Task::Feed);
        let tail = needs_tail(&watched.topic) && registry.running.insert(Task::Tail);
        drop(registry);
        if feed {
            // From here on, however late the task gets its first turn.
            let from = *core.heads.borrow();
            core.world.spawn(follow_feed(Arc::clone(core), from));
        }
        if tail {
            core.world.spawn(tail::shell::follow(Arc::clone(core)));
        }
        self.tail_wake.notify_one();
        self.feed_wake.notify_one();
        start_pump(core, watched);
    }

    fn unwatch(&self, stream: &Arc<Stream>, name: &str) {
        let mut registry = self.lock();
        let Some(watched) = registry.topics.get(name) else { return };
        let mut inner = watched.lock();
        inner.watchers.retain(|held| !Arc::ptr_eq(held, stream));
        let empty = inner.watchers.is_empty();
        drop(inner);
        if empty && let Some(watched) = registry.topics.remove(name) {
            watched.closed.store(true, Ordering::Release);
            watched.wake.notify_one();
        }
    }

    /// A topic ends for all who watch it.
    pub(crate) fn end_topic(&self, watched: &Watched, reason: &str) {
        let removed = self.lock().topics.remove(&watched.name);
        let Some(removed) = removed else { return };
        removed.closed.store(true, Ordering::Release);
        let watchers = std::mem::take(&mut removed.lock().watchers);
        for stream in watchers {
            stream.with_queue(|queue| queue.handle_ended(&removed.name, reason));
            stream.notify.notify_one();
        }
    }

    /// Topics that `wanted` picks.
    pub(crate) fn watched(&self, wanted: impl Fn(&Topic) -> bool) -> Vec<Arc<Watched>> {
        let registry = self.lock();
        registry.topics.values().filter(|watched| wanted(&watched.topic)).cloned().collect()
    }

    /// Nobody watches telemetry; `false` if somebody began to meanwhile.
    pub(crate) fn end_tail(&self) -> bool {
        self.lock().end_idle(Task::Tail, needs_tail)
    }

    fn end_feed(&self) -> bool {
        self.lock().end_idle(Task::Feed, needs_feed)
    }

    /// Ends every stream, also those that open from now on.
    pub(crate) fn stop(&self) {
        let mut registry = self.lock();
        registry.stopped = true;
        let all: Vec<_> = registry.streams.values().cloned().collect();
        drop(registry);
        for stream in all {
            self.close(&stream, Bye::Stopping);
        }
    }

    /// Whether [`Live::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Ends a stream and forgets what waits for it.
    pub(crate) fn close(&self, stream: &Arc<Stream>, bye: Bye) {
        if self.lock().streams.remove(&stream.id).is_none() {
            return;
        }
        let topics = stream.with_queue(|queue| queue.topics());
        for name in topics {
            stream.with_queue(|queue| queue.remove(&name));
            self.unwatch(stream, &name);
        }
        let Counters { sent, dropped, overflows, .. } = stream.with_queue(|queue| queue.counters);
        self.totals.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.totals.overflows.fetch_add(overflows, Ordering::Relaxed);
        if bye == Bye::TooSlow {
            self.totals.cut.fetch_add(1, Ordering::Relaxed);
            info!(stream = stream.id, sent, dropped, "a live stream was too slow and is cut off");
        } else {
            debug!(stream = stream.id, sent, dropped, "a live stream ended");
        }
        stream.end(bye);
    }

    /// What happened so far.
    pub(crate) fn totals(&self) -> LiveTotals {
        let load = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let Totals { opened, cut, dropped, overflows } = &self.totals;
        let all: Vec<_> = self.lock().streams.values().cloned().collect();
        let pending = all.iter().map(|one| one.with_queue(|queue| queue.pending_bytes()) as u64);
        LiveTotals {
            open: all.len() as u64,
            pending_bytes: pending.sum(),
            opened: load(opened),
            cut: load(cut),
            dropped: load(dropped),
            overflows: load(overflows),
        }
    }

    /// Closes what stalled or was left; gives whether any stream remains.
    fn sweep(&self, now: Tick) -> bool {
        let all: Vec<_> = self.lock().streams.values().cloned().collect();
        for stream in &all {
            let (left, stalled) = {
                let inner = stream.lock();
                (inner.left, inner.queue.is_stalled(now))
            };
            match left {
                Some(left) if now.since(left) > LINGER => self.close(stream, Bye::Left),
                None if stalled => self.close(stream, Bye::TooSlow),
                _ => {}
            }
        }
        let mut registry = self.lock();
        let some = !registry.streams.is_empty();
        if !some {
            registry.running.remove(&Task::Sweep);
        }
        some
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn needs_feed(topic: &Topic) -> bool {
    matches!(topic, Topic::Changes | Topic::Device(_))
}

fn needs_tail(topic: &Topic) -> bool {
    matches!(topic, Topic::Telemetry { .. })
}

async fn sweep_all(core: Arc<Core>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if !core.live.sweep(core.world.now().tick) {
            return;
        }
    }
}

fn start_pump(core: &Arc<Core>, watched: Arc<Watched>) {
    let core = Arc::clone(core);
    let world = core.world.clone();
    match watched.topic {
        // The feed and the tail tell these.
        Topic::Changes | Topic::Telemetry { .. } => {}
        Topic::Overview => world.spawn(pump_overview(core, watched)),
        Topic::Device(_) => world.spawn(pump_device(core, watched)),
        Topic::Logs(_) => world.spawn(logs::shell::pump(core, watched)),
        Topic::Pipeline(_) => world.spawn(pipeline::shell::pump(core, watched)),
    }
}

async fn pump_overview(core: Arc<Core>, watched: Arc<Watched>) {
    let mut slices = 0_u32;
    loop {
        let whole = core.fleet.step(&core).await.unwrap_or(true);
        slices = slices.wrapping_add(1);
        if (whole || slices % SLICES_SHOWN == 1)
            && let Ok(overview) = core.fleet.overview(&core).await
        {
            watched.publish_state(&overview, core.world.now().tick);
        }
        if !watched.pause(if whole { OVERVIEW_PAUSE } else { SLICE_PAUSE }).await {
            return;
        }
    }
}

async fn pump_device(core: Arc<Core>, watched: Arc<Watched>) {
    let Topic::Device(device) = &watched.topic else { return };
    loop {
        match crate::fleet::shell::device(&core, device).await {
            Ok(view) => watched.publish_state(&view, core.world.now().tick),
            Err(error) if error.code == api::error::ErrorCode::of(RefusalKind::DeviceNotFound) => {
                core.live.end_topic(&watched, "there is no such device");
                return;
            }
            // Busy or stopping; asked again.
            Err(error) => debug!(reason = error.reason, "a device was not read"),
        }
        tokio::time::sleep(FEED_PAUSE).await;
        if !watched.pause(DEVICE_LOOK).await {
            return;
        }
    }
}

/// Follows the change feed for all who watch changes or devices.
async fn follow_feed(core: Arc<Core>, mut from: u64) {
    let mut heads = core.heads.clone();
    loop {
        if core.live.end_feed() {
            return;
        }
        let page = core.reader.look(move |db| feed::read(db, from, FEED_PAGE)).await;
        match page {
            Ok(FeedPage::Changes { changes, next }) => {
                let moved = next != from;
                from = next;
                tell(&core, &changes);
                if moved {
                    tokio::time::sleep(FEED_PAUSE).await;
                    continue;
                }
            }
            Ok(FeedPage::Behind { head }) => {
                from = head;
                for watched in core.live.watched(|topic| matches!(topic, Topic::Device(_))) {
                    watched.wake.notify_one();
                }
                continue;
            }
            Err(refusal) => debug!(reason = %refusal.reason, "the change feed was not read"),
        }
        tokio::select! {
            biased;
            changed = heads.changed() => if changed.is_err() { return },
            () = core.live.feed_wake.notified() => {}
            () = tokio::time::sleep(DEVICE_LOOK) => {}
        }
    }
}

fn tell(core: &Core, changes: &[feed::ReadChange]) {
    if changes.is_empty() {
        return;
    }
    let all: Vec<_> = changes.iter().map(crate::fleet::shell::change).collect();
    for watched in core.live.watched(|topic| matches!(topic, Topic::Device(_))) {
        let Topic::Device(device) = &watched.topic else { continue };
        if all.iter().any(|change| change.device_id == device.as_str()) {
            watched.wake.notify_one();
        }
    }
    let Ok(text) = serde_json::to_vec(&serde_json::json!({ "changes": all })) else { return };
    let piece = Piece { payload: Bytes::from(text), weight: all.len() as u64, dropped: 0 };
    for watched in core.live.watched(|topic| *topic == Topic::Changes) {
        watched.publish(&piece, core.world.now().tick);
    }
}
