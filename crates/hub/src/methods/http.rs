//! Direct methods through the service API.

use std::sync::Arc;
use std::time::Duration;

use api::error::ApiError;
use api::method::{InvokeMethod, MethodCall, MethodCalls, MethodResult};
use bytes::Bytes;
use http::Method;
use model::id::{DeviceId, IdentityId};
use model::method::{METHOD_RESPONSE_TIMEOUT, MethodRequest, MethodResponse};
use model::refusal::Refusal;
use model::time::Tick;
use serde_json::{Value, json};

use crate::access::{self, Rights};
use crate::registry::{Entry, http as registry};
use crate::service::http::{Call, Outcome, answer};
use crate::storage::feed::{Cause, Change, Kind};
use crate::storage::fleet;
use crate::storage::writer::Writing;

/// Most calls in one page of the history.
pub(crate) const CALLS_PAGE_MAX: u64 = 200;

/// POST `/twins/{d}[/modules/{m}]/methods`.
pub(crate) async fn invoke(call: Call, identity: IdentityId) -> Outcome {
    call.prove(Rights::SERVICE)?;
    call.only(&Method::POST)?;
    let body: InvokeMethod = call.taken("method")?;
    let entry = registry::find(&call.core, identity).await?;
    let seconds = |wanted: Option<u64>, default| wanted.map_or(default, Duration::from_secs);
    let request = MethodRequest {
        name: body.method_name,
        payload: Bytes::from(body.payload.to_string()),
        response_timeout: seconds(body.response_timeout_in_seconds, METHOD_RESPONSE_TIMEOUT),
        connect_timeout: seconds(body.connect_timeout_in_seconds, Duration::ZERO),
    };
    let core = &call.core;
    let calls = Arc::clone(&core.calls);
    let (method, began) = (request.name.clone(), core.world.now().tick);
    let response = calls.invoke(&core.world, &core.connections, entry.ord, request).await;
    remember(&call, &entry, &method, (&response, began));
    let response = response.map_err(|refusal| {
        let mut error = ApiError::from(refusal);
        error.of_method = true;
        error
    })?;
    let payload = if response.payload.is_empty() {
        Value::Null
    } else {
        // Devices may answer with anything; what is not JSON goes on as text.
        serde_json::from_slice(&response.payload).unwrap_or_else(|_| {
            Value::String(String::from_utf8_lossy(&response.payload).into_owned())
        })
    };
    answer(&MethodResult { status: response.status, payload }, None)
}

/// Appends the call to the change feed, for the history. Nobody waits for it.
fn remember(
    call: &Call,
    entry: &Entry,
    method: &str,
    (response, began): (&Result<MethodResponse, Refusal>, Tick),
) {
    let (policy, _) = access::policy(call.policy().unwrap_or(usize::MAX));
    let by = match call.session_id() {
        Some(session) => format!("session {} ({policy})", session.text()),
        None => format!("policy {policy}"),
    };
    let took = call.core.world.now().tick.since(began);
    let body = json!({
        "method": method,
        "by": by,
        "status": response.as_ref().ok().map(|response| response.status),
        "error": response.as_ref().err().map(|refusal| &refusal.reason),
        "durationMs": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    let (ord, identity, body) = (entry.ord, entry.identity.clone(), body.to_string());
    // A busy writer or one that is gone costs an entry of the history, not the call.
    drop(call.core.tables.submit(Tick::NEVER, (), move |w: &mut Writing<'_>| {
        let (kind, cause) = (Kind::MethodInvoked, Cause::Service);
        let change = Change { kind, ord, identity: &identity, version: 0, cause, body };
        Ok(w.feed.append(w.db, w.now.wall, &change)?)
    }));
}

/// GET `/api/v1/devices/{d}/methods?max=&before=`.
pub(crate) async fn history(call: Call, device: DeviceId) -> Outcome {
    call.prove(Rights::SERVICE)?;
    call.only(&Method::GET)?;
    call.only_query(&["max", "before"])?;
    registry::find(&call.core, IdentityId::device(&device)).await?;
    let max = u32::try_from(call.number("max", 50)?.clamp(1, CALLS_PAGE_MAX)).unwrap_or(1);
    let before = call.number("before", u64::MAX)?;
    let look = move |db: &rusqlite::Connection| fleet::calls(db, &device, before, max);
    let (calls, next) = call.core.reader.look(look).await?;
    let calls = calls.iter().map(|read| {
        let body: Value = serde_json::from_str(&read.body).unwrap_or(Value::Null);
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        MethodCall {
            id: read.seq,
            at: read.at.to_string(),
            module_id: read.identity.split_once('/').map(|(_, module)| module.to_owned()),
            method: text("method").unwrap_or_default(),
            by: text("by").unwrap_or_default(),
            status: body.get("status").and_then(Value::as_i64),
            error: text("error"),
            duration_ms: body.get("durationMs").and_then(Value::as_u64).unwrap_or_default(),
        }
    });
    answer(&MethodCalls { calls: calls.collect(), next }, None)
}
