//! Clients that are not who they say or break the protocol: refused as Azure refuses them,
//! at once, and without harm to others.

use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::script::Script;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

const ACCEPTED: &str = "20020000";
const WRONG_VERSION: &str = "20020001";
const NOT_AUTHORIZED: &str = "20020005";
/// The answer to a PINGREQ: the connection is still good.
const ALIVE: &str = "d000";
const PUBACK: &str = "40020001";
const EVENTS: &str = "devices/{d}/messages/events/";
/// Quality of service in the flags of a PUBLISH.
const QOS0: u8 = 0;
const QOS1: u8 = 2;
const QOS2: u8 = 4;

/// One line: what it is, the CONNECT, what follows it, and all that the hub may answer.
type Case<'c> = (&'c str, Value, Value, &'c [&'c str]);

fn check_all(script: &mut Script, cases: &[Case<'_>]) -> Result<()> {
    let mut faults = Vec::new();
    for (name, connect, steps, wanted) in cases {
        let mut command = json!({"do": "attempt", "connect": connect, "steps": steps});
        if let Some((&ALIVE, answers)) = wanted.split_last() {
            command["answers"] = json!(answers.len());
        }
        let answer = match script.ask(command, SOON) {
            Ok(answer) => answer,
            Err(error) => {
                faults.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        if answer != json!(wanted) {
            faults.push(format!("{name}: answered {answer}, not {wanted:?}"));
        }
    }
    println!("hostile: {} of {} cases as expected", cases.len() - faults.len(), cases.len());
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn stranger(hub: &Hub, scratch: &Scratch) -> Result<Script> {
    let secret = hub.create_device("d")?;
    let options = json!({"port": MQTT_PORT, "ca": hub.ca()}).to_string();
    Script::start("stranger.py", "stranger", scratch.path(), [options], &secret)
}

#[test]
fn only_a_proven_identity_gets_a_session() -> Result<()> {
    let scratch = Scratch::new("connect")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut script = stranger(&hub, &scratch)?;
    hub.create_device("other")?;
    let host = hub.address().to_string();
    let none = json!([]);
    let refused = &[NOT_AUTHORIZED][..];
    let wrong_key = "d3JvbmcgLSB3cm9uZyAtIHdyb25nIC0gd3Jvbmc=";
    let cases = [
        ("the right token", json!({}), none.clone(), &[ACCEPTED, ALIVE][..]),
        ("a wrong key", json!({"key": wrong_key}), none.clone(), refused),
        ("an expired token", json!({"seconds": -3600}), none.clone(), refused),
        (
            "another device's resource",
            json!({"resource": format!("{host}/devices/other")}),
            none.clone(),
            refused,
        ),
        ("a longer name", json!({"resource": format!("{host}/devices/dd")}), none.clone(), refused),
        (
            "another hub's resource",
            json!({"resource": "hub.example/devices/d"}),
            none.clone(),
            refused,
        ),
        (
            "own token, other identity",
            json!({"user": format!("{host}/other"), "client": "other"}),
            none.clone(),
            refused,
        ),
        ("an unknown device", json!({"device": "nobody"}), none.clone(), refused),
        ("no password", json!({"password": null}), none.clone(), refused),
        ("no token", json!({"password": "secret"}), none.clone(), refused),
        ("another client id", json!({"client": "other"}), none.clone(), refused),
        ("no client id", json!({"client": ""}), none.clone(), refused),
        ("no user name", json!({"user": ""}), none.clone(), refused),
        ("MQTT 5", json!({"level": 5}), none.clone(), &[WRONG_VERSION][..]),
        ("an HTTP request", json!("474554202f20485454502f312e310d0a0d0a"), none.clone(), &[]),
        ("a PINGREQ first", json!("c000"), none.clone(), &[]),
        ("a length without end", json!("10ffffffffff"), none.clone(), &[]),
    ];
    check_all(&mut script, &cases)?;
    script.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_client_that_breaks_the_protocol_loses_its_connection_and_nothing_else() -> Result<()> {
    let scratch = Scratch::new("hostile")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut script = stranger(&hub, &scratch)?;
    let closed = &[ACCEPTED][..];
    let good = |steps: Value, answers: &'static [&'static str]| (json!({}), steps, answers);
    let bad = |steps: Value| (json!({}), steps, closed);
    let cases = [
        ("QoS 0", good(json!([["publish", EVENTS, QOS0, 0]]), &[ACCEPTED, ALIVE])),
        ("QoS 1", good(json!([["publish", EVENTS, QOS1, 9]]), &[ACCEPTED, PUBACK, ALIVE])),
        (
            "the largest message",
            good(json!([["publish", EVENTS, QOS1, 262_144]]), &[ACCEPTED, PUBACK, ALIVE]),
        ),
        (
            "a foreign filter",
            good(json!([["subscribe", "devices/other/#", 1]]), &[ACCEPTED, "9003000780", ALIVE]),
        ),
        ("everything", good(json!([["subscribe", "#", 1]]), &[ACCEPTED, "9003000780", ALIVE])),
        (
            "methods",
            good(
                json!([["subscribe", "$iothub/methods/POST/#", 0]]),
                &[ACCEPTED, "9003000700", ALIVE],
            ),
        ),
        ("a larger message", bad(json!([["publish", EVENTS, QOS1, 262_145]]))),
        ("QoS 2", bad(json!([["publish", EVENTS, QOS2, 1]]))),
        ("QoS 3", bad(json!([["publish", EVENTS, 6, 1]]))),
        ("a foreign topic", bad(json!([["publish", "devices/other/messages/events/", QOS1, 1]]))),
        ("a topic of nobody", bad(json!([["publish", "weather", QOS1, 1]]))),
        (
            "a broken property",
            good(
                json!([["publish", "devices/{d}/messages/events/a=%zz", QOS1, 1]]),
                &[ACCEPTED, PUBACK, ALIVE],
            ),
        ),
        ("a second CONNECT", bad(json!([["connect"]]))),
        ("a length without end", bad(json!([["raw", "30ffffffffff"]]))),
        ("256 MB announced", bad(json!([["raw", "30ffffff7f"]]))),
        ("a topic that is no UTF-8", bad(json!([["raw", "30050003fffefd"]]))),
        ("a topic longer than its packet", bad(json!([["raw", "3003004061"]]))),
        ("a SUBSCRIBE without filters", bad(json!([["raw", "82020007"]]))),
        ("a packet of the server", bad(json!([["raw", "20020000"]]))),
        ("a packet of no type", bad(json!([["raw", "0000"]]))),
    ];
    let cases: Vec<Case<'_>> = cases
        .into_iter()
        .map(|(name, (connect, steps, answers))| (name, connect, steps, answers))
        .collect();
    check_all(&mut script, &cases)?;
    // What was refused left no trace, and what was good is there, with a
    // property that nobody can read too: lengths 0, 9, 262144 and 1.
    let log = hub.run(&["-o", "jsonl", "monitor", "--from", "start", "--count", "4"])?;
    let lengths: Vec<usize> = log
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["body"].as_str().map_or(0, str::len)))
        .collect::<Result<_>>()?;
    ensure!(lengths == [0, 9, 262_144, 1], "{lengths:?}");
    script.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_second_connection_of_an_identity_ends_the_first() -> Result<()> {
    let scratch = Scratch::new("takeover")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut script = stranger(&hub, &scratch)?;
    for _ in 0..20 {
        let heard = script.ask(json!({"do": "take_over"}), SOON)?;
        ensure!(heard == json!([ACCEPTED, ACCEPTED, "", ALIVE]), "{heard}");
    }
    script.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}
