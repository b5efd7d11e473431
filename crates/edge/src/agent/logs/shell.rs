//! Reads logs from the engine.

use engine::error::EngineError;
use engine::runtime::{LogLine, LogQuery, ModuleRuntime};
use model::id::ModuleName;
use model::method::MethodResponse;
use serde_json::Value;

use super::record;
use crate::agent::methods::{
    ANSWER_BYTES_MAX, LogContent, LogItem, LogsRequest, failed, logs_answer,
};
use crate::agent::spec::Surroundings;

/// Most bytes of one log that are read for people; the cloud's limit is smaller.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The log of `module` as text, a line each.
pub(crate) async fn text(
    runtime: &dyn ModuleRuntime,
    module: &ModuleName,
    item: &LogItem,
) -> Result<String, EngineError> {
    let lines = lines(runtime, module, item, TEXT_BYTES_MAX).await?;
    Ok(lines.into_iter().fold(String::new(), |text, line| text + &line.text + "\n"))
}

/// The answer to `GetModuleLogs`.
pub(crate) async fn answer(
    runtime: &dyn ModuleRuntime,
    desired: &[ModuleName],
    asked: &LogsRequest,
    around: &Surroundings,
) -> MethodResponse {
    let mut logs = Vec::new();
    for item in &asked.items {
        let named: Vec<_> = item.module.iter().cloned().collect();
        let modules = if named.is_empty() { desired } else { &named };
        for module in modules {
            // One byte more than fits makes the answer say that it is too large.
            let lines = match lines(runtime, module, item, ANSWER_BYTES_MAX + 1).await {
                Ok(lines) => lines,
                Err(error @ EngineError::NotFound { .. }) => {
                    return failed(400, &error.to_string());
                }
                Err(error) => return failed(500, &error.to_string()),
            };
            let payload = match asked.content {
                LogContent::Text => {
                    lines.into_iter().fold(String::new(), |text, line| text + &line.text + "\n")
                }
                LogContent::Json => {
                    let all = lines.iter().map(|line| record(line, module, around));
                    Value::Array(all.collect()).to_string()
                }
            };
            logs.push((module.clone(), payload));
        }
    }
    logs_answer(&logs)
}

async fn lines(
    runtime: &dyn ModuleRuntime,
    module: &ModuleName,
    item: &LogItem,
    bytes_max: usize,
) -> Result<Vec<LogLine>, EngineError> {
    let query = LogQuery {
        tail: item.tail.map(u64::from),
        since: item.since.map(|at| at.0),
        until: item.until.map(|at| at.0),
        follow: false,
    };
    let mut stream = runtime.logs(module.to_string(), query).await?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while let Some(line) = std::future::poll_fn(|cx| stream.poll_line(cx)).await {
        let line = line?;
        bytes += line.text.len() + 1;
        lines.push(line);
        if bytes > bytes_max {
            break;
        }
    }
    Ok(lines)
}
