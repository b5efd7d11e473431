//! How often a message may come again: once for every death at which its sender did not know
//! whether it had arrived.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use model::id::IdentityId;
use model::refusal::Refusal;
use model::time::{Tick, WallTime};
use model::waist::{
    Answer, Answers, Batch, Claim, Completion, Credit, DeviceApi, DeviceEvent, DeviceRequest,
    DeviceSession, Epoch, Full, Leave, LinkKind, Opened,
};
use model::world::{Boxed, Clock as _};
use testkit::world::VirtualClock;

use crate::device::lock;

/// A cursor is on disk so long after what it passed was acknowledged: its commit may meet a disk
/// that fails or is full for a while.
const CURSOR_MAX: Duration = Duration::from_secs(30);

/// How often each number may come again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owed(BTreeMap<u64, u64>);

impl Owed {
    /// Each of `numbers` was on its way at one more death.
    pub fn add(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            *self.0.entry(number).or_default() += 1;
        }
    }

    /// How often `number` may come again.
    pub fn of(&self, number: u64) -> u64 {
        self.0.get(&number).copied().unwrap_or_default()
    }

    /// Deaths of one hop and of another add up.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (number, times) in &other.0 {
            *self.0.entry(*number).or_default() += times;
        }
        self
    }
}

/// A number of a module.
type Key = (Box<str>, u64);

/// What a runtime sends upstream, in the order of its journal, and what of it may come again.
#[derive(Debug, Default)]
pub struct Ledger {
    open: BTreeMap<Key, Open>,
    /// When it was sent, when it was acknowledged, what it was.
    arrived: VecDeque<(Tick, Tick, Key)>,
    owed: BTreeMap<Box<str>, Owed>,
}

/// Not acknowledged yet.
#[derive(Debug)]
struct Open {
    since: Tick,
    on_its_way: u64,
    is_to_come_again: bool,
}

impl Ledger {
    /// What of `module` may have come again.
    pub fn owed(&self, module: &str) -> Owed {
        self.owed.get(module).cloned().unwrap_or_default()
    }

    /// `module` gives `numbers` to the runtime from now on. What the runtime has and has not sent
    /// yet stands before its cursor as well.
    pub fn handle_given(&mut self, module: &str, numbers: impl Iterator<Item = u64>, now: Tick) {
        for number in numbers {
            let fresh = Open { since: now, on_its_way: 0, is_to_come_again: true };
            self.open.entry((module.into(), number)).or_insert(fresh);
        }
    }

    fn handle_sent(&mut self, key: &Key, now: Tick) {
        let fresh = Open { since: now, on_its_way: 0, is_to_come_again: false };
        let open = self.open.entry(key.clone()).or_insert(fresh);
        open.on_its_way += 1;
        open.is_to_come_again = false;
    }

    fn handle_arrived(&mut self, key: Key, sent: Tick, now: Tick) {
        if let Some(open) = self.open.get_mut(&key) {
            open.on_its_way = open.on_its_way.saturating_sub(1);
            if open.on_its_way == 0 && !open.is_to_come_again {
                self.open.remove(&key);
            }
        }
        self.arrived.push_back((sent, now, key));
    }

    /// Nobody knows whether it arrived.
    fn handle_unknown(&mut self, key: &Key) {
        if let Some(open) = self.open.get_mut(key) {
            open.on_its_way = open.on_its_way.saturating_sub(1);
            open.is_to_come_again = true;
        }
        self.owe(key);
    }

    /// The runtime is dead: the cursor of its journal stands where it was on disk, and before
    /// the first message that was not acknowledged.
    pub fn handle_death(&mut self, now: Tick) {
        let first = self.open.values().map(|open| open.since).min().unwrap_or(Tick::NEVER);
        let arrived = std::mem::take(&mut self.arrived);
        for (sent, acknowledged, key) in arrived {
            if sent >= first || now < acknowledged.after(CURSOR_MAX) {
                self.owe(&key);
                self.arrived.push_back((sent, acknowledged, key));
            }
        }
    }

    fn owe(&mut self, (module, number): &Key) {
        self.owed.entry(module.clone()).or_default().add([*number]);
    }
}

/// An upstream whose traffic is written down.
pub struct Watched {
    /// The upstream.
    pub api: Arc<dyn DeviceApi>,
    /// What is written down.
    pub ledger: Arc<Mutex<Ledger>>,
    /// The machine's clock.
    pub clock: VirtualClock,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl DeviceApi for Watched {
    fn open(
        &self,
        claim: Claim,
        link: LinkKind,
        deadline: Tick,
    ) -> Boxed<'_, Result<Opened, Refusal>> {
        Box::pin(async move {
            let mut opened = self.api.open(claim, link, deadline).await?;
            opened.session = Arc::new(WatchedSession {
                session: opened.session,
                ledger: Arc::clone(&self.ledger),
                clock: self.clock.clone(),
            });
            Ok(opened)
        })
    }
}

struct WatchedSession {
    session: Arc<dyn DeviceSession>,
    ledger: Arc<Mutex<Ledger>>,
    clock: VirtualClock,
}

impl WatchedSession {
    /// What each request of `batch` sends, if it does.
    fn keys(&self, batch: &Batch) -> VecDeque<Option<Key>> {
        let module: Box<str> = self.session.identity().module_str().unwrap_or_default().into();
        let key = |request: &DeviceRequest| match request {
            DeviceRequest::SendTelemetry(message) => {
                let number = std::str::from_utf8(&message.body).ok()?.parse().ok()?;
                Some((module.clone(), number))
            }
            _ => None,
        };
        batch.0.iter().map(key).collect()
    }
}

impl DeviceSession for WatchedSession {
    fn identity(&self) -> &IdentityId {
        self.session.identity()
    }

    fn epoch(&self) -> Epoch {
        self.session.epoch()
    }

    fn submit(&self, batch: Batch, deadline: Tick) -> Result<Completion, Full> {
        let keys = self.keys(&batch);
        let completion = self.session.submit(batch, deadline)?;
        let sent = self.clock.now().tick;
        let mut ledger = lock(&self.ledger);
        keys.iter().flatten().for_each(|key| ledger.handle_sent(key, sent));
        drop(ledger);
        let (ledger, clock) = (Arc::clone(&self.ledger), self.clock.clone());
        Ok(Completion::new(Awaited { completion, keys, sent, ledger, clock }))
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.poll_ready(cx)
    }

    fn poll_event(&self, cx: &mut Context<'_>, credit: Credit) -> Poll<DeviceEvent> {
        self.session.poll_event(cx, credit)
    }

    fn renew(&self, claim: Claim, deadline: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        self.session.renew(claim, deadline)
    }

    fn close(&self, how: Leave) {
        self.session.close(how);
    }
}

/// The answers of one batch, written down as they come; what never comes is unknown.
struct Awaited {
    completion: Completion,
    keys: VecDeque<Option<Key>>,
    sent: Tick,
    ledger: Arc<Mutex<Ledger>>,
    clock: VirtualClock,
}

impl Answers for Awaited {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, Refusal>>> {
        let polled = self.completion.poll_next(cx);
        if let Poll::Ready(Some(answer)) = &polled
            && let Some(key) = self.keys.pop_front().flatten()
        {
            let mut ledger = lock(&self.ledger);
            match answer {
                Ok(_) => ledger.handle_arrived(key, self.sent, self.clock.now().tick),
                Err(_) => ledger.handle_unknown(&key),
            }
        }
        polled
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut ledger = lock(&self.ledger);
        self.keys.drain(..).flatten().for_each(|key| ledger.handle_unknown(&key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(0).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_runtimes_death_owes_what_its_cursor_had_not_passed_on_disk() {
        let key = |number| (Box::from("m"), number);
        let mut ledger = Ledger::default();
        for number in 1..=4 {
            ledger.handle_sent(&key(number), at(number));
        }
        ledger.handle_arrived(key(1), at(1), at(5));
        ledger.handle_unknown(&key(2));
        ledger.handle_arrived(key(3), at(3), at(5));
        let owed = |ledger: &Ledger| (1..=4).map(|it| ledger.owed("m").of(it)).collect::<Vec<_>>();
        assert_eq!(owed(&ledger), [0, 1, 0, 0]);
        // 1 is long on disk; 3 stands behind 2, which is to come again.
        ledger.handle_death(at(100));
        assert_eq!(owed(&ledger), [0, 1, 1, 0]);
        ledger.handle_sent(&key(2), at(101));
        ledger.handle_arrived(key(2), at(101), at(102));
        ledger.handle_arrived(key(4), at(4), at(102));
        // Everything was acknowledged, but the cursor may not be on disk yet.
        ledger.handle_death(at(103));
        assert_eq!(owed(&ledger), [0, 2, 1, 1]);
        ledger.handle_death(at(200));
        assert_eq!(owed(&ledger), [0, 2, 1, 1]);
        // What another module gave and was never sent holds the cursor as well.
        ledger.handle_given("n", 9..=9, at(300));
        ledger.handle_sent(&key(1), at(301));
        ledger.handle_arrived(key(1), at(301), at(302));
        ledger.handle_death(at(400));
        assert_eq!(owed(&ledger), [1, 2, 1, 1]);
        assert_eq!(ledger.owed("n"), Owed::default());
    }
}
