//! Deployments to one device: the content is parsed whole, every fault named, before anything
//! is stored.
//!
//! Pure except for `http.rs`. Source: service API, `applyConfigurationContent`.

pub(crate) mod http;
pub(crate) mod place;
pub(crate) mod validate;

use api::configuration::ContentFault;
use model::id::ModuleName;
use model::manifest::{InvalidManifest, Manifest};
use model::names::{EDGE_AGENT, EDGE_HUB};
use model::route::Endpoint;
use model::router_plan::{InvalidRoutes, RouterPlan};
use model::twin::limits::{self, PROPERTIES_BYTES_MAX};
use serde_json::{Map, Value};

use crate::registry::SYSTEM_MODULES;
use crate::storage::twins::Deployment;

const DESIRED: &str = "properties.desired";
/// How names of the system begin.
const SYSTEM_PREFIX: &str = "$edge";
/// The modules of a content.
const MODULES: &str = "modulesContent";
/// What that was called once; manifests of that time and Azure's own samples still say so.
const MODULES_OLD: &str = "moduleContent";
/// Names of what editors read to know the shape of a manifest: `$schema`, `$schema-template`.
const EDITORS_PREFIX: &str = "$schema";

/// Reads a content, or tells everything that is wrong with it.
pub(crate) fn parse(body: &[u8]) -> Result<Deployment, Vec<ContentFault>> {
    let content = model::json::parse(body)
        .map_err(|error| vec![fault("json", None, None, error.to_string())])?;
    faults_of(&content)
}

/// The same of content that is JSON already.
fn faults_of(content: &Value) -> Result<Deployment, Vec<ContentFault>> {
    let mut faults = Vec::new();
    let mut deployment = Deployment::default();
    match modules_content(content, &mut faults) {
        Some(modules) if modules.is_empty() => {
            faults.push(fault("empty", None, Some("modulesContent"), "it names no module"));
        }
        Some(modules) => read_modules(modules, &mut deployment, &mut faults),
        None => {}
    }
    if faults.is_empty() { Ok(deployment) } else { Err(faults) }
}

fn modules_content<'a>(
    content: &'a Value,
    faults: &mut Vec<ContentFault>,
) -> Option<&'a Map<String, Value>> {
    let Some(fields) = content.as_object() else {
        faults.push(fault("shape", None, None, "the content must be an object"));
        return None;
    };
    let key = modules_key(content);
    // SDKs whose content has a field per kind of content send `null` for the kinds left out.
    let said = fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name);
    for name in said.filter(|name| *name != key && !name.starts_with(EDITORS_PREFIX)) {
        let words = if name == MODULES_OLD {
            "it is the old name of modulesContent, which is there too; give one"
        } else {
            "only modulesContent is known for an edge device"
        };
        faults.push(fault("unknownField", None, Some(name), words));
    }
    let modules = fields.get(key).and_then(Value::as_object);
    if modules.is_none() {
        let words = format!("{key} is missing or not an object");
        faults.push(fault("shape", None, Some(key), words));
    }
    modules
}

/// What the modules of `content` are called in it.
fn modules_key(content: &Value) -> &'static str {
    let is_there = |name| content.get(name).is_some_and(|value| !value.is_null());
    let is_old = !is_there(MODULES) && is_there(MODULES_OLD);
    if is_old { MODULES_OLD } else { MODULES }
}

/// What is taken although it says nothing, or says it in old words.
fn spelling_notices(content: &Value) -> Vec<ContentFault> {
    let fields = content.as_object().into_iter().flatten();
    let told = fields.filter(|(_, value)| !value.is_null()).filter_map(|(name, _)| {
        let words = if name == MODULES_OLD {
            "it is the old name of modulesContent"
        } else if name.starts_with(EDITORS_PREFIX) {
            "it is for editors and has no effect"
        } else {
            return None;
        };
        Some(fault("spelling", None, Some(name), words))
    });
    told.collect()
}

fn read_modules(
    modules: &Map<String, Value>,
    deployment: &mut Deployment,
    faults: &mut Vec<ContentFault>,
) {
    let mut sinks = Vec::new();
    for (text, content) in modules {
        let name = match text.parse::<ModuleName>() {
            Ok(name) => name,
            Err(error) => {
                faults.push(fault("moduleName", Some(text), None, error.to_string()));
                continue;
            }
        };
        let Some(desired) = desired_of(text, content, faults) else { continue };
        if let Err(error) = limits::check_shape(desired) {
            faults.push(fault("twin", Some(text), Some(DESIRED), error.to_string()));
        }
        if let Err(error) = limits::check_size("desired", desired, PROPERTIES_BYTES_MAX) {
            faults.push(fault("twinSize", Some(text), Some(DESIRED), error.to_string()));
        }
        match text.as_str() {
            EDGE_AGENT => {
                if let Some(manifest) = read_manifest(desired, faults) {
                    deployment.modules = Some(manifest.modules.into_keys().collect());
                }
            }
            EDGE_HUB => sinks = read_routes(desired, faults),
            _ => {}
        }
        deployment.desired.push((name, desired.clone()));
    }
    check_names(deployment, &sinks, faults);
}

fn desired_of<'a>(
    module: &str,
    content: &'a Value,
    faults: &mut Vec<ContentFault>,
) -> Option<&'a Map<String, Value>> {
    let Some(fields) = content.as_object() else {
        faults.push(fault("shape", Some(module), None, "it must be an object"));
        return None;
    };
    for name in fields.keys().filter(|name| *name != DESIRED) {
        let words =
            "only properties.desired may be set on one device; parts of it belong to layers";
        faults.push(fault("unknownField", Some(module), Some(name), words));
    }
    let desired = fields.get(DESIRED).and_then(Value::as_object);
    if desired.is_none() {
        let words = "properties.desired is missing or not an object";
        faults.push(fault("shape", Some(module), Some(DESIRED), words));
    }
    desired
}

fn read_manifest(desired: &Map<String, Value>, faults: &mut Vec<ContentFault>) -> Option<Manifest> {
    match Manifest::parse(desired) {
        Ok(manifest) => Some(manifest),
        Err(InvalidManifest::Faults(all)) => {
            faults.extend(all.into_iter().map(|one| {
                let module =
                    one.path.strip_prefix("modules.").and_then(|rest| rest.split('.').next());
                fault("manifest", Some(module.unwrap_or(EDGE_AGENT)), Some(&one.path), one.words)
            }));
            None
        }
        Err(other) => {
            let code = if matches!(other, InvalidManifest::Empty) { "empty" } else { "schema" };
            faults.push(fault(code, Some(EDGE_AGENT), Some("schemaVersion"), other.to_string()));
            None
        }
    }
}

fn read_routes(
    desired: &Map<String, Value>,
    faults: &mut Vec<ContentFault>,
) -> Vec<(Box<str>, ModuleName)> {
    match RouterPlan::parse(desired) {
        Ok(plan) => return sinks(plan),
        Err(InvalidRoutes::Schema(words)) => {
            faults.push(fault("schema", Some(EDGE_HUB), Some("schemaVersion"), words));
        }
        Err(InvalidRoutes::Fields(all)) => faults.extend(all.into_iter().map(|text| {
            let (path, words) = text.split_once(": ").unwrap_or(("", &text));
            let code = if path.starts_with("routes") { "route" } else { "manifest" };
            fault(code, Some(EDGE_HUB), Some(path), words)
        })),
    }
    Vec::new()
}

/// Modules that routes lead to, each with the name of a route.
fn sinks(plan: RouterPlan) -> Vec<(Box<str>, ModuleName)> {
    let routes = plan.routes.into_iter();
    let each = routes.filter_map(|(name, route)| match route.endpoint {
        Endpoint::ModuleInput { module, .. } => Some((name, module)),
        Endpoint::Upstream => None,
    });
    each.collect()
}

/// A twin for a module that the manifest does not name is a typing error, and so is a route to
/// one: what it carries would fill the device's disk until it expires.
fn check_names(
    deployment: &Deployment,
    sinks: &[(Box<str>, ModuleName)],
    faults: &mut Vec<ContentFault>,
) {
    let is_system = |name: &ModuleName| SYSTEM_MODULES.contains(&name.as_str());
    let Some(modules) = &deployment.modules else {
        // Without a manifest only twins are written; nothing else of the system has one.
        for (name, _) in deployment.desired.iter().filter(|(name, _)| !is_system(name)) {
            if name.as_str().starts_with(SYSTEM_PREFIX) {
                let words = "the system has no such module";
                faults.push(fault("unknownModule", Some(name.as_str()), None, words));
            }
        }
        return;
    };
    for (name, _) in &deployment.desired {
        let known = is_system(name) || modules.contains(name);
        if !known {
            let words = "$edgeAgent names no such module";
            faults.push(fault("unknownModule", Some(name.as_str()), None, words));
        }
    }
    for (route, module) in sinks.iter().filter(|(_, module)| !modules.contains(module)) {
        let words = format!("leads to module {module}, which $edgeAgent does not name");
        faults.push(fault("route", Some(EDGE_HUB), Some(&format!("routes.{route}")), words));
    }
}

fn fault(
    code: &str,
    module: Option<&str>,
    path: Option<&str>,
    words: impl Into<String>,
) -> ContentFault {
    ContentFault {
        code: code.to_owned(),
        module: module.map(str::to_owned),
        path: path.map(str::to_owned),
        message: words.into(),
        place: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(modules: &Value) -> Value {
        json!({ DESIRED: {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} },
            "systemModules": {
                "edgeAgent": { "type": "docker", "settings": { "image": "agent:1" } },
                "edgeHub": { "type": "docker", "status": "running", "restartPolicy": "always",
                             "settings": { "image": "hub:1" } }
            },
            "modules": modules
        }})
    }

    fn module() -> Value {
        json!({ "type": "docker", "status": "running", "restartPolicy": "always",
                "settings": { "image": "m:1" } })
    }

    #[test]
    fn a_good_content_names_modules_and_their_desired_properties() {
        let content = json!({ "modulesContent": {
            "$edgeAgent": agent(&json!({ "m": module() })),
            "$edgeHub": { DESIRED: { "schemaVersion": "1.1",
                "routes": { "up": "FROM /messages/* INTO $upstream" } } },
            "m": { DESIRED: { "limit": 3 } }
        }});
        let read = parse(content.to_string().as_bytes()).unwrap();
        assert_eq!(read.modules, Some(vec!["m".parse().unwrap()]));
        assert_eq!(read.desired.len(), 3);
    }

    #[test]
    fn every_fault_comes_in_one_answer_with_module_and_place() {
        let mut bad = module();
        bad["settings"] = json!({});
        let content = json!({ "modulesContent": {
            "$edgeAgent": agent(&json!({ "m": bad })),
            "$edgeHub": { DESIRED: { "schemaVersion": "1.1",
                "routes": { "up": "FROM /messages/* INTO $downstream" } } },
            "m": { "properties.desired.part": {} }
        }, "other": 1 });
        let faults = parse(content.to_string().as_bytes()).unwrap_err();
        let seen = |code: &str, module: Option<&str>| {
            faults.iter().any(|fault| fault.code == code && fault.module.as_deref() == module)
        };
        assert!(seen("unknownField", None), "{faults:?}");
        assert!(seen("unknownField", Some("m")), "{faults:?}");
        assert!(seen("manifest", Some("m")), "{faults:?}");
        assert!(seen("route", Some(EDGE_HUB)), "{faults:?}");
    }

    #[test]
    fn old_and_editors_names_are_taken_and_told() {
        let modules = json!({ "$edgeAgent": agent(&json!({ "m": module() })) });
        let check = |content: Value, expected: Result<&[&str], &str>| {
            let got = faults_of(&content).map(|deployment| {
                assert_eq!(deployment.modules, Some(vec!["m".parse().unwrap()]));
                spelling_notices(&content)
            });
            match (got, expected) {
                (Ok(notices), Ok(expected)) => {
                    let paths: Vec<_> = notices.iter().map(|n| n.path.as_deref()).collect();
                    let expected: Vec<_> = expected.iter().map(|name| Some(*name)).collect();
                    assert_eq!(paths, expected, "{content}");
                }
                (Err(faults), Err(path)) => {
                    assert_eq!(faults.len(), 1, "{faults:?}");
                    assert_eq!(faults[0].path.as_deref(), Some(path), "{content}");
                }
                (got, _) => panic!("{content}: {got:?}"),
            }
        };
        let schema = "http://json.schemastore.org/azure-iot-edge-deployment-2.0";
        check(json!({ MODULES: modules }), Ok(&[]));
        check(json!({ "$schema": schema, MODULES: modules }), Ok(&["$schema"]));
        check(json!({ "$schema-template": "4.0.0", MODULES: modules }), Ok(&["$schema-template"]));
        check(json!({ MODULES_OLD: modules }), Ok(&[MODULES_OLD]));
        check(json!({ MODULES: modules, MODULES_OLD: modules }), Err(MODULES_OLD));
        check(json!({ MODULES: modules, "schema": schema }), Err("schema"));
        let kinds = json!({ "deviceContent": null, MODULES: modules, MODULES_OLD: null });
        check(kinds, Ok(&[]));
        check(json!({ "$schema": schema }), Err(MODULES));
    }

    #[test]
    fn a_twin_without_its_module_is_refused() {
        let content = json!({ "modulesContent": {
            "$edgeAgent": agent(&json!({})), "typo": { DESIRED: {} } } });
        let faults = parse(content.to_string().as_bytes()).unwrap_err();
        assert_eq!(faults[0].code, "unknownModule");
        assert_eq!(parse(b"{").unwrap_err()[0].code, "json");
    }
}
