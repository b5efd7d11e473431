//! A back end and a device on the unmodified Azure SDKs for Java against the built hub.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::Scratch;
use blackbox::script::Script;
use serde_json::{Value, json};

/// Longest wait for one call or one event, a start of the virtual machine included.
const SOON: Duration = Duration::from_mins(1);

const KEY_1: &str = "MTExMTExMTExMTExMTExMQ==";
const KEY_2: &str = "MjIyMjIyMjIyMjIyMjIyMg==";

fn back_end(hub: &Hub, scratch: &Scratch) -> Result<Script> {
    let owner = fs::read_to_string(hub.folder().join("hub/owner.connection"))
        .context("reading the owner's connection string")?;
    let options = json!({"ca": hub.ca()}).to_string();
    Script::start("Service.java", "service", scratch.path(), [options], owner.trim())
}

fn refusals(service: &mut Script, cases: &[(Value, &str)]) -> Result<()> {
    for (command, expected) in cases {
        let said = service.refusal(command.clone(), SOON)?;
        ensure!(said.contains(expected), "{command}: not {expected} but {said}");
    }
    Ok(())
}

#[test]
fn every_registry_call_of_the_java_service_client_succeeds() -> Result<()> {
    let scratch = Scratch::new("javareg")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let mut service = back_end(&hub, &scratch)?;
    let mut ask = |command: Value| service.ask(command, SOON);
    let made = ask(json!({"do": "create", "device": "d1", "primaryKey": KEY_1,
        "secondaryKey": KEY_2}))?;
    ensure!(made["status"] == "Enabled" && made["primaryKey"] == KEY_1, "{made}");
    ensure!(ask(json!({"do": "get", "device": "d1"}))?["etag"] == made["etag"]);
    let off = ask(json!({"do": "update", "device": "d1", "status": "Disabled"}))?;
    ensure!(off["status"] == "Disabled" && off["secondaryKey"] == KEY_2, "{off}");
    let print = "0123456789ABCDEF0123456789ABCDEF01234567";
    let known = ask(json!({"do": "create", "device": "d2", "thumbprint": print}))?;
    ensure!(known["type"] == "SELF_SIGNED" && known["thumbprint"] == print, "{known}");
    let edge = ask(json!({"do": "create", "device": "e", "edge": true}))?;
    ensure!(edge["edge"] == true, "{edge}");
    let counted = ask(json!({"do": "statistics"}))?;
    // The SDK looks for `enableDeviceCount`, which no hub sends; the others it reads.
    ensure!(counted == json!([3, 0, 1]), "{counted}");
    let module = json!({"do": "create module", "device": "d1", "module": "m",
        "primaryKey": KEY_1, "secondaryKey": KEY_2});
    ensure!(ask(module.clone())?["moduleId"] == "m");
    ensure!(ask(json!({"do": "create module", "device": "d1", "module": "n"}))?["moduleId"] == "n");
    let swapped = json!({"do": "update module", "device": "d1", "module": "m",
        "primaryKey": KEY_2, "secondaryKey": KEY_1});
    ensure!(ask(swapped)?["primaryKey"] == KEY_2);
    let read = ask(json!({"do": "get module", "device": "d1", "module": "m"}))?;
    ensure!(read["secondaryKey"] == KEY_1, "{read}");
    ensure!(ask(json!({"do": "modules", "device": "d1"}))? == json!(["m", "n"]));
    ask(json!({"do": "delete module", "device": "d1", "module": "n"}))?;
    ensure!(ask(json!({"do": "modules", "device": "d1"}))? == json!(["m"]));
    ask(json!({"do": "delete", "device": "d2"}))?;
    ask(json!({"do": "delete as read", "device": "e"}))?;
    let again = json!({"do": "create", "device": "d1"});
    refusals(
        &mut service,
        &[
            (again, "IotHubConflictException"),
            (module, "IotHubConflictException"),
            (json!({"do": "get", "device": "nobody"}), "IotHubNotFoundException"),
            (json!({"do": "get module", "device": "d1", "module": "x"}), "IotHubNotFoundException"),
            (json!({"do": "create", "device": "not one"}), "IotHubBadFormatException"),
            (json!({"do": "delete", "device": "d2"}), "IotHubNotFoundException"),
        ],
    )?;
    service.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn every_twin_call_of_the_java_service_client_succeeds() -> Result<()> {
    let scratch = Scratch::new("javatwin")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let mut service = back_end(&hub, &scratch)?;
    service.ask(json!({"do": "create", "device": "d"}), SOON)?;
    service.ask(json!({"do": "create module", "device": "d", "module": "m"}), SOON)?;
    for target in [json!({"device": "d"}), json!({"device": "d", "module": "m"})] {
        let with = |extra: Value| {
            let mut command = target.clone();
            for (name, value) in extra.as_object().into_iter().flatten() {
                command[name] = value.clone();
            }
            command
        };
        let first = with(json!({"do": "patch", "tags": {"keep": "a"},
            "desired": {"x": {"y": [1, 2]}, "z": true}}));
        let twin = service.ask(first, SOON)?;
        ensure!(twin["tags"]["keep"] == "a" && twin["desired"]["z"] == true, "{twin}");
        let second = with(json!({"do": "patch", "desired": {"z": null, "n": "ü"},
            "etag": twin["etag"]}));
        let next = service.ask(second.clone(), SOON)?;
        ensure!(next["tags"]["keep"] == "a" && next["desired"]["n"] == "ü", "{next}");
        ensure!(next["desired"].get("z").is_none(), "{next}");
        refusals(&mut service, &[(second, "IotHubPreconditionFailedException")])?;
        let whole = with(json!({"do": "replace", "tags": {"only": "b"}, "etag": next["etag"]}));
        let last = service.ask(whole, SOON)?;
        ensure!(last["tags"]["only"] == "b" && last["tags"].get("keep").is_none(), "{last}");
        ensure!(last["desired"].get("n").is_none(), "{last}");
        let whole = with(json!({"do": "replace", "desired": {"o": "c"}}));
        ensure!(service.ask(whole, SOON)?["desired"]["o"] == "c");
        let read = service.ask(with(json!({"do": "twin"})), SOON)?;
        ensure!(read["desired"]["o"] == "c" && read["moduleId"] == target["module"], "{read}");
    }
    refusals(
        &mut service,
        &[
            (json!({"do": "twin", "device": "nobody"}), "IotHubNotFoundException"),
            (json!({"do": "patch", "device": "d", "desired": {"a.b": 1}}), "Exception"),
        ],
    )?;
    service.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_device_on_the_sdk_for_java_is_steered_with_the_service_sdk_for_java() -> Result<()> {
    let scratch = Scratch::new("java")?;
    let mut hub = Hub::start(scratch.path(), Door::Service)?;
    let secret = hub.create_device("d")?;
    let mut service = back_end(&hub, &scratch)?;
    let options = json!({"ca": hub.ca()}).to_string();
    let mut device = Script::start("Device.java", "d", scratch.path(), [options], &secret)?;
    device.ask(json!({"do": "connect"}), SOON)?;
    let message = json!({"do": "send", "body": "{\"heat\": 21.5}", "message_id": "m 1",
        "content_type": "application/json", "content_encoding": "utf-8",
        "properties": {"level": "a&b=c"}});
    device.ask(message, SOON)?;
    let line = hub.run(&["-o", "jsonl", "monitor", "--from", "start", "--count", "1"])?;
    let seen: Value = serde_json::from_str(line.trim()).context("a line of monitor")?;
    ensure!(seen["body"] == "{\"heat\": 21.5}", "{seen}");
    ensure!(seen["properties"]["level"] == "a&b=c", "{seen}");
    ensure!(seen["systemProperties"]["messageId"] == "m 1", "{seen}");
    ensure!(seen["systemProperties"]["contentType"] == "application/json", "{seen}");
    device.ask(json!({"do": "listen"}), SOON)?;
    device.ask(json!({"do": "report", "patch": {"state": "warm"}}), SOON)?;
    let patch = json!({"do": "patch", "device": "d", "desired": {"wanted": "hot"}});
    let twin = service.ask(patch, SOON)?;
    ensure!(twin["reported"]["state"] == "warm", "{twin}");
    device.event("the desired change", SOON, |event| event["patch"]["wanted"] == "hot")?;
    let twin = device.ask(json!({"do": "twin"}), SOON)?;
    ensure!(twin["reported"]["state"] == "warm", "{twin}");
    ensure!(twin["desired"]["wanted"] == "hot", "{twin}");
    let payload = json!({"now": ["a", null, "ü"]});
    let call = json!({"do": "method", "device": "d", "name": "reboot", "payload": payload});
    let answer = service.ask(call, SOON)?;
    let expected = json!({"status": 207, "payload": {"heard": payload, "name": "reboot"}});
    ensure!(answer == expected, "{answer}");
    device.finish(SOON)?;
    let call = json!({"do": "method", "device": "d", "name": "reboot", "payload": 1});
    refusals(&mut service, &[(call, "IotHubNotFoundException")])?;
    service.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}
