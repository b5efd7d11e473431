//! What waits for one browser: bounded in bytes, at most four updates a second and topic. Pure.
//!
//! A topic's *state* has one slot, where later wins; its *lines* queue up, and when they take
//! too much room the oldest go. Both count what the browser will never see. What was sent is
//! kept for a while, for a browser that comes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::time::Tick;
use serde_json::Value;

/// Shortest time between two updates of one topic: four a second.
pub(crate) const SPACING: Duration = Duration::from_millis(250);
/// Most bytes that wait for one browser.
pub(crate) const PENDING_BYTES_MAX: usize = 256 * 1024;
/// Most bytes kept of what was sent, for a browser that comes back.
pub(crate) const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// A browser that takes nothing for so long, although something waits, is cut off.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(15);

/// How a topic's updates are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only the newest counts.
    State,
    /// Every one counts.
    Lines,
}

/// One update of a topic, shared by all who watch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// JSON on one line.
    pub(crate) payload: Bytes,
    /// How many updates, rows or lines it stands for.
    pub(crate) weight: u64,
    /// How many of them the pump itself left out before it.
    pub(crate) dropped: u64,
}

impl Piece {
    /// A piece that stands for one update.
    pub(crate) fn one(payload: Bytes) -> Self {
        Self { payload, weight: 1, dropped: 0 }
    }
}

/// One event on its way: `head`, then `payload`, then [`TAIL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) head: Bytes,
    pub(crate) payload: Bytes,
}

/// What closes a [`Frame`].
pub(crate) const TAIL: &[u8] = b"}\n\n";

impl Frame {
    fn len(&self) -> usize {
        self.head.len() + self.payload.len() + TAIL.len()
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send this.
    Send(Frame),
    /// Nothing before then.
    WaitUntil(Tick),
    /// Nothing until something is offered.
    Idle,
}

/// What happened on one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    /// Updates, rows and lines that were left out.
    pub(crate) dropped: u64,
    /// Times that the room for waiting bytes was used up.
    pub(crate) overflows: u64,
}

#[derive(Debug)]
struct Slot {
    kind: Kind,
    pending: VecDeque<Piece>,
    bytes: usize,
    dropped: u64,
    last_sent: Option<Tick>,
}

/// Everything that waits for one browser, and some of what was sent.
#[derive(Debug)]
pub(crate) struct Queue {
    stream: String,
    slots: BTreeMap<Arc<str>, Slot>,
    ended: VecDeque<(Arc<str>, String)>,
    sent: VecDeque<(u64, Frame)>,
    sent_bytes: usize,
    sequence: u64,
    pending_bytes: usize,
    /// Since when something waits that nobody took.
    waiting_since: Option<Tick>,
    pub(crate) counters: Counters,
}

impl Queue {
    /// A queue without topics; `stream` is the name in the ids of its events.
    pub(crate) fn new(stream: String) -> Self {
        Self {
            stream,
            slots: BTreeMap::new(),
            ended: VecDeque::new(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            sequence: 0,
            pending_bytes: 0,
            waiting_since: None,
            counters: Counters::default(),
        }
    }

    /// The id that the next browser to come back would name.
    pub(crate) fn last_id(&self) -> String {
        format!("{}.{}", self.stream, self.sequence)
    }

    /// The topics, by name.
    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        self.slots.keys().cloned().collect()
    }

    /// Adds a topic.
    pub(crate) fn add(&mut self, topic: Arc<str>, kind: Kind) {
        let slot =
            || Slot { kind, pending: VecDeque::new(), bytes: 0, dropped: 0, last_sent: None };
        self.slots.entry(topic).or_insert_with(slot);
    }

    /// Forgets a topic and what waits of it.
    pub(crate) fn remove(&mut self, topic: &str) {
        if let Some(slot) = self.slots.remove(topic) {
            self.pending_bytes -= slot.bytes;
        }
        self.note_waiting(None);
    }

    /// A topic ended for good; the browser is told once.
    pub(crate) fn handle_ended(&mut self, topic: &str, reason: &str) {
        if let Some((name, _)) = self.slots.get_key_value(topic) {
            let name = Arc::clone(name);
            self.remove(&name);
            self.ended.push_back((name, reason.to_owned()));
        }
    }

    /// A pump has something new of `topic`.
    pub(crate) fn handle_piece(&mut self, topic: &str, piece: Piece, now: Tick) {
        let Some(slot) = self.slots.get_mut(topic) else { return };
        slot.dropped += piece.dropped;
        self.counters.dropped += piece.dropped;
        if slot.kind == Kind::State {
            while let Some(older) = slot.pending.pop_front() {
                slot.bytes -= older.payload.len();
                self.pending_bytes -= older.payload.len();
                slot.dropped += older.weight;
                self.counters.dropped += older.weight;
            }
        }
        slot.bytes += piece.payload.len();
        self.pending_bytes += piece.payload.len();
        slot.pending.push_back(piece);
        self.make_room();
        self.note_waiting(Some(now));
    }

    /// Lets the oldest of whoever takes the most room go until everything fits.
    fn make_room(&mut self) {
        if self.pending_bytes > PENDING_BYTES_MAX {
            self.counters.overflows += 1;
        }
        while self.pending_bytes > PENDING_BYTES_MAX {
            let largest = self.slots.values_mut().max_by_key(|slot| slot.bytes);
            let Some(slot) = largest else { break };
            let Some(oldest) = slot.pending.pop_front() else { break };
            slot.bytes -= oldest.payload.len();
            slot.dropped += oldest.weight;
            self.pending_bytes -= oldest.payload.len();
            self.counters.dropped += oldest.weight;
        }
    }

    /// The browser can take something.
    pub(crate) fn poll(&mut self, now: Tick) -> Next {
        if let Some((topic, reason)) = self.ended.pop_front() {
            let data = serde_json::json!({ "topic": &*topic, "reason": reason }).to_string();
            let payload = Bytes::from(data.trim_end_matches('}').to_owned());
            return Next::Send(self.keep("gone", payload, Bytes::new(), now));
        }
        let due = |slot: &Slot| slot.last_sent.map_or(Tick(0), |last| last.after(SPACING));
        let first = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| !slot.pending.is_empty())
            .min_by_key(|(_, slot)| (due(slot), slot.last_sent));
        let Some((topic, slot)) = first else { return Next::Idle };
        if due(slot) > now {
            return Next::WaitUntil(due(slot));
        }
        let Some(piece) = slot.pending.pop_front() else { return Next::Idle };
        slot.bytes -= piece.payload.len();
        self.pending_bytes -= piece.payload.len();
        slot.last_sent = Some(now);
        let dropped = std::mem::take(&mut slot.dropped);
        let name = Value::from(&**topic);
        let head = Bytes::from(format!("{{\"topic\":{name},\"dropped\":{dropped},\"data\":"));
        Next::Send(self.keep("update", head, piece.payload, now))
    }

    /// Numbers an event and keeps it for a browser that comes back.
    fn keep(&mut self, event: &str, head: Bytes, payload: Bytes, now: Tick) -> Frame {
        self.sequence += 1;
        let id = self.last_id();
        let mut text = format!("event: {event}\nid: {id}\ndata: ").into_bytes();
        text.extend_from_slice(&head);
        let frame = Frame { head: Bytes::from(text), payload };
        self.counters.sent += 1;
        self.counters.sent_bytes += frame.len() as u64;
        self.sent_bytes += frame.len();
        self.sent.push_back((self.sequence, frame.clone()));
        while self.sent_bytes > REPLAY_BYTES_MAX {
            let Some((_, oldest)) = self.sent.pop_front() else { break };
            self.sent_bytes -= oldest.len();
        }
        self.waiting_since = None;
        self.note_waiting(Some(now));
        frame
    }

    /// A browser is back that saw everything up to `seen`. Gives what it missed and what is
    /// left of that; `None` if it speaks of events that were never sent.
    pub(crate) fn handle_return(&self, seen: u64) -> Option<(u64, Vec<Frame>)> {
        let behind = self.sequence.checked_sub(seen)?;
        let again: Vec<_> =
            self.sent.iter().filter(|(at, _)| *at > seen).map(|(_, frame)| frame.clone()).collect();
        Some((behind - again.len() as u64, again))
    }

    /// Whether the browser takes nothing although something waits.
    pub(crate) fn is_stalled(&self, now: Tick) -> bool {
        self.waiting_since.is_some_and(|since| now.since(since) > STALL_MAX)
    }

    /// Bytes that wait.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    fn note_waiting(&mut self, now: Option<Tick>) {
        let waits = self.slots.values().any(|slot| !slot.pending.is_empty());
        self.waiting_since = if waits { self.waiting_since.or(now) } else { None };
    }
}

#[cfg(test)]
mod tests;
