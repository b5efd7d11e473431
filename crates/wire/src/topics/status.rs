//! Refusals ⇄ status numbers, CONNACK codes and error bodies.

use model::refusal::{Refusal, RefusalKind};
use model::time::WallTime;
use serde_json::{Value, json};

/// Status and Azure's error number: those of [`RefusalKind::code`].
pub fn status(kind: RefusalKind) -> (u16, u32) {
    let code = kind.code();
    (code.status(), code.number)
}

/// The kind that a status of a twin answer means.
pub fn kind(status: u16) -> RefusalKind {
    use RefusalKind as K;
    match status {
        401 => K::Unauthenticated,
        403 => K::QuotaExceeded,
        404 => K::NotFound,
        409 => K::AlreadyExists,
        412 => K::PreconditionFailed,
        413 => K::TooLarge,
        429 => K::Throttled,
        503 => K::Unavailable,
        408 | 504 => K::TimedOut,
        400..=499 => K::InvalidRequest,
        _ => K::Internal,
    }
}

/// The CONNACK code. SDKs give up on 5 and try again on 3, so 5 is only for credentials.
pub fn connack_code(kind: RefusalKind) -> u8 {
    kind.code().connack
}

/// What a CONNACK code other than 0 says to a client.
pub fn connack_refusal(code: u8) -> Refusal {
    match code {
        1 | 2 => {
            Refusal::new(RefusalKind::InvalidRequest, "the server does not speak this protocol")
        }
        3 => Refusal::new(RefusalKind::Unavailable, "the server is not available right now"),
        _ => {
            Refusal::new(RefusalKind::Unauthenticated, "the server did not accept the credentials")
        }
    }
}

/// The body of a refused twin request. Node's SDK looks at nothing else.
pub fn error_body(refusal: &Refusal, tracking_id: &str, now: WallTime) -> Vec<u8> {
    json!({
        "errorCode": status(refusal.kind).1,
        "trackingId": tracking_id,
        "message": refusal.reason,
        "timestampUtc": now.to_string(),
    })
    .to_string()
    .into_bytes()
}

/// The refusal in a twin answer with an error status.
pub fn read_error(status: u16, body: &[u8]) -> Refusal {
    let said = serde_json::from_slice::<Value>(body).ok();
    let message = said.as_ref().and_then(|said| said.get("message")).and_then(Value::as_str);
    let reason = message.map_or_else(|| format!("the hub answered {status}"), str::to_owned);
    Refusal::new(kind(status), reason)
}
