//! The conformance suite of the waist: what every implementer of `DeviceApi` must do.
//!
//! The hub, the router over the hub, and the client over a wire run the same scenarios, all of
//! them. A scenario gets a [`Bench`] and panics with a sentence when a promise is broken.
//! Identities are made fresh per scenario, so one bench serves them all. What an implementer
//! cannot do because its protocol has no words for it is an [`Ability`] it is [`Without`], with
//! the reason; the scenario then asks for what is left.

mod connect;
mod flow;
mod messages;
mod service;
mod twin;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use model::feature::{Feature, FeatureSet, Subscription};
use model::id::{DeviceId, IdentityId};
use model::message::Message;
use model::method::{MethodRequest, MethodResponse};
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{
    Answer, Claim, CloseReason, Credit, DeviceApi, DeviceEvent, DeviceRequest, DeviceSession,
    LinkKind, Opened, ask,
};
use model::world::{Boxed, World};
use serde_json::Value;

pub use service::{Service, ServiceCloud, telemetry};

/// How long an answer may take before a scenario fails, in the world's time.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long nothing must come before a scenario believes that nothing comes.
const QUIET: Duration = Duration::from_secs(3);

/// An implementer under test, the cloud behind it, and the world around both.
#[derive(Clone)]
pub struct Bench {
    /// The implementer.
    pub api: Arc<dyn DeviceApi>,
    /// The other side, to look from and to act from.
    pub cloud: Arc<dyn Cloud>,
    /// The world both live in.
    pub world: World,
    /// Who opens sessions here.
    pub subjects: Subjects,
    /// How long a claim is honoured past its own end, because clocks differ.
    pub tolerance: Duration,
    /// What the implementer cannot do, and why.
    pub without: &'static [Without],
}

/// Which identities a bench speaks for.
#[derive(Clone, Debug)]
pub enum Subjects {
    /// Devices whose names begin so.
    Devices(&'static str),
    /// Modules of this device, which is made by the bench.
    Modules(DeviceId),
}

/// Something that the protocol of an implementer may have no words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// The end of a session, and a request after it, tell why it ended.
    Reasons,
    /// `open` tells until when the claim holds, and `renew` prolongs it.
    Renewal,
    /// `open` tells which subscriptions are in force.
    Features,
    /// Messages come for the identity: inputs or cloud-to-device.
    Messages,
    /// A message can be given back or rejected, not only completed.
    Outcomes,
    /// A session can say which model its identity follows.
    Models,
}

/// An ability that an implementer lacks.
#[derive(Clone, Copy, Debug)]
pub struct Without {
    /// Which.
    pub ability: Ability,
    /// Why, in a sentence.
    pub reason: &'static str,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("subjects", &self.subjects).finish_non_exhaustive()
    }
}

/// What a scenario does and sees on the cloud's side.
pub trait Cloud: Send + Sync {
    /// Makes an identity that may open sessions, enabled, with an empty twin; returns when the
    /// implementer knows it.
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()>;

    /// A good claim of `identity` that holds for `lifetime` from now.
    fn claim(&self, identity: IdentityId, lifetime: Duration) -> Boxed<'_, Claim>;

    /// A claim of `identity` signed with a wrong key.
    fn wrong_claim(&self, identity: IdentityId) -> Claim;

    /// Merges into the desired properties; gives their version.
    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version>;

    /// Puts other desired properties in the place of all; gives their version.
    fn replace_desired(&self, identity: IdentityId, values: TwinPatch) -> Boxed<'_, Version>;

    /// Calls a method.
    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'static, Result<MethodResponse, Refusal>>;

    /// All telemetry of `identity` that was accepted, as the cloud reads it, oldest first.
    fn telemetry(&self, identity: IdentityId) -> Boxed<'_, Vec<Message>>;

    /// Sends `identity` a message with this body; only asked of those with
    /// [`Ability::Messages`].
    fn send(&self, identity: IdentityId, body: &'static str) -> Boxed<'_, ()>;

    /// Takes away the right to be connected: a device is disabled, a module deleted.
    fn revoke(&self, identity: IdentityId) -> Boxed<'_, ()>;
}

/// Runs every scenario, one after the other; gives how many there are.
pub async fn run_all(bench: &Bench) -> usize {
    let mut ran = 0;
    macro_rules! run {
        ($($scenario:path),+ $(,)?) => {
            $($scenario(bench).await; ran += 1;)+
        };
    }
    if let Subjects::Modules(device) = &bench.subjects {
        bench.cloud.create(IdentityId::device(device)).await;
    }
    run!(
        connect::a_bad_claim_is_refused,
        flow::telemetry_is_accepted_in_order,
        twin::reported_patches_raise_the_version,
        twin::desired_changes_are_told_and_coalesce,
        twin::a_replacement_tells_what_is_gone,
        twin::subscriptions_outlive_sessions_until_wiped,
        twin::subscriptions_of_a_clean_session_end_with_it,
        flow::methods_are_called_and_answered,
        flow::without_credit_nothing_comes_and_what_waited_comes_in_order,
        flow::a_full_session_gives_the_batch_back,
        messages::messages_are_handed_out_until_they_are_settled,
        connect::an_older_session_is_taken_over,
        connect::closing_ends_a_session,
        connect::a_model_is_taken_as_often_as_it_is_announced,
        connect::sessions_end_when_their_claim_does,
        connect::who_lost_the_right_is_thrown_out,
    );
    ran
}

impl Bench {
    /// Whether the implementer has `ability`.
    fn has(&self, ability: Ability) -> bool {
        !self.without.iter().any(|without| without.ability == ability)
    }

    /// A name that nobody has been given.
    fn name(&self, name: &str) -> IdentityId {
        let text = match &self.subjects {
            Subjects::Devices(prefix) => format!("{prefix}{name}"),
            Subjects::Modules(device) => format!("{device}/{name}"),
        };
        text.parse().expect("scenarios have good names")
    }

    /// A fresh identity named after the scenario.
    async fn identity(&self, name: &str) -> IdentityId {
        let identity = self.name(name);
        self.cloud.create(identity.clone()).await;
        identity
    }

    fn deadline(&self) -> Tick {
        self.world.now().tick.after(PATIENCE)
    }

    async fn try_open(&self, claim: Claim, link: LinkKind) -> Result<Opened, Refusal> {
        self.api.open(claim, link, self.deadline()).await
    }

    /// Opens by MQTT with a claim that holds an hour.
    async fn open(&self, identity: &IdentityId, clean: bool) -> Opened {
        let claim = self.cloud.claim(identity.clone(), Duration::from_hours(1)).await;
        let opened = self.try_open(claim, LinkKind::Mqtt { clean }).await;
        opened.expect("a good claim opens a session")
    }

    async fn ask(
        &self,
        session: &dyn DeviceSession,
        request: DeviceRequest,
    ) -> Result<Answer, Refusal> {
        let asked = ask(session, request, self.deadline());
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer comes in time")
    }

    async fn subscribe(&self, session: &dyn DeviceSession, wanted: &[Feature]) {
        let features = features(session.identity(), wanted);
        let answer = self.ask(session, DeviceRequest::Subscribe(features.clone())).await;
        assert_eq!(answer, Ok(Answer::Subscribed(features)), "subscriptions are granted");
    }

    /// The next event, waiting for it.
    async fn event(&self, session: &dyn DeviceSession) -> DeviceEvent {
        self.event_with(session, Credit::of_messages(16)).await
    }

    /// The next event that `credit` allows, waiting for it.
    async fn event_with(&self, session: &dyn DeviceSession, credit: Credit) -> DeviceEvent {
        let next = next_event(session, credit);
        tokio::time::timeout(PATIENCE, next).await.expect("an event comes in time")
    }

    /// Nothing comes, for a while.
    async fn quiet(&self, session: &dyn DeviceSession, why: &str) {
        self.quiet_with(session, Credit::of_messages(16), why).await;
    }

    /// Nothing comes that `credit` allows, for a while.
    async fn quiet_with(&self, session: &dyn DeviceSession, credit: Credit, why: &str) {
        let next = next_event(session, credit);
        if let Ok(event) = tokio::time::timeout(QUIET, next).await {
            unreachable!("{why}, but {event:?} came");
        }
    }

    /// The session ends for `reason`, and what is asked afterwards is refused as `kind`.
    async fn ended(&self, session: &dyn DeviceSession, reason: CloseReason, kind: RefusalKind) {
        let event = self.event(session).await;
        let told = if self.has(Ability::Reasons) { reason } else { CloseReason::Disconnected };
        assert_eq!(event, DeviceEvent::Closed(told));
        self.quiet(session, "after Closed nothing follows").await;
        let refused = self.ask(session, DeviceRequest::ReadTwin).await;
        let refused = refused.expect_err("a session that ended does nothing");
        assert!(refused.kind == kind || !self.has(Ability::Reasons), "{refused:?}");
    }
}

async fn next_event(session: &dyn DeviceSession, credit: Credit) -> DeviceEvent {
    poll_fn(|cx| session.poll_event(cx, credit)).await
}

/// Subscriptions as the Python SDK makes them.
fn features(identity: &IdentityId, wanted: &[Feature]) -> FeatureSet {
    let (device, module) = (identity.device_str(), identity.module_str().unwrap_or_default());
    let filter = |feature| -> Box<str> {
        match feature {
            Feature::CloudToDevice => format!("devices/{device}/messages/devicebound/#").into(),
            Feature::Inputs => format!("devices/{device}/modules/{module}/inputs/#").into(),
            Feature::Methods => METHODS.into(),
            Feature::TwinAnswers => "$iothub/twin/res/#".into(),
            Feature::DesiredChanges => "$iothub/twin/PATCH/properties/desired/#".into(),
        }
    };
    wanted
        .iter()
        .map(|feature| Subscription { feature: *feature, qos: 1, filter: filter(*feature) })
        .collect()
}

/// The filter of direct methods.
const METHODS: &str = "$iothub/methods/POST/#";

fn patch(value: Value) -> TwinPatch {
    match value {
        Value::Object(map) => TwinPatch(map),
        other => unreachable!("scenarios patch with objects, not {other}"),
    }
}
