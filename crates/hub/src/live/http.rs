//! Live streams through our own API.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use api::error::{ApiError, ErrorCode};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method};
use model::time::Tick;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::queue::{Frame, TAIL};
use super::shell::{Bye, Live, NoStream, Owner, Step, Stream, TOPICS_MAX};
use super::topic::Topic;
use crate::access;
use crate::connections::Lease;
use crate::console::sessions::SessionId;
use crate::service::http::{Call, Outcome, answer};
use crate::session::shell::Core;

/// Silence after which a stream sends a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Payloads below this size are sent in one piece with what surrounds them.
const JOINED_BYTES_MAX: usize = 4096;

/// GET `/api/v1/events?topic=…&topic=…`.
pub(crate) fn events(call: &Call) -> Outcome {
    call.only(&Method::GET)?;
    call.only_query(&["topic"])?;
    let names = call.parameters().filter(|(name, _)| *name == "topic").map(|(_, text)| text);
    let topics = topics(call, names)?;
    let owner = owner(call)?;
    let core = &call.core;
    let seen = call.headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let back = seen.and_then(|seen| {
        let (id, sequence) = seen.split_once('.')?;
        let stream = core.live.find(id, owner)?;
        let again = stream.with_queue(|queue| queue.handle_return(sequence.parse().ok()?))?;
        Some((stream, again))
    });
    let resumed = back.is_some();
    let (stream, (missed, again)) = match back {
        Some(back) => back,
        None => (open(core, owner)?, (0, Vec::new())),
    };
    if !resumed {
        core.live.set_topics(core, &stream, topics);
    }
    let hello = stream.with_queue(|queue| {
        let data = json!({
            "stream": stream.id, "resumed": resumed, "topics": queue.topics(), "missed": missed,
        });
        // What is sent again follows: an id here would step over it.
        let id =
            if again.is_empty() { format!("id: {}\n", queue.last_id()) } else { String::new() };
        Bytes::from(format!("event: hello\n{id}data: {data}\n\n"))
    });
    let mut out = VecDeque::from([hello]);
    for frame in &again {
        push(&mut out, frame);
    }
    let reader = Reader {
        attachment: stream.attach(),
        stream,
        core: Arc::clone(core),
        ended: core.console.follow(),
        lease: core.connections.lease(call.valid_until()),
        out,
        quiet_until: core.world.now().tick.after(KEEP_ALIVE),
        done: false,
    };
    Ok(serve(reader))
}

fn serve(reader: Reader) -> Response {
    let body = stream::unfold(reader, |mut reader| async move {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(chunk), reader))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that gathers would hold everything back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// All the topics that a stream is to have. Strict: only our own console writes it, and a stream
/// without the topics that were meant would look as if nothing happened.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicsWanted {
    topics: Vec<String>,
}

/// POST `/api/v1/events/{stream}/topics`.
pub(crate) fn set_topics(call: &Call, id: &str) -> Outcome {
    call.only(&Method::POST)?;
    call.only_query(&[])?;
    let wanted: TopicsWanted = call.json()?;
    let topics = topics(call, wanted.topics.iter().map(String::as_str))?;
    let Some(stream) = call.core.live.find(id, owner(call)?) else {
        return Err(ApiError::new(ErrorCode::NotFound, "there is no such stream; open a new one"));
    };
    call.core.live.set_topics(&call.core, &stream, topics);
    stream.notify.notify_one();
    let topics = stream.with_queue(|queue| queue.topics());
    answer(&json!({ "topics": topics }), None)
}

fn topics<'a>(
    call: &Call,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<(Arc<str>, Topic)>, ApiError> {
    // Also without topics: only a policy may watch.
    call.prove(access::Rights::NONE)?;
    let mut topics: Vec<(Arc<str>, Topic)> = Vec::new();
    for name in names {
        let topic = Topic::parse(name)
            .map_err(|fault| ApiError::new(ErrorCode::ArgumentInvalid, fault.to_string()))?;
        call.prove(topic.rights())?;
        if !topics.iter().any(|(held, _)| &**held == name) {
            topics.push((name.into(), topic));
        }
    }
    if topics.len() > TOPICS_MAX {
        let words = format!("a stream has at most {TOPICS_MAX} topics");
        return Err(ApiError::new(ErrorCode::ArgumentInvalid, words));
    }
    Ok(topics)
}

fn owner(call: &Call) -> Result<Owner, ApiError> {
    match (call.session_id(), call.policy()) {
        (Some(session), _) => Ok(Owner::Session(session)),
        (None, Some(policy)) => Ok(Owner::Policy(policy)),
        (None, None) => Err(access::refused().into()),
    }
}

fn open(core: &Arc<Core>, owner: Owner) -> Result<Arc<Stream>, ApiError> {
    core.live.open(core, owner).map_err(|no| match no {
        NoStream::TooMany => {
            ApiError::new(ErrorCode::ThrottlingException, "too many live streams at once")
        }
        NoStream::Stopping => ApiError::new(ErrorCode::ServiceUnavailable, "the hub is stopping"),
    })
}

fn push(out: &mut VecDeque<Bytes>, frame: &Frame) {
    if frame.payload.len() <= JOINED_BYTES_MAX {
        out.push_back(Bytes::from([&frame.head[..], &frame.payload, TAIL].concat()));
        return;
    }
    // Shared by all who watch: not copied.
    out.extend([frame.head.clone(), frame.payload.clone(), Bytes::from_static(TAIL)]);
}

/// One connection that serves a stream.
struct Reader {
    stream: Arc<Stream>,
    attachment: u64,
    core: Arc<Core>,
    ended: watch::Receiver<u64>,
    /// Until when whoever opened this connection may watch.
    lease: Lease,
    out: VecDeque<Bytes>,
    quiet_until: Tick,
    done: bool,
}

impl Reader {
    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let now = self.core.world.now().tick;
            if let Some(chunk) = self.out.pop_front() {
                self.quiet_until = now.after(KEEP_ALIVE);
                return Some(chunk);
            }
            if self.done {
                return None;
            }
            self.check_session();
            if self.lease.is_over() {
                self.end(Bye::Expired);
                continue;
            }
            let wait_until = match self.stream.poll(self.attachment, now) {
                Step::Send(frame) => {
                    push(&mut self.out, &frame);
                    continue;
                }
                Step::End(bye) => {
                    self.end(bye);
                    continue;
                }
                Step::Lost => return None,
                Step::WaitUntil(at) => at.min(self.quiet_until),
                Step::Idle => self.quiet_until,
            };
            if now >= self.quiet_until {
                self.out.push_back(Bytes::from_static(b": still here\n\n"));
                continue;
            }
            tokio::select! {
                biased;
                () = self.stream.notify.notified() => {}
                () = poll_fn(|cx| self.lease.poll_over(cx)) => {}
                // The sender lives as long as the hub's core, which we hold.
                _ = self.ended.changed() => {}
                () = tokio::time::sleep(wait_until.since(now)) => {}
            }
        }
    }

    /// Says goodbye; nothing follows. The stream itself waits a while for a connection that may
    /// watch it.
    fn end(&mut self, bye: Bye) {
        self.done = true;
        let data = json!({ "reason": bye.name() });
        self.out.push_back(Bytes::from(format!("event: bye\ndata: {data}\n\n")));
    }

    /// A stream lasts no longer than the session that opened it, and is a use of it.
    fn check_session(&mut self) {
        self.ended.borrow_and_update();
        let Owner::Session(id) = self.stream.owner else { return };
        if self.lease.is_over() || !self.is_session_open(id) {
            let live: &Live = &self.core.live;
            let bye = if self.lease.is_over() { Bye::Expired } else { Bye::SignedOut };
            live.close(&self.stream, bye);
        }
    }

    fn is_session_open(&self, id: SessionId) -> bool {
        self.core.console.touch(id, self.core.world.now())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stream.detach(self.attachment, self.core.world.now().tick);
    }
}
