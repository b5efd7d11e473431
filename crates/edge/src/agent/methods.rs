//! What the cloud may ask of `$edgeAgent`: requests parsed, answers shaped. Pure.
//!
//! Source: Azure IoT Edge, `doc/built-in-logs-pull.md` and the agent's request handlers.

use api::router::{GET_ROUTER_METRICS, RouterMetrics};
use bytes::Bytes;
use model::id::ModuleName;
use model::method::{MethodRequest, MethodResponse};
use model::time::WallTime;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Most bytes that one answer may have. Source: edge agent, 127 000 of the hub's 128 KiB.
pub const ANSWER_BYTES_MAX: usize = 127_000;
/// Most modules that one request for logs may name.
pub const LOG_ITEMS_MAX: usize = 64;
/// The methods there are.
pub const KNOWN: &[&str] = &["ping", "RestartModule", "GetModuleLogs", GET_ROUTER_METRICS];

/// One request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentMethod {
    /// Are you there?
    Ping,
    /// Restart one module now, back-off or not.
    RestartModule(ModuleName),
    /// Give the last lines of some modules.
    GetModuleLogs(LogsRequest),
    /// Say what the router counted. Ours; the reference tells it to Prometheus only.
    GetRouterMetrics,
}

/// Which logs, in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogsRequest {
    /// What is asked for, in order.
    pub items: Vec<LogItem>,
    /// Each line as a JSON record instead of text.
    pub content: LogContent,
}

/// `contentType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogContent {
    /// Lines as they are.
    #[default]
    Text,
    /// An array of records.
    Json,
}

/// One entry of `items`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogItem {
    /// A module; `None` is all of them.
    pub module: Option<ModuleName>,
    /// Only the last so many lines.
    pub tail: Option<u32>,
    /// Only lines from then on.
    pub since: Option<WallTime>,
    /// Only lines before then.
    pub until: Option<WallTime>,
}

/// Why a request is answered 400.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadRequest {
    /// There is no such method.
    #[error("method {0:?} is unknown; known are {known}", known = KNOWN.join(", "))]
    Unknown(String),
    /// The payload is not a JSON object.
    #[error("the payload must be a JSON object")]
    Payload,
    /// Another schema.
    #[error("schemaVersion {0} is not supported; supported is 1.0")]
    Schema(String),
    /// A field is wrong.
    #[error("{path}: {words}")]
    Field {
        /// Which.
        path: &'static str,
        /// What is wrong with it.
        words: String,
    },
}

/// Reads a request. Names are compared without case. `now` is for spans such as `1h`.
///
/// # Errors
/// [`BadRequest`], to be answered by [`refused`].
pub fn parse(request: &MethodRequest, now: WallTime) -> Result<AgentMethod, BadRequest> {
    let is = |name: &str| request.name.eq_ignore_ascii_case(name);
    if is("ping") {
        return Ok(AgentMethod::Ping);
    }
    if is("RestartModule") {
        let fields = payload(request, &["schemaVersion", "id"])?;
        return Ok(AgentMethod::RestartModule(module(fields.get("id"))?));
    }
    if is("GetModuleLogs") {
        let known = ["schemaVersion", "items", "encoding", "contentType"];
        return logs(&payload(request, &known)?, now).map(AgentMethod::GetModuleLogs);
    }
    if is(GET_ROUTER_METRICS) {
        payload(request, &["schemaVersion"])?;
        return Ok(AgentMethod::GetRouterMetrics);
    }
    Err(BadRequest::Unknown(request.name.clone()))
}

/// Done, with nothing to say.
pub fn done() -> MethodResponse {
    MethodResponse { status: 200, payload: Bytes::from_static(b"null") }
}

/// Not done: the request is at fault.
pub fn refused(error: &BadRequest) -> MethodResponse {
    failed(400, &error.to_string())
}

/// Not done, with a status and a reason.
pub fn failed(status: i32, words: &str) -> MethodResponse {
    MethodResponse { status, payload: json!({ "message": words }).to_string().into() }
}

/// What the router counted.
pub fn metrics_answer(metrics: &RouterMetrics) -> MethodResponse {
    match serde_json::to_vec(metrics) {
        Ok(text) if text.len() <= ANSWER_BYTES_MAX => {
            MethodResponse { status: 200, payload: text.into() }
        }
        Ok(text) => failed(500, &format!("the metrics have {} bytes, too many", text.len())),
        Err(error) => failed(500, &error.to_string()),
    }
}

/// The logs of some modules; 400 if they are too large together.
pub fn logs_answer(logs: &[(ModuleName, String)]) -> MethodResponse {
    let items: Vec<_> = logs
        .iter()
        .map(|(name, payload)| json!({ "id": name.as_str(), "payload": payload }))
        .collect();
    let text = Value::Array(items).to_string();
    if text.len() > ANSWER_BYTES_MAX {
        let words = format!(
            "the logs have {} bytes, an answer at most {ANSWER_BYTES_MAX}; ask for fewer lines",
            text.len()
        );
        return failed(400, &words);
    }
    MethodResponse { status: 200, payload: text.into() }
}

fn payload(request: &MethodRequest, known: &[&str]) -> Result<Map<String, Value>, BadRequest> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(&request.payload) else {
        return Err(BadRequest::Payload);
    };
    if let Some(name) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(field("payload", format!("{name:?} is unknown")));
    }
    match fields.get("schemaVersion") {
        Some(Value::String(text)) if text == "1.0" || text == "1" || text == "1.0.0" => Ok(fields),
        other => {
            let said = other.map_or_else(|| "(absent)".to_owned(), Value::to_string);
            Err(BadRequest::Schema(said))
        }
    }
}

fn field(path: &'static str, words: impl Into<String>) -> BadRequest {
    BadRequest::Field { path, words: words.into() }
}

fn module(value: Option<&Value>) -> Result<ModuleName, BadRequest> {
    let text = value.and_then(Value::as_str).ok_or_else(|| field("id", "must be text"))?;
    text.parse().map_err(|error: model::id::InvalidId| field("id", error.to_string()))
}

fn logs(fields: &Map<String, Value>, now: WallTime) -> Result<LogsRequest, BadRequest> {
    match fields.get("encoding").map(Value::as_str) {
        None | Some(Some("none")) => {}
        _ => return Err(field("encoding", "only none is supported")),
    }
    let content = match fields.get("contentType").map(Value::as_str) {
        None | Some(Some("text")) => LogContent::Text,
        Some(Some("json")) => LogContent::Json,
        _ => return Err(field("contentType", "known are text and json")),
    };
    let items = match fields.get("items") {
        Some(Value::Array(all)) if all.len() > LOG_ITEMS_MAX => {
            return Err(field("items", format!("at most {LOG_ITEMS_MAX} are taken")));
        }
        Some(Value::Array(all)) => {
            all.iter().map(|one| item(one, now)).collect::<Result<_, _>>()?
        }
        Some(one @ Value::Object(_)) => vec![item(one, now)?],
        _ => return Err(field("items", "must be an object or a list of them")),
    };
    Ok(LogsRequest { items, content })
}

fn item(value: &Value, now: WallTime) -> Result<LogItem, BadRequest> {
    let Value::Object(fields) = value else {
        return Err(field("items", "each must be an object"));
    };
    if let Some(name) = fields.keys().find(|name| !["id", "filter"].contains(&name.as_str())) {
        return Err(field("items", format!("{name:?} is unknown")));
    }
    let mut item = LogItem::default();
    // Azure takes a pattern here; a plain name and "all" are the patterns that are supported.
    if fields.get("id").and_then(Value::as_str) != Some("all") {
        item.module = Some(module(fields.get("id"))?);
    }
    match fields.get("filter") {
        None | Some(Value::Null) => {}
        Some(Value::Object(filter)) => filter_into(&mut item, filter, now)?,
        Some(_) => return Err(field("filter", "must be an object")),
    }
    Ok(item)
}

fn filter_into(
    item: &mut LogItem,
    filter: &Map<String, Value>,
    now: WallTime,
) -> Result<(), BadRequest> {
    for (name, value) in filter {
        match name.as_str() {
            "tail" => {
                let tail = value.as_u64().and_then(|number| u32::try_from(number).ok());
                item.tail = Some(tail.ok_or_else(|| field("tail", "must be a whole number"))?);
            }
            "since" => item.since = Some(time("since", value, now)?),
            "until" => item.until = Some(time("until", value, now)?),
            _ => {
                let words = format!("{name:?} is not supported; known are tail, since and until");
                return Err(field("filter", words));
            }
        }
    }
    Ok(())
}

/// A span before now (`90s`, `10m`, `1h`, `2d`), RFC 3339, or Unix seconds.
fn time(path: &'static str, value: &Value, now: WallTime) -> Result<WallTime, BadRequest> {
    let bad = || field(path, format!("{value} is no span such as 1h, RFC 3339 or Unix seconds"));
    if let Some(seconds) = value.as_i64() {
        return Ok(WallTime::from_unix_seconds(seconds));
    }
    let text = value.as_str().ok_or_else(bad)?;
    if let Ok(seconds) = text.parse() {
        return Ok(WallTime::from_unix_seconds(seconds));
    }
    if let Some(at) = WallTime::parse_rfc3339(text) {
        return Ok(at);
    }
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let span = units.iter().find_map(|(unit, seconds)| {
        text.strip_suffix(unit)?.trim().parse::<u32>().ok().map(|count| i64::from(count) * seconds)
    });
    span.map(|seconds| WallTime(now.0 - seconds * 1000)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: WallTime = WallTime(100_000_000);

    fn ask(name: &str, payload: &str) -> Result<AgentMethod, BadRequest> {
        let request = MethodRequest {
            name: name.to_owned(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            response_timeout: Duration::from_secs(30),
            connect_timeout: Duration::ZERO,
        };
        parse(&request, NOW)
    }

    #[test]
    fn requests_are_understood_without_regard_to_case() {
        assert_eq!(ask("Ping", "null"), Ok(AgentMethod::Ping));
        let restart = ask("restartmodule", r#"{"schemaVersion":"1.0","id":"m"}"#);
        assert_eq!(restart, Ok(AgentMethod::RestartModule("m".parse().unwrap())));
        let metrics = ask("getroutermetrics", r#"{"schemaVersion":"1.0"}"#);
        assert_eq!(metrics, Ok(AgentMethod::GetRouterMetrics));
    }

    #[test]
    fn logs_are_asked_for_by_one_item_or_many_with_three_forms_of_time() {
        let check = |filter: &str, tail, since, until| {
            let text = format!(
                r#"{{"schemaVersion":"1.0","items":{{"id":"m","filter":{filter}}},"contentType":"json"}}"#
            );
            let expected = LogItem { module: "m".parse().ok(), tail, since, until };
            let request = LogsRequest { items: vec![expected], content: LogContent::Json };
            assert_eq!(ask("GetModuleLogs", &text), Ok(AgentMethod::GetModuleLogs(request)));
        };
        check("{}", None, None, None);
        check(r#"{"tail":5}"#, Some(5), None, None);
        check(r#"{"since":"1h"}"#, None, Some(WallTime(96_400_000)), None);
        check(r#"{"since":7,"until":"9"}"#, None, Some(WallTime(7000)), Some(WallTime(9000)));
        check(r#"{"until":"1970-01-01T00:00:01Z"}"#, None, None, Some(WallTime(1000)));
        let all = ask("GetModuleLogs", r#"{"schemaVersion":"1.0","items":[{"id":"all"}]}"#);
        let request = LogsRequest { items: vec![LogItem::default()], content: LogContent::Text };
        assert_eq!(all, Ok(AgentMethod::GetModuleLogs(request)));
    }

    #[test]
    fn bad_requests_are_answered_400_with_the_reason() {
        let check = |name: &str, payload: &str, words: &str| {
            let answer = refused(&ask(name, payload).unwrap_err());
            assert_eq!(answer.status, 400);
            let said: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(said["message"].as_str().unwrap().contains(words), "{said}");
        };
        check("Reboot", "{}", "known are ping, RestartModule, GetModuleLogs, GetRouterMetrics");
        check("RestartModule", "7", "must be a JSON object");
        check("RestartModule", "{}", "schemaVersion (absent)");
        check("RestartModule", r#"{"schemaVersion":"2.0","id":"m"}"#, "\"2.0\" is not supported");
        check("RestartModule", r#"{"schemaVersion":"1.0"}"#, "id: must be text");
        check("RestartModule", r#"{"schemaVersion":"1.0","id":"a/b"}"#, "cannot contain '/'");
        check("RestartModule", r#"{"schemaVersion":"1.0","id":"m","x":1}"#, "\"x\" is unknown");
        let logs = |rest: &str| format!(r#"{{"schemaVersion":"1.0",{rest}}}"#);
        check("GetModuleLogs", &logs(r#""items":7"#), "items: must be");
        let many = vec![r#"{"id":"m"}"#; LOG_ITEMS_MAX + 1].join(",");
        let words = format!("items: at most {LOG_ITEMS_MAX}");
        check("GetModuleLogs", &logs(&format!(r#""items":[{many}]"#)), &words);
        check("GetModuleLogs", &logs(r#""items":[],"encoding":"gzip""#), "only none");
        check("GetModuleLogs", &logs(r#""items":[],"contentType":"xml""#), "text and json");
        let filter = |filter: &str| logs(&format!(r#""items":{{"id":"m","filter":{filter}}}"#));
        check("GetModuleLogs", &filter(r#"{"tail":-1}"#), "tail: must be");
        check("GetModuleLogs", &filter(r#"{"regex":"x"}"#), "\"regex\" is not supported");
        check("GetModuleLogs", &filter(r#"{"since":"1y"}"#), "is no span");
    }

    #[test]
    fn logs_that_are_too_large_are_refused_with_advice() {
        let logs = |bytes| logs_answer(&[("m".parse().unwrap(), "x".repeat(bytes))]);
        assert_eq!(&logs(1).payload[..], br#"[{"id":"m","payload":"x"}]"#);
        assert_eq!(logs(ANSWER_BYTES_MAX - 100).status, 200);
        assert_eq!(logs(ANSWER_BYTES_MAX).status, 400);
    }
}
