//! Who is connected: the open session of each identity, in memory, with an epoch; and when who
//! was seen, which the tables learn from here alone.

pub(crate) mod ledger;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use model::time::{Now, Tick, WallTime};
use model::waist::{CloseReason, Epoch};
use model::world::{Turn, Worker};

use self::ledger::Ledger;
use crate::expiry::{Due, Expiries, LeaseKey, Right};
use crate::registry::Ordinal;
use crate::session::effect::Effect;
use crate::session::shell::Shared;
use crate::session::state::SessionState;
use crate::storage::rows::Activity;

/// Shortest sleep between two looks for expired sessions.
const EXPIRY_STEP: Duration = Duration::from_secs(1);
/// Longest sleep, so that a jump of the wall clock is seen.
const EXPIRY_LOOK: Duration = Duration::from_secs(30);
/// Most wakers of those who wait for somebody to connect.
const WAITING_MAX: usize = 1024;

/// All open sessions.
#[derive(Debug)]
pub(crate) struct Connections {
    incarnation: u32,
    counter: AtomicU32,
    inner: Mutex<Inner>,
    /// Its lock is taken last: with a session's held, no other than this may be.
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<Ordinal, Arc<Shared>>,
    /// When to look at whom: one entry for each open session or stream whose rights end some day.
    expiries: Expiries,
    devices: u64,
    stopping: bool,
    /// Wakes whoever waits for somebody to connect.
    waiting: Vec<Waker>,
    /// Wakes the wheel.
    wheel: Option<Waker>,
}

impl Inner {
    /// Whom to wake because something ends at `at`, before all that is known.
    fn wheel_before(&self, at: WallTime) -> Option<Waker> {
        let first = self.expiries.next().is_none_or(|first| at < first);
        self.wheel.clone().filter(|_| first)
    }
}

/// The right of a stream to go on; given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    key: LeaseKey,
    right: Arc<Right>,
    connections: Arc<Connections>,
}

impl Lease {
    /// Whether what the stream was let in with has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.right.is_over()
    }

    /// Ready once it has.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        self.right.poll_over(cx)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connections.lock().expiries.remove_lease(self.key);
    }
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
        let (inner, ledger) = (Mutex::default(), Mutex::default());
        Self { incarnation, counter: AtomicU32::new(0), inner, ledger }
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
            Effect::Held(session, held) => {
                session.change(|state| state.hold(held));
                self.wake_waiting();
            }
            Effect::ActivityWritten => self.ledger().handle_written(),
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
            let older = inner.sessions.insert(session.ord, Arc::clone(&session));
            if let Some(older) = &older {
                inner.forget_expiry(older);
            }
            let wheel = valid_until.and_then(|at| inner.expires(session.ord, at));
            if older.is_none() {
                inner.devices += u64::from(!session.identity.is_module());
            }
            (older, wheel, std::mem::take(&mut inner.waiting), inner.stopping)
        };
        {
            let mut ledger = self.ledger();
            ledger.handle_back(session.ord);
            ledger.note(session.ord, now.tick);
        }
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
        if !inner.is_own(session) {
            return;
        }
        inner.forget_expiry(session);
        let (active, noted) = session.change(|state| (state.active, state.note()));
        inner.sessions.remove(&session.ord);
        inner.devices = inner.devices.saturating_sub(u64::from(!session.identity.is_module()));
        let last = Activity { connection_updated: now.wall, last_activity: active.max(now.wall) };
        let mut ledger = self.ledger();
        ledger.handle_left(session.ord, last);
        if noted {
            ledger.note(session.ord, now.tick);
        }
    }

    /// `ord` did something that the tables will be told.
    pub(crate) fn note(&self, ord: Ordinal, now: Tick) {
        self.ledger().note(ord, now);
    }

    /// The session of `ord`.
    pub(crate) fn find(&self, ord: Ordinal) -> Option<Arc<Shared>> {
        self.lock().sessions.get(&ord).cloned()
    }

    /// What is known of `ord` right now.
    pub(crate) fn presence(&self, ord: Ordinal) -> Presence {
        let Some(session) = self.find(ord) else {
            return Presence { connected: false, activity: self.ledger().last_of(ord) };
        };
        Presence { connected: true, activity: Some(session.read(SessionState::activity)) }
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

    /// `session` may go on until `until`.
    pub(crate) fn renew(&self, session: &Shared, until: WallTime) {
        let wheel = {
            let mut inner = self.lock();
            let own = inner.is_own(session);
            if own {
                inner.forget_expiry(session);
            }
            session.change(|state| state.valid_until = Some(until));
            if own { inner.expires(session.ord, until) } else { None }
        };
        wheel.iter().for_each(Waker::wake_by_ref);
    }

    /// The right to go on until `at`, for whoever was let in with a claim that ends then.
    pub(crate) fn lease(self: &Arc<Self>, at: WallTime) -> Lease {
        let (key, right, wheel) = {
            let mut inner = self.lock();
            let wheel = inner.wheel_before(at);
            let (key, right) = inner.expiries.add_lease(at);
            (key, right, wheel)
        };
        wheel.into_iter().for_each(Waker::wake);
        Lease { key, right, connections: Arc::clone(self) }
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
            let session = {
                let mut inner = self.lock();
                match inner.expiries.pop(now.wall) {
                    None => return inner.expiries.next(),
                    Some(Due::Session(ord)) => inner.sessions.get(&ord).cloned(),
                    Some(Due::Lease(right)) => {
                        drop(inner);
                        right.end();
                        continue;
                    }
                }
            };
            // One that was renewed in between has a later entry.
            let is_over = |session: &Arc<Shared>| {
                session.read(|state| state.valid_until.is_some_and(|until| until <= now.wall))
            };
            if let Some(session) = session.filter(is_over) {
                session.end(CloseReason::Expired);
            }
        }
    }

    /// The next activity to be written, if some is due; until [`Connections::handle_answered`]
    /// there is no other.
    pub(crate) fn take_slice(&self, now: Tick) -> Option<Slice> {
        let due = self.ledger().take_due(now);
        self.slice(due)
    }

    /// The same of whatever was noted: the hub is going.
    pub(crate) fn take_any_slice(&self) -> Option<Slice> {
        loop {
            let any = self.ledger().take_any();
            if any.is_empty() {
                return None;
            }
            // Of those who were deleted nothing is left to tell.
            if let Some(slice) = self.slice(any) {
                return Some(slice);
            }
        }
    }

    fn slice(&self, mut noted: Vec<Ordinal>) -> Option<Slice> {
        // Neighbours in the table are written together.
        noted.sort_unstable();
        noted.dedup();
        let mut slice = Vec::with_capacity(noted.len());
        for ord in noted {
            let last = match self.find(ord) {
                Some(session) => Some(session.change(SessionState::take_activity)),
                None => self.ledger().last_of(ord),
            };
            slice.extend(last.map(|last| (ord, last)));
        }
        if slice.is_empty() {
            return None;
        }
        self.ledger().handle_writing(&slice);
        Some(slice)
    }

    /// The slice was answered, written or not; what was not is written later.
    pub(crate) fn handle_answered(&self, now: Tick) {
        let more = {
            let mut ledger = self.ledger();
            ledger.handle_answered(now);
            ledger.due().is_some_and(|due| due <= now)
        };
        let wheel = self.lock().wheel.clone().filter(|_| more);
        wheel.iter().for_each(Waker::wake_by_ref);
    }

    /// `ord` was here and left.
    #[cfg(test)]
    pub(crate) fn leave(&self, ord: Ordinal, now: Now) {
        let last = Activity { connection_updated: now.wall, last_activity: now.wall };
        let mut ledger = self.ledger();
        ledger.handle_left(ord, last);
        ledger.note(ord, now.tick);
    }

    /// How many sessions and streams are looked at when their rights end.
    #[cfg(test)]
    pub(crate) fn expiries(&self) -> usize {
        self.lock().expiries.len()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_own(&self, session: &Shared) -> bool {
        self.sessions.get(&session.ord).is_some_and(|held| held.epoch == session.epoch)
    }

    /// Looks at `ord` at `at`; gives the wheel if that is earlier than all else.
    fn expires(&mut self, ord: Ordinal, at: WallTime) -> Option<Waker> {
        let wheel = self.wheel_before(at);
        self.expiries.add_session(at, ord);
        wheel
    }

    fn forget_expiry(&mut self, session: &Shared) {
        if let Some(at) = session.read(|state| state.valid_until) {
            self.expiries.remove_session(at, session.ord);
        }
    }
}

/// Rows of activity, ascending by ordinal.
pub(crate) type Slice = Vec<(Ordinal, Activity)>;

/// Takes what was seen of whom.
pub(crate) type WriteSeen = Box<dyn FnMut(Slice) + Send>;

/// The coarse wheel of all that is authorised: ends what has expired, hands activity to the tables.
pub(crate) struct Wheel {
    /// What it looks at.
    pub(crate) connections: Arc<Connections>,
    /// Writes activity, lazily.
    pub(crate) write: WriteSeen,
}

impl Worker for Wheel {
    fn turn(&mut self, now: Now) -> Turn {
        let next = self.connections.end_expired(now);
        if self.connections.is_stopping() {
            return Turn::Finished;
        }
        if let Some(slice) = self.connections.take_slice(now.tick) {
            (self.write)(slice);
        }
        let due = self.connections.ledger().due();
        let expiry = next.map_or(EXPIRY_LOOK, |at| at.since(now.wall));
        let pause = expiry.min(due.map_or(EXPIRY_LOOK, |due| due.since(now.tick)));
        Turn::Until(now.tick.after(pause.clamp(EXPIRY_STEP, EXPIRY_LOOK)))
    }
}

#[cfg(test)]
mod tests;
