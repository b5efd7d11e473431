//! Telemetry by cursor and as a live stream. Ours, under `/api/v1`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use api::error::{ApiError, ErrorCode};
use api::telemetry::{BodyEncoding, PAGE_MAX, TelemetryMessage, TelemetryPage};
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, Sse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use http::Method;
use journal::log::{Budget, ReadBatch, StoredRecord};
use model::message::Message;
use model::query::Expression;
use model::query::message::MessageFields;
use model::time::WallTime;
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::warn;

use super::shell::Telemetry;
use super::{decode, partition_of};
use crate::access::Rights;
use crate::connections::Lease;
use crate::console::sessions::SessionId;
use crate::service::http::{Call, Outcome, answer};
use crate::session::shell::Core;

/// Most bytes of records that one read brings.
const READ_BYTES: usize = 1 << 20;
/// Records that one page looks at, at most, while a filter finds little; the caller goes on.
const PAGE_LOOKS_MAX: usize = 20_000;
/// Messages of one read of a stream.
const STREAM_READ: usize = 64;
/// Most live readers at a time; each holds one read.
pub(crate) const STREAMS_MAX: usize = 256;
/// Silence after which a stream sends a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which messages a page is asked for.
struct Wanted {
    device: Option<String>,
    module: Option<String>,
    condition: Expression,
}

impl Wanted {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let condition = Expression::parse(call.query("filter").unwrap_or_default());
        let condition = condition.map_err(|error| {
            ApiError::new(ErrorCode::ArgumentInvalid, format!("`filter`: {error}"))
        })?;
        let text = |name| call.query(name).map(str::to_owned);
        Ok(Self { device: text("device"), module: text("module"), condition })
    }

    /// Whether records are passed over at all.
    fn is_everything(&self) -> bool {
        self.device.is_none() && self.module.is_none() && self.condition.always_holds()
    }

    fn matches(&self, message: &Message) -> bool {
        let system = &message.system;
        let is = |wanted: &Option<String>, held: &Option<Box<str>>| {
            wanted.as_deref().is_none_or(|wanted| held.as_deref() == Some(wanted))
        };
        is(&self.device, &system.connection_device_id)
            && is(&self.module, &system.connection_module_id)
            && (self.condition.always_holds() || self.condition.holds(&MessageFields::new(message)))
    }
}

/// GET `/api/v1/telemetry?partition=&from=|since=&max=&device=&module=&filter=`.
pub(crate) async fn page(call: Call) -> Outcome {
    call.prove(Rights::SERVICE)?;
    call.only(&Method::GET)?;
    let known = ["partition", "from", "since", "max", "device", "module", "filter"];
    call.only_query(&known)?;
    let wanted = Wanted::of(&call)?;
    let telemetry = &call.core.telemetry;
    let default = wanted.device.as_deref().map_or(0, |id| partition_of(id, telemetry.partitions));
    let partition = call.number("partition", u64::from(default))?;
    let partition = u16::try_from(partition).ok().filter(|at| *at < telemetry.partitions);
    let no_such = || ApiError::new(ErrorCode::ArgumentInvalid, "there is no such partition");
    let partition = partition.ok_or_else(no_such)?;
    let max = call.number("max", 100)?;
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    if max == 0 || max > PAGE_MAX {
        return Err(ApiError::new(ErrorCode::ArgumentInvalid, "`max` must be 1 to 1000"));
    }
    let from = start(&call, partition).await?;
    answer(&look(telemetry, (partition, from), max, &wanted).await?, None)
}

/// The offset at which a page begins.
async fn start(call: &Call, partition: u16) -> Result<u64, ApiError> {
    let (oldest, _) = call.core.telemetry.bounds();
    let Some(since) = call.query("since") else {
        return Ok(call.number("from", 0)?.max(oldest));
    };
    if call.query("from").is_some() {
        let words = "`from` and `since` both say where to begin; give one";
        return Err(ApiError::new(ErrorCode::ArgumentInvalid, words));
    }
    let since = WallTime::parse_rfc3339(since).ok_or_else(|| {
        let words = "`since` must be a time such as 2026-11-23T14:00:00Z";
        ApiError::new(ErrorCode::ArgumentInvalid, words)
    })?;
    Ok(call.core.telemetry.seek(partition, since).await?.max(oldest))
}

/// Looks from `from` on until `max` messages are found, the end is there, or enough was read.
async fn look(
    telemetry: &Telemetry,
    (partition, from): (u16, u64),
    max: usize,
    wanted: &Wanted,
) -> Result<TelemetryPage, ApiError> {
    let (mut messages, mut bytes, mut looks) = (Vec::new(), 0, 0);
    let mut next = from;
    loop {
        // Without a filter no more is read than is answered.
        let most = if wanted.is_everything() { max - messages.len() } else { PAGE_MAX };
        let budget = Budget { records: most, bytes: READ_BYTES };
        let batch = telemetry.read(partition, next, budget).await?;
        let end = batch.bounds.end.0.max(from);
        let reached = batch.next.0.clamp(next, end.max(next));
        looks += batch.records.len();
        let mut full = looks >= PAGE_LOOKS_MAX || reached == next || reached >= end;
        next = reached;
        for record in &batch.records {
            let Some(message) = read(partition, record) else { continue };
            if !wanted.matches(&message) {
                continue;
            }
            messages.push(shape(partition, record, &message));
            bytes += record.payload.len();
            if messages.len() >= max || bytes >= READ_BYTES {
                (next, full) = (record.position.0 + 1, true);
                break;
            }
        }
        if full {
            let first = batch.bounds.oldest.0;
            return Ok(TelemetryPage { partition, messages, next: next.min(end), end, first });
        }
    }
}

/// The message in `record`; what cannot be read is told to the log and passed over.
fn read(partition: u16, record: &StoredRecord) -> Option<Message> {
    match decode(record.payload.clone()) {
        Ok(message) => Some(message),
        Err(error) => {
            warn!(partition, offset = record.position.0, error = %error, "record skipped");
            None
        }
    }
}

fn messages(partition: u16, batch: &ReadBatch, device: Option<&str>) -> Vec<TelemetryMessage> {
    batch
        .records
        .iter()
        .filter_map(|record| Some(shape(partition, record, &read(partition, record)?)))
        .filter(|message| device.is_none_or(|id| message.device_id == id))
        .collect()
}

/// A message as answered; `message` is what `record` holds.
pub(crate) fn shape(partition: u16, record: &StoredRecord, message: &Message) -> TelemetryMessage {
    let enqueued = WallTime(record.enqueued_ms);
    let (body, body_encoding) = match std::str::from_utf8(&message.body) {
        Ok(text) => (text.to_owned(), BodyEncoding::Utf8),
        Err(_) => (STANDARD.encode(&message.body), BodyEncoding::Base64),
    };
    let text = |held: &Option<Box<str>>| held.as_deref().map(str::to_owned);
    TelemetryMessage {
        partition,
        offset: record.position.0,
        enqueued_time: enqueued.to_string(),
        device_id: text(&message.system.connection_device_id).unwrap_or_default(),
        module_id: text(&message.system.connection_module_id),
        system_properties: system_properties(message, enqueued),
        properties: message
            .properties
            .iter()
            .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
            .collect(),
        body,
        body_encoding,
    }
}

/// Under the names that Azure's routing gives them; texts as their senders wrote them.
fn system_properties(message: &Message, enqueued: WallTime) -> Map<String, Value> {
    let system = &message.system;
    let texts = [
        ("messageId", &system.message_id),
        ("correlationId", &system.correlation_id),
        ("userId", &system.user_id),
        ("to", &system.to),
        ("contentType", &system.content_type),
        ("contentEncoding", &system.content_encoding),
        ("outputName", &system.output_name),
        ("connectionDeviceId", &system.connection_device_id),
        ("connectionModuleId", &system.connection_module_id),
        ("connectionDeviceGenerationId", &system.connection_generation_id),
        ("connectionAuthMethod", &system.connection_auth_method),
        ("interfaceId", &system.interface_id),
        ("dt-subject", &system.component),
        ("messageSchema", &system.schema),
        ("dt-dataschema", &system.model_id),
        ("expiryTimeUtc", &system.expiry),
        ("creationTimeUtc", &system.creation_time),
        ("iothub-ack", &system.ack),
    ];
    let said = texts
        .into_iter()
        .filter_map(|(name, text)| text.as_deref().map(|text| (name.to_owned(), json!(text))));
    let enqueued = ("enqueuedTime".to_owned(), json!(enqueued.to_string()));
    said.chain([enqueued]).collect()
}

/// Where a stream stands: the next offset of each partition it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor(BTreeMap<u16, u64>);

impl Cursor {
    fn parse(text: &str, partitions: u16) -> Option<Self> {
        let mut places = BTreeMap::new();
        for place in text.split(',') {
            let (partition, offset) = place.split_once(':')?;
            let partition = partition.parse().ok().filter(|at| *at < partitions)?;
            places.insert(partition, offset.parse().ok()?);
        }
        Some(Self(places))
    }

    fn text(&self) -> String {
        let places: Vec<_> = self.0.iter().map(|(at, offset)| format!("{at}:{offset}")).collect();
        places.join(",")
    }
}

/// GET `/api/v1/telemetry/stream?device=&from=now|start|<cursor>`.
pub(crate) fn stream(call: Call) -> Outcome {
    call.prove(Rights::SERVICE)?;
    call.only(&Method::GET)?;
    call.only_query(&["device", "from"])?;
    let device = call.query("device").map(str::to_owned);
    let telemetry = &call.core.telemetry;
    let resumed = call.headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let from = resumed.or_else(|| call.query("from")).unwrap_or("now");
    let (oldest, end) = telemetry.bounds();
    let only = device.as_deref().map(|id| partition_of(id, telemetry.partitions));
    let all_from = |offset| {
        let read = (0..telemetry.partitions).filter(|at| only.is_none_or(|only| only == *at));
        Cursor(read.map(|at| (at, offset)).collect())
    };
    let cursor = match from {
        "now" => all_from(end),
        "start" => all_from(oldest),
        text => {
            let bad = || ApiError::new(ErrorCode::ArgumentInvalid, "`from` is no cursor");
            let given = Cursor::parse(text, telemetry.partitions).ok_or_else(bad)?;
            let mut cursor = all_from(oldest);
            for (at, offset) in &mut cursor.0 {
                *offset = given.0.get(at).copied().unwrap_or(*offset);
            }
            cursor
        }
    };
    let room = std::sync::Arc::clone(&call.core.streams).try_acquire_owned();
    let room = room.map_err(|_| {
        ApiError::new(ErrorCode::ThrottlingException, "too many live readers at once")
    })?;
    let follower = Follower {
        _room: room,
        lease: call.core.connections.lease(call.valid_until()),
        commits: telemetry.follow(),
        session: call.session_id(),
        ended: call.core.console.follow(),
        core: call.core,
        device,
        cursor,
        last: u16::MAX,
        waiting: Vec::new(),
        done: false,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(events).into_response())
}

/// Follows the journal at the reader's own pace; holds one read at most.
struct Follower {
    _room: OwnedSemaphorePermit,
    core: std::sync::Arc<Core>,
    commits: watch::Receiver<u64>,
    /// The browser's session that reads, and news of ended ones.
    session: Option<SessionId>,
    ended: watch::Receiver<u64>,
    /// Until when the reader may read.
    lease: Lease,
    device: Option<String>,
    cursor: Cursor,
    /// The partition that was read last; the one after it is next, so that none starves.
    last: u16,
    /// What was read of one partition and not yet sent, last first.
    waiting: Vec<Event>,
    /// Goodbye was said.
    done: bool,
}

impl Follower {
    /// The next event; `None` behind the goodbye, or when the hub cannot read.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            self.commits.borrow_and_update();
            self.ended.borrow_and_update();
            if let Some(reason) = self.end() {
                return Some(self.goodbye(reason));
            }
            if !self.read_next().await? {
                if self.core.connections.is_stopping() || self.core.live.is_stopped() {
                    return Some(self.goodbye("stopping"));
                }
                tokio::select! {
                    biased;
                    () = poll_fn(|cx| self.lease.poll_over(cx)) => {}
                    changed = self.ended.changed() => changed.ok()?,
                    changed = self.commits.changed() => changed.ok()?,
                    () = tokio::time::sleep(KEEP_ALIVE) => {
                        return Some(Event::default().comment("still here"));
                    }
                }
            }
        }
    }

    /// Why the reader may read no more, if so.
    fn end(&self) -> Option<&'static str> {
        if self.lease.is_over() {
            return Some("expired");
        }
        let now = self.core.world.now();
        let lasts = self.session.is_none_or(|id| self.core.console.touch(id, now));
        (!lasts).then_some("signedOut")
    }

    /// Says why it ends, and where to go on.
    fn goodbye(&mut self, reason: &'static str) -> Event {
        self.done = true;
        let data = json!({ "reason": reason }).to_string();
        Event::default().event("bye").id(self.cursor.text()).data(data)
    }

    /// Reads partitions until one brings something: one read is held, however many there are.
    /// `true` if a cursor moved.
    async fn read_next(&mut self) -> Option<bool> {
        let mut moved = false;
        for partition in self.round() {
            moved |= self.read(partition).await?;
            if !self.waiting.is_empty() {
                break;
            }
        }
        Some(moved)
    }

    /// All partitions, beginning behind the last that was read.
    fn round(&self) -> Vec<u16> {
        let behind = self.cursor.0.range(self.last.saturating_add(1)..);
        let before = self.cursor.0.range(..=self.last);
        behind.chain(before).map(|(partition, _)| *partition).collect()
    }

    /// Reads one partition; `true` if its cursor moved.
    async fn read(&mut self, partition: u16) -> Option<bool> {
        self.last = partition;
        let from = self.cursor.0.get(&partition).copied()?;
        let budget = Budget { records: STREAM_READ, bytes: READ_BYTES };
        let batch = self.core.telemetry.read(partition, from, budget).await.ok()?;
        let mut events = Vec::new();
        if from < batch.bounds.oldest.0 {
            events.push(Event::default().event("behind").data(batch.bounds.oldest.0.to_string()));
        }
        for message in messages(partition, &batch, self.device.as_deref()) {
            self.cursor.0.insert(partition, message.offset + 1);
            let event = Event::default().event("message").id(self.cursor.text());
            // A message of strings and numbers always has JSON.
            events.push(event.json_data(&message).ok()?);
        }
        let next = batch.next.0.max(batch.bounds.oldest.0);
        self.cursor.0.insert(partition, next.max(from));
        events.reverse();
        self.waiting = events;
        Some(next > from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_live_reader_holds_one_read_of_one_partition_and_starves_none() {
        const PARTITIONS: u16 = 8;
        let machine = crate::tests::Machine::new();
        let running = machine.start_with(1, |settings| settings.partitions = PARTITIONS);
        let core = std::sync::Arc::clone(&running.hub.core);
        let mut filled = std::collections::BTreeSet::new();
        for device in (0..).map(|n| format!("d{n}")) {
            if filled.len() == usize::from(PARTITIONS) {
                break;
            }
            if !filled.insert(partition_of(&device, PARTITIONS)) {
                continue;
            }
            let identity: model::id::IdentityId = device.parse().unwrap();
            let sender = super::super::Sender {
                identity: &identity,
                generation_id: "1",
                method: crate::access::BY_DEVICE_KEY,
            };
            let record = super::super::encode(&Message::default(), sender);
            let records = vec![record; 2 * STREAM_READ];
            let chain = journal::worker::Chain::default();
            let reply = core.telemetry.submit((&device, &chain), records, ()).unwrap();
            crate::storage::writer::settle(reply).await.unwrap();
        }
        let streams = std::sync::Arc::clone(&core.streams);
        let mut follower = Follower {
            _room: streams.try_acquire_owned().unwrap(),
            commits: core.telemetry.follow(),
            session: None,
            ended: core.console.follow(),
            lease: core.connections.lease(WallTime(i64::MAX)),
            core,
            device: None,
            cursor: Cursor((0..PARTITIONS).map(|at| (at, 0)).collect()),
            last: u16::MAX,
            waiting: Vec::new(),
            done: false,
        };
        let mut begun = std::collections::BTreeSet::new();
        for _ in 0..STREAM_READ * usize::from(PARTITIONS) {
            assert!(follower.next().await.is_some());
            begun.insert(follower.last);
            assert!(follower.waiting.len() < STREAM_READ, "{} wait", follower.waiting.len());
        }
        assert_eq!(begun.len(), usize::from(PARTITIONS), "every partition had its turn");
    }

    #[test]
    fn a_cursor_is_a_vector_by_partition() {
        let check = |text: &str, ok: bool| {
            let cursor = Cursor::parse(text, 4);
            assert_eq!(cursor.map(|cursor| cursor.text()), ok.then(|| text.to_owned()), "{text}");
        };
        check("0:12,3:7", true);
        check("1:0", true);
        check("4:0", false);
        check("now", false);
        check("", false);
        check("0:-1", false);
    }
}
