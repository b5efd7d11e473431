//! What an open session holds. Pure: time and chance come in, events go out.

use std::collections::VecDeque;

use model::feature::{Feature, FeatureSet};
use model::method::{METHODS_WAITING_BYTES_MAX, MethodCallId, MethodRequest};
use model::planted;
use model::time::{Tick, WallTime};
use model::twin::slot::{DesiredChange, DesiredSlot};
use model::waist::{ANSWER_BYTES, CloseReason, Credit, DeviceEvent, SESSION_ANSWER_BYTES_MAX};

use crate::storage::rows::Activity;

/// Most requests of one session that wait for their answers.
pub(crate) const SESSION_REQUESTS_MAX: u32 = 512;
/// Most bytes of one session that wait for their answers.
pub(crate) const SESSION_BYTES_MAX: u32 = 2 * 1024 * 1024;
/// Most method calls that wait in one session to be handed out.
pub(crate) const SESSION_METHODS_MAX: usize = 32;

/// Which features are on, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeatureMask(u8);

impl FeatureMask {
    /// The features that `set` switches on.
    pub(crate) fn of(set: &FeatureSet) -> Self {
        Self(set.iter().map(|held| Self::bit(held.feature)).fold(0, |all, bit| all | bit))
    }

    /// Whether `feature` is on.
    pub(crate) fn has(self, feature: Feature) -> bool {
        self.0 & Self::bit(feature) != 0
    }

    fn bit(feature: Feature) -> u8 {
        match feature {
            Feature::CloudToDevice => 1,
            Feature::Inputs => 2,
            Feature::Methods => 4,
            Feature::TwinAnswers => 8,
            Feature::DesiredChanges => 16,
        }
    }
}

/// A call on its way to the device.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: MethodCallId,
    pub(crate) request: MethodRequest,
    pub(crate) deadline: Tick,
}

/// The state of one session.
#[derive(Debug, Default)]
pub(crate) struct SessionState {
    pub(crate) features: FeatureMask,
    pub(crate) valid_until: Option<WallTime>,
    pub(crate) active: WallTime,
    /// When it was opened.
    since: WallTime,
    /// Whether the tables will be told of `active`.
    noted: bool,
    /// What is switched on for as long as the session lives; none of a durable one.
    held: Option<Box<FeatureSet>>,
    /// Whether its peer has gone.
    pub(crate) left: bool,
    closed: Option<CloseReason>,
    told: bool,
    requests: u32,
    bytes: u32,
    /// Answers with a twin or a payload that were asked for and not taken.
    answers: u16,
    desired: Option<Box<DesiredSlot>>,
    calls: VecDeque<Call>,
}

impl SessionState {
    /// An open session, whose opening the tables will be told.
    pub(crate) fn new(
        features: FeatureMask,
        valid_until: Option<WallTime>,
        since: WallTime,
    ) -> Self {
        let (active, noted) = (since, true);
        Self { features, valid_until, active, since, noted, ..Self::default() }
    }

    /// When it was opened, and when it last did something.
    pub(crate) fn activity(&self) -> Activity {
        Activity { connection_updated: self.since, last_activity: self.active }
    }

    /// The same on its way to the tables: what comes after is noted again.
    pub(crate) fn take_activity(&mut self) -> Activity {
        self.noted = false;
        self.activity()
    }

    /// Whether this is the first that the tables do not know; they will be told.
    pub(crate) fn note(&mut self) -> bool {
        !std::mem::replace(&mut self.noted, true)
    }

    /// What is switched on for as long as the session lives.
    pub(crate) fn held(&self) -> FeatureSet {
        self.held.as_deref().cloned().unwrap_or_default()
    }

    /// Switches on `held` and nothing else, for as long as the session lives.
    pub(crate) fn hold(&mut self, held: FeatureSet) {
        self.features = FeatureMask::of(&held);
        // Idle sessions hold no empty set.
        self.held = Some(held).filter(|held| !held.is_empty()).map(Box::new);
    }

    /// Why it is closed, if it is.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    /// Takes room for a batch; `false` if there is none. A batch always fits into an idle
    /// session, whatever its size.
    pub(crate) fn take_room(&mut self, requests: u32, bytes: u32) -> bool {
        let fits = self.requests + requests <= SESSION_REQUESTS_MAX
            && self.bytes.saturating_add(bytes) <= SESSION_BYTES_MAX;
        if !fits && self.requests > 0 {
            return false;
        }
        self.requests += requests;
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// Gives room back.
    pub(crate) fn give_room(&mut self, requests: u32, bytes: u32) {
        self.requests = self.requests.saturating_sub(requests);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Takes room for so many answers of weight; `false` if too many wait already. Requests whose
    /// answers weigh nothing are never held up.
    pub(crate) fn take_answers(&mut self, count: u16) -> bool {
        if count > 0 && !self.has_answer_room() {
            return false;
        }
        self.answers = self.answers.saturating_add(count);
        true
    }

    fn has_answer_room(&self) -> bool {
        u32::from(self.answers) * ANSWER_BYTES <= SESSION_ANSWER_BYTES_MAX / 2
    }

    /// Answers were taken, or nobody waits for them any more.
    pub(crate) fn give_answers(&mut self, count: u16) {
        self.answers = self.answers.saturating_sub(count);
    }

    /// Whether nothing waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests == 0
    }

    /// Whether a waiting batch may try again.
    pub(crate) fn has_room(&self) -> bool {
        self.closed.is_some()
            || (self.requests < SESSION_REQUESTS_MAX / 2
                && self.bytes < SESSION_BYTES_MAX / 2
                && self.has_answer_room())
    }

    /// The desired properties changed.
    pub(crate) fn handle_desired(&mut self, change: DesiredChange) {
        if self.closed.is_some() || !self.features.has(Feature::DesiredChanges) {
            return;
        }
        match &mut self.desired {
            Some(slot) => slot.add(change),
            None => self.desired = Some(Box::new(DesiredSlot::new(change))),
        }
    }

    /// Takes a call, or gives it back if this session cannot have it.
    pub(crate) fn handle_call(&mut self, call: Call) -> Result<(), Call> {
        if self.closed.is_some() || !self.features.has(Feature::Methods) {
            return Err(call);
        }
        let waiting: usize = self.calls.iter().map(|call| call.request.payload.len()).sum();
        let large = waiting + call.request.payload.len() > METHODS_WAITING_BYTES_MAX;
        if self.calls.len() >= SESSION_METHODS_MAX || large && !self.calls.is_empty() {
            return Err(call);
        }
        // Planted: a call is handed out twice.
        if planted::is("method_handed_out_twice") {
            self.calls.push_back(call.clone());
        }
        self.calls.push_back(call);
        Ok(())
    }

    /// Ends the session; the first reason stays. Gives the calls that were never handed out.
    pub(crate) fn handle_close(&mut self, reason: CloseReason) -> Vec<MethodCallId> {
        if self.closed.is_none() {
            self.closed = Some(reason);
        }
        self.desired = None;
        let calls = std::mem::take(&mut self.calls);
        calls.into_iter().map(|call| call.id).collect()
    }

    /// Whether [`SessionState::poll_event`] may have something.
    pub(crate) fn has_event(&self) -> bool {
        (self.closed.is_some() && !self.told) || self.desired.is_some() || !self.calls.is_empty()
    }

    /// The next event that `credit` allows. `Closed` overtakes everything and comes once.
    pub(crate) fn poll_event(&mut self, now: Tick, credit: Credit) -> Option<DeviceEvent> {
        if let Some(reason) = self.closed {
            let told = std::mem::replace(&mut self.told, true);
            return (!told).then_some(DeviceEvent::Closed(reason));
        }
        if credit.desired > 0
            && let Some(slot) = self.desired.take()
        {
            let (patch, version) = slot.into_event();
            return Some(DeviceEvent::Desired { patch, version });
        }
        if credit.methods == 0 {
            return None;
        }
        let calls = &mut self.calls;
        let next = std::iter::from_fn(|| calls.pop_front()).find(|call| call.deadline > now);
        if calls.is_empty() {
            // Idle sessions hold no buffer.
            *calls = VecDeque::new();
        }
        next.map(|Call { id, request, deadline }| DeviceEvent::Method {
            call: id,
            request,
            deadline,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use model::feature::Subscription;
    use model::twin::Version;

    use super::*;

    fn open() -> SessionState {
        let all = [Feature::Methods, Feature::DesiredChanges].map(|feature| Subscription {
            feature,
            qos: 0,
            filter: format!("{feature:?}").into(),
        });
        SessionState { features: FeatureMask::of(&all.into_iter().collect()), ..Default::default() }
    }

    fn call(id: u64, deadline: u64) -> Call {
        let request = MethodRequest {
            name: "m".into(),
            payload: Bytes::new(),
            response_timeout: Duration::from_secs(30),
            connect_timeout: Duration::ZERO,
        };
        Call { id: MethodCallId(id), request, deadline: Tick(deadline) }
    }

    fn change() -> DesiredChange {
        DesiredChange {
            patch: serde_json::Map::new(),
            before: serde_json::Map::new(),
            after: serde_json::Map::new(),
            version: Version(2),
        }
    }

    #[test]
    fn closed_overtakes_everything_and_comes_once() {
        let mut state = open();
        state.handle_desired(change());
        state.handle_call(call(7, 10)).unwrap();
        assert_eq!(state.handle_close(CloseReason::TakenOver), [MethodCallId(7)]);
        state.handle_close(CloseReason::Expired);
        let event = state.poll_event(Tick(0), Credit::of_messages(0));
        assert_eq!(event, Some(DeviceEvent::Closed(CloseReason::TakenOver)));
        assert_eq!(state.poll_event(Tick(0), Credit::of_messages(0)), None);
        assert!(state.handle_call(call(8, 10)).is_err());
    }

    #[test]
    fn calls_are_bounded_and_late_ones_are_not_handed_out() {
        let mut state = open();
        for id in 0..SESSION_METHODS_MAX as u64 {
            state.handle_call(call(id, id)).unwrap();
        }
        assert!(state.handle_call(call(99, 99)).is_err());
        let Some(DeviceEvent::Method { call, .. }) =
            state.poll_event(Tick(5), Credit::of_messages(0))
        else {
            panic!("calls wait");
        };
        assert_eq!(call, MethodCallId(6));
    }

    #[test]
    fn the_payloads_of_waiting_calls_are_bounded_together() {
        let mut state = open();
        let large = |id| {
            let Call { mut request, deadline, .. } = call(id, 10);
            request.payload = vec![b'x'; METHODS_WAITING_BYTES_MAX / 2].into();
            Call { id: MethodCallId(id), request, deadline }
        };
        state.handle_call(large(1)).unwrap();
        state.handle_call(large(2)).unwrap();
        assert_eq!(state.handle_call(large(3)).unwrap_err().id, MethodCallId(3));
        state.poll_event(Tick(0), Credit::of_messages(0)).unwrap();
        state.handle_call(large(4)).unwrap();
    }

    #[test]
    fn what_has_no_credit_waits_and_only_the_end_needs_none() {
        let mut state = open();
        state.handle_desired(change());
        state.handle_call(call(7, 10)).unwrap();
        assert_eq!(state.poll_event(Tick(0), Credit::NONE), None);
        let methods = Credit { methods: 1, ..Credit::NONE };
        let event = state.poll_event(Tick(0), methods);
        assert!(matches!(event, Some(DeviceEvent::Method { .. })), "{event:?}");
        assert_eq!(state.poll_event(Tick(0), methods), None);
        state.handle_close(CloseReason::Expired);
        let event = state.poll_event(Tick(0), Credit::NONE);
        assert_eq!(event, Some(DeviceEvent::Closed(CloseReason::Expired)));
    }

    #[test]
    fn answers_that_nobody_takes_hold_up_who_asks_for_more_and_nobody_else() {
        let mut state = open();
        let half = u16::try_from(SESSION_ANSWER_BYTES_MAX / ANSWER_BYTES / 2).unwrap();
        assert!(state.take_answers(half));
        assert!(state.take_answers(half));
        assert!(!state.take_answers(1) && !state.has_room());
        assert!(state.take_answers(0) && state.take_room(1, 1));
        state.give_answers(half);
        assert!(state.has_room() && state.take_answers(1));
    }

    #[test]
    fn without_subscriptions_nothing_is_kept() {
        let mut state = SessionState::default();
        state.handle_desired(change());
        assert!(state.handle_call(call(1, 1)).is_err());
        assert_eq!(state.poll_event(Tick(0), Credit::of_messages(0)), None);
    }

    #[test]
    fn room_is_bounded_but_an_idle_session_takes_any_batch() {
        let mut state = open();
        assert!(state.take_room(1, SESSION_BYTES_MAX * 2));
        assert!(!state.take_room(1, 1));
        assert!(!state.has_room());
        state.give_room(1, SESSION_BYTES_MAX * 2);
        assert!(state.has_room());
        assert!(state.take_room(SESSION_REQUESTS_MAX, 0));
        assert!(!state.take_room(1, 0));
    }
}
