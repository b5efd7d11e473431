//! What a twin may hold, at every door of the hub, against the table that model, router and
//! console are held against.

use std::sync::Arc;

use http::StatusCode;
use model::refusal::RefusalKind;
use model::time::Tick;
use model::twin::TwinPatch;
use model::waist::{Answer, Batch, Claim, DeviceRequest, Leave, LinkKind, ask};
use serde_json::{Value, json};
use testkit::cases::{TwinCase, twin_limits};

use super::{Machine, Running};
use crate::storage::feed::Kind;

/// The status that a broken rule is answered with.
fn expected(case: &TwinCase, good: u16) -> u16 {
    match case.fault {
        None => good,
        Some("size") => 413,
        Some(_) => 400,
    }
}

async fn twin(r: &Running) -> Value {
    r.call("GET", "/twins/d1", Value::Null).await.1
}

/// Writes each case of `section` with `method` and looks whether a refusal wrote anything.
async fn writes(r: &Running, method: &str, section: &str) {
    for case in twin_limits().iter().filter(|case| case.is_of(section)) {
        let empty = json!({ "tags": {}, "properties": { "desired": {} } });
        r.call("PUT", "/twins/d1", empty).await;
        let before = twin(r).await;
        let values = Value::Object(case.values.clone());
        let body = match section {
            "tags" => json!({ "tags": values }),
            _ => json!({ "properties": { "desired": values } }),
        };
        let (status, answer) = r.call(method, "/twins/d1", body).await;
        assert_eq!(status.as_u16(), expected(case, 200), "{section} {}: {answer}", case.text);
        if case.fault == Some("null") {
            let words = answer["Message"].as_str().unwrap();
            assert!(words.contains("cannot be null"), "{answer}");
        }
        if case.fault.is_some() {
            assert_eq!(twin(r).await, before, "{section} {}", case.text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_writes_what_the_table_allows_and_nothing_else() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("d1").await;
    for method in ["PATCH", "PUT"] {
        writes(&r, method, "tags").await;
        writes(&r, method, "desired").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_reports_what_the_table_allows_and_nothing_else() {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let link = LinkKind::Mqtt { clean: true };
    let session = r.api.open(claim, link, Tick::NEVER).await.unwrap().session;
    let report = async |values: serde_json::Map<String, Value>| {
        let patch = TwinPatch(values);
        let batch = Batch(vec![DeviceRequest::PatchReported { patch, if_version: None }]);
        let mut answers = Arc::clone(&session).submit(batch, Tick::NEVER).unwrap();
        std::future::poll_fn(|cx| answers.poll_next(cx)).await.unwrap()
    };
    for case in twin_limits().iter().filter(|case| case.is_of("reported")) {
        let before = twin(&r).await["properties"]["reported"].clone();
        let refused = report(case.values.clone()).await.err();
        let kind = match case.fault {
            None => None,
            Some("size") => Some(RefusalKind::TooLarge),
            Some(_) => Some(RefusalKind::InvalidRequest),
        };
        assert_eq!(refused.as_ref().map(|it| it.kind), kind, "{}: {refused:?}", case.text);
        let after = twin(&r).await["properties"]["reported"].clone();
        if case.fault.is_some() {
            assert_eq!(after, before, "{}", case.text);
        }
        let gone = case.values.keys().map(|key| (key.clone(), Value::Null)).collect();
        if case.fault.is_none() {
            report(gone).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deployment_and_its_check_say_the_same_of_a_modules_desired_properties() {
    let machine = Machine::new();
    let r = machine.start(1);
    let edge = json!({ "capabilities": { "iotEdge": true } });
    assert_eq!(r.call("PUT", "/devices/d1", edge).await.0, StatusCode::OK);
    r.call("PUT", "/devices/d1/modules/m", json!({})).await;
    for case in twin_limits().iter().filter(|case| case.is_of("desired")) {
        let values = Value::Object(case.values.clone());
        let content = json!({ "modulesContent": { "m": { "properties.desired": values } } });
        let check = "/api/v1/validate/modules-content";
        let (_, checked) = r.call("POST", check, content.clone()).await;
        assert_eq!(checked["valid"], case.fault.is_none(), "{}: {checked}", case.text);
        let apply = "/devices/d1/applyConfigurationContent";
        let (status, answer) = r.call("POST", apply, content).await;
        let good = case.fault.is_none();
        assert_eq!(status.as_u16(), if good { 204 } else { 400 }, "{}: {answer}", case.text);
    }
}

async fn announce(r: &Running, claim: &Claim, model: Option<&str>) {
    let link = LinkKind::Mqtt { clean: false };
    let session = r.api.open(claim.clone(), link, Tick::NEVER).await.unwrap().session;
    if let Some(model) = model {
        let request = DeviceRequest::AnnounceModel(model.parse().unwrap());
        assert_eq!(ask(&*session, request, Tick::NEVER).await, Ok(Answer::Accepted));
    }
    session.close(Leave::Asked);
}

/// What the feed says of models: version and id.
async fn models(r: &Running) -> Vec<(u64, String)> {
    let feed = r.call("GET", "/api/v1/changes", Value::Null).await.1;
    let kind = Kind::name(Kind::ModelUpdated as i64);
    let all = feed["changes"].as_array().unwrap().iter();
    let models = all.filter(|change| change["kind"] == kind && change["cause"] == "device");
    let text = |change: &Value| change["body"]["modelId"].as_str().unwrap().to_owned();
    models.map(|change| (change["version"].as_u64().unwrap(), text(change))).collect()
}

#[tokio::test(start_paused = true)]
async fn the_model_a_device_announces_stands_in_its_twin_and_is_written_when_it_changes() {
    const FIRST: &str = "dtmi:com:example:Thermostat;1";
    const SECOND: &str = "dtmi:com:example:Thermostat;2";
    let machine = Machine::new();
    let mut r = machine.start(1);
    let claim = r.device("d1").await;
    let new = twin(&r).await;
    assert_eq!(new["modelId"], "");
    // The second announcement says nothing new, and who connects without one takes none back.
    for model in [Some(FIRST), Some(FIRST), None] {
        announce(&r, &claim, model).await;
        let now = twin(&r).await;
        assert_eq!((&now["modelId"], &now["etag"]), (&json!(FIRST), &new["etag"]));
        assert_eq!(now["version"].as_u64(), new["version"].as_u64().map(|it| it + 1));
    }
    let version = twin(&r).await["version"].as_u64().unwrap();
    assert_eq!(models(&r).await, [(version, FIRST.to_owned())]);
    // What a service writes leaves it alone, also where it sends the whole twin back.
    for method in ["PATCH", "PUT"] {
        let body = json!({ "modelId": "dtmi:x;1", "tags": { "a": 1 }, "properties": {} });
        let (status, answer) = r.call(method, "/twins/d1", body).await;
        assert_eq!((status, &answer["modelId"]), (StatusCode::OK, &json!(FIRST)), "{answer}");
    }
    r.kill().await;
    r = machine.start(2);
    assert_eq!(twin(&r).await["modelId"], FIRST);
    announce(&r, &claim, Some(SECOND)).await;
    assert_eq!(twin(&r).await["modelId"], SECOND);
    assert_eq!(models(&r).await.len(), 2);
    // A device of the same name is another device.
    assert_eq!(r.call("DELETE", "/devices/d1", Value::Null).await.0, StatusCode::NO_CONTENT);
    r.device("d1").await;
    assert_eq!(twin(&r).await["modelId"], "");
}
