//! A small hub for one device: checks tokens, keeps twins and identities, records telemetry,
//! and can be cut off.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use base64::Engine as _;
use credentials::key::SymmetricKey;
use credentials::sas::SasToken;
use model::feature::{Feature, FeatureSet};
use model::id::{IdentityId, ModuleName};
use model::message::Message;
use model::method::{MethodCallId, MethodRequest, MethodResponse};
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::twin::patch::{apply, difference};
use model::twin::{TwinDocument, TwinPatch, Version};
use model::waist::*;
use model::world::Boxed;
use serde_json::{Map, Value};

pub(crate) const DEVICE: &str = "d1";
pub(crate) const DEVICE_KEY: &str = "ZGV2aWNla2V5";

#[derive(Clone)]
pub(crate) struct Cloud(Arc<Mutex<State>>);

struct State {
    is_online: bool,
    keys: BTreeMap<ModuleName, SymmetricKey>,
    generations: BTreeMap<ModuleName, u32>,
    twins: BTreeMap<IdentityId, TwinDocument>,
    received: Vec<(IdentityId, Message)>,
    sessions: Vec<Weak<Session>>,
    answers: Vec<MethodResponse>,
    made: u32,
}

struct Session {
    cloud: Cloud,
    identity: IdentityId,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<DeviceEvent>,
    features: FeatureSet,
    closed: Option<CloseReason>,
    waker: Option<Waker>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn identity(module: &str) -> IdentityId {
    format!("{DEVICE}/{module}").parse().unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn refused(kind: RefusalKind) -> Refusal {
    Refusal::new(kind, "the hub of the test says no")
}

impl Cloud {
    pub(crate) fn new() -> Self {
        let cloud = Self(Arc::new(Mutex::new(State {
            is_online: true,
            keys: BTreeMap::new(),
            generations: BTreeMap::new(),
            twins: BTreeMap::new(),
            received: Vec::new(),
            sessions: Vec::new(),
            answers: Vec::new(),
            made: 0,
        })));
        for name in ["$edgeAgent", "$edgeHub"] {
            cloud.state().ensure(&name.parse().unwrap());
        }
        cloud
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Nobody gets in, and who is in is thrown out.
    pub(crate) fn cut(&self) {
        self.state().is_online = false;
        for session in self.sessions() {
            session.end(CloseReason::Disconnected);
        }
    }

    pub(crate) fn restore(&self) {
        self.state().is_online = true;
    }

    pub(crate) fn key(&self, module: &str) -> Option<SymmetricKey> {
        self.state().keys.get(&module.parse().unwrap()).cloned()
    }

    pub(crate) fn has_identity(&self, module: &str) -> bool {
        self.key(module).is_some()
    }

    /// Bodies received from `module`, in order.
    pub(crate) fn received(&self, module: &str) -> Vec<Message> {
        let from = identity(module);
        let state = self.state();
        let own = state.received.iter().filter(|(sender, _)| *sender == from);
        own.map(|(_, message)| message.clone()).collect()
    }

    pub(crate) fn reported(&self, module: &str) -> Value {
        let state = self.state();
        let twin = state.twins.get(&identity(module));
        Value::Object(twin.map(|twin| twin.reported.clone()).unwrap_or_default())
    }

    pub(crate) fn set_desired(&self, module: &str, desired: Value) -> Version {
        let (identity, desired) = (identity(module), map(desired));
        let (patch, version) = {
            let mut state = self.state();
            let twin = state.twins.entry(identity.clone()).or_default();
            let patch = difference(&twin.desired, &desired);
            twin.desired = desired;
            twin.desired_version.0 += 1;
            (TwinPatch(patch), twin.desired_version)
        };
        for session in self.sessions() {
            if session.identity == identity
                && lock(&session.inner).features.has(Feature::DesiredChanges)
            {
                session.push(DeviceEvent::Desired { patch: patch.clone(), version });
            }
        }
        version
    }

    /// Calls a method; whether anybody listens.
    pub(crate) fn call(&self, module: &str, name: &str, payload: &Value) -> bool {
        let identity = identity(module);
        let listens = |session: &Arc<Session>| {
            session.identity == identity && lock(&session.inner).features.has(Feature::Methods)
        };
        let Some(session) = self.sessions().into_iter().find(listens) else { return false };
        let request = MethodRequest {
            name: name.to_owned(),
            payload: payload.to_string().into(),
            response_timeout: std::time::Duration::from_secs(30),
            connect_timeout: std::time::Duration::ZERO,
        };
        let deadline = Tick::NEVER;
        session.push(DeviceEvent::Method { call: MethodCallId(1), request, deadline });
        true
    }

    pub(crate) fn answers(&self) -> Vec<MethodResponse> {
        self.state().answers.clone()
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        let all: Vec<_> = self.state().sessions.iter().filter_map(Weak::upgrade).collect();
        all.into_iter().filter(|session| lock(&session.inner).closed.is_none()).collect()
    }

    fn prove(&self, claim: &Claim) -> Option<(IdentityId, WallTime)> {
        let Claim::Sas { identity, token } = claim else { return None };
        let token = SasToken::parse(token.expose_str()?).ok()?;
        let (key, resource) = match identity.module_name() {
            None => (SymmetricKey::parse(DEVICE_KEY).ok()?, "hub.example/devices/d1".to_owned()),
            Some(name) => {
                let key = self.state().keys.get(&name).cloned()?;
                (key, format!("hub.example/devices/d1/modules/{name}"))
            }
        };
        let holds = token.is_signed_by(&key) && token.covers(&resource);
        holds.then(|| (identity.clone(), token.expiry()))
    }
}

impl State {
    fn ensure(&mut self, name: &ModuleName) -> ModuleIdentity {
        if !self.keys.contains_key(name) {
            self.made += 1;
            let key = SymmetricKey::parse("bW9kdWxla2V5").unwrap();
            // Another key for each: the tag of its name.
            let tag = key.sign(format!("{name}{}", self.made).as_bytes());
            let text = base64::engine::general_purpose::STANDARD.encode(tag);
            self.keys.insert(name.clone(), SymmetricKey::parse(&text).unwrap());
            self.generations.insert(name.clone(), self.made);
        }
        ModuleIdentity {
            name: name.clone(),
            generation_id: self.generations[name].to_string().into(),
            managed_by: if name.as_str().starts_with('$') { "" } else { "IotEdge" }.into(),
            primary_key: Some(self.keys[name].to_base64()),
            secondary_key: None,
        }
    }
}

impl DeviceApi for Cloud {
    fn open(&self, claim: Claim, _: LinkKind, _: Tick) -> Boxed<'_, Result<Opened, Refusal>> {
        Box::pin(async move {
            if !self.state().is_online {
                return Err(refused(RefusalKind::Unavailable));
            }
            let proven = self.prove(&claim);
            let (identity, until) = proven.ok_or_else(|| refused(RefusalKind::Unauthenticated))?;
            let session = Arc::new(Session {
                cloud: self.clone(),
                identity: identity.clone(),
                inner: Mutex::new(Inner::default()),
            });
            for older in self.sessions() {
                if older.identity == identity {
                    older.end(CloseReason::TakenOver);
                }
            }
            self.state().sessions.push(Arc::downgrade(&session));
            let features = FeatureSet::new();
            Ok(Opened { session, resumed: false, features, valid_until: Some(until) })
        })
    }
}

impl Session {
    fn push(&self, event: DeviceEvent) {
        let mut inner = lock(&self.inner);
        inner.events.push_back(event);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    fn end(&self, reason: CloseReason) {
        lock(&self.inner).closed = Some(reason);
        self.push(DeviceEvent::Closed(reason));
    }

    fn answer(&self, request: DeviceRequest) -> Result<Answer, Refusal> {
        let mut state = self.cloud.state();
        if !state.is_online || lock(&self.inner).closed.is_some() {
            return Err(refused(RefusalKind::Unavailable));
        }
        match request {
            DeviceRequest::SendTelemetry(message) => {
                if message.properties.get("poison").is_some() {
                    return Err(refused(RefusalKind::InvalidRequest));
                }
                state.received.push((self.identity.clone(), *message));
                Ok(Answer::Accepted)
            }
            DeviceRequest::ReadTwin => {
                let twin = state.twins.entry(self.identity.clone()).or_default();
                Ok(Answer::Twin(Box::new(twin.clone())))
            }
            DeviceRequest::PatchReported { patch, .. } => {
                let twin = state.twins.entry(self.identity.clone()).or_default();
                apply(&mut twin.reported, &patch.0);
                twin.reported_version.0 += 1;
                Ok(Answer::Patched(twin.reported_version))
            }
            DeviceRequest::Subscribe(wanted) => {
                let mut inner = lock(&self.inner);
                wanted.iter().for_each(|one| inner.features.insert(one.clone()));
                Ok(Answer::Subscribed(wanted))
            }
            DeviceRequest::Unsubscribe(filters) => {
                let mut inner = lock(&self.inner);
                for filter in &filters {
                    inner.features.remove(filter);
                }
                Ok(Answer::Accepted)
            }
            DeviceRequest::AnswerMethod { response, .. } => {
                state.answers.push(response);
                Ok(Answer::Accepted)
            }
            DeviceRequest::Modules(ModuleOperation::List) => {
                let names: Vec<_> = state.keys.keys().cloned().collect();
                Ok(Answer::Modules(names.iter().map(|name| state.ensure(name)).collect()))
            }
            DeviceRequest::Modules(ModuleOperation::Ensure { name, .. }) => {
                Ok(Answer::Modules(vec![state.ensure(&name)]))
            }
            DeviceRequest::Modules(ModuleOperation::Delete { name }) => {
                state.keys.remove(&name);
                Ok(Answer::Accepted)
            }
            _ => Err(refused(RefusalKind::InvalidRequest)),
        }
    }
}

impl DeviceSession for Session {
    fn identity(&self) -> &IdentityId {
        &self.identity
    }

    fn epoch(&self) -> Epoch {
        Epoch::default()
    }

    fn submit(&self, batch: Batch, _: Tick) -> Result<Completion, Full> {
        Ok(Completion::ready(batch.0.into_iter().map(|one| self.answer(one)).collect()))
    }

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_event(&self, cx: &mut Context<'_>, _: Credit) -> Poll<DeviceEvent> {
        let mut inner = lock(&self.inner);
        if let Some(event) = inner.events.pop_front() {
            return Poll::Ready(event);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn renew(&self, claim: Claim, _: Tick) -> Boxed<'_, Result<WallTime, Refusal>> {
        let proven = self.cloud.prove(&claim);
        let renewed = proven.map(|(_, until)| until);
        Box::pin(async move { renewed.ok_or_else(|| refused(RefusalKind::Unauthenticated)) })
    }

    fn close(&self, _: Leave) {
        lock(&self.inner).closed = Some(CloseReason::Disconnected);
    }
}
