//! A device on the unmodified Azure SDK for Python against the built hub.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::proxy::{Cut, Proxy};
use blackbox::script::Script;
use blackbox::seed::Seed;
use blackbox::wait;
use serde_json::{Value, json};

/// Longest wait for something that needs no new connection.
const SOON: Duration = Duration::from_secs(20);
/// A death of the SDK's network thread that comes later than this after a cut has another cause.
const DEATH_AFTER_CUT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for something that needs one: the SDK tries again every 10 s.
const RECONNECT: Duration = Duration::from_mins(1);

fn device(hub: &Hub, scratch: &Scratch, name: &str, mut options: Value) -> Result<Script> {
    let secret = hub.create_device(name)?;
    options["ca"] = json!(hub.ca());
    Script::start("device.py", name, scratch.path(), [options.to_string()], &secret)
}

/// The first `count` messages of `device` in the hub's log, by the command line.
fn telemetry(hub: &Hub, device: &str, count: usize) -> Result<Vec<Value>> {
    let count = count.to_string();
    let args = ["-o", "jsonl", "monitor", "--from", "start", "-d", device, "--count", &count];
    let lines = hub.run(&args)?;
    lines.lines().map(|line| serde_json::from_str(line).context("a line of monitor")).collect()
}

/// Sets `counter` in the desired properties and waits until the device was told.
fn desired_arrives(hub: &Hub, device: &mut Script, name: &str, counter: u64) -> Result<()> {
    let patch = json!({"counter": counter}).to_string();
    hub.run(&["twin", "set", name, "--desired", &patch])?;
    device.event("the desired change", SOON, |event| {
        event["event"] == "desired" && event["patch"]["counter"] == counter
    })?;
    Ok(())
}

fn method_is_answered(hub: &Hub, device: &mut Script, name: &str, payload: &Value) -> Result<()> {
    let answer = hub.json(&["method", name, "reboot", &payload.to_string()])?;
    ensure!(answer["status"] == 207, "{answer}");
    ensure!(answer["payload"] == json!({"heard": payload, "name": "reboot"}), "{answer}");
    let call = device.event_of("method", SOON)?;
    ensure!(call["name"] == "reboot" && call["payload"] == *payload, "{call}");
    Ok(())
}

/// Twin read, reported patch, desired notification, method and telemetry, all by the SDK.
fn everything_works(hub: &Hub, device: &mut Script, name: &str, round: u64) -> Result<()> {
    device.ask(json!({"do": "report", "patch": {"round": round}}), RECONNECT)?;
    let twin = device.ask(json!({"do": "twin"}), SOON)?;
    ensure!(twin["reported"]["round"] == round, "round {round}: the device reads {twin}");
    let seen = hub.json(&["twin", "get", name])?;
    ensure!(seen["properties"]["reported"]["round"] == round, "round {round}: {seen}");
    desired_arrives(hub, device, name, round)?;
    method_is_answered(hub, device, name, &json!({"round": round}))?;
    device.ask(json!({"do": "send", "body": format!("round {round}")}), SOON)?;
    Ok(())
}

fn subscribes(hub: &Hub, name: &str) -> Result<usize> {
    hub.logged(name, "subscribe")
}

#[test]
fn telemetry_of_the_sdk_arrives_with_body_and_all_properties_unchanged() -> Result<()> {
    let scratch = Scratch::new("telemetry")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut device = device(&hub, &scratch, "Sensor-1.a:b_c", json!({}))?;
    let properties = json!({
        "plain": "value", "blank key": "a value", "ümlaut": "größe 💧",
        "reserved": "a=b&c/d?e#f%20+g$", "empty": "",
    });
    device.ask(
        json!({
            "do": "send", "body": "{\"temperature\": 21.5}", "message_id": "m/1 ü",
            "correlation_id": "c&1", "user_id": "u=1", "content_type": "application/json",
            "content_encoding": "utf-8", "properties": properties,
        }),
        SOON,
    )?;
    device.ask(json!({"do": "send", "body_base64": "AP/+gGE="}), SOON)?;
    let messages = telemetry(&hub, "Sensor-1.a:b_c", 2)?;
    let (first, second) = (&messages[0], &messages[1]);
    ensure!(first["deviceId"] == "Sensor-1.a:b_c", "{first}");
    ensure!(first["body"] == "{\"temperature\": 21.5}", "{first}");
    ensure!(first["bodyEncoding"] == "utf-8", "{first}");
    ensure!(first["properties"] == properties, "{first}");
    for (name, value) in [
        ("messageId", "m/1 ü"),
        ("correlationId", "c&1"),
        ("userId", "u=1"),
        ("contentType", "application/json"),
        ("contentEncoding", "utf-8"),
        ("connectionDeviceId", "Sensor-1.a:b_c"),
    ] {
        ensure!(first["systemProperties"][name] == value, "{name} in {first}");
    }
    ensure!(second["body"] == "AP/+gGE=" && second["bodyEncoding"] == "base64", "{second}");
    device.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn twin_and_methods_work_with_the_sdk() -> Result<()> {
    let scratch = Scratch::new("twin")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut device = device(&hub, &scratch, "d", json!({}))?;
    let before = hub.json(&["method", "d", "reboot"]);
    ensure!(before.is_err(), "a method of a device that is away was answered: {before:?}");
    hub.run(&["twin", "set", "d", "--desired", r#"{"a":{"b":1,"c":2}}"#, "--tags", r#"{"t":1}"#])?;
    device.ask(json!({"do": "listen"}), SOON)?;
    let twin = device.ask(json!({"do": "twin"}), SOON)?;
    ensure!(twin["desired"]["a"] == json!({"b": 1, "c": 2}), "{twin}");
    ensure!(twin["desired"]["$version"] == 2, "{twin}");
    ensure!(twin.get("tags").is_none(), "a device must not see tags: {twin}");
    everything_works(&hub, &mut device, "d", 1)?;
    // A null deletes, and the device is told so.
    hub.run(&["twin", "set", "d", "--desired", r#"{"a":{"b":null}}"#])?;
    let told = device.event("the deletion", SOON, |event| event["patch"]["a"].is_object())?;
    ensure!(told["patch"]["a"] == json!({"b": null}), "{told}");
    let seen = hub.json(&["twin", "get", "d"])?;
    ensure!(seen["properties"]["desired"]["a"] == json!({"c": 2}), "{seen}");
    ensure!(seen["tags"] == json!({"t": 1}), "{seen}");
    device.ask(json!({"do": "report", "patch": {"round": null, "x": [1, {"y": "z"}]}}), SOON)?;
    let seen = hub.json(&["twin", "get", "d"])?;
    ensure!(seen["properties"]["reported"].get("round").is_none(), "{seen}");
    device.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

/// The connection is cut beneath the living client, again and again, and across kills of the
/// hub. The client believes in its subscriptions and never subscribes again; the hub must too.
#[test]
fn a_cut_connection_and_a_killed_hub_leave_subscriptions_as_they_were() -> Result<()> {
    let scratch = Scratch::new("cut")?;
    let mut hub = Hub::start(scratch.path(), Door::Behind)?;
    let front = SocketAddr::from((hub.address(), MQTT_PORT));
    let proxy = Proxy::start(front, hub.mqtt()?)?;
    let mut device = device(&hub, &scratch, "d", json!({}))?;
    device.ask(json!({"do": "listen"}), SOON)?;
    everything_works(&hub, &mut device, "d", 1)?;
    let subscribed = subscribes(&hub, "d")?;
    ensure!(subscribed > 0, "the hub's log shows no SUBSCRIBE, so it can prove nothing");
    let faults = ["end", "reset", "away", "kill", "end", "kill"];
    for (fault, round) in faults.into_iter().zip(2..) {
        device.forget("connected")?;
        let opened = hub.logged("d", "resumed=true")?;
        fault_strikes(fault, round, &mut hub, &proxy)?;
        device.event_of("connected", RECONNECT).with_context(|| format!("after {fault}"))?;
        if fault == "away" {
            device
                .event("what was missed while away", SOON, |event| {
                    event["event"] == "desired" && event["patch"]["missed"] == round
                })
                .context("a desired change made while the device was away")?;
        }
        everything_works(&hub, &mut device, "d", round)
            .with_context(|| format!("after {fault}"))?;
        ensure!(hub.logged("d", "resumed=true")? > opened, "{fault}: the session did not resume");
        let now = subscribes(&hub, "d")?;
        ensure!(now == subscribed, "{fault}: {} SUBSCRIBE came", now - subscribed);
    }
    let rounds = u64::try_from(faults.len())? + 1;
    let bodies: Vec<Value> = telemetry(&hub, "d", faults.len() + 1)?
        .into_iter()
        .map(|mut message| message["body"].take())
        .collect();
    let wanted: Vec<Value> = (1..=rounds).map(|round| json!(format!("round {round}"))).collect();
    ensure!(bodies == wanted, "{bodies:?}");
    device.finish(SOON)?;
    scratch.passed()
}

/// Nothing that the SDK reports as sent may be missing, although its connection is cut at
/// times from a seed while it sends, in order or by a reset; order per sender holds for first
/// copies. A network thread that dies of the SDK's own fault is a crash of the application: its
/// process is started again, and all that was reported as sent must still be there.
/// Connections are counted: one at the start, one for each cut, one for each death; a client that
/// reconnects for any other reason met a fault of ours.
#[test]
fn what_the_sdk_sends_while_its_connection_is_cut_arrives_in_order() -> Result<()> {
    const MESSAGES: u64 = 400;
    const CUTS: u64 = 8;
    let scratch = Scratch::new("cut-sending")?;
    let mut seed = Seed::announced("cut_sending");
    let mut hub = Hub::start(scratch.path(), Door::Behind)?;
    let front = SocketAddr::from((hub.address(), MQTT_PORT));
    let proxy = Proxy::start(front, hub.mqtt()?)?;
    let cuts: VecDeque<(u64, Cut)> = (1..=CUTS)
        .map(|cut| {
            let how = if seed.below(2) == 0 { Cut::End } else { Cut::Reset };
            (cut * MESSAGES / (CUTS + 1) + seed.below(10), how)
        })
        .collect();
    let secret = hub.create_device("d")?;
    let sender = || {
        let options = [json!({"ca": hub.ca()}).to_string()];
        Script::start("device.py", "d", scratch.path(), options, &secret)
    };
    let (mut device, deaths) = send_under_cuts(MESSAGES, cuts, &proxy, sender)?;
    device.ask(json!({"do": "send", "body": "end"}), SOON)?;
    ensure!(2 * deaths <= CUTS, "{deaths} deaths over {CUTS} cuts are more than half");
    let connections = proxy.forwarded();
    // Whether the SDK had begun to connect again before its thread died is its own affair.
    ensure!(
        (1 + CUTS..=1 + CUTS + deaths).contains(&connections),
        "{connections} connections over {CUTS} cuts and {deaths} deaths"
    );
    let mut firsts: Vec<u64> = Vec::new();
    let mut repeats = 0;
    for message in until_end(&hub, "d")? {
        let number: u64 = message.parse()?;
        if firsts.contains(&number) {
            repeats += 1;
        } else {
            firsts.push(number);
        }
    }
    ensure!(firsts == (1..=MESSAGES).collect::<Vec<u64>>(), "first copies: {firsts:?}");
    // One in flight, and one that the SDK kept although it told us that it could not send it.
    ensure!(repeats <= 2 * CUTS, "{repeats} repeats over {CUTS} cuts");
    println!(
        "cut_sending: {MESSAGES} messages over {CUTS} cuts, {connections} connections, {repeats} \
         repeats, {deaths} deaths of the SDK's network thread"
    );
    device.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

/// The control of the test above: where nothing is cut, the SDK keeps its one connection, and
/// nothing comes twice.
#[test]
fn what_the_sdk_sends_without_a_cut_needs_one_connection_and_comes_once() -> Result<()> {
    const MESSAGES: u64 = 400;
    let scratch = Scratch::new("uncut-sending")?;
    let mut hub = Hub::start(scratch.path(), Door::Behind)?;
    let front = SocketAddr::from((hub.address(), MQTT_PORT));
    let proxy = Proxy::start(front, hub.mqtt()?)?;
    let secret = hub.create_device("d")?;
    let sender = || {
        let options = [json!({"ca": hub.ca()}).to_string()];
        Script::start("device.py", "d", scratch.path(), options, &secret)
    };
    let (mut device, deaths) = send_under_cuts(MESSAGES, VecDeque::new(), &proxy, sender)?;
    device.ask(json!({"do": "send", "body": "end"}), SOON)?;
    let bodies = until_end(&hub, "d")?;
    let expected: Vec<String> = (1..=MESSAGES).map(|number| number.to_string()).collect();
    ensure!(bodies == expected, "{bodies:?}");
    ensure!(deaths == 0 && proxy.forwarded() == 1, "{} connections", proxy.forwarded());
    device.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

/// Lets a client send the numbers 1 to `last` one by one, and cuts its connection when the
/// number of a cut was sent. Gives the client, and how often it had to be started again.
fn send_under_cuts(
    last: u64,
    mut cuts: VecDeque<(u64, Cut)>,
    proxy: &Proxy,
    start: impl Fn() -> Result<Script>,
) -> Result<(Script, u64)> {
    let (mut sent, mut deaths) = (0, 0);
    let mut latest: Option<(Cut, Instant)> = None;
    let mut device = start()?;
    loop {
        device.ask(json!({"do": "connect"}), SOON)?;
        let all = device.tell(json!({"do": "send_many", "first": sent + 1, "last": last}))?;
        let died = loop {
            let event = device.event("news of the messages", RECONNECT, |_| true)?;
            if event["id"].as_u64() == Some(all) {
                ensure!(event["event"] == "done", "{event}");
                break false;
            }
            match event["event"].as_str() {
                Some("sent") => sent = event["number"].as_u64().context("no number")?,
                Some("thread_died") => {
                    // paho-mqtt 1.6, beneath the SDK, does not expect the end of TCP in the
                    // moment of its own write, which Python calls an SSLEOFError, now and then
                    // after a reset too: its thread dies, and the SDK never sends again, whatever
                    // a server does.
                    let own = event["error"] == "SSLEOFError" && event["by_paho"] == true;
                    let soon = latest.is_some_and(|(_, at)| at.elapsed() <= DEATH_AFTER_CUT_MAX);
                    ensure!(own && soon, "after {latest:?}: {event}");
                    break true;
                }
                _ => {}
            }
            if let Some((_, how)) = cuts.pop_front_if(|(at, _)| *at <= sent) {
                ensure!(proxy.cut(how) > 0, "after {sent}: there was nothing to cut");
                latest = Some((how, Instant::now()));
            }
        };
        if !died {
            ensure!(cuts.is_empty(), "{cuts:?} were not made");
            return Ok((device, deaths));
        }
        // What it had reported as sent counts, also if we read it only now.
        while let Ok(event) = device.event_of("sent", Duration::ZERO) {
            sent = event["number"].as_u64().context("no number")?;
        }
        deaths += 1;
        // One cut explains one death.
        latest = None;
        drop(device);
        device = start()?;
    }
}

/// The bodies of `device` before its message "end", read in two goes by the printed cursor.
fn until_end(hub: &Hub, device: &str) -> Result<Vec<String>> {
    let mut bodies = Vec::new();
    let mut from = "start".to_owned();
    loop {
        let args = ["-o", "jsonl", "monitor", "-d", device, "--from", &from, "--count", "1"];
        let mut command = hub.command(&args)?;
        if !bodies.is_empty() {
            // The rest in one go: its end is known by its body, its length is not.
            command = hub.command(&args[..args.len() - 2])?;
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        for line in output.lines() {
            let mut message: Value = serde_json::from_str(&line?)?;
            let body = message["body"].take();
            let body = body.as_str().context("no body")?;
            if body == "end" {
                child.kill()?;
                child.wait()?;
                return Ok(bodies);
            }
            bodies.push(body.to_owned());
        }
        let done = child.wait_with_output()?;
        let said = String::from_utf8(done.stderr)?;
        let cursor = said.split("--from ").nth(1).context("no cursor was printed")?;
        cursor.trim().clone_into(&mut from);
    }
}

fn fault_strikes(fault: &str, round: u64, hub: &mut Hub, proxy: &Proxy) -> Result<()> {
    if fault == "kill" {
        hub.kill()?;
        hub.start_again()?;
        proxy.point_to(hub.mqtt()?);
        return Ok(());
    }
    proxy.close();
    let how = if fault == "reset" { Cut::Reset } else { Cut::End };
    ensure!(proxy.cut(how) > 0, "there was nothing to cut");
    if fault == "away" {
        let patch = json!({"missed": round}).to_string();
        hub.run(&["twin", "set", "d", "--desired", &patch])?;
    }
    proxy.open();
    Ok(())
}

/// The SDK renews its token 120 s before the end, so 125 s of life mean a renewal every 5 s;
/// it disconnects and connects again with the new token.
#[test]
fn token_renewal_keeps_the_session_and_its_subscriptions() -> Result<()> {
    const RENEWALS: usize = 3;
    let scratch = Scratch::new("renewal")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut device = device(&hub, &scratch, "d", json!({"sastoken_ttl": 125}))?;
    device.ask(json!({"do": "listen"}), SOON)?;
    everything_works(&hub, &mut device, "d", 1)?;
    let subscribed = subscribes(&hub, "d")?;
    ensure!(subscribed > 0, "the hub's log shows no SUBSCRIBE, so it can prove nothing");
    let opened = hub.logged("d", "session open")?;
    wait::until("the token to be renewed", RECONNECT, || {
        hub.running()?;
        Ok((hub.logged("d", "session open")? >= opened + RENEWALS).then_some(()))
    })?;
    everything_works(&hub, &mut device, "d", 2)?;
    ensure!(subscribes(&hub, "d")? == subscribed, "a renewal made the client subscribe");
    device.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_device_that_is_wrong_or_was_removed_is_refused_and_the_sdk_does_not_go_on() -> Result<()> {
    let scratch = Scratch::new("refused")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let right = hub.create_device("d")?;
    let other = hub.create_device("other")?;
    let (_, other_key) = other.split_once("SharedAccessKey=").context("no key")?;
    let (head, _) = right.split_once("SharedAccessKey=").context("no key")?;
    let options = json!({"ca": hub.ca()}).to_string();
    for (name, secret) in [
        ("another's key", format!("{head}SharedAccessKey={other_key}")),
        ("an unknown device", right.replace("DeviceId=d", "DeviceId=nobody")),
    ] {
        let args = [options.clone()];
        let mut script = Script::start("device.py", "wrong", scratch.path(), args, &secret)?;
        let said = script.refusal(json!({"do": "connect"}), SOON).context(name)?;
        ensure!(said.starts_with("CredentialError"), "{name}: the SDK says {said}");
    }
    let args = [options];
    let mut device = Script::start("device.py", "d", scratch.path(), args, &right)?;
    device.ask(json!({"do": "connect"}), SOON)?;
    device.ask(json!({"do": "send", "body": "before"}), SOON)?;
    hub.run(&["device", "delete", "d", "--yes"])?;
    device.event_of("disconnected", SOON).context("after its removal")?;
    drop(device);
    hub.stop()?;
    scratch.passed()
}

#[test]
fn the_most_talkative_log_of_the_hub_holds_no_credential() -> Result<()> {
    let scratch = Scratch::new("talkative")?;
    let mut hub = Hub::start_with_log(scratch.path(), Door::Stock, "trace")?;
    let mut device = device(&hub, &scratch, "d", json!({}))?;
    device.ask(json!({"do": "listen"}), SOON)?;
    everything_works(&hub, &mut device, "d", 1)?;
    device.finish(SOON)?;
    let text = hub.run(&["device", "connection-string", "d"])?;
    let owner = std::fs::read_to_string(hub.folder().join("hub/owner.connection"))?;
    hub.stop()?;
    let log = hub.log()?;
    ensure!(log.lines().count() > 100, "the log is not talkative, so it proves nothing");
    for secret in [text.trim(), owner.trim()] {
        let (_, key) = secret.split_once("SharedAccessKey=").context("no key")?;
        ensure!(!log.contains(key), "a key is in the log");
    }
    for word in ["SharedAccessSignature", "sig=", "PRIVATE KEY"] {
        let line = log.lines().find(|line| line.contains(word));
        ensure!(line.is_none(), "{word} is in the log: {line:?}");
    }
    scratch.passed()
}
