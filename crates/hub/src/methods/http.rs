//! Direct methods through the service API.

use std::sync::Arc;
use std::time::Duration;

use api::error::ApiError;
use api::method::{InvokeMethod, MethodResult};
use bytes::Bytes;
use http::Method;
use model::id::IdentityId;
use model::method::{METHOD_RESPONSE_TIMEOUT, MethodRequest};
use serde_json::Value;

use crate::access::Rights;
use crate::registry::http as registry;
use crate::service::http::{Call, Outcome, answer};

/// POST `/twins/{d}[/modules/{m}]/methods`.
pub(crate) async fn invoke(call: Call, identity: IdentityId) -> Outcome {
    call.prove(Rights::SERVICE)?;
    call.only(&Method::POST)?;
    call.only_query(&[])?;
    let body: InvokeMethod = call.json()?;
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
    let response = calls.invoke(&core.world, &core.connections, entry.ord, request).await;
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
