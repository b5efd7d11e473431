//! Handlers of the management interface: parse, call, map.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use engine::error::EngineError;
use model::id::ModuleName;
use model::time::WallTime;
use serde::Deserialize;
use serde_json::json;

use crate::agent::methods::LogItem;
use crate::shell::Running;

pub(crate) fn router(running: Arc<Running>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/modules", get(modules))
        .route("/modules/{module}/logs", get(logs))
        .route("/modules/{module}/restart", post(restart))
        .fallback(async || failed(StatusCode::NOT_FOUND, "there is no such operation"))
        .with_state(running)
}

async fn status(State(running): State<Arc<Running>>) -> Response {
    Json(running.status().await).into_response()
}

async fn modules(State(running): State<Arc<Running>>) -> Response {
    Json(running.status().await.modules).into_response()
}

/// Strict: only our own command line asks, and a filter that is not understood would show lines
/// that nobody asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    /// Only the last so many lines.
    tail: Option<u32>,
    /// Unix milliseconds.
    since: Option<i64>,
    /// Unix milliseconds.
    until: Option<i64>,
}

async fn logs(
    State(running): State<Arc<Running>>,
    Path(module): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Response {
    let module: ModuleName = match module.parse() {
        Ok(module) => module,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let item = LogItem {
        module: None,
        tail: query.tail,
        since: query.since.map(WallTime),
        until: query.until.map(WallTime),
    };
    match running.agent().logs(&module, &item).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response(),
        Err(error @ EngineError::NotFound { .. }) => {
            failed(StatusCode::NOT_FOUND, &error.to_string())
        }
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn restart(State(running): State<Arc<Running>>, Path(module): Path<String>) -> Response {
    let is_known = module.parse().is_ok_and(|module| running.agent().restart(&module));
    if is_known {
        StatusCode::NO_CONTENT.into_response()
    } else {
        failed(StatusCode::NOT_FOUND, "the deployment has no such module")
    }
}

fn failed(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "message": words }))).into_response()
}
