use model::manifest::{PullPolicy, RestartPolicy};

use super::*;

fn spec() -> ModuleSpec {
    ModuleSpec {
        version: "1.0".into(),
        status: DesiredStatus::Running,
        restart: RestartPolicy::Always,
        pull: PullPolicy::Never,
        startup_order: 3,
        image: "img:1".into(),
        digest: None,
        create_options: object(json!({ "User": "x".repeat(600) })),
        env: BTreeMap::from([("A".into(), json!(1))]),
        configuration: "".into(),
    }
}

fn render_with(manifest: Option<&Manifest>, outcome: &DesiredOutcome) -> Value {
    let facts = ModuleFacts {
        status: RuntimeStatus::Backoff,
        words: "exited with 3".to_owned(),
        exit_code: 3,
        started: Some(WallTime(0)),
        exited: Some(WallTime(1000)),
        history: History { restarts: 2, last_restart: None },
        image_hash: "sha256:1".into(),
    };
    let modules = BTreeMap::from([("m".parse().unwrap(), facts)]);
    Value::Object(reported(&Report {
        version: "0.1.0",
        desired_version: 7,
        outcome,
        manifest,
        modules: &modules,
        started: WallTime(0),
        platform: ("linux", "amd64"),
    }))
}

#[test]
fn a_report_has_azures_shape() {
    let manifest = Manifest {
        modules: BTreeMap::from([("m".parse().unwrap(), spec())]),
        ..Manifest::default()
    };
    let whole = render_with(Some(&manifest), &DesiredOutcome::applied());
    let check = |pointer: &str, expected: Value| {
        assert_eq!(whole.pointer(pointer), Some(&expected), "{pointer}");
    };
    check("/schemaVersion", json!("1.0"));
    check("/lastDesiredVersion", json!(7));
    check("/lastDesiredStatus", json!({ "code": 200, "description": "" }));
    check("/runtime/platform/os", json!("linux"));
    check("/systemModules/edgeAgent/runtimeStatus", json!("running"));
    check("/systemModules/edgeHub/restartPolicy", json!("always"));
    check("/modules/m/runtimeStatus", json!("backoff"));
    check("/modules/m/status", json!("running"));
    check("/modules/m/exitCode", json!(3));
    check("/modules/m/restartCount", json!(2));
    check("/modules/m/lastStartTimeUtc", json!("1970-01-01T00:00:00.000Z"));
    check("/modules/m/lastExitTimeUtc", json!("1970-01-01T00:00:01.000Z"));
    check("/modules/m/lastRestartTimeUtc", json!("0001-01-01T00:00:00Z"));
    check("/modules/m/env/A/value", json!(1));
    check("/modules/m/settings/imageHash", json!("sha256:1"));
    let pieces = ["createOptions", "createOptions01"]
        .map(|name| whole["modules"]["m"]["settings"][name].as_str().unwrap().to_owned());
    assert_eq!(pieces[0].len(), 512);
    let joined: Value = serde_json::from_str(&pieces.concat()).unwrap();
    assert_eq!(joined["User"].as_str().unwrap().len(), 600);
}

#[test]
fn codes_follow_what_went_wrong() {
    let check = |outcome: DesiredOutcome, code: u16, words: &str| {
        assert_eq!((outcome.code, outcome.words.as_str()), (code, words));
    };
    check(DesiredOutcome::applied(), 200, "");
    check((&InvalidManifest::Empty).into(), 417, "no deployment in the desired properties");
    let schema = InvalidManifest::Schema { said: "\"2.0\"".to_owned() };
    assert_eq!(DesiredOutcome::from(&schema).code, 412);
    assert_eq!(DesiredOutcome::from(&InvalidManifest::Faults(Vec::new())).code, 400);
    let name: ModuleName = "m".parse().unwrap();
    let notices = ["integrity: not verified".to_owned()];
    check(DesiredOutcome::of([(&name, "no image")], &notices), 500, "module m: no image");
    check(DesiredOutcome::of([], &notices), 200, "integrity: not verified");
    check(DesiredOutcome::of([], &[]), 200, "");
    assert_eq!(DesiredOutcome::unknown().code, 406);
}

#[test]
fn before_the_first_manifest_only_the_outcome_is_said() {
    let whole = render_with(None, &(&InvalidManifest::Empty).into());
    assert_eq!(whole["lastDesiredStatus"]["code"], 417);
    assert!(whole.get("modules").is_none() && whole.get("systemModules").is_none());
}

#[test]
fn a_report_never_outgrows_the_twin() {
    let mut large = spec();
    for number in 0..100 {
        large.env.insert(format!("V{number}").into(), json!("y".repeat(100)));
    }
    let modules =
        (0..50).map(|number| (format!("{number:0>128}").parse().unwrap(), large.clone())).collect();
    let manifest = Manifest { modules, ..Manifest::default() };
    let long = DesiredOutcome { code: 500, words: "é".repeat(5000) };
    let whole = render_with(Some(&manifest), &long);
    assert!(whole.to_string().len() <= REPORTED_BYTES_MAX, "{}", whole.to_string().len());
    assert_eq!(whole["modules"].as_object().unwrap().len(), 50);
    let words = whole["lastDesiredStatus"]["description"].as_str().unwrap();
    assert_eq!(words.chars().count(), WORDS_CHARS_MAX);
}

#[test]
fn a_module_that_ended_says_whether_it_comes_back() {
    let check = |wanted, failed, again, expected| {
        assert_eq!(ended_status(wanted, failed, again), expected);
    };
    check(DesiredStatus::Running, true, true, RuntimeStatus::Backoff);
    check(DesiredStatus::Running, true, false, RuntimeStatus::Failed);
    check(DesiredStatus::Running, false, false, RuntimeStatus::Stopped);
    check(DesiredStatus::Stopped, false, true, RuntimeStatus::Stopped);
}
