//! The service API, call by call.

use std::time::Duration;

use credentials::skew::CLOCK_SKEW;
use http::StatusCode;
use model::secret::Secret;
use serde_json::{Value, json};
use testkit::world::Host;

use super::{Machine, NAME, Running, resource, token};

pub(super) fn code(body: &Value) -> &str {
    let message = body["Message"].as_str().unwrap_or_default();
    message.trim_start_matches("ErrorCode:").split(';').next().unwrap_or_default()
}

async fn expect(
    running: &Running,
    call: (&str, &str),
    if_match: Option<&str>,
    body: Value,
    expected: (u16, &str),
) -> Value {
    let (status, answer) = running.call_as("iothubowner", call, if_match, body).await;
    assert_eq!((status.as_u16(), code(&answer)), expected, "{call:?} {if_match:?}: {answer}");
    answer
}

#[tokio::test(start_paused = true)]
async fn devices_are_made_read_changed_and_deleted_as_azure_does() {
    let machine = Machine::new();
    let r = machine.start(1);
    let made = expect(&r, ("PUT", "/devices/d1"), None, json!({"deviceId": "d1"}), (200, "")).await;
    assert_eq!(made["status"], "enabled");
    assert_eq!(made["connectionState"], "Disconnected");
    assert_eq!(made["lastActivityTime"], "0001-01-01T00:00:00Z");
    assert!(made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap().len() > 40);
    let put = ("PUT", "/devices/d1");
    expect(&r, put, None, json!({}), (409, "DeviceAlreadyExists")).await;
    expect(&r, ("PUT", "/devices/d2"), Some("*"), json!({}), (404, "DeviceNotFound")).await;
    expect(&r, put, Some("\"bad\""), json!({}), (412, "PreconditionFailed")).await;
    let etag = format!("\"{}\"", made["etag"].as_str().unwrap());
    let changed = expect(&r, put, Some(&etag), json!({"statusReason": "why"}), (200, "")).await;
    assert_ne!(changed["etag"], made["etag"]);
    assert_eq!(changed["generationId"], made["generationId"]);
    assert_eq!(changed["authentication"], made["authentication"], "keys are kept");
    expect(&r, put, Some(&etag), json!({}), (412, "PreconditionFailed")).await;
    let trailing = expect(
        &r,
        ("GET", "/devices/?top=10&api-version=2099-01-01"),
        None,
        Value::Null,
        (200, ""),
    );
    assert_eq!(trailing.await.as_array().unwrap().len(), 1);
    let counts = expect(&r, ("GET", "/statistics/devices"), None, Value::Null, (200, "")).await;
    assert_eq!(counts["totalDeviceCount"], 1);
    expect(&r, ("DELETE", "/devices/d1"), None, Value::Null, (200 + 4, "")).await;
    expect(&r, ("GET", "/devices/d1"), None, Value::Null, (404, "DeviceNotFound")).await;
    let again = expect(&r, put, None, json!({}), (200, "")).await;
    assert_ne!(again["generationId"], made["generationId"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_calls_are_refused_with_azures_codes() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let check = async |call: (&str, &str), body: Value, expected: (u16, &str)| {
        expect(&r, call, None, body, expected).await
    };
    check(("GET", "/nothing"), Value::Null, (404, "NotFound")).await;
    check(("POST", "/devices/d1"), json!({}), (405, "MethodNotAllowed")).await;
    check(("GET", "/devices/a%20b"), Value::Null, (400, "ArgumentInvalid")).await;
    check(("GET", "/api/v1/devices?x=1"), Value::Null, (400, "ArgumentInvalid")).await;
    check(("GET", "/devices?top=none"), Value::Null, (400, "ArgumentInvalid")).await;
    check(("PUT", "/devices/d2"), json!({"status": "open"}), (400, "IotHubFormatError")).await;
    check(("PUT", "/devices/d2"), json!({"deviceId": "d3"}), (400, "ArgumentInvalid")).await;
    check(("PUT", "/devices/no/modules/m"), json!({}), (404, "DeviceNotFound")).await;
    check(("GET", "/devices/d1/modules/m"), Value::Null, (404, "ModuleNotFound")).await;
    check(("PATCH", "/twins/d1"), json!({"tag": {}}), (400, "IotHubFormatError")).await;
    check(("PATCH", "/twins/d1"), json!({"tags": {"a.b": 1}}), (400, "ArgumentInvalid")).await;
    let large = json!({"tags": {"a": ["x".repeat(4000), "x".repeat(4000), "x".repeat(4000)]}});
    check(("PATCH", "/twins/d1"), large, (413, "MessageTooLarge")).await;
    let huge = json!({"tags": {"a": "x".repeat(3 << 20)}});
    check(("PATCH", "/twins/d1"), huge, (413, "MessageTooLarge")).await;
    let (_, offline) = r.call("POST", "/twins/d1/methods", json!({"methodName": "m"})).await;
    let inner: Value = serde_json::from_str(offline["Message"].as_str().unwrap()).unwrap();
    assert_eq!(inner["errorCode"], 404_103);
}

#[tokio::test(start_paused = true)]
async fn every_route_demands_its_right() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let check = async |policy: &str, call: (&str, &str), expected: u16| {
        let (status, body) = r.call_as(policy, call, None, json!({})).await;
        assert_eq!(status.as_u16(), expected, "{policy} {call:?}: {body}");
    };
    for policy in ["registryRead", "registryReadWrite", "iothubowner"] {
        check(policy, ("GET", "/devices/d1"), 200).await;
    }
    for policy in ["service", "device"] {
        check(policy, ("GET", "/devices/d1"), 401).await;
    }
    check("registryRead", ("PUT", "/devices/d2"), 401).await;
    check("registryReadWrite", ("PUT", "/devices/d2"), 200).await;
    for policy in ["registryRead", "registryReadWrite", "device"] {
        check(policy, ("GET", "/twins/d1"), 401).await;
        check(policy, ("GET", "/api/v1/telemetry"), 401).await;
    }
    check("service", ("GET", "/twins/d1"), 200).await;
    check("service", ("GET", "/api/v1/telemetry"), 200).await;
    check("registryRead", ("POST", "/devices/d1/applyConfigurationContent"), 401).await;
    let none = Secret::from("SharedAccessSignature ");
    let (status, _) = r.call_with(&none, ("GET", "/devices/d1"), None, Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let key = r.hub.policy_key("service").unwrap();
    let late = token(&r.world(), NAME, Some("service"), &key, Duration::ZERO);
    let (status, _) = r.call_with(&late, ("GET", "/twins/d1"), None, Value::Null).await;
    assert_eq!(status, StatusCode::OK, "its end and the clocks may differ");
    Host::sleep(CLOCK_SKEW).await;
    let (status, _) = r.call_with(&late, ("GET", "/twins/d1"), None, Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn a_device_works_on_its_own_modules_and_on_no_others() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d2").await;
    let edge = json!({"capabilities": {"iotEdge": true}});
    let made = expect(&r, ("PUT", "/devices/d1"), None, edge, (200, "")).await;
    let key = made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
    let identity = "d1".parse().unwrap();
    let own = token(&r.world(), &resource(&identity), None, &key.into(), Duration::from_hours(1));
    let check = async |call: (&str, &str), expected: u16| {
        let (status, body) = r.call_with(&own, call, None, json!({})).await;
        assert_eq!(status.as_u16(), expected, "{call:?}: {body}");
        body
    };
    let modules = check(("GET", "/devices/d1/modules"), 200).await;
    let names: Vec<_> = modules.as_array().unwrap().iter().map(|m| &m["moduleId"]).collect();
    assert_eq!(names, ["$edgeAgent", "$edgeHub"]);
    let module = check(("PUT", "/devices/d1/modules/m"), 200).await;
    assert!(module["authentication"]["symmetricKey"]["primaryKey"].is_string());
    check(("DELETE", "/devices/d1/modules/m"), 204).await;
    check(("GET", "/devices/d2/modules"), 401).await;
    check(("PUT", "/devices/d2/modules/m"), 401).await;
    check(("GET", "/devices/d1"), 401).await;
    check(("GET", "/twins/d1"), 401).await;
}

#[tokio::test(start_paused = true)]
async fn twins_merge_replace_and_keep_their_etag_and_metadata() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    let first = expect(&r, ("GET", "/twins/d1"), None, Value::Null, (200, "")).await;
    assert_eq!(first["properties"]["desired"]["$version"], 1);
    let patch = json!({"tags": {"site": "a"}, "properties": {"desired": {"x": {"y": 1}}}});
    let second = expect(&r, ("PATCH", "/twins/d1"), None, patch, (200, "")).await;
    assert_eq!(second["tags"], json!({"site": "a"}));
    assert_eq!(second["properties"]["desired"]["$version"], 2);
    assert_eq!(second["properties"]["desired"]["$metadata"]["x"]["y"]["$lastUpdatedVersion"], 2);
    let stale = format!("\"{}\"", first["etag"].as_str().unwrap());
    let call = ("PATCH", "/twins/d1");
    expect(&r, call, Some(&stale), json!({"tags": {}}), (412, "PreconditionFailed")).await;
    // A whole twin sent back is taken; what nobody can write is left alone.
    let fresh = format!("\"{}\"", second["etag"].as_str().unwrap());
    let third = expect(&r, ("PUT", "/twins/d1"), Some(&fresh), second.clone(), (200, "")).await;
    assert_eq!(third["properties"]["desired"]["x"], json!({"y": 1}));
    assert_eq!(third["properties"]["desired"]["$version"], 3);
    let emptied = expect(&r, ("PUT", "/twins/d1"), None, json!({}), (200, "")).await;
    assert_eq!(emptied["tags"], json!({}));
    assert!(emptied["properties"]["desired"].get("x").is_none());
    let feed = expect(&r, ("GET", "/api/v1/changes"), None, Value::Null, (200, "")).await;
    let kinds: Vec<_> = feed["changes"].as_array().unwrap().iter().map(|c| &c["kind"]).collect();
    let both = ["tagsUpdated", "desiredUpdated"];
    assert_eq!(kinds, [&["identityCreated"][..], &both, &both, &both].concat());
    assert_eq!(feed["next"], "0:7");
    let rest = expect(&r, ("GET", "/api/v1/changes?from=0:6"), None, Value::Null, (200, "")).await;
    assert_eq!(rest["changes"].as_array().unwrap().len(), 1);
    expect(&r, ("GET", "/api/v1/changes?from=x"), None, Value::Null, (400, "ArgumentInvalid"))
        .await;
}

fn content(modules: &Value, routes: &Value, twin: &Value) -> Value {
    let module = |name: &Value| {
        json!({ "type": "docker", "status": "running", "restartPolicy": "always",
                "settings": { "image": name } })
    };
    let modules: serde_json::Map<String, Value> = modules
        .as_array()
        .unwrap()
        .iter()
        .map(|name| (name.as_str().unwrap().to_owned(), module(name)))
        .collect();
    let mut content = json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} },
            "systemModules": {
                "edgeAgent": { "type": "docker", "settings": { "image": "agent:1" } },
                "edgeHub": { "type": "docker", "status": "running", "restartPolicy": "always",
                             "settings": { "image": "hub:1" } } },
            "modules": modules } },
        "$edgeHub": { "properties.desired": { "schemaVersion": "1.1", "routes": routes } }
    }});
    for (name, desired) in twin.as_object().unwrap() {
        content["modulesContent"][name] = json!({ "properties.desired": desired });
    }
    content
}

#[tokio::test(start_paused = true)]
async fn a_deployment_is_applied_whole_or_not_at_all() {
    let machine = Machine::new();
    let r = machine.start(1);
    let edge = json!({"capabilities": {"iotEdge": true}});
    expect(&r, ("PUT", "/devices/e"), None, edge, (200, "")).await;
    r.device("plain").await;
    expect(&r, ("PUT", "/devices/e/modules/byHand"), None, json!({}), (200, "")).await;
    let up = json!({"up": "FROM /messages/* INTO $upstream"});
    let first = content(&json!(["a", "b"]), &up, &json!({"a": {"limit": 3}}));
    let apply = ("POST", "/devices/e/applyConfigurationContent");
    expect(&r, apply, None, first.clone(), (204, "")).await;
    let names = async || {
        let modules = expect(&r, ("GET", "/devices/e/modules"), None, Value::Null, (200, "")).await;
        let name = |m: &Value| m["moduleId"].as_str().unwrap().to_owned();
        modules.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    let twin = async |path: &str| expect(&r, ("GET", path), None, Value::Null, (200, "")).await;
    assert_eq!(names().await, ["$edgeAgent", "$edgeHub", "a", "b", "byHand"]);
    let agent = twin("/twins/e/modules/$edgeAgent").await;
    assert_eq!(agent["properties"]["desired"]["modules"]["a"]["settings"]["image"], "a");
    assert_eq!(twin("/twins/e/modules/a").await["properties"]["desired"]["limit"], 3);

    expect(&r, apply, None, first, (204, "")).await;
    assert_eq!(twin("/twins/e/modules/$edgeAgent").await, agent, "equal content writes nothing");

    let bad = json!({"up": "FROM /messages/* INTO nowhere"});
    let bad = content(&json!(["c"]), &bad, &json!({"typo": {}}));
    let refused = expect(&r, apply, None, bad, (400, "InvalidConfigurationContent")).await;
    assert_eq!(refused["details"].as_array().unwrap().len(), 2, "{refused}");
    assert_eq!(names().await, ["$edgeAgent", "$edgeHub", "a", "b", "byHand"]);
    assert_eq!(twin("/twins/e/modules/$edgeAgent").await, agent, "nothing was applied");

    expect(&r, apply, None, content(&json!(["b", "c"]), &up, &json!({})), (204, "")).await;
    assert_eq!(names().await, ["$edgeAgent", "$edgeHub", "b", "byHand", "c"]);
    let plain = ("POST", "/devices/plain/applyConfigurationContent");
    let good = content(&json!([]), &up, &json!({}));
    expect(&r, plain, None, good, (400, "ArgumentInvalid")).await;
}

#[tokio::test(start_paused = true)]
async fn a_text_is_checked_as_it_stands_and_a_refusal_names_line_and_column() {
    let machine = Machine::new();
    let r = machine.start(1);
    let edge = json!({"capabilities": {"iotEdge": true}});
    expect(&r, ("PUT", "/devices/e"), None, edge, (200, "")).await;
    let bad = json!({"modulesContent": {"$edgeHub": {"properties.desired": {
        "schemaVersion": "1.1", "routes": {"up": "FROM /messages/* INTO $nowhere"}}}}});
    let check = ("POST", "/api/v1/validate/modules-content");
    let (status, answer) = r.call_as("registryRead", check, None, bad.clone()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["valid"], false);
    let text = bad.to_string();
    let expected = text.find("$nowhere").unwrap();
    let fault = &answer["faults"][0];
    assert_eq!((&fault["line"], &fault["from"]), (&json!(1), &json!(expected)));
    assert_eq!(fault["column"], expected + 1);
    let apply = ("POST", "/devices/e/applyConfigurationContent");
    let refused = expect(&r, apply, None, bad, (400, "InvalidConfigurationContent")).await;
    assert_eq!(refused["details"][0]["column"], expected + 1);
}
