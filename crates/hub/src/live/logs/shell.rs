//! Asks a device's agent for a module's new lines while somebody watches.

use std::sync::Arc;
use std::time::Duration;

use api::router::Problem;
use bytes::Bytes;
use model::id::{DeviceId, IdentityId, ModuleName};
use model::method::MethodRequest;
use model::names::EDGE_AGENT;
use model::refusal::RefusalKind;
use serde_json::{Value, json};

use super::{Follower, News, Recent};
use crate::live::queue::Piece;
use crate::live::shell::Watched;
use crate::live::topic::Topic;
use crate::registry::http as registry;
use crate::session::shell::Core;

/// Pause between two questions.
pub(crate) const POLL: Duration = Duration::from_secs(2);
/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The agent's method.
const GET_MODULE_LOGS: &str = "GetModuleLogs";

/// Follows one log until nobody watches.
pub(crate) async fn pump(core: Arc<Core>, watched: Arc<Watched>) {
    let Topic::Logs(identity) = &watched.topic else { return };
    let Some(module) = identity.module_name() else { return };
    let device = identity.device_id();
    let mut follower = Follower::new(module);
    let mut recent = Recent::default();
    let mut told: Option<Problem> = None;
    let mut first = true;
    loop {
        let outcome = look(&core, &device, &mut follower).await;
        let problem = outcome.as_ref().err().cloned();
        let News { lines, gap } = outcome.unwrap_or_default();
        if first || !lines.is_empty() || problem != told {
            let weight = lines.len().max(1) as u64;
            recent.handle_lines(&lines);
            let say = |lines: Value, gap: bool| {
                let seconds = POLL.as_secs();
                let news = json!({
                    "lines": lines, "gap": gap, "problem": problem, "pollSeconds": seconds,
                });
                Bytes::from(news.to_string())
            };
            let latest = say(json!(recent.lines()), false);
            let piece = Piece { payload: say(json!(lines), gap), weight, dropped: 0 };
            watched.publish_and_keep(&piece, latest, core.world.now().tick);
            first = false;
            told = problem;
        }
        if !watched.pause(POLL).await {
            return;
        }
    }
}

async fn look(core: &Core, device: &DeviceId, follower: &mut Follower) -> Result<News, Problem> {
    loop {
        let answer = ask_agent(core, device, GET_MODULE_LOGS, &follower.request()).await;
        match answer {
            Ok(answer) => {
                return follower.handle_answer(&answer).map_err(|words| problem("refused", words));
            }
            Err(Failed { status: Some(400), problem }) => {
                let large = problem.message.contains("bytes, an answer at most");
                if !large || !follower.handle_too_large() {
                    return Err(problem);
                }
            }
            Err(failed) => return Err(failed.problem),
        }
    }
}

/// Why an agent did not do what it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    /// What it answered, if it did.
    pub(crate) status: Option<i32>,
    pub(crate) problem: Problem,
}

/// Calls a method of the agent of `device` for the hub itself: no history is kept of it.
pub(crate) async fn ask_agent(
    core: &Core,
    device: &DeviceId,
    name: &str,
    payload: &Value,
) -> Result<Value, Failed> {
    let agent: ModuleName = EDGE_AGENT.parse().expect("the system modules have good names");
    let silent = |code, words: String| Failed { status: None, problem: problem(code, words) };
    let entry = registry::find(core, IdentityId::module(device, &agent)).await;
    let entry = entry.map_err(|error| silent("refused", error.reason))?;
    let request = MethodRequest {
        name: name.to_owned(),
        payload: Bytes::from(payload.to_string()),
        response_timeout: PATIENCE,
        connect_timeout: Duration::ZERO,
    };
    let calls = Arc::clone(&core.calls);
    let answer = calls.invoke(&core.world, &core.connections, entry.ord, request).await;
    let answer = answer.map_err(|refusal| {
        let code = match refusal.kind {
            RefusalKind::TargetOffline => "offline",
            RefusalKind::TargetTimedOut | RefusalKind::TimedOut => "timedOut",
            _ => "refused",
        };
        silent(code, refusal.reason.into_owned())
    })?;
    let body: Value = serde_json::from_slice(&answer.payload).unwrap_or(Value::Null);
    if answer.status == 200 {
        return Ok(body);
    }
    let words = body.get("message").and_then(Value::as_str).unwrap_or("the agent refused");
    Err(Failed { status: Some(answer.status), problem: problem("refused", words.to_owned()) })
}

fn problem(code: &str, message: String) -> Problem {
    Problem { code: code.to_owned(), message }
}
