//! The conformance suite of the waist: what every implementer of `DeviceApi` must do.
//!
//! The hub, the router over the hub, and the client over a wire run the same scenarios. A
//! scenario gets a [`Bench`] and panics with a sentence when a promise is broken. Identities
//! are made fresh per scenario, so one bench serves them all.

use std::sync::Arc;
use std::time::Duration;

use model::id::IdentityId;
use model::message::Message;
use model::method::{MethodRequest, MethodResponse};
use model::refusal::Refusal;
use model::twin::{TwinPatch, Version};
use model::waist::{Claim, DeviceApi};
use model::world::{Boxed, World};

/// An implementer under test, the cloud behind it, and the world around both.
#[derive(Clone)]
pub struct Bench {
    /// The implementer.
    pub api: Arc<dyn DeviceApi>,
    /// The other side, to look from and to act from.
    pub cloud: Arc<dyn Cloud>,
    /// The world both live in.
    pub world: World,
    /// Waits in that world.
    pub sleep: fn(Duration) -> Boxed<'static, ()>,
}

/// What a scenario does and sees on the cloud's side.
pub trait Cloud: Send + Sync {
    /// Makes a device that may open sessions, enabled, with an empty twin.
    fn create(&self, identity: IdentityId) -> Boxed<'_, ()>;

    /// A good claim of `identity` that holds for `lifetime` from now.
    fn claim(&self, identity: &IdentityId, lifetime: Duration) -> Claim;

    /// A claim of `identity` signed with a wrong key.
    fn wrong_claim(&self, identity: &IdentityId) -> Claim;

    /// Merges into the desired properties; gives their version.
    fn patch_desired(&self, identity: IdentityId, patch: TwinPatch) -> Boxed<'_, Version>;

    /// Calls a method.
    fn invoke(
        &self,
        identity: IdentityId,
        request: MethodRequest,
    ) -> Boxed<'_, Result<MethodResponse, Refusal>>;

    /// All telemetry of `identity` that is readable at the cloud, oldest first.
    fn telemetry(&self, identity: IdentityId) -> Boxed<'_, Vec<Message>>;

    /// Disables the device, so that its sessions end; `false` if the implementer's cloud
    /// cannot (the scenario is then left out and says so).
    fn disable(&self, identity: IdentityId) -> Boxed<'_, bool>;
}
