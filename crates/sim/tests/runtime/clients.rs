//! What `$edgeHub` reports: who is connected, and what of its desired properties has no effect.

use std::time::Duration;

use model::waist::Leave;
use serde_json::{Value, json};

use super::{Bench, all_up, eventually, routes_of};

async fn client(bench: &Bench, module: &str) -> Value {
    let id = format!("{}/{module}", super::DEVICE);
    bench.cloud.reported("$edgeHub").await["clients"][id].clone()
}

async fn reported(bench: &Bench, module: &str, status: &str) -> Value {
    eventually(&format!("{module} is reported {status}"), async || {
        let client = client(bench, module).await;
        (client["status"] == status).then_some(client)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn clients_are_reported_with_the_times_of_their_coming_and_going() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let a = bench.open(&edge, "a", true).await.session;
    let b = bench.open(&edge, "b", true).await.session;
    let connected = reported(&bench, "a", "Connected").await;
    assert!(connected["lastConnectedTimeUtc"].is_string(), "{connected}");
    assert!(connected["lastDisconnectedTimeUtc"].is_null(), "{connected}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    a.close(Leave::Asked);
    let gone = reported(&bench, "a", "Disconnected").await;
    assert_eq!(gone["lastConnectedTimeUtc"], connected["lastConnectedTimeUtc"]);
    let time = |value: &Value| model::time::WallTime::parse_rfc3339(value.as_str().unwrap());
    assert!(time(&gone["lastDisconnectedTimeUtc"]) > time(&gone["lastConnectedTimeUtc"]));
    reported(&bench, "b", "Connected").await;

    // A module that is taken over is connected all the same.
    let newer = bench.open(&edge, "b", true).await.session;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(client(&bench, "b").await["status"], "Connected");

    // The machine loses power; who does not come back is not connected.
    drop((a, b, newer));
    bench.power_cut(edge).await;
    let edge = bench.start().await;
    reported(&bench, "b", "Disconnected").await;
    assert_eq!(client(&bench, "a").await, gone);
    let _b = bench.open(&edge, "b", true).await.session;
    reported(&bench, "b", "Connected").await;

    // A module that is no more is not reported any more.
    bench.cloud.set_desired("$edgeAgent", super::manifest(&["b"])).await;
    eventually("a is forgotten", async || client(&bench, "a").await.is_null().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn what_has_no_effect_is_accepted_and_told() {
    let bench = Bench::new().await;
    let edge = bench.deploy(all_up()).await;
    let mut routes = routes_of(all_up());
    routes["schemaVersion"] = json!("1.3");
    routes["mqttBroker"] = json!({ "authorizations": [] });
    routes["integrity"] = json!({ "header": {} });
    bench.cloud.set_desired("$edgeHub", routes).await;
    let mut manifest = super::manifest(&["a", "b"]);
    manifest["integrity"] = json!({ "header": {} });
    bench.cloud.set_desired("$edgeAgent", manifest).await;
    for (module, words) in [
        ("$edgeHub", &["mqttBroker: has no effect", "signatures are not verified"][..]),
        ("$edgeAgent", &["integrity: signatures are not verified"][..]),
    ] {
        eventually("the notices are reported", async || {
            let status = bench.cloud.reported(module).await["lastDesiredStatus"].clone();
            let said = status["description"].as_str().unwrap_or_default();
            let all = words.iter().all(|words| said.contains(words));
            (status["code"] == 200 && all).then_some(())
        })
        .await;
    }
    drop(edge);
}
