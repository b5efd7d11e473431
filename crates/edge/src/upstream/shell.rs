//! The task of one link, and what others ask of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use credentials::key::SymmetricKey;
use credentials::renewal::{Lifetime, Renewal, TOKEN, renewal};
use credentials::sas::SasToken;
use model::feature::{Feature, FeatureSet, Subscription};
use model::id::IdentityId;
use model::method::{MethodCallId, MethodRequest, MethodResponse};
use model::planted;
use model::refusal::{Refusal, RefusalKind};
use model::time::{Tick, WallTime};
use model::twin::pending::PendingPatches;
use model::twin::slot::DesiredChange;
use model::twin::{TwinDocument, TwinPatch, Version};
use model::waist::{
    Answer, Claim, CloseReason, Credit, DeviceApi, DeviceEvent, DeviceRequest, DeviceSession,
    Leave, LinkKind, Opened, ask,
};
use model::world::World;
use tokio::sync::{Notify, oneshot, watch};
use tracing::{debug, info, warn};

use super::{READ_WAIT, REQUEST_WAIT, TOKEN_LIFE, pause};
use crate::router::twins::{DesiredNews, TwinCopy};
use crate::storage::store::{Area, Store};
use crate::storage::tables;

/// Filters by which the hub's MQTT names what a link wants.
const DESIRED_FILTER: &str = "$iothub/twin/PATCH/properties/desired/#";
const METHODS_FILTER: &str = "$iothub/methods/POST/#";
/// How often a flush looks whether it is done.
const FLUSH_LOOK: Duration = Duration::from_millis(10);

/// Whoever is behind an identity on this device.
pub(crate) trait Owner: Send + Sync {
    /// Desired properties changed.
    fn handle_desired(&self, change: DesiredChange);

    /// A method is called; none if nobody listens.
    fn handle_method(
        &self,
        request: MethodRequest,
        deadline: Tick,
    ) -> Option<oneshot::Receiver<MethodResponse>>;
}

/// What all links share.
pub(crate) struct LinkParts {
    pub(crate) world: World,
    pub(crate) upstream: Arc<dyn DeviceApi>,
    /// The hub's host name, for tokens.
    pub(crate) hub_host: Box<str>,
    pub(crate) store: Store,
    pub(crate) stopped: watch::Receiver<bool>,
    /// Counts how often any link came up.
    pub(crate) ups: watch::Sender<u64>,
    /// Counts signs that the hub's identities are others than those known here.
    pub(crate) doubts: watch::Sender<u64>,
}

/// The links of this device, by identity.
pub(crate) struct Links {
    parts: Arc<LinkParts>,
    all: Mutex<BTreeMap<IdentityId, Arc<Link>>>,
    /// Copies read at start, taken by the links as they are made.
    copies: Mutex<BTreeMap<IdentityId, TwinCopy>>,
}

impl Links {
    pub(crate) fn new(parts: LinkParts, copies: BTreeMap<IdentityId, TwinCopy>) -> Self {
        Self {
            parts: Arc::new(parts),
            all: Mutex::new(BTreeMap::new()),
            copies: Mutex::new(copies),
        }
    }

    /// The link of `identity`; made if new.
    pub(crate) fn link(&self, identity: &IdentityId) -> Arc<Link> {
        let mut all = lock(&self.all);
        if let Some(link) = all.get(identity) {
            return Arc::clone(link);
        }
        let copy = lock(&self.copies).remove(identity).unwrap_or_default();
        let link = Link::start(Arc::clone(&self.parts), identity.clone(), copy);
        all.insert(identity.clone(), Arc::clone(&link));
        link
    }

    /// Follows how often any link came up.
    pub(crate) fn ups(&self) -> watch::Receiver<u64> {
        self.parts.ups.subscribe()
    }

    /// Follows the signs that the hub's identities are others than those known here.
    pub(crate) fn doubts(&self) -> watch::Receiver<u64> {
        self.parts.doubts.subscribe()
    }

    /// Somebody was not proven who might be by now.
    pub(crate) fn doubt(&self) {
        self.parts.doubts.send_modify(|count| *count += 1);
    }

    /// Ends the link of `identity` and forgets its twin.
    pub(crate) async fn remove(&self, identity: &IdentityId) {
        let link = lock(&self.all).remove(identity);
        if let Some(link) = link {
            link.state().is_removed = true;
            link.changed.notify_one();
        }
        lock(&self.copies).remove(identity);
        if let Err(error) = self.parts.store.save(Area::Twins, identity.as_str(), || None).await {
            warn!(%error, "twin copy not removed");
        }
    }
}

/// One identity's way to the cloud.
pub(crate) struct Link {
    identity: IdentityId,
    parts: Arc<LinkParts>,
    session: watch::Sender<Option<Arc<dyn DeviceSession>>>,
    /// The version of the desired properties that are known; 0 before the first read.
    desired: watch::Sender<Version>,
    state: Mutex<LinkState>,
    changed: Notify,
}

#[derive(Default)]
struct LinkState {
    key: Option<SymmetricKey>,
    copy: TwinCopy,
    wants_methods: bool,
    owner: Option<Weak<dyn Owner>>,
    is_removed: bool,
}

enum Over {
    Again,
    Stopped,
}

impl Link {
    fn start(parts: Arc<LinkParts>, identity: IdentityId, copy: TwinCopy) -> Arc<Self> {
        let version = copy.known.as_ref().map_or(Version(0), |known| known.desired_version);
        let link = Arc::new(Self {
            identity,
            parts: Arc::clone(&parts),
            session: watch::Sender::new(None),
            desired: watch::Sender::new(version),
            state: Mutex::new(LinkState { copy, ..LinkState::default() }),
            changed: Notify::new(),
        });
        parts.world.spawn(Arc::clone(&link).drive());
        link
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        lock(&self.state)
    }

    /// The key its tokens are signed with; the link waits for one.
    pub(crate) fn set_key(&self, key: SymmetricKey) {
        let mut state = self.state();
        let is_new = state.key.as_ref() != Some(&key);
        state.key = Some(key);
        drop(state);
        if is_new {
            self.changed.notify_one();
        }
    }

    /// Who gets desired changes and method calls from now on.
    pub(crate) fn set_owner(&self, owner: Weak<dyn Owner>) {
        self.state().owner = Some(owner);
    }

    /// Whether the hub is to know that methods are listened to.
    pub(crate) fn set_methods(&self, wanted: bool) {
        self.state().wants_methods = wanted;
        self.changed.notify_one();
    }

    /// The open session, if there is one.
    pub(crate) fn session(&self) -> Option<Arc<dyn DeviceSession>> {
        self.session.borrow().clone()
    }

    /// Follows the session.
    pub(crate) fn sessions(&self) -> watch::Receiver<Option<Arc<dyn DeviceSession>>> {
        self.session.subscribe()
    }

    /// Follows the version of the desired properties.
    pub(crate) fn desired_versions(&self) -> watch::Receiver<Version> {
        self.desired.subscribe()
    }

    /// The twin as far as it is known here, with what was reported since.
    pub(crate) fn view(&self) -> Option<TwinDocument> {
        self.state().copy.view()
    }

    /// Asks the hub, if it is there.
    pub(crate) async fn request(&self, request: DeviceRequest) -> Result<Answer, Refusal> {
        let session = self.session().ok_or_else(away)?;
        self.ask(&*session, request, REQUEST_WAIT).await
    }

    async fn ask(
        &self,
        session: &dyn DeviceSession,
        request: DeviceRequest,
        wait: Duration,
    ) -> Result<Answer, Refusal> {
        let deadline = self.parts.world.now().tick.after(wait);
        let late = || Refusal::new(RefusalKind::TimedOut, "the hub did not answer in time");
        let answer = tokio::time::timeout(wait, ask(session, request, deadline)).await;
        answer.map_err(|_| late())?
    }

    /// The twin for its owner: from the hub if it answers soon, else the copy.
    pub(crate) async fn read(&self) -> Result<TwinDocument, Refusal> {
        let refusal = match self.session_for_read().await {
            Some(session) => match self.ask(&*session, DeviceRequest::ReadTwin, READ_WAIT).await {
                Ok(Answer::Twin(read)) => {
                    self.handle_read(*read).await;
                    return self.view().ok_or_else(away);
                }
                Ok(_) => Refusal::new(RefusalKind::Internal, "the hub gave another answer"),
                Err(refusal) => refusal,
            },
            None => away(),
        };
        self.view().ok_or(refusal)
    }

    /// The open session; who has no copy waits for the first one.
    async fn session_for_read(&self) -> Option<Arc<dyn DeviceSession>> {
        if self.session().is_none() && self.view().is_none() {
            let mut sessions = self.sessions();
            // It may not come; then there is nothing to read.
            tokio::time::timeout(READ_WAIT, sessions.wait_for(Option::is_some)).await.ok();
        }
        self.session()
    }

    /// Reports for its owner: durable here when it returns, pushed as soon as the hub is there.
    pub(crate) async fn report(
        &self,
        patch: TwinPatch,
        if_version: Option<Version>,
    ) -> Result<Version, Refusal> {
        let version = {
            let mut state = self.state();
            let now = state.copy.known.as_ref().map(|known| known.reported_version);
            if if_version.is_some() && if_version != now {
                let reason = "the reported properties have another version";
                return Err(Refusal::new(RefusalKind::PreconditionFailed, reason));
            }
            state.copy.handle_reported(&patch)?
        };
        if !self.keep().await {
            let reason = "the patch could not be kept on this device";
            return Err(Refusal::new(RefusalKind::Unavailable, reason));
        }
        self.changed.notify_one();
        Ok(version)
    }

    /// Waits until the hub has everything that was reported, or `patience` is over.
    pub(crate) async fn flush(&self, patience: Duration) {
        let pushed = async {
            while self.session().is_some() && !self.state().copy.pending.is_empty() {
                tokio::time::sleep(FLUSH_LOOK).await;
            }
        };
        // What is left is pushed after the next start.
        tokio::time::timeout(patience, pushed).await.ok();
    }

    /// Writes the copy; whether it is durable now.
    async fn keep(&self) -> bool {
        let copy = self.state().copy.clone();
        let fact = move || Some(tables::from_copy(&copy));
        match self.parts.store.save(Area::Twins, self.identity.as_str(), fact).await {
            Ok(()) => true,
            Err(error) => {
                warn!(identity = %self.identity, %error, "twin copy not kept");
                false
            }
        }
    }

    fn tell_version(&self) {
        let state = self.state();
        let version = state.copy.known.as_ref().map_or(Version(0), |known| known.desired_version);
        drop(state);
        self.desired.send_if_modified(|told| std::mem::replace(told, version) != version);
    }

    async fn drive(self: Arc<Self>) {
        let mut stopped = self.parts.stopped.clone();
        let mut failures = 0;
        loop {
            let over = tokio::select! {
                biased;
                () = told(&mut stopped) => Over::Stopped,
                over = self.one_session(&mut failures) => over,
            };
            if let Some(session) = self.session.send_replace(None) {
                session.close(Leave::Asked);
            }
            if matches!(over, Over::Stopped) {
                return;
            }
            let wait = pause(failures, self.parts.world.random.number());
            failures = failures.saturating_add(1);
            tokio::select! {
                biased;
                () = told(&mut stopped) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn one_session(&self, failures: &mut u32) -> Over {
        let (claim, expiry) = loop {
            if self.state().is_removed {
                return Over::Stopped;
            }
            match self.claim() {
                Some(claim) => break claim,
                None => self.changed.notified().await,
            }
        };
        let deadline = self.parts.world.now().tick.after(REQUEST_WAIT);
        let link = LinkKind::Mqtt { clean: true };
        let opening = self.parts.upstream.open(claim, link, deadline);
        let mut opened = match tokio::time::timeout(REQUEST_WAIT, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(refusal)) => {
                debug!(identity = %self.identity, %refusal, "not connected");
                if refusal.kind == RefusalKind::Unauthenticated {
                    self.parts.doubts.send_modify(|count| *count += 1);
                }
                return Over::Again;
            }
            Err(_) => return Over::Again,
        };
        // A client does not know how its server reads the token; we do.
        opened.valid_until.get_or_insert(expiry);
        let session = Arc::clone(&opened.session);
        let over = match self.begin(&*session).await {
            Ok(methods) => {
                *failures = 0;
                info!(identity = %self.identity, "connected to the hub");
                self.session.send_replace(Some(Arc::clone(&session)));
                self.parts.ups.send_modify(|count| *count += 1);
                self.serve(&opened, methods).await
            }
            Err(refusal) => {
                debug!(identity = %self.identity, %refusal, "session given up");
                Over::Again
            }
        };
        session.close(Leave::Asked);
        over
    }

    /// A fresh claim, and until when it holds.
    fn claim(&self) -> Option<(Claim, WallTime)> {
        let key = self.state().key.clone()?;
        let resource = match self.identity.module_str() {
            None => format!("{}/devices/{}", self.parts.hub_host, self.identity.device_str()),
            Some(module) => format!(
                "{}/devices/{}/modules/{module}",
                self.parts.hub_host,
                self.identity.device_str()
            ),
        };
        let expiry = self.parts.world.now().wall.after(TOKEN_LIFE);
        let token = SasToken::sign(&resource, None, expiry, &key);
        Some((Claim::Sas { identity: self.identity.clone(), token }, expiry))
    }

    /// Subscribes and reads the twin; whether methods were subscribed.
    async fn begin(&self, session: &dyn DeviceSession) -> Result<bool, Refusal> {
        let methods = self.state().wants_methods;
        let mut features: FeatureSet =
            [subscription(Feature::DesiredChanges, DESIRED_FILTER)].into_iter().collect();
        if methods {
            features.insert(subscription(Feature::Methods, METHODS_FILTER));
        }
        self.ask(session, DeviceRequest::Subscribe(features), REQUEST_WAIT).await?;
        // Planted: what was desired meanwhile is never heard of.
        if !planted::is("desired_lost_reconnecting") || self.view().is_none() {
            self.read_all(session).await?;
        }
        Ok(methods)
    }

    /// Reads the whole twin.
    async fn read_all(&self, session: &dyn DeviceSession) -> Result<(), Refusal> {
        let answer = self.ask(session, DeviceRequest::ReadTwin, REQUEST_WAIT).await?;
        let Answer::Twin(read) = answer else {
            return Err(Refusal::new(RefusalKind::Internal, "the hub gave another answer"));
        };
        self.handle_read(*read).await;
        Ok(())
    }

    /// Takes in a twin that was read, and tells the owner what it missed.
    async fn handle_read(&self, read: TwinDocument) {
        let (missed, owner) = {
            let mut state = self.state();
            let missed = state.copy.handle_read(read);
            (missed, state.owner.as_ref().and_then(Weak::upgrade))
        };
        self.keep().await;
        self.tell_version();
        if let (Some(missed), Some(owner)) = (missed, owner) {
            owner.handle_desired(missed);
        }
    }

    async fn serve(&self, opened: &Opened, mut methods: bool) -> Over {
        let session = &opened.session;
        let mut life = self.life(opened.valid_until);
        let mut retry_at: Option<Tick> = None;
        let mut failures = 0;
        loop {
            if self.state().is_removed {
                return Over::Stopped;
            }
            let now = self.parts.world.now().tick;
            if retry_at.is_none_or(|at| now >= at) {
                match self.sync(&**session, &mut methods).await {
                    Ok(()) => (retry_at, failures) = (None, 0),
                    Err(refusal) => {
                        debug!(identity = %self.identity, %refusal, "not synchronised");
                        let wait = pause(failures, self.parts.world.random.number());
                        failures += 1;
                        retry_at = Some(self.parts.world.now().tick.after(wait));
                    }
                }
            }
            let now = self.parts.world.now().tick;
            let wake = self.renewal(life).into_iter().chain(retry_at).min();
            let nothing = Credit::of_messages(0);
            let event = tokio::select! {
                biased;
                event = std::future::poll_fn(|cx| session.poll_event(cx, nothing)) => Some(event),
                () = self.changed.notified() => None,
                () = until(wake, now) => None,
            };
            let renew_at = self.renewal(life);
            if renew_at.is_some_and(|at| self.parts.world.now().tick >= at) {
                match self.renew(&**session).await {
                    Ok(valid_until) => life = self.life(Some(valid_until)),
                    // A new session proves itself with a new token.
                    Err(_) => return Over::Again,
                }
            }
            match event {
                None => {}
                Some(DeviceEvent::Closed(reason)) => {
                    info!(identity = %self.identity, ?reason, "the hub is away");
                    if reason == CloseReason::Revoked {
                        self.parts.doubts.send_modify(|count| *count += 1);
                    }
                    return Over::Again;
                }
                Some(event) => self.handle_event(session, event).await,
            }
        }
    }

    /// The life of a token that holds from now `until`.
    fn life(&self, until: Option<WallTime>) -> Option<Lifetime> {
        Some(Lifetime { from: self.parts.world.now().wall, until: until? })
    }

    /// When to look at the token again; not later than now if it is due.
    fn renewal(&self, life: Option<Lifetime>) -> Option<Tick> {
        let now = self.parts.world.now();
        match renewal(life?, TOKEN, None, now.wall) {
            Renewal::Due => Some(now.tick),
            Renewal::Wait(wait) => Some(now.tick.after(wait)),
        }
    }

    async fn renew(&self, session: &dyn DeviceSession) -> Result<WallTime, Refusal> {
        let (claim, _) = self.claim().ok_or_else(away)?;
        let deadline = self.parts.world.now().tick.after(REQUEST_WAIT);
        let renewal = tokio::time::timeout(REQUEST_WAIT, session.renew(claim, deadline)).await;
        renewal.map_err(|_| away())?
    }

    /// Brings the hub what changed here: the wish for methods, reported properties.
    async fn sync(&self, session: &dyn DeviceSession, methods: &mut bool) -> Result<(), Refusal> {
        let wanted = self.state().wants_methods;
        if wanted != *methods {
            let request = if wanted {
                let one = subscription(Feature::Methods, METHODS_FILTER);
                DeviceRequest::Subscribe([one].into_iter().collect())
            } else {
                DeviceRequest::Unsubscribe(vec![METHODS_FILTER.into()])
            };
            self.ask(session, request, REQUEST_WAIT).await?;
            *methods = wanted;
        }
        loop {
            let (pending, generation) = {
                let state = self.state();
                (state.copy.pending.clone(), state.copy.generation)
            };
            if pending.is_empty() {
                return Ok(());
            }
            // Planted: what is on its way is no longer kept.
            if planted::is("reported_patch_lost") {
                self.state().copy.pending.clear();
            }
            match self.push(session, &pending).await {
                Ok(version) => self.state().copy.handle_pushed(generation, &pending, version),
                Err(refusal) if is_poison(refusal.kind) => {
                    warn!(identity = %self.identity, %refusal, "reported properties given up");
                    self.state().copy.pending.clear();
                }
                Err(refusal) => return Err(refusal),
            }
            self.keep().await;
        }
    }

    /// Brings the hub all of `pending`; gives the version after the last.
    async fn push(
        &self,
        session: &dyn DeviceSession,
        pending: &PendingPatches,
    ) -> Result<Version, Refusal> {
        let mut last = Version(0);
        for patch in pending.parts() {
            let request = DeviceRequest::PatchReported { patch: patch.clone(), if_version: None };
            last = match self.ask(session, request, REQUEST_WAIT).await? {
                Answer::Patched(version) => version,
                _ => return Err(Refusal::new(RefusalKind::Internal, "another answer")),
            };
        }
        Ok(last)
    }

    async fn handle_event(&self, session: &Arc<dyn DeviceSession>, event: DeviceEvent) {
        match event {
            DeviceEvent::Desired { patch, version } => {
                let (news, owner) = {
                    let mut state = self.state();
                    let news = state.copy.handle_desired(patch, version);
                    (news, state.owner.as_ref().and_then(Weak::upgrade))
                };
                match news {
                    DesiredNews::Stale => {}
                    DesiredNews::Applied(change) => {
                        self.keep().await;
                        self.tell_version();
                        if let Some(owner) = owner {
                            owner.handle_desired(*change);
                        }
                    }
                    DesiredNews::Gap => {
                        if let Err(refusal) = self.read_all(&**session).await {
                            // The next session reads it.
                            warn!(identity = %self.identity, %refusal, "twin not read");
                            session.close(Leave::Asked);
                        }
                    }
                }
            }
            DeviceEvent::Method { call, request, deadline } => {
                self.handle_method(session, call, request, deadline);
            }
            // No credit was given for messages, and the end is handled by the caller.
            DeviceEvent::Message(_) | DeviceEvent::Closed(_) => {}
        }
    }

    fn handle_method(
        &self,
        session: &Arc<dyn DeviceSession>,
        call: MethodCallId,
        request: MethodRequest,
        deadline: Tick,
    ) {
        let owner = self.state().owner.as_ref().and_then(Weak::upgrade);
        let Some(reply) = owner.and_then(|owner| owner.handle_method(request, deadline)) else {
            // The hub's own time-out tells the caller; an answer would look like the module's.
            return;
        };
        let (session, world) = (Arc::clone(session), self.parts.world.clone());
        let wait = deadline.since(world.now().tick);
        self.parts.world.spawn(async move {
            if let Ok(Ok(response)) = tokio::time::timeout(wait, reply).await {
                let request = DeviceRequest::AnswerMethod { call, response };
                if let Err(refusal) = ask(&*session, request, deadline).await {
                    debug!(%refusal, "method answer not delivered");
                }
            }
        });
    }
}

/// Ends when the runtime is told to stop, or is gone.
pub(crate) async fn told(stopped: &mut watch::Receiver<bool>) {
    stopped.wait_for(|stop| *stop).await.ok();
}

/// Ends at `wake`; never if there is none.
pub(crate) async fn until(wake: Option<Tick>, now: Tick) {
    match wake {
        Some(wake) => tokio::time::sleep(wake.since(now)).await,
        None => std::future::pending().await,
    }
}

fn subscription(feature: Feature, filter: &str) -> Subscription {
    Subscription { feature, qos: 0, filter: filter.into() }
}

fn is_poison(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::InvalidRequest | RefusalKind::TooLarge)
}

fn away() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "the hub is not connected and no copy is kept")
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
