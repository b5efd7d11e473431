//! Broken manifests and routes against one running device: each is refused with its code, the
//! module or section at fault, its place and words that help; what ran before runs on untouched.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::edge::{self, Edge, Options};
use blackbox::hub::{Door, Hub, output};
use blackbox::oracle::Oracle;
use blackbox::place::Scratch;
use blackbox::{image, wait};
use serde_json::{Map, Value, json};

const LIMIT: Duration = Duration::from_mins(1);
/// What `selvedge` exits with when a manifest is refused.
const EXIT_INVALID_MANIFEST: i32 = 7;

/// A content that the hub refuses whole: what is merged into the good one, then the kind of
/// fault, the module or section, and the place with its words.
type Content = (Value, &'static str, &'static str, &'static str);

/// A patch of desired properties that reaches the device, for whoever writes twins without the
/// hub's check: the patch, `lastDesiredStatus.code`, and what its description must hold.
type Patch = (Value, u64, &'static [&'static str]);

#[expect(clippy::too_many_lines, reason = "a table")]
fn contents() -> Vec<Content> {
    let bad = |change: Value| json!({ "modules": { "bad": merged(&good_module(), &change) } });
    let settings = |change: Value| bad(json!({ "settings": change }));
    let long = "m".repeat(129);
    let many: Map<String, Value> =
        (0..51).map(|number| (format!("m{number}"), good_module())).collect();
    let in_agent = [
        (
            json!({ "schemaVersion": "7.0" }),
            "schema",
            "$edgeAgent",
            "schemaVersion \"7.0\" is not supported; supported are 1.0 and 1.1",
        ),
        (json!({ "schemaVersion": null }), "schema", "$edgeAgent", "(absent) is not supported"),
        (json!({ "schemaVersion": 1.1 }), "schema", "$edgeAgent", "1.1 is not supported"),
        (json!({ "module": {} }), "manifest", "$edgeAgent", "module: is unknown"),
        (json!({ "systemModules": null }), "manifest", "$edgeAgent", "systemModules: is missing"),
        (
            json!({ "systemModules": { "edgeHub": null } }),
            "manifest",
            "$edgeAgent",
            "systemModules.edgeHub: is missing",
        ),
        (
            json!({ "systemModules": { "edgeHub": { "status": "stopped" } } }),
            "manifest",
            "$edgeAgent",
            "systemModules.edgeHub.status: the edge hub always runs",
        ),
        (
            json!({ "runtime": { "type": "podman" } }),
            "manifest",
            "$edgeAgent",
            "runtime.type: type \"podman\" is unknown; known is docker",
        ),
        (
            json!({ "runtime": { "settings": { "registryCredentials": { "r": { "address": "r.example" } } } } }),
            "manifest",
            "$edgeAgent",
            "runtime.settings.registryCredentials.r.username: is missing",
        ),
        (json!({ "modules": many }), "manifest", "$edgeAgent", "modules; at most 50"),
        (json!({ "modules": { "a/b": good_module() } }), "manifest", "a/b", "modules.a/b: "),
        (json!({ "modules": { long: good_module() } }), "manifest", "mmm", "128"),
        (
            json!({ "modules": { "edgeHub": good_module() } }),
            "manifest",
            "edgeHub",
            "modules.edgeHub: this name is reserved for the runtime",
        ),
        (bad(json!({ "settings": null })), "manifest", "bad", "modules.bad.settings: is missing"),
        (
            bad(json!({ "type": "wasm" })),
            "manifest",
            "bad",
            "modules.bad.type: type \"wasm\" is unknown; known is docker",
        ),
        (
            bad(json!({ "status": "runing" })),
            "manifest",
            "bad",
            "modules.bad.status: \"runing\" is unknown; known are running, stopped",
        ),
        (
            bad(json!({ "restartPolicy": "sometimes" })),
            "manifest",
            "bad",
            "modules.bad.restartPolicy: \"sometimes\" is unknown; known are never, on-failure, on-unhealthy, always",
        ),
        (
            bad(json!({ "imagePullPolicy": "daily" })),
            "manifest",
            "bad",
            "modules.bad.imagePullPolicy: \"daily\" is unknown; known are on-create, never",
        ),
        (
            bad(json!({ "startupOrder": -1 })),
            "manifest",
            "bad",
            "modules.bad.startupOrder: -1 is not a whole number from 0",
        ),
        (bad(json!({ "version": 1 })), "manifest", "bad", "modules.bad.version: must be text"),
        (
            bad(json!({ "env": { "A": "plain" } })),
            "manifest",
            "bad",
            "modules.bad.env.A: must be an object",
        ),
        (
            bad(json!({ "env": { "A=B": { "value": "x" } } })),
            "manifest",
            "bad",
            "modules.bad.env.A=B: a variable's name is not empty and has no =",
        ),
        (
            bad(json!({ "restartpolicy": "always" })),
            "manifest",
            "bad",
            "modules.bad.restartpolicy: is unknown",
        ),
        (
            settings(json!({ "image": "" })),
            "manifest",
            "bad",
            "modules.bad.settings.image: an image needs a name",
        ),
        (
            settings(json!({ "image": "two words:1" })),
            "manifest",
            "bad",
            "modules.bad.settings.image: an image's name cannot contain ' '",
        ),
        (
            settings(json!({ "digest": "sha256:12" })),
            "manifest",
            "bad",
            "modules.bad.settings.digest: \"sha256:12\" is not sha256: and 64 hexadecimal digits",
        ),
        (
            settings(json!({ "createOptions": "{\"Env\":" })),
            "manifest",
            "bad",
            "modules.bad.settings.createOptions: is not JSON: EOF while parsing a value at line 1 column 7",
        ),
        (
            settings(json!({ "createOptions": "[]" })),
            "manifest",
            "bad",
            "modules.bad.settings.createOptions: must be a JSON object",
        ),
        (
            settings(json!({ "createOptions02": "{}" })),
            "manifest",
            "bad",
            "modules.bad.settings.createOptions02: is unknown",
        ),
        (
            settings(json!({ "createOptions": "{\"User\":\"a\",\"User\":\"b\"}" })),
            "manifest",
            "bad",
            "modules.bad.settings.createOptions: is not JSON: the name \"User\" stands twice in one object at line 1 column 18",
        ),
    ];
    let routes = |route: Value| json!({ "routes": { "bad": route } });
    let in_hub = [
        (
            json!({ "schemaVersion": "0.9" }),
            "schema",
            "$edgeHub",
            "schemaVersion \"0.9\" is not supported",
        ),
        (json!({ "route": {} }), "manifest", "$edgeHub", "route: is unknown"),
        (
            json!({ "storeAndForwardConfiguration": { "timeToLiveSecs": "1h" } }),
            "manifest",
            "$edgeHub",
            "storeAndForwardConfiguration.timeToLiveSecs: \"1h\" is not a whole number",
        ),
        (
            routes(json!("FORM /messages/* INTO $upstream")),
            "route",
            "$edgeHub",
            "routes.bad: at position 0: expected FROM",
        ),
        (
            routes(json!("FROM /messages/* INTO $cloud")),
            "route",
            "$edgeHub",
            "routes.bad: at position 22: expected $upstream or BrokeredEndpoint",
        ),
        (
            routes(json!("FROM /messages/* WHERE a == 1 INTO $upstream")),
            "route",
            "$edgeHub",
            "routes.bad: at position 25: ",
        ),
        (
            routes(json!("FROM /messages/* INTO BrokeredEndpoint(\"/modules/steady/outputs/x\")")),
            "route",
            "$edgeHub",
            "routes.bad: at position 39: ",
        ),
        (
            routes(json!("FROM /messages/* INTO BrokeredEndpoint(\"/modules/ghost/inputs/x\")")),
            "route",
            "$edgeHub",
            "routes.bad: leads to module ghost, which $edgeAgent does not name",
        ),
        (
            routes(json!({ "route": "FROM /messages/* INTO $upstream", "priority": 10 })),
            "route",
            "$edgeHub",
            "routes.bad.priority: 10 is not a whole number from 0 to 9",
        ),
        (
            routes(json!({ "route": "FROM /messages/* INTO $upstream", "timeToLiveSecs": -5 })),
            "route",
            "$edgeHub",
            "routes.bad.timeToLiveSecs: -5 is not a whole number of seconds",
        ),
        (routes(json!({ "priority": 1 })), "route", "$edgeHub", "routes.bad.route: is missing"),
        (routes(json!(5)), "route", "$edgeHub", "routes.bad: must be text or an object"),
        (
            json!({ "routes": { "has blank": "FROM /messages/* INTO $upstream" } }),
            "route",
            "$edgeHub",
            "routes.has blank: a route's name has no blank",
        ),
    ];
    let desired = |section: &str, change: Value| json!({ "modulesContent": { section: { "properties.desired": change } } });
    let whole = [
        (
            json!({ "deviceContent": {} }),
            "unknownField",
            "",
            "deviceContent: only modulesContent is known for an edge device",
        ),
        (
            json!({ "modulesContent": null }),
            "shape",
            "",
            "modulesContent is missing or not an object",
        ),
        (
            json!({ "modulesContent": { "stedy": { "properties.desired": {} } } }),
            "unknownModule",
            "stedy",
            "$edgeAgent names no such module",
        ),
        (
            json!({ "modulesContent": { "steady": { "properties.reported": {} } } }),
            "unknownField",
            "steady",
            "properties.reported: only properties.desired may be set",
        ),
        (
            json!({ "modulesContent": { "steady": { "properties.desired": { "a.b": 1 } } } }),
            "twin",
            "steady",
            "a.b",
        ),
    ];
    let agent = in_agent
        .map(|(change, code, module, words)| (desired("$edgeAgent", change), code, module, words));
    let hub = in_hub
        .map(|(change, code, module, words)| (desired("$edgeHub", change), code, module, words));
    agent.into_iter().chain(hub).chain(whole).collect()
}

/// Texts that are no content at all, and what is said about them.
const TEXTS: [(&str, &str); 3] = [
    ("{\"modulesContent\": {", "EOF while parsing an object at line 1 column 20"),
    (
        "{\"modulesContent\":{\"$edgeAgent\":{\"properties.desired\":{\"modules\":{\"a\":{},\"a\":{}}}}}}",
        "the name \"a\" stands twice in one object at line 1 column 76",
    ),
    ("[]", "the content must be an object"),
];

#[expect(clippy::too_many_lines, reason = "a table")]
fn patches_of_agent() -> Vec<Patch> {
    let bad = |change: Value| json!({ "modules": { "bad": merged(&good_module(), &change) } });
    let options =
        |options: Value| bad(json!({ "settings": { "createOptions": options.to_string() } }));
    let host = |change: Value| {
        options(json!({ "HostConfig": merged(&json!({ "NetworkMode": "host" }), &change) }))
    };
    let wrong = format!("sha256:{}", "0".repeat(64));
    vec![
        (json!({ "schemaVersion": "2.0" }), 412, &["schemaVersion \"2.0\" is not supported"]),
        (
            json!({ "schemaVersion": null, "runtime": null, "systemModules": null, "modules": null }),
            417,
            &["no deployment in the desired properties"],
        ),
        (json!({ "typo": 1 }), 400, &["typo: is unknown"]),
        (json!({ "modules": "none" }), 400, &["modules: must be an object"]),
        (
            bad(json!({ "status": "on", "settings": null })),
            400,
            &["modules.bad.status: \"on\" is unknown", "; modules.bad.settings: is missing"],
        ),
        (
            bad(json!({ "settings": { "image": "ghost:1" } })),
            500,
            &["module bad: image ghost:1 is not on this device", "import"],
        ),
        (
            bad(json!({ "settings": { "digest": wrong } })),
            500,
            &["module bad: image sender:1 has digest sha256:", "expected sha256:0000"],
        ),
        (
            host(json!({ "Privileged": true })),
            500,
            &["module bad: createOptions HostConfig.Privileged: denied by policy"],
        ),
        (
            host(json!({ "NetworkMode": "container:x" })),
            500,
            &["module bad: createOptions HostConfig.NetworkMode: "],
        ),
        (
            host(json!({ "Memory": 1024 })),
            500,
            &["module bad: createOptions HostConfig.Memory: at least 6 MiB"],
        ),
        (
            host(json!({ "Memory": "1g" })),
            500,
            &["module bad: createOptions HostConfig.Memory: must be "],
        ),
        (
            host(json!({ "Binds": ["relative/path:/x"] })),
            500,
            &["module bad: createOptions HostConfig.Binds[0]: "],
        ),
        (
            host(json!({ "Binds": ["/tmp:/x:rx"] })),
            500,
            &["module bad: createOptions HostConfig.Binds[0]: option \"rx\" is not known"],
        ),
        (
            host(json!({ "CapAdd": ["CAP_FLY"] })),
            500,
            &["module bad: createOptions HostConfig.CapAdd[0]: ", "is no capability"],
        ),
        (
            host(
                json!({ "Mounts": [{ "Type": "bind", "Source": "/does/not/exist", "Target": "/x" }] }),
            ),
            500,
            &[
                "module bad: createOptions HostConfig.Mounts",
                "/does/not/exist does not exist on the host",
            ],
        ),
        (
            host(json!({ "LogConfig": { "Type": "syslog" } })),
            500,
            &["module bad: createOptions HostConfig.LogConfig.Type: "],
        ),
        (
            host(
                json!({ "Devices": [{ "PathOnHost": "/dev/no-such", "PathInContainer": "/dev/x", "CgroupPermissions": "r" }] }),
            ),
            500,
            &["module bad: createOptions HostConfig.Devices[0]: /dev/no-such "],
        ),
        (
            options(json!({ "HostConfig": { "NetworkMode": "host" }, "Memory": 67_108_864 })),
            500,
            &["module bad: createOptions Memory: stands beside HostConfig; it belongs inside"],
        ),
        (
            options(json!({ "HostConfig": { "NetworkMode": "host" }, "User": "nobody-here" })),
            500,
            &["module bad: ", "nobody-here"],
        ),
        (
            options(
                json!({ "HostConfig": { "NetworkMode": "host" }, "Entrypoint": ["/no/such/program"] }),
            ),
            500,
            &["module bad did not start: ", "/no/such/program"],
        ),
    ]
}

fn patches_of_hub() -> Vec<Patch> {
    vec![
        (
            json!({ "schemaVersion": "2.0" }),
            400,
            &["schemaVersion \"2.0\" is not supported; supported are 1.0, 1.1, 1.2, 1.3"],
        ),
        (
            json!({ "routes": { "bad": "FROM /messages/* INTO $cloud" } }),
            400,
            &["routes.bad: at position 22: expected $upstream"],
        ),
        (
            json!({ "routes": { "bad": { "route": "FROM /* INTO $upstream", "priority": 99 } } }),
            400,
            &["routes.bad.priority: 99 is not a whole number from 0 to 9"],
        ),
        (json!({ "typo": {} }), 400, &["typo: is unknown"]),
    ]
}

fn good_module() -> Value {
    edge::module("sender:1", &json!({ "HostConfig": { "NetworkMode": "host" } }), &[])
}

/// `patch` merged into `base`; null removes.
fn merged(base: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut fields = base.as_object().cloned().unwrap_or_default();
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            let before = fields.get(name).cloned().unwrap_or(Value::Null);
            fields.insert(name.clone(), merged(&before, change));
        }
    }
    Value::Object(fields)
}

/// The patch that takes `patch` back from what was `base`.
fn undo(base: &Value, patch: &Value) -> Value {
    let (Some(fields), Some(changes)) = (base.as_object(), patch.as_object()) else {
        return base.clone();
    };
    let back = changes.iter().map(|(name, change)| {
        let before = fields.get(name).unwrap_or(&Value::Null);
        (name.clone(), undo(before, change))
    });
    Value::Object(back.collect())
}

struct Place {
    hub: Hub,
    edge: Edge,
    oracle: Oracle,
    good: Value,
    pid: Vec<u32>,
    sent: u64,
}

#[test]
fn every_broken_manifest_is_refused_with_its_place_and_what_ran_runs_on() -> Result<()> {
    let scratch = Scratch::short("br")?;
    let mut place = Place::start(&scratch)?;
    let mut failures = Vec::new();
    let mut count = 0;
    let mut judge = |what: String, outcome: Result<()>| {
        count += 1;
        if let Err(error) = outcome {
            failures.push(format!("{what}\n    {error:#}"));
        }
    };
    for (text, words) in TEXTS {
        judge(text.to_owned(), place.refuses_text(text, &[words]));
    }
    for (change, code, module, words) in contents() {
        let outcome = place.refuses_content(&change, code, module, words);
        judge(change.to_string(), outcome);
    }
    for (patch, code, words) in patches_of_agent() {
        judge(patch.to_string(), place.reports("$edgeAgent", &patch, code, words));
    }
    for (patch, code, words) in patches_of_hub() {
        judge(patch.to_string(), place.reports("$edgeHub", &patch, code, words));
    }
    ensure!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
    println!("broken manifests: {count} refused; the module sent {} messages", place.sent);
    place.edge.stop()?;
    place.hub.stop()?;
    drop(place);
    scratch.passed()
}

impl Place {
    fn start(scratch: &Scratch) -> Result<Self> {
        let oracles = scratch.path().join("o");
        std::fs::create_dir(&oracles)?;
        let hub = Hub::start(scratch.path(), Door::Stock)?;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_sender"));
        let archives = vec![image::pack(&program, "sender", scratch.path())?];
        let options = Options { engine: "embedded", archives, ..Options::default() };
        let edge = Edge::start(scratch.path(), &hub, "strict", options)?;
        let oracle = Oracle::start(&oracles.join("steady"))?;
        let options = json!({ "HostConfig": {
            "NetworkMode": "host", "Binds": [format!("{}:/oracles", oracles.display())],
        }});
        let env =
            [("SENDER_ORACLE", "/oracles/steady"), ("SENDER_WINDOW", "4"), ("SENDER_PAD", "10")];
        let steady = edge::module("sender:1", &options, &env);
        let routes = json!({ "up": "FROM /messages/modules/steady/* INTO $upstream" });
        let good = edge::content(&json!({ "steady": steady }), &routes);
        edge.deploy(&hub, &good)?;
        let mut place = Self { hub, edge, oracle, good, pid: Vec::new(), sent: 0 };
        place.goes_on()?;
        place.pid = place.edge.module("steady");
        ensure!(place.pid.len() == 1, "one process: {:?}", place.pid);
        Ok(place)
    }

    /// The module is the same process as ever, and its next message is taken.
    fn goes_on(&mut self) -> Result<()> {
        let pid = self.edge.module("steady");
        ensure!(self.pid.is_empty() || pid == self.pid, "{pid:?} runs instead of {:?}", self.pid);
        self.sent += 1;
        self.oracle.allow(self.sent);
        wait::until("the module's next message", LIMIT, || {
            Ok((self.oracle.acknowledged()? == self.sent).then_some(()))
        })
    }

    fn refuses_text(&mut self, text: &str, words: &[&str]) -> Result<()> {
        let path = self.edge.folder().with_extension("broken.json");
        std::fs::write(&path, text)?;
        let path = path.display().to_string();
        let before = self.twin("$edgeAgent")?;
        let args = ["edge", "set-modules", "strict", "--content", &path];
        let done = output(self.hub.command(&args)?, LIMIT)?;
        let said = String::from_utf8(done.stderr)?;
        ensure!(done.status.code() == Some(EXIT_INVALID_MANIFEST), "{}: {said}", done.status);
        for words in words {
            ensure!(said.contains(words), "{words:?} was not said:\n{said}");
        }
        ensure!(self.twin("$edgeAgent")? == before, "something was applied");
        self.goes_on()
    }

    fn refuses_content(
        &mut self,
        change: &Value,
        code: &str,
        module: &str,
        words: &str,
    ) -> Result<()> {
        let content = merged(&self.good, change);
        self.refuses_text(&content.to_string(), &[module, words, &format!("[{code}]")])
    }

    fn twin(&self, module: &str) -> Result<Value> {
        self.hub.json(&["twin", "get", "strict", "-m", module])
    }

    fn patch(&self, module: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        self.hub.run(&["twin", "set", "strict", "-m", module, "--desired", &patch]).map(drop)
    }

    /// What the device says about the newest desired properties: code and description.
    fn outcome(&self, module: &str, fits: impl Fn(u64) -> bool) -> Result<(u64, String)> {
        let mut last = Value::Null;
        let found = wait::until("the device's report", LIMIT, || {
            let properties = self.twin(module)?["properties"].take();
            let (desired, reported) = (&properties["desired"], &properties["reported"]);
            last = reported["lastDesiredStatus"].clone();
            let code = last["code"].as_u64().unwrap_or(0);
            let is_new = reported["lastDesiredVersion"] == desired["$version"];
            Ok((is_new && fits(code)).then_some(code))
        });
        let code = found.with_context(|| format!("the last report was {last}"))?;
        Ok((code, last["description"].as_str().unwrap_or_default().to_owned()))
    }

    fn reports(&mut self, module: &str, patch: &Value, code: u64, words: &[&str]) -> Result<()> {
        self.patch(module, patch)?;
        // A manifest that can be read counts as applied until the engine has tried it.
        let outcome = self.outcome(module, |found| found == code);
        let base = self.good["modulesContent"][module]["properties.desired"].clone();
        self.patch(module, &undo(&base, patch))?;
        let (_, said) = outcome?;
        for words in words {
            ensure!(said.contains(words), "{words:?} was not said: {said}");
        }
        self.outcome(module, |found| found == 200).context("the good manifest again")?;
        self.goes_on()
    }
}
