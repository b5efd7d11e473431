//! Limits of the registry at the service: each is refused before anything is written, and
//! nobody who asks at the same time feels it.

use http::StatusCode;
use model::manifest::MODULES_MAX;
use serde_json::{Map, Value, json};

use super::{Machine, Running};

const OWNER: &str = "iothubowner";

/// A content with `modules` and whatever `beside` says of other twins.
fn content(modules: usize, beside: Value) -> Value {
    let module = json!({ "type": "docker", "status": "running", "restartPolicy": "always",
                         "settings": { "image": "m:1" } });
    let all: Map<String, Value> = (0..modules).map(|n| (format!("m{n}"), module.clone())).collect();
    let mut content = json!({ "$edgeAgent": { "properties.desired": {
        "schemaVersion": "1.1",
        "runtime": { "type": "docker", "settings": {} },
        "systemModules": {
            "edgeAgent": { "type": "docker", "settings": { "image": "agent:1" } },
            "edgeHub": { "type": "docker", "status": "running", "restartPolicy": "always",
                         "settings": { "image": "hub:1" } }
        },
        "modules": all,
    }}});
    if let (Some(content), Value::Object(beside)) = (content.as_object_mut(), beside) {
        content.extend(beside);
    }
    json!({ "modulesContent": content })
}

async fn device(r: &Running, name: &str, iot_edge: bool) {
    let body = json!({ "capabilities": { "iotEdge": iot_edge } });
    assert_eq!(r.call("PUT", &format!("/devices/{name}"), body).await.0, StatusCode::OK);
}

/// Makes `count` modules by hand; gives the status of the last.
async fn by_hand(r: &Running, device: &str, count: usize) -> StatusCode {
    let mut last = StatusCode::OK;
    for n in 0..count {
        let path = format!("/devices/{device}/modules/hand{n}");
        last = r.call("PUT", &path, json!({})).await.0;
    }
    last
}

async fn modules(r: &Running, device: &str) -> Vec<String> {
    let (_, all) = r.call("GET", &format!("/devices/{device}/modules"), Value::Null).await;
    let all = all.as_array().unwrap();
    all.iter().map(|one| one["moduleId"].as_str().unwrap().to_owned()).collect()
}

/// Applies while a neighbour writes in the same turn: the neighbour's write stands.
async fn apply(r: &Running, device: &str, content: Value) -> (StatusCode, Value) {
    let path = format!("/devices/{device}/applyConfigurationContent");
    let neighbour = format!("/devices/beside-{device}");
    let call = r.call("POST", &path, content);
    let (answer, beside) = tokio::join!(call, r.call("PUT", &neighbour, json!({})));
    assert_eq!(beside.0, StatusCode::OK, "{}", beside.1);
    assert_eq!(r.call("GET", &neighbour, Value::Null).await.0, StatusCode::OK);
    let (status, _) = r.call_as(OWNER, ("DELETE", &neighbour), None, Value::Null).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    answer
}

#[tokio::test(start_paused = true)]
async fn a_system_module_that_does_not_exist_is_a_fault_of_the_content() {
    let machine = Machine::new();
    let r = machine.start(1);
    device(&r, "e", true).await;
    let zoo = json!({ "$edgeZoo": { "properties.desired": { "a": 1 } } });
    let alone = json!({ "modulesContent": zoo.clone() });
    for wrong in [alone, content(1, zoo)] {
        let (status, answer) = apply(&r, "e", wrong.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(answer.to_string().contains("$edgeZoo"), "it names the module: {answer}");
        let checked = r.call("POST", "/api/v1/validate/modules-content", wrong).await.1;
        assert_eq!(checked["valid"], false, "{checked}");
        assert_eq!(modules(&r, "e").await, ["$edgeAgent", "$edgeHub"], "nothing was made");
    }
    assert_eq!(apply(&r, "e", content(1, json!({}))).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn a_manifest_and_modules_made_by_hand_share_one_quota() {
    let machine = Machine::new();
    let r = machine.start(1);
    device(&r, "e", true).await;
    assert_eq!(by_hand(&r, "e", 3).await, StatusCode::OK);
    let (status, answer) = apply(&r, "e", content(MODULES_MAX - 2, json!({}))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    assert!(answer.to_string().contains("TooManyModulesOnDevice"), "{answer}");
    assert_eq!(modules(&r, "e").await.len(), 2 + 3, "nothing was made");
    let whole = content(MODULES_MAX - 3, json!({}));
    assert_eq!(apply(&r, "e", whole).await.0, StatusCode::NO_CONTENT);
    assert_eq!(modules(&r, "e").await.len(), 2 + MODULES_MAX);
    // What goes makes room for what comes.
    assert_eq!(apply(&r, "e", content(1, json!({}))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(modules(&r, "e").await.len(), 2 + 3 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_plain_device_has_fewer_modules_than_an_edge_device_and_becomes_one_only_with_room() {
    let machine = Machine::new();
    let r = machine.start(1);
    for (name, iot_edge) in [("plain", false), ("edge", true)] {
        device(&r, name, iot_edge).await;
        assert_eq!(by_hand(&r, name, MODULES_MAX).await, StatusCode::OK, "{name}");
        let one_more = format!("/devices/{name}/modules/one-more");
        let (status, answer) = r.call("PUT", &one_more, json!({})).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{name}: {answer}");
        assert!(answer.to_string().contains("TooManyModulesOnDevice"), "{answer}");
    }
    assert_eq!(modules(&r, "plain").await.len(), MODULES_MAX);
    assert_eq!(modules(&r, "edge").await.len(), MODULES_MAX + 2);
    let turn = async |name: &str, iot_edge: bool| {
        let path = format!("/devices/{name}");
        let body = json!({ "capabilities": { "iotEdge": iot_edge } });
        let call = r.call_as(OWNER, ("PUT", &path), Some("*"), body);
        let beside = format!("/devices/beside-{name}-{iot_edge}");
        let (answer, beside) = tokio::join!(call, r.call("PUT", &beside, json!({})));
        assert_eq!(beside.0, StatusCode::OK, "{}", beside.1);
        answer
    };
    // With the two of the system it would be a plain device with too many.
    let (status, answer) = turn("edge", false).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    let (_, still) = r.call("GET", "/devices/edge", Value::Null).await;
    assert_eq!(still["capabilities"]["iotEdge"], true, "nothing was written");
    assert_eq!(turn("plain", true).await.0, StatusCode::OK);
    assert_eq!(modules(&r, "plain").await.len(), MODULES_MAX + 2);
}

/// An older hub let a plain device have two modules more.
#[tokio::test(start_paused = true)]
async fn a_plain_device_with_too_many_modules_is_not_made_an_edge_device() {
    let machine = Machine::new();
    let r = machine.start(1);
    device(&r, "d", false).await;
    assert_eq!(by_hand(&r, "d", MODULES_MAX).await, StatusCode::OK);
    let db = rusqlite::Connection::open(machine.path().join("hub.db")).unwrap();
    for name in ["old0", "old1"] {
        let copy = "INSERT INTO identity (device, module, generation, etag, enabled, \
                    status_updated, auth, iot_edge, managed_by) \
                    VALUES ('d', ?, '1', 1, 1, 0, 0, 0, '')";
        db.execute(copy, [name]).unwrap();
    }
    let body = json!({ "capabilities": { "iotEdge": true }, "statusReason": "why" });
    let call = r.call_as(OWNER, ("PUT", "/devices/d"), Some("*"), body);
    let (answer, beside) = tokio::join!(call, r.call("PUT", "/devices/beside", json!({})));
    assert_eq!(answer.0, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.1);
    assert_eq!(beside.0, StatusCode::OK, "{}", beside.1);
    let (_, device) = r.call("GET", "/devices/d", Value::Null).await;
    assert_eq!(device["capabilities"]["iotEdge"], false);
    assert_eq!(device["statusReason"], Value::Null, "nothing was written");
}
