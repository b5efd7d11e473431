//! One edge device from the twin of its agent. Pure.

use std::collections::BTreeMap;

use api::fleet::{
    DesiredModule, DesiredOutcome, EdgeModule, EdgeView, FailingModule, ReportedModule,
};
use model::names::{EDGE_AGENT, EDGE_HUB};
use serde_json::{Map, Value};

/// What runs, from the agent's desired and reported properties.
pub(crate) fn edge(
    desired: &Map<String, Value>,
    reported: &Map<String, Value>,
    desired_version: u64,
) -> EdgeView {
    let mut modules: BTreeMap<(bool, String), EdgeModule> = BTreeMap::new();
    for (name, system, fields) in entries(desired) {
        entry(&mut modules, name, system).desired = Some(wanted(fields));
    }
    for (name, system, fields) in entries(reported) {
        let module = entry(&mut modules, name, system);
        module.failing = is_failing(fields);
        module.reported = Some(said(fields));
    }
    let outcome = reported.get("lastDesiredStatus").filter(|value| value.is_object());
    EdgeView {
        last_desired_version: reported.get("lastDesiredVersion").and_then(Value::as_u64),
        desired_version,
        last_desired_status: outcome.map(|fields| DesiredOutcome {
            code: fields.get("code").and_then(Value::as_i64).unwrap_or_default(),
            description: text(fields, "description").unwrap_or_default(),
        }),
        modules: modules.into_values().collect(),
    }
}

/// Counts of one agent's report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) reported: u64,
    pub(crate) running: u64,
    pub(crate) failing: Vec<FailingModule>,
}

/// Counts what the agent of `device` reported.
pub(crate) fn tally(device: &str, reported: &Map<String, Value>) -> Tally {
    let mut tally = Tally::default();
    for (name, _, fields) in entries(reported) {
        tally.reported += 1;
        let status = text(fields, "runtimeStatus").unwrap_or_default();
        tally.running += u64::from(status == "running");
        if is_failing(fields) {
            tally.failing.push(FailingModule {
                device_id: device.to_owned(),
                module_id: name.to_owned(),
                runtime_status: status,
                exit_code: fields.get("exitCode").and_then(Value::as_i64),
                description: text(fields, "statusDescription").filter(|words| !words.is_empty()),
            });
        }
    }
    tally
}

/// Every module of a section: name, whether it is the system's, fields.
fn entries(section: &Map<String, Value>) -> impl Iterator<Item = (&str, bool, &Value)> {
    let of = |key: &str| section.get(key).and_then(Value::as_object).into_iter().flatten();
    let system = of("systemModules").map(|(name, fields)| match name.as_str() {
        "edgeAgent" => (EDGE_AGENT, true, fields),
        "edgeHub" => (EDGE_HUB, true, fields),
        other => (other, true, fields),
    });
    let own = of("modules").map(|(name, fields)| (name.as_str(), false, fields));
    system.chain(own).filter(|(_, _, fields)| fields.is_object())
}

fn entry<'a>(
    modules: &'a mut BTreeMap<(bool, String), EdgeModule>,
    name: &str,
    system: bool,
) -> &'a mut EdgeModule {
    // The system's come first.
    modules.entry((!system, name.to_owned())).or_insert_with(|| EdgeModule {
        module_id: name.to_owned(),
        system,
        desired: None,
        reported: None,
        failing: false,
    })
}

/// A module that should run, and that its agent keeps restarting or has given up.
fn is_failing(reported: &Value) -> bool {
    let wanted = text(reported, "status").is_none_or(|status| status == "running");
    let state = text(reported, "runtimeStatus").unwrap_or_default();
    let ended_badly =
        reported.get("exitCode").and_then(Value::as_i64).is_some_and(|code| code != 0);
    let bad = ["failed", "backoff", "unhealthy", "dead"].contains(&state.as_str());
    wanted && (bad || state == "stopped" && ended_badly)
}

fn wanted(fields: &Value) -> DesiredModule {
    DesiredModule {
        status: text(fields, "status"),
        image: fields.get("settings").and_then(|settings| text(settings, "image")),
        restart_policy: text(fields, "restartPolicy"),
        image_pull_policy: text(fields, "imagePullPolicy"),
        startup_order: fields.get("startupOrder").and_then(Value::as_u64),
        version: text(fields, "version"),
    }
}

fn said(fields: &Value) -> ReportedModule {
    let settings = |name: &str| fields.get("settings").and_then(|settings| text(settings, name));
    let time = |name: &str| text(fields, name).filter(|at| !at.starts_with("0001-01-01"));
    let digest = settings("digest").or_else(|| settings("imageHash"));
    ReportedModule {
        runtime_status: text(fields, "runtimeStatus"),
        status_description: text(fields, "statusDescription"),
        exit_code: fields.get("exitCode").and_then(Value::as_i64),
        restart_count: fields.get("restartCount").and_then(Value::as_u64),
        last_start_time_utc: time("lastStartTimeUtc"),
        last_exit_time_utc: time("lastExitTimeUtc"),
        last_restart_time_utc: time("lastRestartTimeUtc"),
        image: settings("image"),
        image_digest: digest.filter(|digest| !digest.is_empty()),
    }
}

fn text(fields: &Value, name: &str) -> Option<String> {
    fields.get(name).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_module_fails_when_it_should_run_and_does_not() {
        let check = |fields: Value, expected: bool| {
            assert_eq!(is_failing(&fields), expected, "{fields}");
        };
        check(json!({"status": "running", "runtimeStatus": "running", "exitCode": 0}), false);
        check(json!({"status": "running", "runtimeStatus": "backoff"}), true);
        check(json!({"status": "running", "runtimeStatus": "failed"}), true);
        check(json!({"status": "stopped", "runtimeStatus": "failed"}), false);
        check(json!({"status": "running", "runtimeStatus": "stopped", "exitCode": 1}), true);
        check(json!({"status": "running", "runtimeStatus": "stopped", "exitCode": 0}), false);
        check(json!({"status": "running", "runtimeStatus": "unknown"}), false);
    }

    #[test]
    fn desired_and_reported_meet_by_name_and_the_system_comes_first() {
        let desired = object(json!({
            "systemModules": {"edgeHub": {"settings": {"image": "hub:1"}}},
            "modules": {"b": {"status": "running", "startupOrder": 2}, "a": {"status": "stopped"}},
        }));
        let reported = object(json!({
            "lastDesiredVersion": 7, "lastDesiredStatus": {"code": 400, "description": "no"},
            "modules": {
                "b": {"status": "running", "runtimeStatus": "backoff", "exitCode": 3,
                      "restartCount": 9, "lastExitTimeUtc": "0001-01-01T00:00:00Z",
                      "settings": {"image": "b:1", "imageHash": "sha256:00"}},
                "gone": {"status": "running", "runtimeStatus": "running"},
            },
        }));
        let view = edge(&desired, &reported, 8);
        let names: Vec<_> = view.modules.iter().map(|m| m.module_id.as_str()).collect();
        assert_eq!(names, ["$edgeHub", "a", "b", "gone"]);
        assert_eq!((view.last_desired_version, view.desired_version), (Some(7), 8));
        assert_eq!(view.last_desired_status.unwrap().code, 400);
        let b = &view.modules[2];
        let said = b.reported.as_ref().unwrap();
        assert!(b.failing);
        assert_eq!((said.exit_code, said.restart_count), (Some(3), Some(9)));
        assert_eq!(
            (said.last_exit_time_utc.as_ref(), said.image_digest.as_deref()),
            (None, Some("sha256:00"))
        );
        assert!(view.modules[3].desired.is_none());
        let tally = tally("d", &reported);
        assert_eq!((tally.reported, tally.running, tally.failing.len()), (2, 1, 1));
    }
}
