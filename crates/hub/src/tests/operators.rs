//! What the operators' command line of Azure asks, line by line.
//!
//! `operators.jsonl` holds the distinct requests that its own tests sent to a hub, with neutral
//! names, keys and contents, and the status that is right when the thing named exists. What
//! needs a feature that this hub does not have yet stands in [`NEEDS`], which only shrinks: a
//! line that is answered rightly must not stand there.

use api::error::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::service::code;
use super::stock::{Sent, ask};
use super::{Machine, Running};

const REQUESTS: &str = include_str!("operators.jsonl");

/// Which requests wait for what.
const NEEDS: [(&str, &[&str]); 8] = [
    ("certificate authorities", &["a02", "a08", "a24", "a31"]),
    ("gateways above a device", &["a19", "a20"]),
    ("regenerating keys", &["a11", "a35"]),
    ("queries", &["a21", "a22"]),
    (
        "configurations",
        &[
            "a43", "a44", "a45", "a46", "a47", "a48", "a49", "a50", "a51", "a52", "a53", "a54",
            "a55", "a56",
        ],
    ),
    ("jobs", &["a62", "a63", "a64", "a65", "a66", "a67"]),
    ("messages to devices", &["a68"]),
    ("telemetry over HTTPS", &["a69"]),
];

#[derive(Deserialize)]
struct Line {
    id: String,
    method: String,
    path: String,
    query: String,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    body: Value,
    expect: u16,
}

impl Line {
    /// Whether the thing it names must be there before.
    fn creates(&self) -> bool {
        self.method == "PUT" && !self.headers.contains_key("If-Match")
    }

    /// Device and module that the path names, if it names them.
    fn names(&self) -> (Option<&str>, Option<&str>) {
        let mut segments = self.path.trim_start_matches('/').split('/');
        let head = segments.next().unwrap_or_default();
        let device = segments.next().filter(|_| matches!(head, "devices" | "twins"));
        let device = device.filter(|name| !matches!(*name, "query" | "keys"));
        let below = segments.next();
        (device, below.filter(|name| *name == "modules").and_then(|_| segments.next()))
    }
}

/// Makes what `line` needs to be there, on a registry without it.
async fn prepare(r: &Running, line: &Line) {
    let version = "?api-version=2024-03-31";
    let (device, module) = line.names();
    let Some(device) = device else { return };
    let device_path = format!("/devices/{device}{version}");
    let (status, _, _) = ask(r, Sent::new("DELETE", &device_path)).await;
    assert!(matches!(status, 204 | 404), "{status}");
    if line.creates() && line.path.starts_with("/devices/") && module.is_none() {
        return;
    }
    let edge = json!({"capabilities": {"iotEdge": true}});
    assert_eq!(ask(r, Sent::new("PUT", &device_path).body(&edge)).await.0, 200);
    let is_given = line.creates() && line.path.starts_with("/devices/");
    let Some(module) = module.filter(|name| !is_given && !name.starts_with("%24")) else { return };
    let path = format!("/devices/{device}/modules/{module}{version}");
    assert_eq!(ask(r, Sent::new("PUT", &path).body(&json!({}))).await.0, 200);
}

async fn answered(r: &Running, line: &Line) -> (u16, Value) {
    prepare(r, line).await;
    let target = format!("{}?{}", line.path, line.query);
    let mut sent = Sent::new(&line.method, &target).body(&line.body);
    for (name, value) in &line.headers {
        sent = sent.header(name, value);
    }
    let (status, _, answer) = ask(r, sent).await;
    (status, answer)
}

#[tokio::test(start_paused = true)]
async fn the_operators_command_line_is_answered_as_azure_does() {
    let machine = Machine::new();
    let r = machine.start(1);
    let device9 = Sent::new("PUT", "/devices/device9?api-version=2024-03-31");
    let edge = json!({"capabilities": {"iotEdge": true}});
    assert_eq!(ask(&r, device9.body(&edge)).await.0, 200);
    let mut waiting: Vec<&str> = NEEDS.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let lines = REQUESTS.lines().map(|text| serde_json::from_str::<Line>(text).unwrap());
    let lines: Vec<Line> = lines.collect();
    assert_eq!(lines.len(), 69);
    for line in &lines {
        let (status, answer) = answered(&r, line).await;
        let Some(place) = waiting.iter().position(|id| *id == line.id) else {
            assert_eq!(status, line.expect, "{} {} {}: {answer}", line.id, line.method, line.path);
            continue;
        };
        waiting.remove(place);
        assert_ne!(status, line.expect, "{} is answered now: take it out of NEEDS", line.id);
        // Said so that nobody searches for a mistake of their own.
        let known = [ErrorCode::FeatureNotSupported.name(), ErrorCode::ArgumentInvalid.name()];
        assert!(known.contains(&code(&answer)), "{}: {answer}", line.id);
        let words = answer["Message"].as_str().unwrap();
        assert!(words.contains("not offered by this hub"), "{}: {words}", line.id);
    }
    assert!(waiting.is_empty(), "no request has these ids: {waiting:?}");
}

#[test]
fn what_waits_for_features_only_shrinks() {
    let waiting: usize = NEEDS.iter().map(|(_, ids)| ids.len()).sum();
    // Lower it with every feature; never raise it.
    assert_eq!(waiting, 32);
}
