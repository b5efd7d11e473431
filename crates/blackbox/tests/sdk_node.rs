//! A device and a back end on the unmodified Azure SDKs for Node.js against the built hub.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::Scratch;
use blackbox::script::Script;
use serde_json::{Value, json};

/// Longest wait for something, a new connection of the SDK included.
const PATIENCE: Duration = Duration::from_mins(1);

/// Twin, reported patch, desired notification and method, all by the SDK.
fn twin_and_method_work(hub: &Hub, device: &mut Script, round: u64) -> Result<()> {
    device.ask(json!({"do": "report", "patch": {"round": round}}), PATIENCE)?;
    let seen = hub.json(&["twin", "get", "d"])?;
    ensure!(seen["properties"]["reported"]["round"] == round, "{seen}");
    hub.run(&["twin", "set", "d", "--desired", &json!({"wanted": round}).to_string()])?;
    device.event("the desired change", PATIENCE, |event| {
        event["event"] == "desired" && event["patch"]["wanted"] == round
    })?;
    let twin = device.ask(json!({"do": "twin"}), PATIENCE)?;
    ensure!(twin["desired"]["wanted"] == round && twin["reported"]["round"] == round, "{twin}");
    let payload = json!({"round": round});
    let answer = hub.json(&["method", "d", "reboot", &payload.to_string()])?;
    let expected = json!({"heard": payload, "name": "reboot"});
    ensure!(answer["status"] == 207 && answer["payload"] == expected, "{answer}");
    Ok(())
}

#[test]
fn a_device_on_the_sdk_for_node_works_and_survives_a_killed_hub() -> Result<()> {
    let scratch = Scratch::new("node")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let secret = hub.create_device("d")?;
    let options = json!({"ca": hub.ca()}).to_string();
    let mut device = Script::start("device.js", "d", scratch.path(), [options], &secret)?;
    device.ask(json!({"do": "connect"}), PATIENCE)?;
    device.ask(
        json!({
            "do": "send", "body": "{\"temperature\": 21.5}", "message_id": "m/1 ü",
            "correlation_id": "c&1", "user_id": "u=1", "content_type": "application/json",
            "content_encoding": "utf-8", "properties": {"ümlaut": "größe 💧", "a=b&c/d": "x%20+y$"},
        }),
        PATIENCE,
    )?;
    device.ask(json!({"do": "listen"}), PATIENCE)?;
    twin_and_method_work(&hub, &mut device, 1)?;
    hub.kill()?;
    hub.start_again()?;
    device.ask(json!({"do": "send", "body": "after the kill"}), PATIENCE)?;
    twin_and_method_work(&hub, &mut device, 2)?;
    let lines = hub.run(&["-o", "jsonl", "monitor", "--from", "start", "--count", "2"])?;
    let messages: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).context("a line of monitor"))
        .collect::<Result<_>>()?;
    let (first, second) = (&messages[0], &messages[1]);
    ensure!(first["body"] == "{\"temperature\": 21.5}" && first["bodyEncoding"] == "utf-8");
    let properties = json!({"ümlaut": "größe 💧", "a=b&c/d": "x%20+y$"});
    ensure!(first["properties"] == properties, "{first}");
    for (name, value) in [
        ("messageId", "m/1 ü"),
        ("correlationId", "c&1"),
        ("userId", "u=1"),
        ("contentType", "application/json"),
        ("contentEncoding", "utf-8"),
        ("connectionDeviceId", "d"),
    ] {
        ensure!(first["systemProperties"][name] == value, "{name} in {first}");
    }
    ensure!(second["body"] == "after the kill", "{second}");
    device.finish(PATIENCE)?;
    hub.stop()?;
    scratch.passed()
}

fn back_end(hub: &Hub, scratch: &Scratch) -> Result<Script> {
    let owner = fs::read_to_string(hub.folder().join("hub/owner.connection"))
        .context("reading the owner's connection string")?;
    let ca = [hub.ca().display().to_string()];
    Script::start("service.js", "service", scratch.path(), ca, owner.trim())
}

#[test]
fn devices_modules_and_twins_are_managed_with_the_service_sdk_for_node() -> Result<()> {
    let scratch = Scratch::new("nodesvc")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let mut service = back_end(&hub, &scratch)?;
    let mut ask = |command: Value| service.ask(command, PATIENCE);
    // A surplus field of the caller's object is what suites of others send.
    let wanted = json!({"deviceId": "d", "status": "enabled", "connectionString": "HostName=x"});
    let made = ask(json!({"do": "create", "body": wanted}))?;
    ensure!(made["authentication"]["symmetricKey"]["primaryKey"].is_string(), "{made}");
    let mut off = made.clone();
    off["status"] = json!("disabled");
    ensure!(ask(json!({"do": "update", "body": off}))?["status"] == "disabled");
    ensure!(ask(json!({"do": "get", "device": "d"}))?["status"] == "disabled");
    ensure!(ask(json!({"do": "list"}))? == json!(["d"]));
    ensure!(ask(json!({"do": "statistics"}))?["totalDeviceCount"] == 1);
    let module = json!({"deviceId": "d", "moduleId": "m"});
    let module = ask(json!({"do": "create module", "body": module}))?;
    ensure!(module["moduleId"] == "m", "{module}");
    ensure!(ask(json!({"do": "update module", "body": module}))?["moduleId"] == "m");
    ensure!(ask(json!({"do": "get module", "device": "d", "module": "m"}))?["deviceId"] == "d");
    ensure!(ask(json!({"do": "modules", "device": "d"}))? == json!(["m"]));
    for target in [json!({"device": "d"}), json!({"device": "d", "module": "m"})] {
        let mut command = target.clone();
        command["do"] = json!("patch");
        command["patch"] = json!({"tags": {"a": 1}, "properties": {"desired": {"x": [1, "ü"]}}});
        let twin = ask(command.clone())?;
        ensure!(twin["properties"]["desired"]["x"] == json!([1, "ü"]), "{twin}");
        command["do"] = json!("twin");
        ensure!(ask(command)?["tags"] == json!({"a": 1}));
    }
    ask(json!({"do": "delete module", "device": "d", "module": "m"}))?;
    ask(json!({"do": "delete", "device": "d"}))?;
    for (command, expected) in [
        (json!({"do": "get", "device": "d"}), "DeviceNotFoundError"),
        (json!({"do": "create", "body": {"deviceId": "not one"}}), "400"),
    ] {
        let said = service.refusal(command.clone(), PATIENCE)?;
        ensure!(said.contains(expected), "{command}: {said}");
    }
    service.finish(PATIENCE)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_method_is_called_with_whatever_the_caller_of_the_service_sdk_for_node_wrote() -> Result<()> {
    let scratch = Scratch::new("nodecall")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let secret = hub.create_device("d")?;
    let options = json!({"ca": hub.ca()}).to_string();
    let mut device = Script::start("device.js", "d", scratch.path(), [options], &secret)?;
    device.ask(json!({"do": "connect"}), PATIENCE)?;
    device.ask(json!({"do": "listen"}), PATIENCE)?;
    let mut service = back_end(&hub, &scratch)?;
    let params = json!({"methodName": "reboot", "payload": "a line", "timeoutInSeconds": 30});
    let answer = service.ask(json!({"do": "method", "device": "d", "params": params}), PATIENCE)?;
    let expected = json!({"heard": "a line", "name": "reboot"});
    ensure!(answer["status"] == 207 && answer["payload"] == expected, "{answer}");
    device.finish(PATIENCE)?;
    service.finish(PATIENCE)?;
    hub.stop()?;
    scratch.passed()
}
