//! The suite of the waist over the hub, for devices and for modules.

use std::sync::Arc;
use std::time::Duration;

use model::id::IdentityId;
use model::message::Message;
use model::secret::Secret;
use model::world::Boxed;
use serde_json::Value;
use testkit::conformance::{Ability, Bench, Service, ServiceCloud, Subjects, Without, run_all};

use super::{Machine, Running, resource, token};

/// What the hub has no words for yet.
const WITHOUT: &[Without] = &[Without {
    ability: Ability::Messages,
    reason: "cloud-to-device messages do not exist yet, and inputs are the router's",
}];

impl Service for Running {
    fn call(
        &self,
        method: &'static str,
        path: String,
        if_match: Option<&'static str>,
        body: Value,
    ) -> Boxed<'_, (u16, Value)> {
        Box::pin(async move {
            let call = (method, path.as_str());
            let (status, answer) = self.call_as("iothubowner", call, if_match, body).await;
            (status.as_u16(), answer)
        })
    }

    fn sign(&self, identity: &IdentityId, key: &str, lifetime: Duration) -> Secret {
        token(&self.world(), &resource(identity), None, &Secret::from(key), lifetime)
    }
}

/// All telemetry of `device`, by the pages of the API.
pub(super) async fn telemetry(running: &Running, device: &str) -> Vec<Message> {
    testkit::conformance::telemetry(running, &device.parse().unwrap()).await
}

async fn keeps_every_promise(subjects: Subjects) {
    let machine = Machine::new();
    let running = Arc::new(machine.start(1));
    let bench = Bench {
        api: Arc::clone(&running.api),
        cloud: Arc::new(ServiceCloud::new(Arc::clone(&running))),
        world: running.world(),
        subjects,
        tolerance: credentials::skew::CLOCK_SKEW,
        without: WITHOUT,
    };
    assert_eq!(run_all(&bench).await, 16);
}

#[tokio::test(start_paused = true)]
async fn the_hub_keeps_every_promise_of_the_waist_to_devices() {
    keeps_every_promise(Subjects::Devices("suite-")).await;
}

#[tokio::test(start_paused = true)]
async fn the_hub_keeps_every_promise_of_the_waist_to_modules() {
    keeps_every_promise(Subjects::Modules("suite".parse().unwrap())).await;
}
