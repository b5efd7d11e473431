use serde_json::json;

use super::*;

/// A manifest with one module, `m`, to be broken in one place by each case.
fn good() -> Value {
    json!({
        "schemaVersion": "1.1",
        "runtime": { "type": "docker", "settings": { "minDockerVersion": "v1.25" } },
        "systemModules": {
            "edgeAgent": { "type": "docker", "settings": { "image": "agent", "createOptions": "" } },
            "edgeHub": { "type": "docker", "status": "running", "restartPolicy": "always",
                "settings": { "image": "hub", "createOptions": "{}" }, "startupOrder": 0 }
        },
        "modules": {
            "m": { "version": "1.0", "type": "docker", "status": "running",
                "restartPolicy": "always", "startupOrder": 3, "imagePullPolicy": "never",
                "env": { "A": { "value": "x" }, "N": { "value": 7 } },
                "settings": { "image": " img:1 ", "createOptions": "{\"User\":",
                    "createOptions01": "\"nobody\"}" } }
        }
    })
}

fn parse(value: &Value) -> Result<Manifest, InvalidManifest> {
    Manifest::parse(value.as_object().unwrap())
}

#[test]
fn a_manifest_is_read_whole() {
    let read = parse(&good()).unwrap();
    let module = &read.modules[&"m".parse().unwrap()];
    assert_eq!(&*module.image, "img:1");
    assert_eq!(module.restart, RestartPolicy::Always);
    assert_eq!((module.pull, module.startup_order), (PullPolicy::Never, 3));
    assert_eq!(module.create_options["User"], "nobody");
    assert_eq!(module.env["N"], 7);
    assert_eq!(read.edge_hub.startup_order, 0);
    assert_eq!(&*read.schema_version, "1.1");
}

#[test]
fn an_image_without_a_tag_is_the_latest() {
    for said in ["img", "img:latest", " img\n"] {
        let mut value = good();
        value["modules"]["m"]["settings"] = json!({ "image": said });
        let read = parse(&value).unwrap();
        assert_eq!(&*read.modules[&"m".parse().unwrap()].image, "img:latest", "{said:?}");
    }
}

#[test]
fn what_a_module_does_not_say_has_azures_defaults() {
    let mut value = good();
    value["modules"]["m"] =
        json!({ "type": "docker", "status": "stopped", "settings": { "image": "i" } });
    let read = parse(&value).unwrap();
    let module = &read.modules[&"m".parse().unwrap()];
    assert_eq!(module.restart, RestartPolicy::OnUnhealthy);
    assert_eq!((module.pull, module.startup_order), (PullPolicy::OnCreate, STARTUP_ORDER_LAST));
    assert_eq!(module.status, DesiredStatus::Stopped);
}

#[test]
fn every_broken_manifest_is_refused_with_code_place_and_words() {
    let check = |pointer: &str, new: Value, code: u16, words: &str| {
        let mut value = good();
        match pointer.rsplit_once('/') {
            Some((parent, name)) => {
                value.pointer_mut(parent).unwrap()[name] = new;
            }
            None => value = new,
        }
        let refused = parse(&value).unwrap_err();
        assert_eq!(refused.code(), code, "{pointer}: {refused}");
        assert!(refused.to_string().contains(words), "{pointer}: {refused}");
    };
    check("", json!({}), 417, "no deployment");
    check("", json!({ "$version": 3 }), 417, "no deployment");
    check("/schemaVersion", json!("2.0"), 412, "\"2.0\" is not supported");
    check("/schemaVersion", json!("1.9"), 412, "supported are 1.0 and 1.1");
    check("/schemaVersion", json!(1.0), 412, "1.0 is not supported");
    check("/schemaVersion", Value::Null, 412, "null");
    check("/runtime", Value::Null, 400, "runtime: is missing");
    check("/runtime/type", json!("podman"), 400, "runtime.type: type \"podman\" is unknown");
    check("/systemModules/edgeHub", Value::Null, 400, "systemModules.edgeHub: is missing");
    check("/systemModules/edgeHub/status", json!("stopped"), 400, "the edge hub always runs");
    check("/systemModules/other", json!({}), 400, "systemModules.other: is unknown");
    check("/modules", json!([]), 400, "modules: must be an object");
    check("/modules/a b", json!({}), 400, "an id cannot contain ' '");
    check("/modules/edgeHub", good()["modules"]["m"].clone(), 400, "reserved");
    check("/modules/$x", good()["modules"]["m"].clone(), 400, "$x");
    check("/modules/m/statuss", json!("running"), 400, "modules.m.statuss: is unknown");
    check("/modules/m/status", json!("paused"), 400, "known are running, stopped");
    check("/modules/m/restartPolicy", json!("often"), 400, "modules.m.restartPolicy: \"often\"");
    check("/modules/m/imagePullPolicy", json!("daily"), 400, "known are on-create, never");
    check("/modules/m/startupOrder", json!(-1), 400, "modules.m.startupOrder: -1 is not");
    check("/modules/m/env/A", json!("x"), 400, "modules.m.env.A: must be an object");
    check("/modules/m/env/A/value", json!([1]), 400, "value must be text");
    check("/modules/m/settings", Value::Null, 400, "modules.m.settings: is missing");
    check("/modules/m/settings/image", Value::Null, 400, "modules.m.settings.image: is missing");
    check("/modules/m/settings/image", json!("  "), 400, "an image needs a name");
    check("/modules/m/settings/image", json!("a b"), 400, "cannot contain ' '");
    check("/modules/m/settings/image", json!("m:1:2"), 400, "image: \"m:1:2\" has more than one");
    check("/modules/m/settings/image", json!("m:"), 400, "is no tag");
    check("/modules/m/settings/image", json!("a/M:1"), 400, "is no part of an image's name");
    check("/modules/m/settings/digest", json!("md5:0"), 400, "is not sha256:");
    check("/modules/m/settings/createOptions", json!("{"), 400, "createOptions: is not JSON");
    check("/modules/m/settings/createOptions", json!(7), 400, "createOptions: must be text");
    check("/modules/m/settings/createOptions03", json!("x"), 400, "createOptions03: is unknown");
    check("/integrity", json!(7), 400, "integrity: must be an object");
}

#[test]
fn create_options_that_docker_does_not_know_are_told_and_no_fault() {
    let check = |options: &str, told: &[&str]| {
        let mut value = good();
        value["modules"]["m"]["settings"] = json!({"image": "m:1", "createOptions": options});
        let notices = parse(&value).unwrap().notices;
        let path = "modules.m.settings.createOptions: ";
        let words = " has no effect: Docker knows no such field";
        let wanted: Vec<_> = told.iter().map(|field| format!("{path}{field}{words}")).collect();
        assert_eq!(notices, wanted, "{options}");
    };
    check("{}", &[]);
    check(r#"{"hostconfig":{"PRIVILEGED":true},"Env":["A=1"]}"#, &[]);
    check(r#"{"HostConfg":{"Privileged":true}}"#, &["HostConfg"]);
    check(r#"{"HostConfig":{"Bind":["/a:/b"],"Binds":[]}}"#, &["HostConfig.Bind"]);
    check(r#"{"createOptions":{"Env":[]}}"#, &["createOptions"]);
    let many: Vec<_> = (0..99).map(|at| format!("\"x{at:02}\":1")).collect();
    let first: Vec<_> = (0..create_options::TOLD_MAX).map(|at| format!("x{at:02}")).collect();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    check(&format!("{{{}}}", many.join(",")), &first);
}

#[test]
fn all_faults_come_in_one_answer() {
    let mut value = good();
    value["modules"]["m"]["status"] = json!("x");
    value["modules"]["m"]["typo"] = json!(1);
    value["runtime"]["type"] = json!("y");
    let InvalidManifest::Faults(faults) = parse(&value).unwrap_err() else { panic!() };
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["runtime.type", "modules.m.status", "modules.m.typo"]);
}

#[test]
fn what_is_counted_may_reach_its_limit_and_no_more() {
    let check = |make: &dyn Fn(&mut Value, usize), most: usize, words: &str| {
        let mut value = good();
        make(&mut value, most);
        parse(&value).unwrap_or_else(|refused| panic!("{words} at {most}: {refused}"));
        let mut value = good();
        make(&mut value, most + 1);
        let refused = parse(&value).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    };
    let modules = |value: &mut Value, count: usize| {
        let one = value["modules"]["m"].clone();
        let all = (0..count).map(|at| (format!("m{at}"), one.clone()));
        value["modules"] = Value::Object(all.collect());
    };
    check(&modules, MODULES_MAX, &format!("at most {MODULES_MAX}"));
    let variables = |value: &mut Value, count: usize| {
        let all = (0..count).map(|at| (format!("V{at}"), json!({ "value": "x" })));
        value["modules"]["m"]["env"] = Value::Object(all.collect());
    };
    check(&variables, VARIABLES_MAX, &format!("more than {VARIABLES_MAX} variables"));
    // One document in as many pieces: `[`, blanks, `]` would do, but it must be an object.
    let pieces = |value: &mut Value, count: usize| {
        let settings = &mut value["modules"]["m"]["settings"];
        settings["createOptions"] = json!("{");
        for at in 1..count {
            let last = at + 1 == CREATE_OPTIONS_PIECES_MAX;
            settings[format!("createOptions{at:02}")] = json!(if last { "}" } else { " " });
        }
    };
    let unread = format!("createOptions{CREATE_OPTIONS_PIECES_MAX}: is unknown");
    check(&pieces, CREATE_OPTIONS_PIECES_MAX, &unread);
}

#[test]
fn an_answer_lists_so_many_faults_and_no_more() {
    let mut value = good();
    for at in 0..fields::FAULTS_MAX + 5 {
        value["modules"]["m"][format!("typo{at}")] = json!(1);
    }
    let InvalidManifest::Faults(faults) = parse(&value).unwrap_err() else { panic!() };
    assert_eq!(faults.len(), fields::FAULTS_MAX);
}
