//! Twins and the change feed through the service API.

use api::error::{ApiError, ErrorCode};
use api::registry::Capabilities;
use api::twin::{Properties, Section, Twin, TwinWrite};
use http::Method;
use model::id::IdentityId;
use serde_json::{Map, Value, json};

use crate::access::Rights;
use crate::registry::shapes::{self, Seen};
use crate::registry::{Entry, http as registry};
use crate::service::http::{Call, Outcome, answer, no_such_method};
use crate::storage::feed::{self, Cause, FeedPage, Kind, ReadChange};
use crate::storage::rows;
use crate::storage::twins::{SectionWrite, write};

/// Most changes in one page of the feed.
const CHANGES_MAX: u64 = 1000;

/// The header by which a client without PATCH says that its POST is one.
const METHOD_OVERRIDE: &str = "x-http-method-override";

/// GET, PATCH, PUT `/twins/{d}[/modules/{m}]`.
pub(crate) async fn twin(mut call: Call, identity: IdentityId) -> Outcome {
    call.prove(Rights::SERVICE)?;
    // Java's own HTTP client knows no PATCH; its service SDK sends POST and says so.
    let meant = call.headers.get(METHOD_OVERRIDE).map(http::HeaderValue::as_bytes);
    let is_patch = meant.is_some_and(|meant| meant.eq_ignore_ascii_case(b"PATCH"));
    if call.method == Method::POST && is_patch {
        call.method = Method::PATCH;
    }
    let (entry, twin) = match call.method {
        Method::GET => read(&call, identity).await?,
        Method::PATCH | Method::PUT => change(&call, identity).await?,
        _ => return Err(no_such_method()),
    };
    let seen = registry::look_seen(&call.core, &entry).await?;
    let etag = twin.etag.text();
    answer(&document(&entry, twin, seen), Some(&etag))
}

async fn read(call: &Call, identity: IdentityId) -> Result<(Entry, rows::Twin), ApiError> {
    let entry = registry::find(&call.core, identity).await?;
    let ord = entry.ord;
    let twin = call.core.reader.look(move |db| rows::twin(db, ord)).await?;
    let gone = || crate::storage::identities::missing(&entry.identity);
    let twin = twin.ok_or_else(gone)?;
    Ok((entry, twin))
}

async fn change(call: &Call, identity: IdentityId) -> Result<(Entry, rows::Twin), ApiError> {
    let body = TwinWrite::parse(&call.body)
        .map_err(|fault| ApiError::new(ErrorCode::IotHubFormatError, fault.to_string()))?;
    let section = if call.method == Method::PUT { replacing } else { merging };
    let sections = (section(body.tags), section(body.desired));
    let if_match = call.if_match();
    let written =
        call.core.tables.write(move |w| write(w, &identity, sections, &if_match, Cause::Service));
    Ok(written.await?)
}

/// A merge leaves what is absent; `null` empties the section.
fn merging(section: Section) -> SectionWrite {
    match section {
        Section::Absent => SectionWrite::Keep,
        Section::Null => SectionWrite::Replace(Map::new()),
        Section::Object(patch) => SectionWrite::Merge(patch),
    }
}

/// A replacement empties what is absent.
fn replacing(section: Section) -> SectionWrite {
    match section {
        Section::Absent | Section::Null => SectionWrite::Replace(Map::new()),
        Section::Object(values) => SectionWrite::Replace(values),
    }
}

fn document(entry: &Entry, twin: rows::Twin, seen: Seen) -> Twin {
    Twin {
        device_id: entry.identity.device_str().to_owned(),
        module_id: entry.identity.module_str().map(str::to_owned),
        etag: twin.etag.text(),
        device_etag: entry.etag.text(),
        status: shapes::status(entry),
        status_update_time: entry.status_updated.to_string(),
        connection_state: seen.state(),
        last_activity_time: seen.last_activity(),
        cloud_to_device_message_count: 0,
        authentication_type: shapes::authentication_type(&entry.auth).to_owned(),
        x509_thumbprint: shapes::thumbprints(&entry.auth),
        model_id: twin.model_id,
        version: twin.version,
        tags: twin.tags,
        properties: Properties {
            desired: twin.desired.document(),
            reported: twin.reported.document(),
        },
        capabilities: Capabilities { iot_edge: entry.iot_edge },
    }
}

/// GET `/api/v1/changes?from=&max=`: the change feed. A cursor is a vector by shard, `0:<seq>`.
pub(crate) async fn changes(call: Call) -> Outcome {
    call.prove(Rights::SERVICE)?;
    call.only(&Method::GET)?;
    call.only_query(&["from", "max"])?;
    let from = call.query("from").map_or(Some(0), |text| text.strip_prefix("0:")?.parse().ok());
    let bad = || ApiError::new(ErrorCode::ArgumentInvalid, "`from` is no cursor");
    let from: u64 = from.ok_or_else(bad)?;
    let max = u32::try_from(call.number("max", CHANGES_MAX)?.clamp(1, CHANGES_MAX)).unwrap_or(1);
    let page = call.core.reader.look(move |db| feed::read(db, from, max)).await?;
    let body = match page {
        FeedPage::Behind { head } => json!({"behind": true, "changes": [], "next": cursor(head)}),
        FeedPage::Changes { changes, next } => {
            let changes: Vec<Value> = changes.iter().map(event).collect();
            json!({"behind": false, "changes": changes, "next": cursor(next)})
        }
    };
    answer(&body, None)
}

fn cursor(seq: u64) -> String {
    format!("{}:{seq}", feed::SHARD)
}

fn event(change: &ReadChange) -> Value {
    let cause = match change.cause {
        1 => "service",
        2 => "device",
        _ => "deployment",
    };
    let body: Value = serde_json::from_str(&change.body).unwrap_or(Value::Null);
    json!({
        "seq": change.seq,
        "at": change.at.to_string(),
        "kind": Kind::name(change.kind),
        "identity": change.identity,
        "version": change.version,
        "cause": cause,
        "body": body,
    })
}
