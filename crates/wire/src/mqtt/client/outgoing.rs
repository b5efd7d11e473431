//! Requests of the waist → packets.

use std::collections::VecDeque;

use model::feature::{Feature, FeatureSet, Subscription};
use model::message::{MESSAGE_BYTES_MAX, Message};
use model::method::{MethodCallId, MethodResponse};
use model::planted;
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::twin::TwinPatch;
use model::waist::{Answer, DeliveryToken, DeviceRequest, Outcome};

use super::{
    Awaits, Flight, OUTPUT_BYTES_MAX, Pending, Phase, Queued, RequestId, Session, TwinPath, Work,
    not_sent, unknown_outcome,
};
use crate::mqtt::packet::{FILTERS_MAX, Packet, PacketId, Publish, Qos};
use crate::topics::device;
use crate::topics::filter::Filter;

/// Longest topic or filter, in bytes. Source: MQTT 3.1.1, 1.5.3.
pub(super) const TEXT_BYTES_MAX: usize = u16::MAX as usize;

impl Session {
    /// Sends what may be sent now, in the order of the requests.
    pub(super) fn fill(&mut self) {
        while self.phase == Phase::Open
            && self.output.len() < OUTPUT_BYTES_MAX
            && self.pending.len() < usize::from(self.options.window.max(1))
            && !self.waits_for_twin_path()
        {
            // Planted: what is sent again comes last first.
            if planted::is("resend_out_of_order") && self.queue.len() > 1 {
                self.queue.swap(0, 1);
            }
            let Some(Queued { id, deadline, work }) = self.queue.pop_front() else { break };
            match work {
                Work::Again(flight) => self.fly(id, deadline, flight, true),
                Work::First(request) => self.send(id, deadline, request),
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > 0 {
            // An idle session holds no queue.
            self.queue = VecDeque::new();
        }
    }

    /// Twin answers are published; the first twin request waits until they are subscribed to.
    fn waits_for_twin_path(&mut self) -> bool {
        let Some(Queued { work: Work::First(request), .. }) = self.queue.front() else {
            return false;
        };
        let twin = matches!(request, DeviceRequest::ReadTwin | DeviceRequest::PatchReported { .. });
        if !twin || self.features.has(Feature::TwinAnswers) || self.twin_path == TwinPath::Refused {
            return false;
        }
        if self.twin_path == TwinPath::Unknown {
            self.twin_path = TwinPath::Asked;
            let filter = Filter::TwinAnswers.text(&self.options.identity).unwrap_or_default();
            let one = Subscription { feature: Feature::TwinAnswers, qos: 0, filter };
            self.subscribe(None, Tick::NEVER, vec![one]);
        }
        true
    }

    fn send(&mut self, id: RequestId, deadline: Tick, request: DeviceRequest) {
        match request {
            DeviceRequest::SendTelemetry(message) => self.send_telemetry(id, deadline, *message),
            DeviceRequest::ReadTwin => {
                let topic = |rid: &str| device::read_twin(rid);
                self.send_twin(id, deadline, false, topic, &[]);
            }
            DeviceRequest::PatchReported { patch: TwinPatch(patch), if_version } => {
                let topic = |rid: &str| device::patch_reported(rid, if_version);
                let body = serde_json::Value::Object(patch).to_string();
                self.send_twin(id, deadline, true, topic, body.as_bytes());
            }
            DeviceRequest::Subscribe(features) => self.send_subscribe(id, deadline, &features),
            DeviceRequest::Unsubscribe(filters) => self.send_unsubscribe(id, deadline, filters),
            DeviceRequest::Settle { token, outcome } => self.settle(id, token, outcome),
            DeviceRequest::AnswerMethod { call, response } => {
                self.answer_method(id, deadline, call, &response);
            }
            DeviceRequest::InvokeMethod { .. }
            | DeviceRequest::PullMessage { .. }
            | DeviceRequest::Modules(_)
            | DeviceRequest::AnnounceModel(_) => {
                self.refuse(id, "MQTT has no words for this request");
            }
        }
    }

    fn refuse(&mut self, id: RequestId, reason: &'static str) {
        self.answer(id, Err(Refusal::new(RefusalKind::InvalidRequest, reason)));
    }

    fn send_telemetry(&mut self, id: RequestId, deadline: Tick, message: Message) {
        let topic = device::telemetry(&self.options.identity, &message);
        // The server would cut the connection, and we would send it again for ever.
        if topic.len() > TEXT_BYTES_MAX || message.check_size().is_err() {
            let reason = "a message has at most 256 KiB, of which 64 KiB may be properties";
            return self.answer(id, Err(Refusal::new(RefusalKind::TooLarge, reason)));
        }
        let packet = self.next_packet();
        self.fly(id, deadline, Flight { packet, topic, body: message.body }, false);
    }

    fn fly(&mut self, id: RequestId, deadline: Tick, flight: Flight, dup: bool) {
        self.publish(&flight.topic, &flight.body, Some(flight.packet), dup);
        self.await_answer(Some(id), deadline, Awaits::Telemetry(flight));
    }

    fn send_twin(
        &mut self,
        id: RequestId,
        deadline: Tick,
        patch: bool,
        topic: impl FnOnce(&str) -> String,
        body: &[u8],
    ) {
        if self.twin_path == TwinPath::Refused && !self.features.has(Feature::TwinAnswers) {
            let kind = RefusalKind::Forbidden;
            return self.answer(id, Err(Refusal::new(kind, "the server grants no twin answers")));
        }
        if body.len() > MESSAGE_BYTES_MAX {
            let kind = RefusalKind::TooLarge;
            return self.answer(id, Err(Refusal::new(kind, "the patch is too long")));
        }
        self.last_rid += 1;
        let rid = self.last_rid;
        self.publish(&topic(&format!("{rid:x}")), body, None, false);
        self.await_answer(Some(id), deadline, Awaits::Twin { rid, patch });
    }

    fn send_subscribe(&mut self, id: RequestId, deadline: Tick, features: &FeatureSet) {
        if features.is_empty() {
            return self.answer(id, Ok(Answer::Subscribed(FeatureSet::new())));
        }
        if !sayable(features.iter().map(|one| &*one.filter)) {
            return self.refuse(id, "too many filters, or one that is too long");
        }
        self.subscribe(Some(id), deadline, features.iter().cloned().collect());
    }

    pub(super) fn subscribe(
        &mut self,
        request: Option<RequestId>,
        deadline: Tick,
        asked: Vec<Subscription>,
    ) {
        let packet = self.next_packet();
        let qos = |one: &Subscription| Qos::from_bits(one.qos.min(1)).unwrap_or(Qos::AtMostOnce);
        let filters = asked.iter().map(|one| (&*one.filter, qos(one))).collect();
        self.say(&Packet::Subscribe { id: packet, filters });
        self.await_answer(request, deadline, Awaits::Subscribe { packet, asked });
    }

    fn send_unsubscribe(&mut self, id: RequestId, deadline: Tick, filters: Vec<Box<str>>) {
        if filters.is_empty() {
            return self.answer(id, Ok(Answer::Accepted));
        }
        if !sayable(filters.iter().map(|filter| &**filter)) {
            return self.refuse(id, "too many filters, or one that is too long");
        }
        let packet = self.next_packet();
        let texts = filters.iter().map(|filter| &**filter).collect();
        self.say(&Packet::Unsubscribe { id: packet, filters: texts });
        self.await_answer(Some(id), deadline, Awaits::Unsubscribe { packet, filters });
    }

    fn settle(&mut self, id: RequestId, token: DeliveryToken, outcome: Outcome) {
        let Some(at) = self.held.iter().position(|(held, _)| *held == token) else {
            if (self.lost_token + 1..=self.last_token).contains(&token.0) {
                // Settled before: every settlement may come twice.
                return self.answer(id, Ok(Answer::Accepted));
            }
            let reason = "the message is not held any more; it will come again";
            return self.answer(id, Err(Refusal::new(RefusalKind::NotFound, reason)));
        };
        match outcome {
            Outcome::Complete => {
                if let (_, Some(packet)) = self.held.remove(at) {
                    self.say(&Packet::PubAck(packet));
                }
                self.answer(id, Ok(Answer::Accepted));
            }
            Outcome::Abandon => self.answer(id, Ok(Answer::Accepted)),
            Outcome::Reject => self.refuse(id, "MQTT cannot reject a message"),
        }
    }

    fn answer_method(
        &mut self,
        id: RequestId,
        deadline: Tick,
        call: MethodCallId,
        response: &MethodResponse,
    ) {
        let Some(at) = self.calls.iter().position(|held| held.id == call) else {
            return self.answer(id, Ok(Answer::Accepted));
        };
        if response.payload.len() > MESSAGE_BYTES_MAX {
            let kind = RefusalKind::TooLarge;
            return self.answer(id, Err(Refusal::new(kind, "the method's answer is too long")));
        }
        let Some(held) = self.calls.remove(at) else { return };
        let topic = device::method_answer(&held.rid, response.status);
        let packet = self.next_packet();
        self.publish(&topic, &response.payload, Some(packet), false);
        self.await_answer(Some(id), deadline, Awaits::MethodAnswer(packet));
    }

    fn await_answer(&mut self, request: Option<RequestId>, deadline: Tick, awaits: Awaits) {
        self.pending.push_back(Pending { request, deadline, awaits });
    }

    fn publish(&mut self, topic: &str, body: &[u8], id: Option<PacketId>, dup: bool) {
        let qos = if id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        self.say(&Packet::Publish(Publish { topic, body, qos, id, dup, retain: false }));
    }

    fn next_packet(&mut self) -> PacketId {
        loop {
            self.last_packet = self.last_packet.wrapping_add(1);
            let Some(id) = PacketId::new(self.last_packet) else { continue };
            let sent = self.pending.iter().any(|one| one.awaits.packet() == Some(id));
            let again = |one: &Queued| matches!(&one.work, Work::Again(f) if f.packet == id);
            if !sent && !self.queue.iter().any(again) {
                return id;
            }
        }
    }

    /// Answers what has waited too long.
    pub(super) fn expire(&mut self) {
        let now = self.clock;
        let late = |deadline: Tick| deadline <= now;
        if self.pending.iter().any(|one| late(one.deadline)) {
            for one in std::mem::take(&mut self.pending) {
                match one.request {
                    Some(id) if late(one.deadline) => self.answer(id, Err(unknown_outcome())),
                    _ => self.pending.push_back(one),
                }
            }
        }
        if self.queue.iter().any(|one| late(one.deadline)) {
            for one in std::mem::take(&mut self.queue) {
                if !late(one.deadline) {
                    self.queue.push_back(one);
                    continue;
                }
                let sent = matches!(one.work, Work::Again(_));
                self.answer(one.id, Err(if sent { unknown_outcome() } else { not_sent() }));
            }
        }
    }
}

fn sayable<'f>(filters: impl ExactSizeIterator<Item = &'f str>) -> bool {
    filters.len() <= FILTERS_MAX && filters.into_iter().all(|one| one.len() <= TEXT_BYTES_MAX)
}
