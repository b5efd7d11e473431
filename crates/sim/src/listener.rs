//! A device that is only called: it subscribed to methods once, for good, and answers each call
//! with what it was asked; and the one who calls it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use model::feature::{Feature, Subscription};
use model::id::IdentityId;
use model::method::MethodResponse;
use model::time::WallTime;
use model::waist::{
    Batch, Claim, Credit, DeviceApi as _, DeviceEvent, DeviceRequest, DeviceSession, LinkKind, ask,
};
use model::world::World;
use net::client::MqttClient;
use serde_json::Value;
use testkit::chance::Chance;

use crate::cloud::Service;
use crate::device::{Wrong, lock};
use crate::sentence::Sentence;

/// Longest pause before it connects again.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// It waits so long for more calls, and answers the last one first.
const GATHERING: Duration = Duration::from_millis(40);
/// Where methods are called. Source: IoT Hub, "MQTT: respond to a direct method".
const METHODS: &str = "$iothub/methods/POST/#";

/// What a listener was asked, over all its connections.
#[derive(Debug, Default)]
pub struct Heard {
    calls: BTreeSet<u64>,
    /// Something that must not happen.
    pub wrong: Wrong,
}

/// A device that is called.
#[derive(Debug)]
pub struct Listener {
    /// Who it is.
    pub identity: IdentityId,
    /// Its key.
    pub key: SymmetricKey,
    /// Until when its tokens hold.
    pub expiry: WallTime,
    /// What it was asked.
    pub heard: Arc<Mutex<Heard>>,
}

impl Listener {
    /// Listens as long as its host lives.
    pub async fn run(self, client: MqttClient, world: World, chance: Chance) {
        loop {
            // A connection ends in all the ways that the simulation can think of.
            self.listen(&client, &world).await;
            tokio::time::sleep(chance.span(PAUSE_MAX)).await;
        }
    }

    async fn listen(&self, client: &MqttClient, world: &World) -> Option<()> {
        let resource = format!("hub.test/devices/{}", self.identity.device_str());
        let token = SasToken::sign(&resource, None, self.expiry, &self.key);
        let claim = Claim::Sas { identity: self.identity.clone(), token };
        let deadline = world.now().tick.after(PATIENCE);
        let opened = client.open(claim, LinkKind::Mqtt { clean: false }, deadline).await.ok()?;
        let session = &*opened.session;
        if !opened.resumed {
            let all = Subscription { feature: Feature::Methods, qos: 0, filter: METHODS.into() };
            let wanted = DeviceRequest::Subscribe([all].into_iter().collect());
            ask(session, wanted, deadline).await.ok()?;
        }
        let mut open = Vec::new();
        loop {
            let credit = Credit::of_messages(0);
            let event = poll_fn(|cx| session.poll_event(cx, credit));
            let wait = if open.is_empty() { Duration::MAX } else { GATHERING };
            match tokio::time::timeout(wait, event).await {
                Ok(DeviceEvent::Method { call, request, .. }) => {
                    self.hear(&request.payload);
                    open.push((call, request.payload));
                }
                Ok(DeviceEvent::Closed(_)) => return None,
                Ok(_) => {}
                Err(_) => answer(session, &mut open, world),
            }
        }
    }

    fn hear(&self, payload: &[u8]) {
        let mut heard = lock(&self.heard);
        match std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()) {
            Some(number) if heard.calls.insert(number) => {}
            Some(number) => {
                let words = format!("call {number} came twice");
                heard.wrong = Some((Sentence::CalledOnce, words));
            }
            None => {
                let words = "a call without a number".to_owned();
                heard.wrong = Some((Sentence::Invented, words));
            }
        }
    }
}

fn answer(
    session: &dyn DeviceSession,
    open: &mut Vec<(model::method::MethodCallId, bytes::Bytes)>,
    world: &World,
) {
    let answers = open.drain(..).rev().map(|(call, payload)| {
        let response = MethodResponse { status: 200, payload };
        DeviceRequest::AnswerMethod { call, response }
    });
    let batch = Batch(answers.collect());
    // Nobody is told whether an answer arrived; the caller's patience decides.
    drop(session.submit(batch, world.now().tick.after(PATIENCE)));
}

/// Whoever calls a listener.
#[derive(Debug)]
pub struct Caller {
    device: String,
    next: u64,
    answered: BTreeMap<u64, bool>,
    /// Something that must not happen.
    pub wrong: Wrong,
}

impl Caller {
    /// A caller of `device` that never called.
    pub fn new(device: &str) -> Self {
        Self { device: device.to_owned(), next: 1, answered: BTreeMap::new(), wrong: None }
    }

    /// Calls three times at once; each answer must be that of its own call, if there is one.
    pub async fn call(&mut self, service: &Service) {
        let [one, two, three] = [self.next, self.next + 1, self.next + 2];
        self.next += 3;
        let call = async |number: u64| {
            let answer = service.invoke(&self.device, "echo", Value::from(number));
            (number, tokio::time::timeout(PATIENCE, answer).await)
        };
        let all = tokio::join!(call(one), call(two), call(three));
        for (number, answer) in [all.0, all.1, all.2] {
            // Not there or not in time: that may be.
            let Ok(Ok(answer)) = answer else {
                self.answered.insert(number, false);
                continue;
            };
            self.answered.insert(number, true);
            let said = answer.get("payload").and_then(Value::as_u64);
            if said != Some(number) {
                let words = format!("call {number} was answered {answer}");
                self.wrong = Some((Sentence::Caller, words));
            }
        }
    }

    /// Whether the last call was answered.
    pub fn is_heard(&self) -> bool {
        self.answered.last_key_value().is_some_and(|(_, answered)| *answered)
    }

    /// Calls that were answered.
    pub fn answered(&self) -> u64 {
        self.answered.values().map(|answered| u64::from(*answered)).sum()
    }
}
