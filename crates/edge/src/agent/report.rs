//! The reported properties of `$edgeAgent`: shape, codes, and the patch that brings them. Pure.
//!
//! Source: Azure IoT Edge, `IoTHubReporter` and "Properties of the edge agent module twin".

use std::collections::BTreeMap;

use model::id::ModuleName;
use model::manifest::{DesiredStatus, InvalidManifest, Manifest, ModuleSpec, SystemModule};
use model::time::WallTime;
use serde_json::{Map, Value, json};

use super::restart::History;

/// Largest reported section, in bytes of JSON. Source: IoT Hub quotas.
pub const REPORTED_BYTES_MAX: usize = 32 * 1024;
/// Longest text that is reported as a description, in characters.
pub const WORDS_CHARS_MAX: usize = 512;
/// Characters of `createOptions` in one piece. Source: edge agent.
const PIECE_CHARS: usize = 512;

/// How the desired properties fared: `lastDesiredStatus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredOutcome {
    /// 200, 400, 406, 412, 417 or 500.
    pub code: u16,
    /// Why; with 200, what was accepted and has no effect here.
    pub words: String,
}

impl DesiredOutcome {
    /// Applied.
    pub fn applied() -> Self {
        Self { code: 200, words: String::new() }
    }

    /// The plan failed for these modules, each with its words; with none it was applied, and
    /// `notices` say what of it has no effect.
    pub fn of<'a>(
        modules: impl IntoIterator<Item = (&'a ModuleName, &'a str)>,
        notices: &[String],
    ) -> Self {
        let words: Vec<_> =
            modules.into_iter().map(|(name, words)| format!("module {name}: {words}")).collect();
        if words.is_empty() {
            Self { code: 200, words: notices.join("; ") }
        } else {
            Self { code: 500, words: words.join("; ") }
        }
    }

    /// Not known, or the runtime is stopping.
    pub fn unknown() -> Self {
        Self { code: 406, words: "not running".to_owned() }
    }
}

impl From<&InvalidManifest> for DesiredOutcome {
    fn from(refused: &InvalidManifest) -> Self {
        Self { code: refused.code(), words: refused.to_string() }
    }
}

/// `runtimeStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeStatus {
    /// `unknown`
    #[default]
    Unknown,
    /// `backoff`: it ended and is started again later.
    Backoff,
    /// `running`
    Running,
    /// `stopped`
    Stopped,
    /// `failed`
    Failed,
    /// `dead`
    Dead,
}

impl RuntimeStatus {
    /// Azure's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Backoff => "backoff",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }
}

/// What is said about one module besides what the manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleFacts {
    /// What it does.
    pub status: RuntimeStatus,
    /// Why; may be empty.
    pub words: String,
    /// How it last ended; 0 if it never did.
    pub exit_code: i64,
    /// When it was last started.
    pub started: Option<WallTime>,
    /// When it last ended.
    pub exited: Option<WallTime>,
    /// Its restarts.
    pub history: History,
    /// The image's id.
    pub image_hash: Box<str>,
}

/// Everything a report is made from.
#[derive(Debug)]
pub struct Report<'a> {
    /// Version of this program.
    pub version: &'a str,
    /// `lastDesiredVersion`.
    pub desired_version: u64,
    /// `lastDesiredStatus`.
    pub outcome: &'a DesiredOutcome,
    /// What is in force; none before the first good manifest.
    pub manifest: Option<&'a Manifest>,
    /// Every module that is there.
    pub modules: &'a BTreeMap<ModuleName, ModuleFacts>,
    /// When this runtime started.
    pub started: WallTime,
    /// `os` and `architecture`.
    pub platform: (&'a str, &'a str),
}

/// The whole reported section. If it would be too large, first variables and create options
/// are left out, then descriptions: what runs is always said.
pub fn reported(report: &Report<'_>) -> Map<String, Value> {
    for detail in [Detail::Full, Detail::NoOptions, Detail::NoWords] {
        let whole = render(report, detail);
        if serde_json::to_string(&whole).map_or(0, |text| text.len()) <= REPORTED_BYTES_MAX {
            return whole;
        }
    }
    // Fifty modules with the longest names still fit without details; nothing more can go.
    render(report, Detail::NoWords)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    Full,
    NoOptions,
    NoWords,
}

fn render(report: &Report<'_>, detail: Detail) -> Map<String, Value> {
    let Report { version, desired_version, outcome, manifest, modules, started, platform } = report;
    let mut root = object(json!({
        "schemaVersion": "1.0",
        "version": { "version": version, "build": "", "commit": "" },
        "lastDesiredVersion": desired_version,
        "lastDesiredStatus": { "code": outcome.code, "description": short(&outcome.words) },
        "runtime": {
            "platform": { "os": platform.0, "architecture": platform.1, "version": "" },
        },
    }));
    let Some(manifest) = manifest else { return root };
    root.insert(
        "runtime".to_owned(),
        json!({
            "type": "docker",
            // Registry passwords are desired, never reported.
            "settings": {
                "minDockerVersion": manifest.runtime.min_docker_version,
                "loggingOptions": manifest.runtime.logging_options,
            },
            "platform": { "os": platform.0, "architecture": platform.1, "version": "" },
        }),
    );
    let agent = system_module(&manifest.edge_agent, *started, detail);
    let mut hub = system_module(&manifest.edge_hub, *started, detail);
    hub.extend(object(json!({
        "status": "running", "restartPolicy": "always", "restartCount": 0,
        "lastRestartTimeUtc": WallTime::UNSET.to_string(),
        "startupOrder": manifest.edge_hub.startup_order,
    })));
    root.insert("systemModules".to_owned(), json!({ "edgeAgent": agent, "edgeHub": hub }));
    let nothing = ModuleFacts::default();
    let mut all = Map::new();
    for (name, spec) in &manifest.modules {
        let facts = modules.get(name).unwrap_or(&nothing);
        all.insert(name.as_str().to_owned(), Value::Object(module(spec, facts, detail)));
    }
    root.insert("modules".to_owned(), Value::Object(all));
    root
}

fn system_module(said: &SystemModule, started: WallTime, detail: Detail) -> Map<String, Value> {
    let mut fields = object(json!({
        "type": "docker",
        "exitCode": 0,
        "statusDescription": "part of the runtime",
        "lastStartTimeUtc": started.to_string(),
        "lastExitTimeUtc": WallTime::UNSET.to_string(),
        "runtimeStatus": "running",
        "imagePullPolicy": said.pull.as_str(),
        "settings": settings(&said.image, "", &said.create_options, detail),
    }));
    if detail == Detail::Full {
        fields.insert("env".to_owned(), variables(&said.env));
    }
    fields
}

fn module(spec: &ModuleSpec, facts: &ModuleFacts, detail: Detail) -> Map<String, Value> {
    let time = |at: Option<WallTime>| at.unwrap_or(WallTime::UNSET).to_string();
    let words = if detail < Detail::NoWords { short(&facts.words) } else { String::new() };
    let mut fields = object(json!({
        "version": spec.version,
        "type": "docker",
        "status": spec.status.as_str(),
        "restartPolicy": spec.restart.as_str(),
        "imagePullPolicy": spec.pull.as_str(),
        "startupOrder": spec.startup_order,
        "exitCode": facts.exit_code,
        "statusDescription": words,
        "lastStartTimeUtc": time(facts.started),
        "lastExitTimeUtc": time(facts.exited),
        "restartCount": facts.history.restarts,
        "lastRestartTimeUtc": time(facts.history.last_restart),
        "runtimeStatus": facts.status.as_str(),
        "settings": settings(&spec.image, &facts.image_hash, &spec.create_options, detail),
    }));
    if detail == Detail::Full {
        fields.insert("env".to_owned(), variables(&spec.env));
    }
    fields
}

fn settings(image: &str, hash: &str, options: &Map<String, Value>, detail: Detail) -> Value {
    let mut fields = object(json!({ "image": image, "imageHash": hash }));
    if detail == Detail::Full {
        let text = serde_json::to_string(options).unwrap_or_default();
        let chars: Vec<char> = text.chars().collect();
        for (at, piece) in chars.chunks(PIECE_CHARS).enumerate() {
            let name =
                if at == 0 { "createOptions".to_owned() } else { format!("createOptions{at:02}") };
            fields.insert(name, Value::String(piece.iter().collect()));
        }
    }
    Value::Object(fields)
}

fn variables(env: &BTreeMap<Box<str>, Value>) -> Value {
    env.iter().map(|(name, value)| (name.to_string(), json!({ "value": value }))).collect()
}

fn short(words: &str) -> String {
    match words.char_indices().nth(WORDS_CHARS_MAX) {
        None => words.to_owned(),
        Some(_) => words.chars().take(WORDS_CHARS_MAX - 1).chain(['…']).collect(),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What a module that is desired to run reports while it is not running.
pub fn ended_status(wanted: DesiredStatus, failed: bool, will_restart: bool) -> RuntimeStatus {
    match (wanted, will_restart, failed) {
        (DesiredStatus::Running, true, _) => RuntimeStatus::Backoff,
        (_, _, true) => RuntimeStatus::Failed,
        (_, _, false) => RuntimeStatus::Stopped,
    }
}

#[cfg(test)]
mod tests;
