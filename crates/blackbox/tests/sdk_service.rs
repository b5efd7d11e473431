//! A back end on the unmodified Azure service SDK for Python against the built hub, with a
//! device on the unmodified device SDK at the other end.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::Scratch;
use blackbox::script::Script;
use serde_json::{Value, json};

/// Longest wait for one call or one event.
const SOON: Duration = Duration::from_secs(30);

fn back_end(hub: &Hub, scratch: &Scratch) -> Result<Script> {
    let owner = fs::read_to_string(hub.folder().join("hub/owner.connection"))
        .context("reading the owner's connection string")?;
    let options = json!({"ca": hub.ca()}).to_string();
    Script::start("service.py", "service", scratch.path(), [options], owner.trim())
}

#[test]
fn devices_and_modules_are_managed_with_the_service_sdk() -> Result<()> {
    let scratch = Scratch::new("service")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let mut service = back_end(&hub, &scratch)?;
    let mut ask = |command: Value| service.ask(command, SOON);
    let made = ask(json!({"do": "create", "device": "d:1", "status": "enabled"}))?;
    ensure!(made["keys"] == json!([true, true]), "the hub made no keys: {made}");
    ask(json!({"do": "create", "device": "d2", "status": "disabled"}))?;
    ensure!(ask(json!({"do": "list", "most": 10}))? == json!(["d2", "d:1"]));
    ensure!(ask(json!({"do": "statistics"}))? == json!([2, 1, 1]));
    ensure!(ask(json!({"do": "get", "device": "d:1"}))?["etag"] == made["etag"]);
    let etag = made["etag"].clone();
    let off = json!({"do": "status", "device": "d:1", "etag": etag, "status": "disabled"});
    ensure!(ask(off.clone())?["status"] == "disabled");
    let module = ask(json!({"do": "create module", "device": "d2", "module": "m"}))?;
    ensure!(module == "m", "{module}");
    ensure!(ask(json!({"do": "modules", "device": "d2"}))? == json!(["m"]));
    ask(json!({"do": "delete module", "device": "d2", "module": "m"}))?;
    ensure!(ask(json!({"do": "modules", "device": "d2"}))? == json!([]));
    // What Azure refuses is refused with Azure's codes.
    for (command, code) in [
        (off, "412"),
        (json!({"do": "create", "device": "d2", "status": "enabled"}), "409"),
        (json!({"do": "create", "device": "not one", "status": "enabled"}), "400"),
        (json!({"do": "get", "device": "nobody"}), "404"),
        (json!({"do": "create module", "device": "nobody", "module": "m"}), "404"),
        (json!({"do": "method", "device": "d2", "name": "x", "payload": 1}), "404"),
    ] {
        let said = service.refusal(command.clone(), SOON)?;
        ensure!(said.contains(&format!(" {code}:")), "{command}: not {code} but {said}");
    }
    service.ask(json!({"do": "delete", "device": "d2"}), SOON)?;
    ensure!(service.ask(json!({"do": "list", "most": 10}), SOON)? == json!(["d:1"]));
    service.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_living_device_is_steered_with_the_service_sdk() -> Result<()> {
    let scratch = Scratch::new("steered")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let secret = hub.create_device("d")?;
    let mut service = back_end(&hub, &scratch)?;
    let options = json!({"ca": hub.ca()}).to_string();
    let mut device = Script::start("device.py", "d", scratch.path(), [options], &secret)?;
    device.ask(json!({"do": "listen"}), SOON)?;
    device.ask(json!({"do": "report", "patch": {"heat": 3}}), SOON)?;
    ensure!(service.ask(json!({"do": "connected"}), SOON)? == 1);
    let patch = json!({"do": "update twin", "device": "d", "desired": {"a": {"b": 1}, "c": 2},
        "tags": {"floor": 4}});
    let twin = service.ask(patch, SOON)?;
    ensure!(twin["tags"] == json!({"floor": 4}) && twin["reported"]["heat"] == 3, "{twin}");
    device.event("the change", SOON, |event| event["patch"]["a"] == json!({"b": 1}))?;
    let patch = json!({"do": "update twin", "device": "d", "desired": {"a": null},
        "etag": twin["etag"]});
    let next = service.ask(patch.clone(), SOON)?;
    ensure!(next["desired"].get("a").is_none() && next["desired"]["c"] == 2, "{next}");
    ensure!(next["tags"] == json!({"floor": 4}), "a patch took the tags: {next}");
    device.event("the deletion", SOON, |event| event["patch"]["a"].is_null())?;
    let said = service.refusal(patch, SOON)?;
    ensure!(said.contains(" 412:"), "an old etag: {said}");
    let whole = json!({"do": "replace twin", "device": "d", "desired": {"e": 5}, "tags": {}});
    let last = service.ask(whole, SOON)?;
    ensure!(last["desired"]["e"] == 5 && last["desired"].get("c").is_none(), "{last}");
    ensure!(last["tags"] == json!({}), "{last}");
    let read = service.ask(json!({"do": "twin", "device": "d"}), SOON)?;
    ensure!(read == last, "{read} is not {last}");
    let payload = json!({"now": [1, null, "ü"]});
    let call = json!({"do": "method", "device": "d", "name": "reboot", "payload": payload});
    let answer = service.ask(call, SOON)?;
    let expected = json!({"status": 207, "payload": {"heard": payload, "name": "reboot"}});
    ensure!(answer == expected, "{answer}");
    device.finish(SOON)?;
    service.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}
