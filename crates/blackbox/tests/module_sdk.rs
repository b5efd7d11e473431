//! A module on the unmodified Azure SDK for Python, in a container, between a sensor and the
//! hub.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::edge::{Edge, Options};
use blackbox::hub::{Door, Hub};
use blackbox::wait;
use serde_json::{Value, json};

/// Longest wait for something that the module does; Python starts slowly in a fresh container.
const SOON: Duration = Duration::from_secs(40);
/// The device.
const DEVICE: &str = "edge1";
/// The module on the stock SDK.
const MODULE: &str = "answerer";

fn module(image: &str, host_config: &Value) -> Value {
    let options = json!({ "HostConfig": host_config }).to_string();
    json!({
        "type": "docker", "status": "running", "restartPolicy": "always",
        "settings": { "image": image, "createOptions": options },
    })
}

fn pipeline(edge: &Edge, hub: &Hub) -> Result<()> {
    let sensor = json!({ "NetworkMode": "host", "Binds": ["/proc:/host/proc:ro"] });
    let mut sensor = module("selvedge/host-sensor:0.1.0", &sensor);
    sensor["env"] = json!({ "HOST_PROC": { "value": "/host/proc" } });
    // On the bridge, as nearly all of Azure's modules are.
    let answerer = module("selvedge/sdk-module:test", &json!({}));
    let modules = json!({ "host-sensor": sensor, MODULE: answerer });
    let into = format!("INTO BrokeredEndpoint(\"/modules/{MODULE}/inputs/readings\")");
    let routes = json!({
        "up": "FROM /messages/modules/host-sensor/* INTO $upstream",
        "over": format!("FROM /messages/modules/host-sensor/outputs/readings {into}"),
        "answers": format!("FROM /messages/modules/{MODULE}/outputs/answers INTO $upstream"),
    });
    edge.set_modules(hub, &modules, &routes)
}

/// The first `count` messages in the hub's log.
fn telemetry(hub: &Hub, count: usize) -> Result<Vec<Value>> {
    let count = count.to_string();
    let lines = hub.run(&["-o", "jsonl", "monitor", "--from", "start", "--count", &count])?;
    lines.lines().map(|line| serde_json::from_str(line).context("a line of monitor")).collect()
}

fn body(message: &Value) -> Result<Value> {
    serde_json::from_str(message["body"].as_str().context("a body")?).context("a JSON body")
}

fn reported(hub: &Hub, path: &str, what: &str) -> Result<Value> {
    wait::until(what, SOON, || {
        let twin = hub.json(&["twin", "get", DEVICE, "-m", MODULE])?;
        Ok(twin.pointer(&format!("/properties/reported{path}")).cloned())
    })
}

/// What the module answered, each beside the reading it answers.
fn answers_follow_readings(messages: &[Value]) -> Result<usize> {
    let mut answers = 0;
    for message in messages.iter().filter(|message| message["moduleId"] == MODULE) {
        let system = &message["systemProperties"];
        ensure!(system["connectionModuleId"] == MODULE, "{message}");
        ensure!(system["connectionDeviceId"] == DEVICE, "{message}");
        ensure!(system["outputName"] == "answers", "{message}");
        ensure!(message["properties"]["input"] == "readings", "{message}");
        let said = body(message)?;
        let mut readings = messages.iter().filter(|one| one["moduleId"] == "host-sensor");
        let is_answered = |reading: &Value| {
            body(reading)
                .is_ok_and(|read| read["seq"] == said["answerTo"] && read["run"] == said["run"])
        };
        ensure!(readings.any(is_answered), "no reading has the number of {message}");
        ensure!(said["answerTo"].is_u64(), "{message}");
        answers += 1;
    }
    Ok(answers)
}

#[test]
fn a_module_on_the_stock_sdk_answers_readings_and_uses_twin_and_method() -> Result<()> {
    // Short, because paths of Unix sockets are; the clone may lie anywhere.
    let scratch = tempfile::Builder::new().prefix("ms").tempdir_in("/tmp")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let images = vec!["host-sensor", "sdk-module"];
    let options = Options { engine: "embedded", images, ..Options::default() };
    let mut edge = Edge::start(scratch.path(), &hub, DEVICE, options)?;
    pipeline(&edge, &hub)?;

    // The module read its whole twin through the router when it started.
    let read = reported(&hub, "/readVersion", "the module to report what it read")?;
    ensure!(read.is_u64(), "{read}");
    ensure!(reported(&hub, "/sdk", "the SDK's version")? == "2.14.0");

    let start = std::time::Instant::now();
    let mut answers = 0;
    let mut wanted = 8;
    while answers < 3 {
        ensure!(start.elapsed() < SOON, "{answers} answers came; the log:\n{}", edge.log()?);
        answers = answers_follow_readings(&telemetry(&hub, wanted)?)?;
        wanted += 4;
    }

    hub.run(&["twin", "set", DEVICE, "-m", MODULE, "--desired", r#"{"interval": {"s": 7}}"#])?;
    let heard = reported(&hub, "/heard/interval", "the module to hear of its twin")?;
    ensure!(heard == json!({ "s": 7 }), "{heard}");

    let answer = hub.json(&["method", DEVICE, "-m", MODULE, "ask", r#"{"x": [1, "é"]}"#])?;
    ensure!(answer["status"] == 207, "{answer}");
    ensure!(answer["payload"] == json!({ "name": "ask", "heard": {"x": [1, "é"]} }), "{answer}");

    edge.stop()?;
    hub.stop()?;
    drop(edge);
    scratch.close().context("removing the scratch folder")
}
