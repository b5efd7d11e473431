//! A device on the unmodified Azure SDK for Node.js against the built hub.

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
