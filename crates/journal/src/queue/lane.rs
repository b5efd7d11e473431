//! One lane: its cursor, what is in flight, and what was acknowledged out of order.

use std::collections::BTreeMap;

use super::{LaneStats, WINDOW_RECORDS_MAX};
use crate::log::{Budget, LaneId, Position, ReadError, Reader, StoredRecord, Totals};
use crate::planted;

/// One lane. What lies before `sent` is in flight, acknowledged or expired.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) endpoint: Box<str>,
    pub(super) priority: u32,
    pub(super) depth: u64,
    pub(super) bytes: u64,
    /// Whether the cursor moved since it was last staged.
    pub(super) moved: bool,
    sent: Position,
    /// Delivered and not acknowledged, with bytes on disk; at most [`WINDOW_RECORDS_MAX`].
    in_flight: BTreeMap<Position, u64>,
    /// Acknowledged or expired behind something in flight, with bytes on disk: not to be
    /// delivered again after a rewind. Positions in a lane have gaps, so a map of them is no
    /// larger than a map of ranges.
    done_ahead: BTreeMap<Position, u64>,
    expired: u64,
}

impl Lane {
    pub(super) fn new(endpoint: &str, priority: u32, cursor: Position) -> Self {
        Self {
            endpoint: endpoint.into(),
            priority,
            depth: 0,
            bytes: 0,
            moved: false,
            sent: cursor,
            in_flight: BTreeMap::new(),
            done_ahead: BTreeMap::new(),
            expired: 0,
        }
    }

    /// Everything before this is done with.
    pub(super) fn cursor(&self) -> Position {
        // Planted: what was handed out counts as delivered.
        if planted::is("cursor_before_delivery") {
            return self.sent;
        }
        self.in_flight.first_key_value().map_or(self.sent, |(first, _)| *first)
    }

    pub(super) fn next(
        &mut self,
        id: LaneId,
        reader: &Reader,
        budget: Budget,
        now_ms: i64,
    ) -> Result<Vec<StoredRecord>, ReadError> {
        loop {
            // What was taken back is passed through without being delivered, so it may not
            // block a lane that has nothing in flight.
            let tracked = self.in_flight.len().max(self.done_ahead.len());
            let tracked = if self.in_flight.is_empty() { 0 } else { tracked };
            let window = WINDOW_RECORDS_MAX.saturating_sub(tracked);
            let records = budget.records.min(window);
            if records == 0 {
                return Ok(Vec::new());
            }
            let batch = reader.read(id, self.sent, Budget { records, ..budget })?;
            self.moved |= self.sent != batch.next;
            self.sent = batch.next;
            self.depth = self.depth.saturating_sub(batch.damaged as u64);
            let at_end = batch.next >= batch.bounds.end;
            let fresh: Vec<StoredRecord> =
                batch.records.into_iter().filter(|record| self.wants(record, now_ms)).collect();
            if at_end || !fresh.is_empty() {
                let flying = fresh.iter().map(|record| (record.position, record.disk_bytes));
                self.in_flight.extend(flying);
                self.prune();
                return Ok(fresh);
            }
        }
    }

    fn wants(&mut self, record: &StoredRecord, now_ms: i64) -> bool {
        if self.done_ahead.contains_key(&record.position) {
            return false;
        }
        if is_expired(record, now_ms) {
            self.expired += 1;
            self.done_ahead.insert(record.position, record.disk_bytes);
            self.forget(record.disk_bytes);
            return false;
        }
        true
    }

    pub(super) fn acknowledge(&mut self, position: Position) {
        if let Some(bytes) = self.in_flight.remove(&position) {
            self.forget(bytes);
            self.moved = true;
            if self.in_flight.first_key_value().is_some_and(|(first, _)| *first < position) {
                self.done_ahead.insert(position, bytes);
            }
            self.prune();
        }
    }

    /// Forgets what the cursor has passed.
    fn prune(&mut self) {
        if self.done_ahead.first_key_value().is_some_and(|(first, _)| *first < self.cursor()) {
            self.done_ahead = self.done_ahead.split_off(&self.cursor());
        }
    }

    pub(super) fn rewind(&mut self) {
        if let Some((first, _)) = self.in_flight.first_key_value() {
            self.sent = *first;
        }
        self.in_flight.clear();
    }

    pub(super) fn give_up(&mut self, end: Position) {
        (self.sent, self.moved, self.depth, self.bytes) = (end, true, 0, 0);
        self.in_flight.clear();
        self.done_ahead.clear();
    }

    /// Whether nothing of a segment with these totals is needed any more.
    pub(super) fn is_done(&self, totals: &Totals, now_ms: i64) -> bool {
        let passed = Position(totals.last) < self.cursor();
        passed || (totals.expires_ms <= now_ms && self.in_flight.is_empty())
    }

    /// The segment that ended at `end` is gone with `count` records from the cursor on, which
    /// expired unless they were done; `behind` is what remains of the lane, records and bytes.
    pub(super) fn skip_expired(&mut self, end: Position, count: u64, behind: (u64, u64)) {
        self.sent = self.sent.max(end);
        self.moved = true;
        let ahead = self.done_ahead.split_off(&end);
        let done = std::mem::replace(&mut self.done_ahead, ahead).len() as u64;
        self.expired += count.saturating_sub(done);
        self.depth = behind.0.saturating_sub(self.done_ahead.len() as u64);
        self.bytes = behind.1.saturating_sub(self.done_ahead.values().sum());
    }

    pub(super) fn stats(
        &self,
        id: LaneId,
        reader: &Reader,
        now_ms: i64,
    ) -> Result<LaneStats, ReadError> {
        let mut oldest_ms = None;
        if self.depth > 0 {
            let oldest = reader.read(id, self.cursor(), Budget { records: 1, bytes: 1 })?;
            oldest_ms = oldest
                .records
                .first()
                .map(|record| now_ms.saturating_sub(record.enqueued_ms).max(0));
        }
        let (held_segments, held_bytes) = reader.held(id, |totals| !self.is_done(totals, now_ms));
        Ok(LaneStats {
            lane: id,
            endpoint: self.endpoint.clone(),
            priority: self.priority,
            depth: self.depth,
            bytes: self.bytes,
            oldest_ms,
            expired: self.expired,
            cursor: self.cursor(),
            held_segments,
            held_bytes,
        })
    }

    fn forget(&mut self, bytes: u64) {
        self.depth = self.depth.saturating_sub(1);
        self.bytes = if self.depth == 0 { 0 } else { self.bytes.saturating_sub(bytes) };
    }
}

fn is_expired(record: &StoredRecord, now_ms: i64) -> bool {
    // Planted: a clock that went back makes everything too old.
    if planted::is("clock_back_expires") && now_ms < record.enqueued_ms {
        return true;
    }
    // Planted: nothing is ever too old.
    !planted::is("expired_delivered")
        && record.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
}
