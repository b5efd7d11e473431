//! A module on the unmodified Azure SDK for Python, in a container, between a sensor and the
//! hub.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
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
        "farewell": format!("FROM /messages/modules/{MODULE}/outputs/farewell INTO $upstream"),
    });
    edge.set_modules(hub, &modules, &routes)
}

/// Everything that arrives at the hub, as the command line prints it.
struct Monitor {
    process: Child,
    printed: PathBuf,
}

impl Monitor {
    fn start(hub: &Hub, scratch: &Path) -> Result<Self> {
        let printed = scratch.join("monitor.jsonl");
        let mut command = hub.command(&["-o", "jsonl", "monitor", "--from", "start"])?;
        let process = command.stdout(File::create(&printed)?).stderr(Stdio::null()).spawn()?;
        Ok(Self { process, printed })
    }

    fn messages(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.printed)?;
        // The last line may still be being written.
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole.lines().map(|line| serde_json::from_str(line).context("a line")).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
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
    let of_module = |message: &&Value| {
        message["moduleId"] == MODULE && message["systemProperties"]["outputName"] != "farewell"
    };
    for message in messages.iter().filter(of_module) {
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

/// Asks on the module's own socket, from inside its container.
fn workload(hub: &Hub, ask: &Value) -> Result<(u64, Value)> {
    let answer = hub.json(&["method", DEVICE, "-m", MODULE, "workload", &ask.to_string()])?;
    ensure!(answer["status"] == 200, "{ask}: {answer}");
    let said = &answer["payload"];
    Ok((said["status"].as_u64().context("a status")?, said["body"].clone()))
}

fn the_workload_interface_serves_what_is_inside(hub: &Hub) -> Result<()> {
    // "plain" and "vector" in base64.
    let sealed = json!({ "plaintext": "cGxhaW4=", "initializationVector": "dmVjdG9y" });
    let ask = json!({ "verb": "POST", "path": "{own}/encrypt", "body": sealed });
    let (status, sealed) = workload(hub, &ask)?;
    ensure!(status == 200, "{sealed}");
    let body = |vector: &str| json!({ "ciphertext": sealed["ciphertext"], "initializationVector": vector });
    let decrypt = |vector| json!({ "verb": "POST", "path": "{own}/decrypt", "body": body(vector) });
    ensure!(
        workload(hub, &decrypt("dmVjdG9y"))? == (200, json!({ "plaintext": "cGxhaW4=" })),
        "what was encrypted must come back"
    );
    let (status, refused) = workload(hub, &decrypt("b3RoZXI="))?;
    ensure!(status == 400 && refused["message"].is_string(), "{status} {refused}");

    let (status, all) = workload(hub, &json!({ "verb": "GET", "path": "/modules" }))?;
    let named = |name: &str| {
        let all = all["modules"].as_array();
        all.is_some_and(|all| all.iter().any(|one| one["name"] == name))
    };
    ensure!(status == 200 && named(MODULE) && named("host-sensor"), "{status} {all}");

    for (path, version, expected) in [
        ("/modules/host-sensor/genid/1/sign", "2018-06-28", 403),
        ("/modules/answerer/genid/1/sign", "2018-06-28", 404),
        ("{own}/sign", "1999-01-01", 400),
        ("{own}/sign", "2022-08-03", 400),
        ("/anything", "2022-08-03", 404),
    ] {
        let ask = json!({ "verb": "POST", "path": path, "body": {}, "version": version });
        let (status, body) = workload(hub, &ask)?;
        ensure!(status == expected && body["message"].is_string(), "{path}: {status} {body}");
    }

    // OpenSSL believes what the device CA issues, for a name and for an address.
    for (name, kind) in [("my-server.local", "DNS"), ("10.11.12.13", "IP Address")] {
        let ask = json!({ "name": name }).to_string();
        let answer = hub.json(&["method", DEVICE, "-m", MODULE, "handshake", &ask])?;
        ensure!(answer["status"] == 200, "{answer}");
        let names = json!([[kind, name], ["DNS", MODULE]]);
        ensure!(answer["payload"] == json!({ "version": "TLSv1.3", "names": names }), "{answer}");
    }
    Ok(())
}

#[test]
fn a_module_on_the_stock_sdk_answers_readings_and_uses_twin_and_method() -> Result<()> {
    // Short, because paths of Unix sockets are; the clone may lie anywhere.
    let scratch = tempfile::Builder::new().prefix("ms").tempdir_in("/tmp")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let images = vec!["host-sensor", "sdk-module"];
    let options = Options { engine: "embedded", images, ..Options::default() };
    let mut edge = Edge::start(scratch.path(), &hub, DEVICE, options)?;
    let monitor = Monitor::start(&hub, scratch.path())?;
    pipeline(&edge, &hub)?;

    // The module read its whole twin through the router when it started.
    let read = reported(&hub, "/readVersion", "the module to report what it read")?;
    ensure!(read.is_u64(), "{read}");
    ensure!(reported(&hub, "/sdk", "the SDK's version")? == "2.14.0");

    wait::until("three answers at the hub", SOON, || {
        Ok((answers_follow_readings(&monitor.messages()?)? >= 3).then_some(()))
    })?;

    hub.run(&["twin", "set", DEVICE, "-m", MODULE, "--desired", r#"{"interval": {"s": 7}}"#])?;
    let heard = reported(&hub, "/heard/interval", "the module to hear of its twin")?;
    ensure!(heard == json!({ "s": 7 }), "{heard}");

    let answer = hub.json(&["method", DEVICE, "-m", MODULE, "ask", r#"{"x": [1, "é"]}"#])?;
    ensure!(answer["status"] == 207, "{answer}");
    ensure!(answer["payload"] == json!({ "name": "ask", "heard": {"x": [1, "é"]} }), "{answer}");

    the_workload_interface_serves_what_is_inside(&hub)?;

    // The router still answers while modules are told to end, so the module's last message is
    // acknowledged, and it arrives.
    edge.stop()?;
    let log = edge.folder().join("engine/containers").join(MODULE).join("log/container.log");
    let log = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    ensure!(log.contains("module ends in order"), "{log}");
    wait::until("the last words to arrive", SOON, || {
        let is_last = |one: &Value| one["body"] == r#"{"last": "words"}"#;
        Ok(monitor.messages()?.iter().any(is_last).then_some(()))
    })?;
    drop(monitor);
    hub.stop()?;
    drop(edge);
    scratch.close().context("removing the scratch folder")
}
