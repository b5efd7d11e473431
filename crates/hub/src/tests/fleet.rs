//! The fleet through our own API: counts, search with cursors, one device whole.

use std::time::Duration;

use http::StatusCode;
use model::time::Tick;
use model::waist::{Batch, DeviceRequest, LinkKind};
use serde_json::{Value, json};
use testkit::world::Host;

use super::{Machine, Running};

async fn get(r: &Running, path: &str) -> Value {
    let (status, body) = r.call("GET", path, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

/// Every row of a search, page by page.
async fn all(r: &Running, parameters: &str) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(r, &format!("/api/v1/devices?{parameters}&after={after}")).await;
        let rows = page["devices"].as_array().unwrap();
        names.extend(rows.iter().map(|row| row["deviceId"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return names,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_pages_through_all_devices_in_order_and_without_a_limit() {
    let machine = Machine::new();
    let r = machine.start(1);
    for n in 0..57 {
        let path = format!("/devices/pump-{n:03}");
        let edge = json!({"capabilities": {"iotEdge": n % 10 == 0}});
        assert_eq!(r.call("PUT", &path, edge).await.0, StatusCode::OK);
    }
    for n in [3, 33] {
        let tags = json!({"tags": {"site": {"name": "paris", "floor": n}}});
        let (status, body) = r.call("PATCH", &format!("/twins/pump-{n:03}"), tags).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    let (status, _) = r
        .call_as(
            "iothubowner",
            ("PUT", "/devices/pump-005"),
            Some("*"),
            json!({"status": "disabled"}),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let every: Vec<String> = (0..57).map(|n| format!("pump-{n:03}")).collect();
    assert_eq!(all(&r, "top=10").await, every);
    assert_eq!(all(&r, "top=57").await, every);
    assert_eq!(all(&r, "search=MP-00&top=3").await, every[..10]);
    assert_eq!(all(&r, "edge=true").await.len(), 6);
    assert_eq!(all(&r, "status=disabled").await, ["pump-005"]);
    assert_eq!(all(&r, "tag=site.name%3Dparis").await, ["pump-003", "pump-033"]);
    assert_eq!(all(&r, "tag=site.name%3Dparis&tag=site.floor%3D33").await, ["pump-033"]);
    assert_eq!(all(&r, "connection=neverSeen&top=20").await.len(), 56);
    for wrong in ["top=0", "top=201", "edge=maybe", "connection=on", "tag=", "x=1"] {
        let (status, _) = r.call("GET", &format!("/api/v1/devices?{wrong}"), Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_connected_are_found_among_many_and_grow_stale_when_they_leave() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("b").await;
    for other in ["a", "c"] {
        r.device(other).await;
    }
    let opened = r.api.open(claim, LinkKind::Mqtt { clean: true }, Tick::NEVER).await.unwrap();
    assert_eq!(all(&r, "connection=connected").await, ["b"]);
    assert_eq!(all(&r, "connection=connected&search=a").await, [""; 0]);
    let overview = get(&r, "/api/v1/overview").await;
    assert_eq!(overview["complete"], true);
    let counted = &overview["devices"];
    assert_eq!((&counted["total"], &counted["connected"]), (&json!(3), &json!(1)));
    assert_eq!((&counted["stale"], &counted["neverSeen"]), (&json!(0), &json!(2)));
    drop(opened);
    Host::sleep(Duration::from_mins(9)).await;
    assert_eq!(all(&r, "connection=stale").await, [""; 0]);
    Host::sleep(Duration::from_mins(2)).await;
    assert_eq!(all(&r, "connection=stale").await, ["b"]);
    assert_eq!(get(&r, "/api/v1/overview").await["devices"]["stale"], 1);
    assert_eq!(get(&r, "/api/v1/devices/b").await["stale"], true);
    let row = &get(&r, "/api/v1/devices?search=b").await["devices"][0];
    assert_eq!((&row["stale"], &row["connectionState"]), (&json!(true), &json!("Disconnected")));
}

#[tokio::test(start_paused = true)]
async fn an_edge_device_shows_what_was_desired_and_what_its_agent_reported() {
    let machine = Machine::new();
    let r = machine.start(1);
    let edge = json!({"capabilities": {"iotEdge": true}});
    assert_eq!(r.call("PUT", "/devices/e", edge).await.0, StatusCode::OK);
    let desired = json!({"properties": {"desired": {"modules": {"m": {
        "status": "running", "settings": {"image": "m:2"}}}}}});
    r.call("PATCH", "/twins/e/modules/$edgeAgent", desired).await;
    let (_, made) = r.call("GET", "/devices/e/modules/$edgeAgent", Value::Null).await;
    let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
    let identity: model::id::IdentityId = "e/$edgeAgent".parse().unwrap();
    let life = Duration::from_hours(1);
    let token = super::token(&r.world(), &super::resource(&identity), None, &key.into(), life);
    let claim = model::waist::Claim::Sas { identity, token };
    let opened = r.api.open(claim, LinkKind::Mqtt { clean: true }, Tick::NEVER).await.unwrap();
    let reported = json!({"lastDesiredVersion": 2, "modules": {"m": {
        "status": "running", "runtimeStatus": "backoff", "exitCode": 7, "restartCount": 3}}});
    let patch = model::twin::TwinPatch(reported.as_object().unwrap().clone());
    let batch = Batch(vec![DeviceRequest::PatchReported { patch, if_version: None }]);
    let Ok(done) = opened.session.submit(batch, Tick::NEVER) else { panic!("no room") };
    done.only().await.unwrap();
    let view = get(&r, "/api/v1/devices/e").await;
    assert!(view["device"]["authentication"].get("symmetricKey").is_none(), "no keys: {view}");
    let module = &view["edge"]["modules"][0];
    assert_eq!((&module["moduleId"], &module["failing"]), (&json!("m"), &json!(true)));
    assert_eq!(module["desired"]["image"], "m:2");
    assert_eq!(module["reported"]["exitCode"], 7);
    assert_eq!(view["twins"].as_array().unwrap().len(), 3);
    assert_eq!(view["twins"][1]["moduleId"], "$edgeAgent");
    assert_eq!(view["twins"][1]["connected"], true);
    let overview = get(&r, "/api/v1/overview").await;
    assert_eq!(overview["modules"]["failing"], 1);
    assert_eq!(overview["modules"]["top"][0]["exitCode"], 7);
    assert_eq!(overview["recent"][0]["kind"], "reportedUpdated");
    assert_eq!(overview["recent"][0]["moduleId"], "$edgeAgent");
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_read_twins_sees_devices_without_tags() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d").await;
    r.call("PATCH", "/twins/d", json!({"tags": {"site": "x"}})).await;
    let check = async |policy: &str, path: &str, expected: u16| {
        let (status, body) = r.call_as(policy, ("GET", path), None, Value::Null).await;
        assert_eq!(status.as_u16(), expected, "{policy} {path}: {body}");
        body
    };
    let seen = check("registryRead", "/api/v1/devices", 200).await;
    assert_eq!(seen["devices"][0]["tags"], json!({}));
    let seen = check("iothubowner", "/api/v1/devices", 200).await;
    assert_eq!(seen["devices"][0]["tags"], json!({"site": "x"}));
    check("registryRead", "/api/v1/devices?tag=site%3Dx", 401).await;
    check("registryRead", "/api/v1/overview", 200).await;
    check("registryRead", "/api/v1/devices/d", 401).await;
    check("service", "/api/v1/devices", 401).await;
    check("iothubowner", "/api/v1/devices/none", 404).await;
}
