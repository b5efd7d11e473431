//! The benches.

use std::sync::Arc;
use std::time::Duration;

use testkit::conformance::{Ability, Bench, Subjects, Without, run_all};

use super::house::{DEVICE, Edge, Hub, device};

const NO_MESSAGES: Without = Without {
    ability: Ability::Messages,
    reason: "behind it is the hub, which has no cloud-to-device messages yet",
};
const NO_REASONS: Without = Without {
    ability: Ability::Reasons,
    reason: "MQTT 3.1.1 closes a connection without a word: takeover, revocation and expiry \
             look alike",
};
const NO_RENEWAL: Without = Without {
    ability: Ability::Renewal,
    reason: "MQTT 3.1.1 proves once, at CONNECT, and does not tell until when that holds",
};
const NO_FEATURES: Without = Without {
    ability: Ability::Features,
    reason: "CONNACK says whether a session is present, not which subscriptions it has",
};
const NO_OUTCOMES: Without = Without {
    ability: Ability::Outcomes,
    reason: "MQTT 3.1.1 has PUBACK and nothing else to say about a message",
};
const NO_MODELS: Without = Without {
    ability: Ability::Models,
    reason: "MQTT says the model in the user name of CONNECT and nowhere else",
};
/// How long the router honours a token past its end.
const TOLERANCE: Duration = credentials::skew::CLOCK_SKEW;
/// Scenarios that every bench runs.
const SCENARIOS: usize = 16;

async fn client_over_hub(subjects: Subjects) {
    let hub = Hub::start(7).await;
    let bench = Bench {
        api: Arc::new(hub.client()),
        cloud: Arc::new(hub.cloud.clone()),
        world: hub.field.world(),
        subjects,
        tolerance: TOLERANCE,
        without: &[NO_MESSAGES, NO_REASONS, NO_RENEWAL, NO_FEATURES, NO_MODELS],
    };
    assert_eq!(run_all(&bench).await, SCENARIOS);
    assert!(hub.server.accepted() >= 16, "every scenario went over the wire");
    hub.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_client_over_the_hub_keeps_what_mqtt_can_promise_devices() {
    client_over_hub(Subjects::Devices("client-")).await;
}

#[tokio::test(start_paused = true)]
async fn the_client_over_the_hub_keeps_what_mqtt_can_promise_modules() {
    client_over_hub(Subjects::Modules("client".parse().unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn the_router_over_the_hub_keeps_every_promise_of_the_waist() {
    let hub = Hub::start(8).await;
    let edge = Edge::start(&hub, hub.api()).await;
    let bench = Bench {
        api: edge.runtime.device_api(),
        cloud: Arc::new(edge.clone()),
        world: hub.field.world(),
        subjects: Subjects::Modules(device()),
        tolerance: TOLERANCE,
        without: &[],
    };
    assert_eq!(run_all(&bench).await, SCENARIOS);
    hub.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_router_over_the_client_over_the_hub_keeps_every_promise_of_the_waist() {
    let hub = Hub::start(9).await;
    let edge = Edge::start(&hub, Arc::new(hub.client())).await;
    let bench = Bench {
        api: edge.runtime.device_api(),
        cloud: Arc::new(edge.clone()),
        world: hub.field.world(),
        subjects: Subjects::Modules(device()),
        tolerance: TOLERANCE,
        without: &[],
    };
    assert_eq!(run_all(&bench).await, SCENARIOS);
    hub.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_client_over_the_router_keeps_what_mqtt_can_promise() {
    let hub = Hub::start(10).await;
    let edge = Edge::start(&hub, hub.api()).await;
    let (server, client) = edge.listen(&hub).await;
    let bench = Bench {
        api: Arc::new(client),
        cloud: Arc::new(edge.clone()),
        world: hub.field.world(),
        subjects: Subjects::Modules(DEVICE.parse().unwrap()),
        tolerance: TOLERANCE,
        without: &[NO_REASONS, NO_RENEWAL, NO_FEATURES, NO_OUTCOMES, NO_MODELS],
    };
    assert_eq!(run_all(&bench).await, SCENARIOS);
    assert!(server.accepted() >= 16, "every scenario went over the wire");
    hub.stop().await;
}
