//! What goes upstream, and when to try again. Pure: records in, steps out.
//!
//! Records of all senders share the lanes of one endpoint, in order. Each sender has its own
//! session upstream, so one that is refused must not hold up the others, and nothing of a
//! sender may overtake what it sent earlier: after a failure the sender is *blocked*, its
//! records stay in flight, and when the pause is over the lanes are rewound, which hands out
//! again, in order, everything that was not acknowledged. For the same reason a sender whose
//! session is another than the one that still owes answers is blocked: the older one's failure
//! may not have been heard of yet.

pub(crate) mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::id::IdentityId;
use model::planted;
use model::refusal::RefusalKind;
use model::time::{Now, Tick};
use model::waist::Epoch;

/// The wait after the first failure; it doubles.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest wait. Source: edge hub, retry 1–60 s; shorter here so that a hub that is back
/// is noticed soon.
pub const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Most records fetched at once.
pub const FETCH_RECORDS: usize = 256;
/// Most payload bytes fetched at once.
pub const FETCH_BYTES: usize = 1024 * 1024;
/// Most records in flight, those of blocked senders included.
pub const IN_FLIGHT_MAX: usize = 768;
/// Nothing more is fetched while so many bytes are in flight: on a slow line all of it must
/// arrive before its deadline, or it is sent again for ever. One fetch may exceed it.
pub const IN_FLIGHT_BYTES_MAX: usize = 1024 * 1024;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take at most so many records from the queue and send them.
    Fetch(usize),
    /// Take back what is in flight, then ask again.
    Rewind,
    /// Nothing until something happens.
    Wait,
    /// Nothing until that time.
    WaitUntil(Tick),
}

/// What becomes of a record that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived: done with.
    Arrived,
    /// It will never be accepted: done with, and counted.
    Poison,
    /// It is sent again after a pause.
    Again,
}

/// The state of one endpoint's sending.
#[derive(Debug, Default)]
pub struct Pump {
    blocked: BTreeSet<IdentityId>,
    /// By sender: the session that owes answers, and for how many batches.
    owing: BTreeMap<IdentityId, (Epoch, u32)>,
    failures: u32,
    paused_until: Option<Tick>,
    in_flight: usize,
    in_flight_bytes: usize,
    has_work: bool,
    /// Nothing was handed out while something was in flight: the queue hands out only so much
    /// beyond the oldest record in flight, so there may be more once that is answered.
    is_window_shut: bool,
    is_stopped: bool,
}

impl Pump {
    /// A pump that looks for work first.
    pub fn new() -> Self {
        Self { has_work: true, ..Self::default() }
    }

    /// Records were committed, or something may have changed: look again.
    pub fn handle_work(&mut self) {
        self.has_work = true;
    }

    /// The queue gave `count` records of `bytes` together; 0 means it is empty.
    pub fn handle_fetched(&mut self, count: usize, bytes: usize) {
        self.in_flight += count;
        self.in_flight_bytes += bytes;
        self.has_work = count > 0;
        self.is_window_shut = count == 0 && self.in_flight > 0;
    }

    /// Whether a record of `sender` may be sent now; if not it just stays in flight.
    pub fn may_send(&self, sender: &IdentityId) -> bool {
        !self.blocked.contains(sender)
    }

    /// A batch of `sender` is to go over the session of `epoch`; whether it may. If it may not,
    /// the sender is blocked, as after a failure.
    pub fn handle_sending(&mut self, sender: &IdentityId, epoch: Epoch, now: Now) -> bool {
        let owing = self.owing.entry(sender.clone()).or_insert((epoch, 0));
        // Planted: nobody asks what the older session still owes.
        if owing.0 == epoch || planted::is("newer_session_overtakes") {
            *owing = (epoch, owing.1 + 1);
            return true;
        }
        self.blocked.insert(sender.clone());
        // It is no failure of the upstream: the answers come soon, and then all of it again.
        self.paused_until.get_or_insert(now.tick);
        false
    }

    /// All of a batch of `sender` was answered.
    pub fn handle_batch_over(&mut self, sender: &IdentityId) {
        if let Some((_, batches)) = self.owing.get_mut(sender) {
            *batches = batches.saturating_sub(1);
            if *batches == 0 {
                self.owing.remove(sender);
            }
        }
    }

    /// A record of `sender`, of `bytes`, was answered; `refusal` is what it was refused for.
    /// `chance` spreads the pauses of many devices.
    pub fn handle_answer(
        &mut self,
        (sender, bytes): (&IdentityId, usize),
        refusal: Option<RefusalKind>,
        now: Now,
        chance: u64,
    ) -> Fate {
        let fate = refusal.map_or(Fate::Arrived, fate_of);
        match fate {
            Fate::Arrived | Fate::Poison => {
                // A late success says nothing about a sender that failed meanwhile.
                self.handle_given_up(1, bytes);
                if self.blocked.is_empty() {
                    self.failures = 0;
                }
            }
            Fate::Again => {
                self.blocked.insert(sender.clone());
                if self.paused_until.is_none() {
                    self.paused_until = Some(now.tick.after(pause(self.failures, chance)));
                    self.failures = self.failures.saturating_add(1);
                }
            }
        }
        fate
    }

    /// `count` records in flight, of `bytes` together, are so no more.
    pub fn handle_given_up(&mut self, count: usize, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(count);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        self.has_work |= std::mem::take(&mut self.is_window_shut);
    }

    /// Everything in flight was taken back.
    pub fn handle_rewound(&mut self) {
        self.blocked.clear();
        self.owing.clear();
        self.paused_until = None;
        self.in_flight = 0;
        self.in_flight_bytes = 0;
        self.has_work = true;
        self.is_window_shut = false;
    }

    /// The upstream is said to be back: do not wait out the pause.
    pub fn handle_upstream_back(&mut self, now: Now) {
        if self.paused_until.is_some() {
            self.paused_until = Some(now.tick);
        }
    }

    /// The runtime is stopping.
    pub fn handle_stop(&mut self) {
        self.is_stopped = true;
    }

    /// What to do next.
    pub fn poll(&self, now: Now) -> Step {
        if self.is_stopped {
            return Step::Wait;
        }
        if self.paused_until.is_some_and(|until| now.tick >= until) {
            return Step::Rewind;
        }
        let room = IN_FLIGHT_MAX.saturating_sub(self.in_flight).min(FETCH_RECORDS);
        let has_room = room > 0 && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
        match (self.has_work && has_room, self.paused_until) {
            (true, _) => Step::Fetch(room),
            (false, Some(until)) => Step::WaitUntil(until),
            (false, None) => Step::Wait,
        }
    }
}

fn fate_of(refusal: RefusalKind) -> Fate {
    match refusal {
        // The message itself is at fault and will be tomorrow.
        RefusalKind::InvalidRequest | RefusalKind::TooLarge => Fate::Poison,
        // The sender may be allowed or known again tomorrow; life times bound the wait.
        RefusalKind::Unauthenticated
        | RefusalKind::Forbidden
        | RefusalKind::DeviceNotFound
        | RefusalKind::ModuleNotFound
        | RefusalKind::NotFound
        | RefusalKind::AlreadyExists
        | RefusalKind::PreconditionFailed
        | RefusalKind::QuotaExceeded
        | RefusalKind::Throttled
        | RefusalKind::TargetOffline
        | RefusalKind::TargetTimedOut
        | RefusalKind::TakenOver
        | RefusalKind::TimedOut
        | RefusalKind::Unavailable
        | RefusalKind::Internal => Fate::Again,
    }
}

/// 1 s, 2 s, 4 s … 20 s, of which a random part of up to a quarter is left out.
fn pause(failures: u32, chance: u64) -> Duration {
    let full = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSE_MAX);
    let part = u32::try_from(chance % 256).expect("below 256");
    full.saturating_sub(full * part / 1024)
}

#[cfg(test)]
mod tests;
