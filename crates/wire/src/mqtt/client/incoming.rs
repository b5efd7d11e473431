//! Packets → answers and events.

use bytes::{Buf, Bytes, BytesMut};
use model::feature::{Feature, FeatureSet, Subscription};
use model::message::Message;
use model::method::{METHOD_RESPONSE_TIMEOUT_RANGE, MethodCallId, MethodRequest};
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::twin::Version;
use model::waist::{Answer, Delivery, DeliveryToken, DeviceEvent};

use super::{Awaits, CALLS_MAX, Call, Ending, HELD_MAX, Phase, Session, Step, TwinPath};
use crate::mqtt::packet::{self, Frame, Packet, PacketId, Publish, Qos};
use crate::topics::hub::{self, HubTopic};
use crate::topics::status;

impl Session {
    /// Works off the whole packets in `rest`.
    pub(super) fn work(&mut self) {
        if self.rest.len() < self.needed {
            return;
        }
        self.needed = 0;
        let mut rest = std::mem::take(&mut self.rest);
        while matches!(self.phase, Phase::Greeting | Phase::Open) {
            match packet::decode(&rest) {
                Ok(Frame::Whole { packet, len }) => {
                    self.handle_packet(packet);
                    rest.advance(len);
                }
                Ok(Frame::Partial { len }) => {
                    self.needed = len;
                    break;
                }
                Err(invalid) => self.close(Ending::Protocol(invalid.to_string())),
            }
        }
        // An idle session holds no buffer.
        self.rest = if rest.is_empty() { BytesMut::new() } else { rest };
    }

    fn handle_packet(&mut self, packet: Packet<'_>) {
        match (self.phase, packet) {
            (Phase::Greeting, Packet::ConnAck { session_present, code: 0 }) => {
                self.greeted(session_present);
            }
            (Phase::Greeting, Packet::ConnAck { code, .. }) => {
                self.close(Ending::Refused(status::connack_refusal(code)));
            }
            (Phase::Open, Packet::Publish(publish)) => self.handle_publish(&publish),
            (Phase::Open, Packet::PubAck(id)) => self.acknowledged(id),
            (Phase::Open, Packet::SubAck { id, codes }) => self.subscribed(id, codes),
            (Phase::Open, Packet::UnsubAck(id)) => self.unsubscribed(id),
            (Phase::Open, Packet::PingResp) => {}
            _ => self.broken("a packet came that has no place here"),
        }
    }

    fn broken(&mut self, how: impl Into<String>) {
        self.close(Ending::Protocol(how.into()));
    }

    fn greeted(&mut self, resumed: bool) {
        self.phase = Phase::Open;
        self.asked_at = None;
        self.steps.push_back(Step::Connected { resumed });
        if !resumed {
            let forgotten = std::mem::take(&mut self.features);
            // At the first meeting there is nothing that this session promised.
            for one in forgotten.iter().filter(|_| self.met) {
                self.lost.insert(one.clone());
            }
        }
        self.met = true;
        if !self.lost.is_empty() {
            self.subscribe(None, Tick::NEVER, self.lost.iter().cloned().collect());
        }
    }

    /// Takes the answer to a request out of those awaited. Most come in order.
    fn take(&mut self, fits: impl Fn(&Awaits) -> bool) -> Option<super::Pending> {
        let at = self.pending.iter().position(|one| fits(&one.awaits))?;
        self.pending.remove(at)
    }

    fn acknowledged(&mut self, id: PacketId) {
        // One we do not know was answered too late.
        let found = self.take(|awaits| match awaits {
            Awaits::Telemetry(flight) => flight.packet == id,
            Awaits::MethodAnswer(packet) => *packet == id,
            _ => false,
        });
        if let Some(request) = found.and_then(|one| one.request) {
            self.answer(request, Ok(Answer::Accepted));
        }
    }

    fn subscribed(&mut self, id: PacketId, codes: &[u8]) {
        let found =
            self.take(|awaits| matches!(awaits, Awaits::Subscribe { packet, .. } if *packet == id));
        let Some(super::Pending { request, awaits: Awaits::Subscribe { asked, .. }, .. }) = found
        else {
            return;
        };
        if asked.len() != codes.len() {
            return self.broken("a SUBACK has another number of codes than filters were asked");
        }
        let mut granted = FeatureSet::new();
        for (one, code) in asked.into_iter().zip(codes) {
            self.lost.remove(&one.filter);
            if *code <= 2 {
                let one = Subscription { qos: (*code).min(1), ..one };
                self.features.insert(one.clone());
                granted.insert(one);
            } else if one.feature == Feature::TwinAnswers && request.is_none() {
                self.twin_path = TwinPath::Refused;
            }
        }
        if let Some(request) = request {
            self.answer(request, Ok(Answer::Subscribed(granted)));
        }
    }

    fn unsubscribed(&mut self, id: PacketId) {
        let found = self
            .take(|awaits| matches!(awaits, Awaits::Unsubscribe { packet, .. } if *packet == id));
        let Some(super::Pending { request, awaits: Awaits::Unsubscribe { filters, .. }, .. }) =
            found
        else {
            return;
        };
        for filter in &filters {
            self.features.remove(filter);
            self.lost.remove(filter);
        }
        if !self.features.has(Feature::TwinAnswers) {
            self.twin_path = TwinPath::Unknown;
        }
        if let Some(request) = request {
            self.answer(request, Ok(Answer::Accepted));
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>) {
        if publish.qos == Qos::ExactlyOnce {
            return self.broken("quality of service 2 was not asked for");
        }
        let identity = self.options.identity.clone();
        let topic = match hub::parse(&identity, publish.topic) {
            Ok(topic) => topic,
            Err(invalid) => return self.broken(invalid.to_string()),
        };
        if let HubTopic::Message(message) = topic {
            return self.deliver(message, publish);
        }
        if let Some(id) = publish.id {
            self.say(&Packet::PubAck(id));
        }
        match topic {
            HubTopic::TwinAnswer { status, rid, version } => {
                self.twin_answered(status, rid, version, publish.body);
            }
            HubTopic::Desired => match hub::read_desired(publish.body) {
                Ok((patch, version)) => self.event(DeviceEvent::Desired { patch, version }),
                Err(invalid) => self.broken(invalid.to_string()),
            },
            HubTopic::Method { name, rid } => self.called(name, rid, publish.body),
            HubTopic::Message(_) => {}
        }
    }

    fn event(&mut self, event: DeviceEvent) {
        self.steps.push_back(Step::Event(event));
    }

    fn deliver(&mut self, mut message: Box<Message>, publish: &Publish<'_>) {
        if let Some(id) = publish.id
            && self.held.iter().any(|(_, held)| *held == Some(id))
        {
            // Sent again within one connection; it is being worked on.
            return;
        }
        if self.held.len() >= HELD_MAX {
            return self.broken("more messages came than may be unsettled");
        }
        // Bodies must not keep a read buffer alive.
        message.body = Bytes::copy_from_slice(publish.body);
        self.last_token += 1;
        let token = DeliveryToken(self.last_token);
        self.held.push((token, publish.id));
        self.event(DeviceEvent::Message(Box::new(Delivery { token, message: *message })));
    }

    fn called(&mut self, name: &str, rid: &str, body: &[u8]) {
        let now = self.clock;
        self.calls.retain(|call| call.deadline > now);
        if self.calls.len() >= CALLS_MAX {
            self.calls.pop_front();
        }
        self.last_call += 1;
        let call = MethodCallId(self.last_call);
        // MQTT does not say how long the caller waits; nobody waits longer than this.
        let longest = *METHOD_RESPONSE_TIMEOUT_RANGE.end();
        let deadline = now.after(longest);
        self.calls.push_back(Call { id: call, rid: rid.into(), deadline });
        let request = MethodRequest {
            name: name.to_owned(),
            payload: Bytes::copy_from_slice(body),
            response_timeout: longest,
            connect_timeout: std::time::Duration::ZERO,
        };
        self.event(DeviceEvent::Method { call, request, deadline });
    }

    fn twin_answered(&mut self, status: u16, rid: &str, version: Option<Version>, body: &[u8]) {
        let Ok(rid) = u64::from_str_radix(rid, 16) else { return };
        let found = self.take(|awaits| matches!(awaits, Awaits::Twin { rid: r, .. } if *r == rid));
        let Some(super::Pending { request: Some(id), awaits: Awaits::Twin { patch, .. }, .. }) =
            found
        else {
            return;
        };
        let answer = match (status, patch) {
            (200..=299, false) => hub::read_twin_body(body)
                .map(|twin| Answer::Twin(Box::new(twin)))
                .map_err(|_| strange("the twin that came is not one")),
            (200..=299, true) => version
                .map(Answer::Patched)
                .ok_or_else(|| strange("the answer to the patch names no version")),
            _ => Err(status::read_error(status, body)),
        };
        self.answer(id, answer);
    }
}

fn strange(reason: &'static str) -> Refusal {
    Refusal::new(RefusalKind::Internal, reason)
}
