//! Identities through the service API.

use std::sync::Arc;

use api::error::{ApiError, ErrorCode};
use api::registry::{Device, LIST_TOP_MAX, Module};
use http::Method;
use model::id::{DeviceId, IdentityId};
use model::refusal::{Refusal, RefusalKind};

use super::shapes::{self, Seen};
use super::{Entry, IfMatch, Wanted};
use crate::access::Rights;
use crate::service::http::{Call, Outcome, answer, no_such_method, nothing};
use crate::session::shell::Core;
use crate::storage::feed::Cause;
use crate::storage::{identities, rows};

/// GET `/devices?top=n`; ours in addition: `after=<deviceId>` goes on.
pub(crate) async fn list(call: Call) -> Outcome {
    call.prove(Rights::REGISTRY_READ)?;
    call.only(&Method::GET)?;
    let top = top(call.query("top"))?;
    let after = call.query("after").unwrap_or_default().to_owned();
    let entries = call.core.reader.look(move |db| {
        let entries = rows::devices(db, &after, top)?;
        with_activity(db, entries)
    });
    let all: Vec<Device> = entries
        .await?
        .iter()
        .map(|(entry, stored)| shapes::device(entry, seen(&call.core, entry, *stored)))
        .collect();
    answer(&all, None)
}

/// How many entries a list call gives: a generous number counts as the most, as Azure's.
fn top(asked: Option<&str>) -> Result<u32, ApiError> {
    let most = u32::try_from(LIST_TOP_MAX).unwrap_or(u32::MAX);
    let Some(text) = asked else { return Ok(most) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(number) if digits && number > 0 => Ok(number.min(most)),
        // Digits that no number holds ask for a great many.
        Err(_) if digits => Ok(most),
        _ => Err(ApiError::new(ErrorCode::ArgumentInvalid, "`top` must be a number from 1 on")),
    }
}

/// GET, PUT, DELETE `/devices/{d}`.
pub(crate) async fn device(call: Call, device: DeviceId) -> Outcome {
    let identity = IdentityId::device(&device);
    match call.method {
        Method::GET => {
            call.prove(Rights::REGISTRY_READ)?;
            let entry = find(&call.core, identity).await?;
            answer_device(&call.core, entry).await
        }
        Method::PUT => {
            call.prove(Rights::REGISTRY_WRITE)?;
            let wanted = shapes::wanted_device(call.taken::<Device>("device")?, &identity)?;
            let entry = put(&call, identity, wanted).await?;
            answer_device(&call.core, entry).await
        }
        Method::DELETE => {
            call.prove(Rights::REGISTRY_WRITE)?;
            delete(&call, identity).await
        }
        _ => Err(no_such_method()),
    }
}

/// GET `/devices/{d}/modules`.
pub(crate) async fn modules(call: Call, device: DeviceId) -> Outcome {
    call.prove_or_device(Rights::REGISTRY_READ, &device).await?;
    call.only(&Method::GET)?;
    find(&call.core, IdentityId::device(&device)).await?;
    let entries = call.core.reader.look(move |db| {
        let entries = rows::modules(db, &device)?;
        with_activity(db, entries)
    });
    let all: Vec<Module> = entries
        .await?
        .iter()
        .map(|(entry, stored)| shapes::module(entry, seen(&call.core, entry, *stored)))
        .collect();
    answer(&all, None)
}

/// GET, PUT, DELETE `/devices/{d}/modules/{m}`.
pub(crate) async fn module(call: Call, identity: IdentityId) -> Outcome {
    let device = identity.device_id();
    match call.method {
        Method::GET => {
            call.prove_or_device(Rights::REGISTRY_READ, &device).await?;
            let entry = find(&call.core, identity).await?;
            answer_module(&call.core, entry).await
        }
        Method::PUT => {
            call.prove_or_device(Rights::REGISTRY_WRITE, &device).await?;
            let wanted = shapes::wanted_module(call.taken::<Module>("module")?, &identity)?;
            let entry = put(&call, identity, wanted).await?;
            answer_module(&call.core, entry).await
        }
        Method::DELETE => {
            call.prove_or_device(Rights::REGISTRY_WRITE, &device).await?;
            delete(&call, identity).await
        }
        _ => Err(no_such_method()),
    }
}

/// Without `If-Match` it creates, with one it updates.
async fn put(call: &Call, identity: IdentityId, wanted: Wanted) -> Result<Entry, ApiError> {
    let if_match = call.if_match();
    let is_module = identity.is_module();
    let written = call.core.tables.write(move |w| match if_match {
        IfMatch::Absent => identities::create(w, &identity, wanted, Cause::Service),
        if_match => identities::update(w, &identity, wanted, &if_match),
    });
    written.await.map_err(|refusal| named(refusal, is_module))
}

async fn delete(call: &Call, identity: IdentityId) -> Outcome {
    let if_match = call.if_match();
    let deleted = call
        .core
        .tables
        .write(move |w| identities::delete(w, &identity, &if_match, Cause::Service));
    deleted.await?;
    Ok(nothing())
}

/// Azure has its own names for what happens to modules.
pub(crate) fn named(refusal: Refusal, is_module: bool) -> ApiError {
    let code = match refusal.kind {
        RefusalKind::AlreadyExists if is_module => ErrorCode::ModuleAlreadyExistsOnDevice,
        // The registry has no other quota yet.
        RefusalKind::QuotaExceeded => ErrorCode::TooManyModulesOnDevice,
        kind => ErrorCode::of(kind),
    };
    ApiError::new(code, refusal.reason.into_owned())
}

/// The entry of `identity`, or what is missing.
pub(crate) async fn find(core: &Core, identity: IdentityId) -> Result<Entry, ApiError> {
    let missing = identities::missing(&identity);
    let entry = core.reader.look(move |db| rows::entry(db, &identity)).await?;
    Ok(entry.ok_or(missing)?)
}

async fn answer_device(core: &Arc<Core>, entry: Entry) -> Outcome {
    let seen = look_seen(core, &entry).await?;
    answer(&shapes::device(&entry, seen), Some(&entry.etag.text()))
}

async fn answer_module(core: &Arc<Core>, entry: Entry) -> Outcome {
    let seen = look_seen(core, &entry).await?;
    answer(&shapes::module(&entry, seen), Some(&entry.etag.text()))
}

/// When the identity was last seen.
pub(crate) async fn look_seen(core: &Core, entry: &Entry) -> Result<Seen, ApiError> {
    let ord = entry.ord;
    let stored = core.reader.look(move |db| rows::activity(db, ord)).await?;
    Ok(seen(core, entry, stored))
}

fn seen(core: &Core, entry: &Entry, stored: rows::Activity) -> Seen {
    Seen::new(stored, core.connections.presence(entry.ord))
}

fn with_activity(
    db: &rusqlite::Connection,
    entries: Vec<Entry>,
) -> rusqlite::Result<Vec<(Entry, rows::Activity)>> {
    entries
        .into_iter()
        .map(|entry| rows::activity(db, entry.ord).map(|stored| (entry, stored)))
        .collect()
}
