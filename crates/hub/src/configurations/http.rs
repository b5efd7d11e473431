//! Deployments through the service API.

use api::error::{ApiError, ErrorCode};
use http::Method;
use model::id::DeviceId;

use super::validate;
use crate::access::Rights;
use crate::registry::http as registry;
use crate::service::http::{Call, Outcome, answer, nothing};
use crate::storage::twins;

/// POST `/devices/{d}/applyConfigurationContent`: all of it or nothing.
pub(crate) async fn apply(call: Call, device: DeviceId) -> Outcome {
    call.prove(Rights::REGISTRY_WRITE)?;
    call.only(&Method::POST)?;
    let deployment = super::parse(&call.body).map_err(|mut details| {
        if let Ok(text) = std::str::from_utf8(&call.body) {
            validate::locate_all(text, &mut details);
        }
        let count = details.len();
        let first = details.first().map(|fault| fault.message.clone()).unwrap_or_default();
        let reason = format!("the content has {count} faults, the first: {first}");
        let mut error = ApiError::new(ErrorCode::InvalidConfigurationContent, reason);
        error.details = details;
        error
    })?;
    let applied = call.core.tables.write(move |w| twins::deploy(w, &device, &deployment));
    // A quota that it meets is the device's modules'; `named` tells so.
    applied.await.map_err(|refusal| registry::named(refusal, false))?;
    Ok(nothing())
}

/// POST `/api/v1/validate/modules-content`: the body is the text as it stands in the editor.
pub(crate) fn check(call: &Call) -> Outcome {
    call.prove(Rights::NONE)?;
    call.only(&Method::POST)?;
    call.only_query(&[])?;
    let text = std::str::from_utf8(&call.body)
        .map_err(|_| ApiError::new(ErrorCode::IotHubFormatError, "the content is not UTF-8"))?;
    answer(&validate::validate(text), None)
}
