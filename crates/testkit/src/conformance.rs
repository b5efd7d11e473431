//! The conformance suite of the waist: what every implementer of `DeviceApi` must do.
//!
//! The hub, the router over the hub, and the client over a wire run the same scenarios. A
//! scenario gets a [`Bench`] and panics with a sentence when a promise is broken. Identities
//! are made fresh per scenario, so one bench serves them all.

mod connect;
mod flow;
mod twin;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use model::feature::{Feature, FeatureSet, Subscription};
use model::id::IdentityId;
use model::message::Message;
use model::method::{MethodRequest, MethodResponse};
use model::refusal::Refusal;
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{
    Answer, Claim, Credit, DeviceApi, DeviceEvent, DeviceRequest, DeviceSession, LinkKind, Opened,
    ask,
};
use model::world::{Boxed, World};
use serde_json::Value;

pub use connect::{
    a_bad_claim_is_refused, an_older_session_is_taken_over, closing_ends_a_session,
    disabling_revokes_open_sessions, sessions_end_when_their_claim_does,
};
pub use flow::{
    a_full_session_gives_the_batch_back, methods_are_called_and_answered,
    telemetry_is_accepted_in_order,
};
pub use twin::{
    desired_changes_are_told_and_coalesce, reported_patches_raise_the_version,
    subscriptions_outlive_sessions_until_wiped,
};

/// How long an answer may take before a scenario fails, in the world's time.
const PATIENCE: Duration = Duration::from_mins(2);

/// An implementer under test, the cloud behind it, and the world around both.
#[derive(Clone)]
pub struct Bench {
    /// The implementer.
    pub api: Arc<dyn DeviceApi>,
    /// The other side, to look from and to act from.
    pub cloud: Arc<dyn Cloud>,
    /// The world both live in.
    pub world: World,
    /// Makes the names of this run's identities differ from another run's.
    pub prefix: String,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bench")
    }
}

/// What a scenario does and sees on the cloud's side.
pub trait Cloud: Send + Sync {
    /// Makes an identity that may open sessions, enabled, with an empty twin.
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()>;

    /// A good claim of `identity` that holds for `lifetime` from now.
    fn claim(&self, identity: IdentityId, lifetime: Duration) -> Boxed<'_, Claim>;

    /// A claim of `identity` signed with a wrong key.
    fn wrong_claim(&self, identity: IdentityId) -> Claim;

    /// Merges into the desired properties; gives their version.
    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version>;

    /// Calls a method.
    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'static, Result<MethodResponse, Refusal>>;

    /// All telemetry of `identity` that is readable at the cloud, oldest first.
    fn telemetry(&self, identity: IdentityId) -> Boxed<'_, Vec<Message>>;

    /// Disables the device, so that its sessions end; `false` if the implementer's cloud
    /// cannot, and the scenario is left out.
    fn disable(&self, identity: IdentityId) -> Boxed<'_, bool>;
}

/// Runs every scenario, one after the other; gives how many there are.
pub async fn run_all(bench: &Bench) -> usize {
    a_bad_claim_is_refused(bench).await;
    telemetry_is_accepted_in_order(bench).await;
    reported_patches_raise_the_version(bench).await;
    desired_changes_are_told_and_coalesce(bench).await;
    subscriptions_outlive_sessions_until_wiped(bench).await;
    methods_are_called_and_answered(bench).await;
    a_full_session_gives_the_batch_back(bench).await;
    an_older_session_is_taken_over(bench).await;
    closing_ends_a_session(bench).await;
    sessions_end_when_their_claim_does(bench).await;
    disabling_revokes_open_sessions(bench).await;
    11
}

impl Bench {
    /// A fresh device named after the scenario.
    async fn device(&self, name: &str) -> IdentityId {
        let identity: IdentityId =
            format!("{}{name}", self.prefix).parse().expect("scenarios have good names");
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
        let features = features(wanted);
        let answer = self.ask(session, DeviceRequest::Subscribe(features.clone())).await;
        assert_eq!(answer, Ok(Answer::Subscribed(features)), "subscriptions are granted");
    }

    /// The next event, waiting for it.
    async fn event(&self, session: &dyn DeviceSession) -> DeviceEvent {
        let next = poll_fn(|cx| session.poll_event(cx, Credit { messages: 16 }));
        tokio::time::timeout(PATIENCE, next).await.expect("an event comes in time")
    }
}

/// What is there without waiting.
fn event_now(session: &dyn DeviceSession) -> Option<DeviceEvent> {
    let mut cx = Context::from_waker(Waker::noop());
    match session.poll_event(&mut cx, Credit { messages: 16 }) {
        Poll::Ready(event) => Some(event),
        Poll::Pending => None,
    }
}

/// Subscriptions as the Python SDK makes them.
fn features(wanted: &[Feature]) -> FeatureSet {
    let filter = |feature| match feature {
        Feature::CloudToDevice => "devices/d/messages/devicebound/#",
        Feature::Inputs => "devices/d/modules/m/inputs/#",
        Feature::Methods => "$iothub/methods/POST/#",
        Feature::TwinAnswers => "$iothub/twin/res/#",
        Feature::DesiredChanges => "$iothub/twin/PATCH/properties/desired/#",
    };
    wanted
        .iter()
        .map(|feature| Subscription { feature: *feature, qos: 1, filter: filter(*feature).into() })
        .collect()
}

fn patch(value: Value) -> TwinPatch {
    match value {
        Value::Object(map) => TwinPatch(map),
        other => unreachable!("scenarios patch with objects, not {other}"),
    }
}
