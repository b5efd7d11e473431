//! Who is connected: the open session of each identity, in memory, with an epoch.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use model::time::{Now, WallTime};
use model::waist::{CloseReason, Epoch};
use model::world::{Turn, Worker};

use crate::registry::Ordinal;
use crate::session::effect::Effect;
use crate::session::shell::Shared;
use crate::storage::rows::Activity;

/// Shortest sleep between two looks for expired sessions.
const EXPIRY_STEP: Duration = Duration::from_secs(1);
/// Longest sleep, so that a jump of the wall clock is seen.
const EXPIRY_LOOK: Duration = Duration::from_secs(30);
/// How late a written activity may be.
const ACTIVITY_STEP: Duration = Duration::from_mins(1);

/// Most wakers of those who wait for somebody to connect.
const WAITING_MAX: usize = 1024;

/// All open sessions.
#[derive(Debug)]
pub(crate) struct Connections {
    incarnation: u32,
    counter: AtomicU32,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<Ordinal, Arc<Shared>>,
    /// When to look at whom; a renewed session is looked at too early and put back.
    expiries: BTreeSet<(WallTime, Ordinal)>,
    /// Activity that the table does not know yet.
    seen: HashMap<Ordinal, Activity>,
    devices: u64,
    stopping: bool,
    /// Wakes whoever waits for somebody to connect.
    waiting: Vec<Waker>,
    /// Wakes the wheel.
    wheel: Option<Waker>,
}

/// What is known of an identity right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Whether a session is open.
    pub(crate) connected: bool,
    /// What is newer than the table.
    pub(crate) activity: Option<Activity>,
}

impl Connections {
    /// Nobody is connected.
    pub(crate) fn new(incarnation: u32) -> Self {
        Self { incarnation, counter: AtomicU32::new(0), inner: Mutex::default() }
    }

    /// The epoch of the next session.
    pub(crate) fn next_epoch(&self) -> Epoch {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        Epoch { incarnation: self.incarnation, counter }
    }

    /// Applies what a commit does to sessions.
    pub(crate) fn apply(&self, effect: Effect, now: Now) {
        match effect {
            Effect::Attach(session) => self.attach(session, now),
            Effect::Revoke(ord) => {
                if let Some(session) = self.find(ord) {
                    session.end(CloseReason::Revoked);
                }
            }
            Effect::Features(ord, features) => {
                if let Some(session) = self.find(ord) {
                    session.change(|state| state.features = features);
                    self.wake_waiting();
                }
            }
            Effect::Desired(ord, change) => {
                if let Some(session) = self.find(ord) {
                    session.change(|state| state.handle_desired(*change));
                }
            }
        }
    }

    fn attach(&self, session: Arc<Shared>, now: Now) {
        let valid_until = session.read(|state| state.valid_until);
        let (older, wheel, waiting, stopping) = {
            let mut inner = self.lock();
            let mut wheel = None;
            if let Some(at) = valid_until {
                let first = inner.expiries.first().is_none_or(|(first, _)| at < *first);
                inner.expiries.insert((at, session.ord));
                wheel = inner.wheel.clone().filter(|_| first);
            }
            let older = inner.sessions.insert(session.ord, Arc::clone(&session));
            if older.is_none() {
                inner.devices += u64::from(!session.identity.is_module());
            }
            let activity = Activity { connection_updated: now.wall, last_activity: now.wall };
            inner.seen.insert(session.ord, activity);
            (older, wheel, std::mem::take(&mut inner.waiting), inner.stopping)
        };
        // Planted: the older session goes on beside the newer one.
        if let Some(older) = older.filter(|_| !model::planted::is("lost_takeover")) {
            older.end(CloseReason::TakenOver);
        }
        if stopping {
            session.end(CloseReason::ShuttingDown);
        }
        wheel.into_iter().chain(waiting).for_each(Waker::wake);
    }

    /// Forgets `session` if it is still the identity's own.
    pub(crate) fn detach(&self, session: &Shared, now: Now) {
        let mut inner = self.lock();
        let own = inner.sessions.get(&session.ord).is_some_and(|held| held.epoch == session.epoch);
        if !own {
            return;
        }
        let active = session.read(|state| state.active);
        inner.sessions.remove(&session.ord);
        inner.devices = inner.devices.saturating_sub(u64::from(!session.identity.is_module()));
        let activity =
            Activity { connection_updated: now.wall, last_activity: active.max(now.wall) };
        inner.seen.insert(session.ord, activity);
    }

    /// The session of `ord`.
    pub(crate) fn find(&self, ord: Ordinal) -> Option<Arc<Shared>> {
        self.lock().sessions.get(&ord).cloned()
    }

    /// What is known of `ord` right now.
    pub(crate) fn presence(&self, ord: Ordinal) -> Presence {
        let (session, mut activity) = {
            let inner = self.lock();
            (inner.sessions.get(&ord).cloned(), inner.seen.get(&ord).copied())
        };
        if let (Some(session), Some(activity)) = (&session, &mut activity) {
            let active = session.read(|state| state.active);
            activity.last_activity = activity.last_activity.max(active);
        }
        Presence { connected: session.is_some(), activity }
    }

    /// Open sessions, and how many of them are devices'.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.sessions.len() as u64, inner.devices)
    }

    /// Connected devices whose ids come after `after`, by id.
    pub(crate) fn devices_after(&self, after: &str) -> Vec<String> {
        let inner = self.lock();
        let devices = inner.sessions.values().map(|session| &session.identity);
        let devices = devices.filter(|id| !id.is_module() && id.device_str() > after);
        let mut names: Vec<String> = devices.map(|id| id.device_str().to_owned()).collect();
        drop(inner);
        names.sort_unstable();
        names
    }

    /// Wakes `waker` at the next attach or change of subscriptions.
    pub(crate) fn wait(&self, waker: &Waker) {
        let mut inner = self.lock();
        inner.waiting.retain(|held| !held.will_wake(waker));
        // Those who gave up leave their wakers behind; a wake-up too many does no harm.
        let stale = if inner.waiting.len() < WAITING_MAX {
            Vec::new()
        } else {
            std::mem::take(&mut inner.waiting)
        };
        inner.waiting.push(waker.clone());
        drop(inner);
        stale.into_iter().for_each(Waker::wake);
    }

    fn wake_waiting(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// A renewed session is looked at later.
    pub(crate) fn expires(&self, ord: Ordinal, at: WallTime) {
        self.lock().expiries.insert((at, ord));
    }

    /// Whom to wake when an expiry comes earlier than known.
    pub(crate) fn set_wheel(&self, waker: Waker) {
        self.lock().wheel = Some(waker);
    }

    /// Ends every session, also those that attach from now on.
    pub(crate) fn stop(&self) {
        let all: Vec<_> = {
            let mut inner = self.lock();
            inner.stopping = true;
            let wheel = inner.wheel.take();
            let all = inner.sessions.values().cloned().collect();
            drop(inner);
            wheel.iter().for_each(Waker::wake_by_ref);
            all
        };
        for session in all {
            session.end(CloseReason::ShuttingDown);
        }
    }

    /// Whether [`Connections::stop`] was called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn end_expired(&self, now: Now) -> Option<WallTime> {
        loop {
            let (session, at) = {
                let mut inner = self.lock();
                let (at, ord) = *inner.expiries.first()?;
                if at > now.wall {
                    return Some(at);
                }
                inner.expiries.pop_first();
                (inner.sessions.get(&ord).cloned(), at)
            };
            let Some(session) = session else { continue };
            let valid_until = session.read(|state| state.valid_until);
            match valid_until {
                Some(until) if until <= now.wall => session.end(CloseReason::Expired),
                // Renewed: its later expiry has an entry of its own.
                _ => debug_assert!(valid_until.is_none_or(|until| until >= at)),
            }
        }
    }

    /// What the table does not know yet.
    pub(crate) fn take_seen(&self) -> Vec<(Ordinal, Activity)> {
        let mut inner = self.lock();
        let seen: Vec<_> = inner.seen.drain().collect();
        // A connected identity stays, so that its presence is known without the table.
        for (ord, activity) in &seen {
            if inner.sessions.contains_key(ord) {
                inner.seen.insert(*ord, *activity);
            }
        }
        seen
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what was seen of whom.
pub(crate) type WriteSeen = Box<dyn FnMut(Vec<(Ordinal, Activity)>) + Send>;

/// The coarse wheel of all sessions: ends the expired, hands activity to the tables.
pub(crate) struct Wheel {
    /// What it looks at.
    pub(crate) connections: Arc<Connections>,
    /// Writes activity, lazily.
    pub(crate) write: WriteSeen,
    /// When activity was last written.
    pub(crate) written: WallTime,
}

impl Worker for Wheel {
    fn turn(&mut self, now: Now) -> Turn {
        let next = self.connections.end_expired(now);
        if self.connections.is_stopping() {
            return Turn::Finished;
        }
        if now.wall.since(self.written) >= ACTIVITY_STEP || now.wall < self.written {
            self.written = now.wall;
            let seen = self.connections.take_seen();
            if !seen.is_empty() {
                (self.write)(seen);
            }
        }
        let pause = next.map_or(EXPIRY_LOOK, |at| at.since(now.wall));
        Turn::Until(now.tick.after(pause.clamp(EXPIRY_STEP, EXPIRY_LOOK)))
    }
}
