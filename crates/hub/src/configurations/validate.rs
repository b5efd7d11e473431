//! A content checked for an editor: every fault with its place in the text, and what the routes
//! mean. Pure.

use api::configuration::{ContentFault, RoutePreview, Validation};
use api::router::RouteState;
use model::manifest::Manifest;
use model::names::{EDGE_AGENT, EDGE_HUB};
use model::route::{Endpoint, Route};
use model::router_plan::RouterPlan;
use serde_json::{Map, Value};

use super::place::{self, Node};
use super::{DESIRED, MODULES, MODULES_OLD, fault, faults_of, modules_key, spelling_notices};

/// Checks `text`; Azure's full configuration document is taken too.
pub(crate) fn validate(text: &str) -> Validation {
    let content: Value = match model::json::parse(text.as_bytes()) {
        Ok(content) => content,
        Err(error) => {
            let mut fault = fault("json", None, None, error.to_string());
            fault.place = Some(place::of_syntax(text, error.line(), error.column()));
            return Validation { faults: vec![fault], ..Validation::default() };
        }
    };
    let wrapped = content.get("content").is_some_and(Value::is_object);
    let content = if wrapped { content.get("content").unwrap_or(&content) } else { &content };
    let outcome = faults_of(content);
    let (modules, mut faults) = match outcome {
        Ok(deployment) => {
            let named = deployment.modules.unwrap_or_default();
            (named.iter().map(ToString::to_string).collect(), Vec::new())
        }
        Err(faults) => (Vec::new(), faults),
    };
    let mut notices = notices(content);
    if let Some(tree) = Node::parse(text) {
        let tree = if wrapped { tree.get("content").unwrap_or(&tree) } else { &tree };
        for fault in faults.iter_mut().chain(&mut notices) {
            locate(text, tree, fault);
        }
    }
    let routes = previews(content);
    Validation { valid: faults.is_empty(), faults, notices, routes, modules }
}

/// Gives every fault of `text` its place, for a refusal.
pub(crate) fn locate_all(text: &str, faults: &mut [ContentFault]) {
    let Some(tree) = Node::parse(text) else { return };
    for fault in faults {
        locate(text, &tree, fault);
    }
}

fn locate(text: &str, tree: &Node, fault: &mut ContentFault) {
    let path = fault.path.as_deref().unwrap_or_default();
    let modules = if tree.get(MODULES).is_some() { MODULES } else { MODULES_OLD };
    let keys: Vec<&str> = match (fault.code.as_str(), fault.module.as_deref()) {
        (_, None) => Vec::new(),
        // Paths of the manifest and of routes begin inside the desired properties.
        ("manifest" | "schema" | "empty", Some(module)) if module != EDGE_HUB => {
            vec![modules, EDGE_AGENT, DESIRED]
        }
        ("manifest" | "schema" | "route", Some(_)) => vec![modules, EDGE_HUB, DESIRED],
        (_, Some(module)) => vec![modules, module],
    };
    // `properties.desired` is one key.
    let (keys, path) = match path {
        DESIRED => ([&keys[..], &[DESIRED]].concat(), ""),
        path => (keys, path),
    };
    let mut span = tree.find(&keys, path);
    let words = fault.message.strip_prefix(path).and_then(|rest| rest.strip_prefix(": "));
    if let Some(offset) = position_in(words.unwrap_or(&fault.message)) {
        // A route that is an object has its text one level further in; what is not there leads
        // to the key before it.
        let inner = tree.find(&keys, &format!("{path}.route"));
        let literal = if inner.from > span.from { inner } else { span };
        span = place::inside(text, literal, offset);
    }
    fault.place = Some(place::place(text, span));
}

/// The byte that a fault of a route or condition speaks of.
fn position_in(message: &str) -> Option<usize> {
    let rest = message.strip_prefix("at position ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn desired<'a>(content: &'a Value, module: &str) -> Option<&'a Map<String, Value>> {
    content.get(modules_key(content))?.get(module)?.get(DESIRED)?.as_object()
}

/// What was said and has no effect.
fn notices(content: &Value) -> Vec<ContentFault> {
    let of = |module: &str, notices: Vec<String>| {
        let one = |words: String| {
            let path = words.split(": ").next().unwrap_or_default().to_owned();
            let code = if path.starts_with("routes.") { "route" } else { "manifest" };
            fault(code, Some(module), Some(&path), words)
        };
        notices.into_iter().map(one).collect::<Vec<_>>()
    };
    let agent = desired(content, EDGE_AGENT).and_then(|desired| Manifest::parse(desired).ok());
    let hub = desired(content, EDGE_HUB).and_then(|desired| RouterPlan::parse(desired).ok());
    let agent = agent.map(|manifest| of(EDGE_AGENT, manifest.notices)).unwrap_or_default();
    let hub = hub.map(|plan| of(EDGE_HUB, plan.notices)).unwrap_or_default();
    spelling_notices(content).into_iter().chain(agent).chain(hub).collect()
}

/// Every route that can be understood, also beside others that cannot.
fn previews(content: &Value) -> Vec<RoutePreview> {
    let routes = desired(content, EDGE_HUB).and_then(|desired| desired.get("routes"));
    let all = routes.and_then(Value::as_object).into_iter().flatten();
    let read = all.filter_map(|(name, value)| {
        let text = value.as_str().or_else(|| value.get("route")?.as_str())?;
        let number = |field: &str| value.get(field).and_then(Value::as_u64);
        let route = Route::parse(text).ok()?;
        let condition = (!route.condition.always_holds()).then(|| route.condition.to_string());
        let priority = number("priority").and_then(|number| u32::try_from(number).ok());
        let state = RouteState {
            name: name.clone(),
            source: route.source.to_string(),
            condition,
            endpoint: match &route.endpoint {
                Endpoint::Upstream => "$upstream".to_owned(),
                Endpoint::ModuleInput { module, input } => format!("{module}/{input}"),
            },
            priority: priority.unwrap_or(route.priority),
            time_to_live_secs: number("timeToLiveSecs").filter(|seconds| *seconds > 0),
        };
        Some(RoutePreview { state, route: text.to_owned() })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{
  "modulesContent": {
    "$edgeAgent": { "properties.desired": {
      "schemaVersion": "1.1",
      "runtime": { "type": "docker", "settings": {} },
      "systemModules": {
        "edgeAgent": { "type": "docker", "settings": { "image": "agent:1" } },
        "edgeHub": { "type": "docker", "status": "running", "restartPolicy": "always",
                     "settings": { "image": "hub:1" } }
      },
      "modules": {
        "m": { "type": "docker", "status": "running", "restartPolicy": "always",
               "settings": { "image": "m:1" } }
      }
    } },
    "$edgeHub": { "properties.desired": {
      "schemaVersion": "1.1",
      "routes": {
        "up": "FROM /messages/* INTO $upstream",
        "hot": { "route": "FROM /messages/modules/m/outputs/o WHERE as_number(x) > 1 INTO BrokeredEndpoint(\"/modules/m/inputs/i\")", "priority": 2, "timeToLiveSecs": 60 }
      }
    } },
    "m": { "properties.desired": { "limit": 3 } }
  }
}"#;

    /// What the place of the only fault shows, and its line.
    fn shown(text: &str) -> (String, u32) {
        let answer = validate(text);
        assert!(!answer.valid);
        assert_eq!(answer.faults.len(), 1, "{:?}", answer.faults);
        let place = answer.faults[0].place.unwrap();
        let units: Vec<u16> = text.encode_utf16().collect();
        let part = &units[place.from as usize..place.to as usize];
        (String::from_utf16(part).unwrap(), place.line)
    }

    #[test]
    fn good_content_has_no_faults_and_its_routes_are_understood() {
        for text in [GOOD.to_owned(), format!("{{\"id\": \"x\", \"content\": {GOOD}}}")] {
            let answer = validate(&text);
            assert!(answer.valid, "{:?}", answer.faults);
            assert_eq!(answer.modules, ["m"]);
            let [up, hot] = &answer.routes[..] else { panic!("{:?}", answer.routes) };
            assert_eq!((&*up.state.name, &*up.state.endpoint), ("up", "$upstream"));
            assert_eq!((&*hot.state.endpoint, hot.state.priority), ("m/i", 2));
            assert_eq!(hot.state.time_to_live_secs, Some(60));
            assert!(hot.state.condition.is_some());
        }
    }

    #[test]
    fn every_fault_is_placed_where_it_stands() {
        let check = |from: &str, to: &str, expected: &str, line: u32| {
            assert!(GOOD.contains(from), "{from}");
            assert_eq!(shown(&GOOD.replacen(from, to, 1)), (expected.to_owned(), line), "{to}");
        };
        check("\"image\": \"m:1\"", "\"image\": 7", "7", 13);
        let (running, runs) = (
            "\"m\": { \"type\": \"docker\", \"status\": \"running\"",
            "\"m\": { \"type\": \"docker\", \"status\": \"runs\"",
        );
        check(running, runs, "\"runs\"", 12);
        check("INTO $upstream", "INTO $downstream", "$downstream", 19);
        check("(x) > 1", "(x) > ", "INTO", 20);
        check("\"priority\": 2", "\"priority\": 20", "20", 20);
        check("\"m\": { \"properties", "\"typo\": { \"properties", "\"typo\"", 23);
        check("{ \"limit\": 3 }", "7", "\"properties.desired\"", 23);
        check("\"limit\": 3 } }", "\"limit\": 3 }, \"x\": 1 }", "1", 23);
        check(
            "\"schemaVersion\": \"1.1\",\n      \"routes\"",
            "\"schemaVersion\": \"9\",\n      \"routes\"",
            "\"9\"",
            17,
        );
        check("\"limit\": 3", "\"limit\" 3", "3", 23);
    }

    #[test]
    fn another_spelling_is_told_where_it_stands_and_hides_no_fault() {
        let old = GOOD.replacen("modulesContent", "moduleContent", 1);
        let with_schema = GOOD.replacen('{', "{\n  \"$schema\": \"http://x\",", 1);
        let both = [(&old, "\"moduleContent\"", 2), (&with_schema, "\"http://x\"", 2)];
        for (text, shown, line) in both {
            let answer = validate(text);
            assert!(answer.valid, "{:?}", answer.faults);
            assert_eq!((answer.modules.len(), answer.routes.len()), (1, 2));
            let [notice] = &answer.notices[..] else { panic!("{:?}", answer.notices) };
            let place = notice.place.unwrap();
            let part = text.get(place.from as usize..place.to as usize).unwrap();
            assert_eq!((part, place.line), (shown, line));
        }
        let wrong = old.replacen("\"image\": \"m:1\"", "\"image\": 7", 1);
        assert_eq!(shown(&wrong), ("7".to_owned(), 13));
    }

    #[test]
    fn create_options_without_effect_are_told_where_they_stand() {
        let wrong = r#""createOptions": "{\"HostConfg\":{\"Privileged\":true}}""#;
        let text = GOOD.replacen(r#""image": "m:1""#, &format!(r#""image": "m:1", {wrong}"#), 1);
        let answer = validate(&text);
        assert!(answer.valid, "{:?}", answer.faults);
        let [notice] = &answer.notices[..] else { panic!("{:?}", answer.notices) };
        assert!(notice.message.contains("HostConfg has no effect"), "{notice:?}");
        let place = notice.place.unwrap();
        let part = text.get(place.from as usize..).unwrap();
        assert!(part.starts_with(r#""{\"HostConfg"#), "{part}");
        assert_eq!(place.line, 13);
    }

    #[test]
    fn conditions_that_azure_would_refuse_are_told_where_they_stand() {
        let text = GOOD.replacen("as_number(x) > 1", "x > 1", 1);
        let answer = validate(&text);
        assert!(answer.valid);
        let [notice] = &answer.notices[..] else { panic!("{:?}", answer.notices) };
        assert_eq!((&*notice.code, notice.module.as_deref()), ("route", Some(EDGE_HUB)));
        assert!(notice.message.starts_with("routes.hot: at position"), "{notice:?}");
        let place = notice.place.unwrap();
        assert!(text.get(place.from as usize..).unwrap().starts_with("x > 1"), "{place:?}");
        assert_eq!(place.line, 20);
    }

    #[test]
    fn a_wrong_route_does_not_hide_the_others() {
        let text = GOOD.replacen("INTO $upstream", "INTO nowhere", 1);
        let answer = validate(&text);
        assert_eq!(answer.routes.len(), 1);
        assert_eq!(answer.routes[0].state.name, "hot");
    }
}
