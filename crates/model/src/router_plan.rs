//! The desired properties of `$edgeHub`: routes, and how long messages are kept. Pure.
//!
//! One parser for both sides: the cloud refuses before it stores, the router before it routes.
//! They are read whole: one bad route and everything stays as it was, code 400.
//! Source: Azure IoT Edge, `EdgeHubConfigParser` and deployment schema 1.0 to 1.3.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::manifest::schema;
use crate::query::QueryError;
use crate::route::Route;
use serde_json::{Map, Value};
use thiserror::Error;

/// Most routes of one device.
pub const ROUTES_MAX: usize = 128;
/// How long messages are kept when nobody says otherwise.
pub const TIME_TO_LIVE: Duration = Duration::from_hours(2);
/// The largest priority a route may name; 0 is the most urgent.
pub const PRIORITY_MAX: u64 = 9;
/// The least that messages may take on disk, in bytes: a few segments of the journal.
pub const STORE_BYTES_MIN: u64 = 16 << 20;
/// Schemas that are understood.
const SCHEMAS: &[&str] = &["1.0", "1.1", "1.2", "1.3"];

/// What the router is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterPlan {
    /// The schema it was written in.
    pub schema_version: Box<str>,
    /// Routes by name.
    pub routes: BTreeMap<Box<str>, Route>,
    /// How long a message is kept; `None` is for ever.
    pub time_to_live: Option<Duration>,
    /// How many bytes messages may take on disk, if that was said.
    pub store_bytes_max: Option<u64>,
    /// What was said and has no effect here, with its path; to be reported, not passed over.
    pub notices: Vec<String>,
}

/// Why desired properties of `$edgeHub` are refused; always code 400.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidRoutes {
    /// Another schema, or none.
    #[error("{0}")]
    Schema(String),
    /// Everything that is wrong with the fields, by path.
    #[error("{}", .0.join("; "))]
    Fields(Vec<String>),
}

impl RouterPlan {
    /// Reads desired properties, without `$version` and `$metadata`.
    ///
    /// # Errors
    /// [`InvalidRoutes`], naming every bad field; a bad route with its position.
    pub fn parse(desired: &Map<String, Value>) -> Result<Self, InvalidRoutes> {
        let schema_version = schema(desired.get("schemaVersion"), SCHEMAS).map_err(|_| {
            let said = desired
                .get("schemaVersion")
                .map_or_else(|| "(absent)".to_owned(), Value::to_string);
            let known = SCHEMAS.join(", ");
            InvalidRoutes::Schema(format!(
                "schemaVersion {said} is not supported; supported are {known}"
            ))
        })?;
        let mut faults = Vec::new();
        let mut plan = Self {
            schema_version,
            routes: BTreeMap::new(),
            time_to_live: Some(TIME_TO_LIVE),
            store_bytes_max: None,
            notices: Vec::new(),
        };
        for (name, value) in desired {
            match name.as_str() {
                "schemaVersion" => {}
                "routes" => plan.routes = routes(value, &mut faults, &mut plan.notices),
                "storeAndForwardConfiguration" => {
                    store_and_forward(value, &mut plan, &mut faults);
                }
                "mqttBroker" | "integrity" if value.is_null() => {}
                "mqttBroker" | "integrity" if !value.is_object() => {
                    faults.push(format!("{name}: must be an object"));
                }
                // Azure's own router reads both and uses neither since 1.3.
                "mqttBroker" => plan.notices.push(
                    // tidy: allow the word that says what this router is not
                    "mqttBroker: has no effect, for this router is no general broker".to_owned(),
                ),
                "integrity" => {
                    plan.notices.push("integrity: signatures are not verified".to_owned());
                }
                of_the_twin if of_the_twin.starts_with('$') => {}
                _ => faults.push(format!("{name}: is unknown")),
            }
        }
        if faults.is_empty() { Ok(plan) } else { Err(InvalidRoutes::Fields(faults)) }
    }
}

fn routes(
    value: &Value,
    faults: &mut Vec<String>,
    notices: &mut Vec<String>,
) -> BTreeMap<Box<str>, Route> {
    let mut read = BTreeMap::new();
    let Value::Object(all) = value else {
        faults.push("routes: must be an object".to_owned());
        return read;
    };
    if all.len() > ROUTES_MAX {
        faults.push(format!("routes: {} routes; at most {ROUTES_MAX}", all.len()));
    }
    for (name, value) in all.iter().take(ROUTES_MAX) {
        let bad = |c: char| ".$# ".contains(c) || c.is_control();
        if name.is_empty() || name.contains(bad) {
            faults.push(format!("routes.{name}: a route's name has no blank, dot, $ or #"));
        }
        match value {
            Value::String(text) => {
                let route = route(&format!("routes.{name}"), text, faults, notices);
                drop(insert(&mut read, name, route));
            }
            Value::Object(fields) => {
                drop(insert(&mut read, name, route_object(name, fields, faults, notices)));
            }
            // A null is a deletion that the hub has not applied yet.
            Value::Null => {}
            _ => faults.push(format!("routes.{name}: must be text or an object")),
        }
    }
    read
}

fn insert(into: &mut BTreeMap<Box<str>, Route>, name: &str, route: Option<Route>) -> Option<Route> {
    into.insert(name.into(), route?)
}

fn route(
    path: &str,
    text: &str,
    faults: &mut Vec<String>,
    notices: &mut Vec<String>,
) -> Option<Route> {
    let said = |one: &QueryError| format!("{path}: at position {}: {}", one.position, one.message);
    match Route::parse_told(text) {
        Ok((route, told)) => {
            notices.extend(told.iter().map(said));
            Some(route)
        }
        Err(error) => {
            faults.push(said(&error));
            None
        }
    }
}

fn route_object(
    name: &str,
    fields: &Map<String, Value>,
    faults: &mut Vec<String>,
    notices: &mut Vec<String>,
) -> Option<Route> {
    let mut read = match fields.get("route") {
        Some(Value::String(text)) => route(&format!("routes.{name}"), text, faults, notices),
        Some(_) => {
            faults.push(format!("routes.{name}.route: must be text"));
            None
        }
        None => {
            faults.push(format!("routes.{name}.route: is missing"));
            None
        }
    };
    for (field, value) in fields {
        match (field.as_str(), value.as_u64()) {
            ("route", _) => {}
            ("priority", Some(priority)) if priority <= PRIORITY_MAX => {
                let priority = u32::try_from(priority).expect("at most PRIORITY_MAX");
                if let Some(route) = &mut read {
                    route.priority = priority;
                }
            }
            ("priority", _) => {
                faults.push(format!(
                    "routes.{name}.priority: {value} is not a whole number from 0 to {PRIORITY_MAX}"
                ));
            }
            // Zero means "the router's own setting".
            ("timeToLiveSecs", Some(seconds)) => {
                let own = (seconds > 0).then(|| Duration::from_secs(seconds));
                if let Some(route) = &mut read {
                    route.time_to_live = own;
                }
            }
            ("timeToLiveSecs", None) => {
                faults.push(format!(
                    "routes.{name}.timeToLiveSecs: {value} is not a whole number of seconds"
                ));
            }
            _ => faults.push(format!("routes.{name}.{field}: is unknown")),
        }
    }
    read
}

fn store_and_forward(value: &Value, plan: &mut RouterPlan, faults: &mut Vec<String>) {
    const HERE: &str = "storeAndForwardConfiguration";
    let Value::Object(fields) = value else {
        return faults.push(format!("{HERE}: must be an object"));
    };
    for (field, value) in fields {
        match (field.as_str(), value.as_i64()) {
            // Negative means for ever.
            ("timeToLiveSecs", Some(seconds)) => {
                plan.time_to_live = u64::try_from(seconds).ok().map(Duration::from_secs);
            }
            ("timeToLiveSecs", None) => {
                faults.push(format!("{HERE}.timeToLiveSecs: {value} is not a whole number"));
            }
            ("storeLimits", _) if value.is_null() => {}
            ("storeLimits", _) => store_limits(&format!("{HERE}.storeLimits"), value, plan, faults),
            _ => faults.push(format!("{HERE}.{field}: is unknown")),
        }
    }
}

fn store_limits(here: &str, value: &Value, plan: &mut RouterPlan, faults: &mut Vec<String>) {
    let Value::Object(fields) = value else {
        return faults.push(format!("{here}: must be an object"));
    };
    for (field, value) in fields {
        match (field.as_str(), value.as_u64()) {
            ("maxSizeBytes", Some(bytes)) if bytes < STORE_BYTES_MIN => {
                plan.store_bytes_max = Some(STORE_BYTES_MIN);
                let words = format!("{bytes} is below what this router needs, {STORE_BYTES_MIN}");
                plan.notices.push(format!("{here}.maxSizeBytes: {words}"));
            }
            ("maxSizeBytes", Some(bytes)) => plan.store_bytes_max = Some(bytes),
            ("maxSizeBytes", None) => {
                faults.push(format!("{here}.maxSizeBytes: {value} is not a number of bytes"));
            }
            _ => faults.push(format!("{here}.{field}: is unknown")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::route::{Endpoint, ROUTE_PRIORITY_DEFAULT};
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<RouterPlan, InvalidRoutes> {
        RouterPlan::parse(value.as_object().unwrap())
    }

    #[test]
    fn routes_are_read_as_text_and_as_objects() {
        let read = parse(&json!({
            "schemaVersion": "1.1", "$version": 4,
            "routes": {
                "up": "FROM /messages/* INTO $upstream",
                "in": { "route": "FROM /messages/modules/a/outputs/o INTO \
                     BrokeredEndpoint(\"/modules/b/inputs/i\")", "priority": 2, "timeToLiveSecs": 60 }
            },
            "storeAndForwardConfiguration": { "timeToLiveSecs": -1 }
        }))
        .unwrap();
        assert_eq!(read.time_to_live, None);
        assert_eq!(read.routes["up"].endpoint, Endpoint::Upstream);
        assert_eq!(read.routes["up"].priority, ROUTE_PRIORITY_DEFAULT);
        let route = &read.routes["in"];
        assert_eq!((route.priority, route.time_to_live), (2, Some(Duration::from_mins(1))));
    }

    #[test]
    fn silence_means_no_routes_and_two_hours() {
        let read = parse(&json!({ "schemaVersion": "1.0" })).unwrap();
        assert!(read.routes.is_empty());
        assert_eq!(read.time_to_live, Some(TIME_TO_LIVE));
    }

    #[test]
    fn every_bad_field_is_refused_with_its_path() {
        let check = |field: &str, value: Value, words: &str| {
            let mut all = json!({ "schemaVersion": "1.2" });
            all[field] = value;
            let said = parse(&all).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        };
        let up = "FROM /messages/* INTO $upstream";
        check("schemaVersion", json!("1.7"), "\"1.7\" is not supported");
        check("schemaVersion", json!(1), "1 is not supported");
        check("route", json!({}), "route: is unknown");
        check("routes", json!([]), "routes: must be an object");
        check("routes", json!({ "a": 7 }), "routes.a: must be text or an object");
        check("routes", json!({ "a b": up }), "routes.a b: a route's name");
        check("routes", json!({ "a": "" }), "routes.a: at position");
        check(
            "routes",
            json!({ "a": "FROM /messages/* INTO $downstream" }),
            "routes.a: at position",
        );
        check("routes", json!({ "a": "FROM /messages/* WHERE x = INTO $upstream" }), "at position");
        check("routes", json!({ "a": { "priority": 1 } }), "routes.a.route: is missing");
        check(
            "routes",
            json!({ "a": { "route": up, "priority": 10 } }),
            "10 is not a whole number",
        );
        check("routes", json!({ "a": { "route": up, "ttl": 1 } }), "routes.a.ttl: is unknown");
        check(
            "routes",
            json!({ "a": { "route": up, "timeToLiveSecs": -1 } }),
            "timeToLiveSecs: -1",
        );
        check("storeAndForwardConfiguration", json!(7), "must be an object");
        check("storeAndForwardConfiguration", json!({ "x": 1 }), "x: is unknown");
        check("mqttBroker", json!(1), "mqttBroker: must be an object");
        let store = |limits: Value| json!({ "storeLimits": limits });
        check("storeAndForwardConfiguration", store(json!(1)), "storeLimits: must be an object");
        check("storeAndForwardConfiguration", store(json!({ "x": 1 })), "storeLimits.x: is");
        check(
            "storeAndForwardConfiguration",
            store(json!({ "maxSizeBytes": -1 })),
            "maxSizeBytes: -1 is not a number of bytes",
        );
    }

    #[test]
    fn what_azure_takes_and_we_do_not_use_is_taken_and_told() {
        let read = parse(&json!({
            "schemaVersion": "1.3",
            "mqttBroker": { "authorizations": [] },
            "integrity": { "header": {}, "signature": {} },
            "storeAndForwardConfiguration": { "storeLimits": { "maxSizeBytes": 1000 } },
        }))
        .unwrap();
        assert_eq!(read.store_bytes_max, Some(STORE_BYTES_MIN));
        let notices = read.notices.join("; ");
        for words in ["mqttBroker: has no effect", "not verified", "1000 is below"] {
            assert!(notices.contains(words), "{notices}");
        }
        let read = parse(&json!({
            "schemaVersion": "1.3", "mqttBroker": null,
            "storeAndForwardConfiguration": { "storeLimits": { "maxSizeBytes": 1 << 30 } },
        }))
        .unwrap();
        assert_eq!((read.store_bytes_max, read.notices.len()), (Some(1 << 30), 0));
    }

    #[test]
    fn conditions_that_azure_would_refuse_are_taken_and_told_by_route_and_position() {
        let text = "FROM /messages/* WHERE level > 3 INTO $upstream";
        let routes = json!({ "a": text, "b": { "route": text, "priority": 1 } });
        let read = parse(&json!({ "schemaVersion": "1.1", "routes": routes })).unwrap();
        assert_eq!(read.routes.len(), 2);
        let [a, b] = &read.notices[..] else { panic!("{:?}", read.notices) };
        for (notice, start) in
            [(a, "routes.a: at position 23: "), (b, "routes.b: at position 23: ")]
        {
            assert!(notice.starts_with(start) && notice.contains("as_number"), "{notice}");
        }
    }

    #[test]
    fn all_faults_come_in_one_answer() {
        let refused =
            parse(&json!({ "schemaVersion": "1.0", "routes": { "a": 1, "b": 2 }, "x": 3 }));
        let InvalidRoutes::Fields(faults) = refused.unwrap_err() else { panic!() };
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn routes_and_priorities_may_reach_their_limits_and_no_more() {
        let up = "FROM /messages/* INTO $upstream";
        let routes = |count: usize, priority: u64| {
            let route = json!({ "route": up, "priority": priority });
            let all: Map<_, _> = (0..count).map(|at| (format!("r{at}"), route.clone())).collect();
            parse(&json!({ "schemaVersion": "1.1", "routes": all }))
        };
        assert_eq!(routes(ROUTES_MAX, PRIORITY_MAX).unwrap().routes.len(), ROUTES_MAX);
        let said = routes(ROUTES_MAX + 1, 0).unwrap_err().to_string();
        assert!(said.contains(&format!("{} routes; at most", ROUTES_MAX + 1)), "{said}");
        let said = routes(1, PRIORITY_MAX + 1).unwrap_err().to_string();
        assert!(said.contains(&format!("from 0 to {PRIORITY_MAX}")), "{said}");
    }
}
