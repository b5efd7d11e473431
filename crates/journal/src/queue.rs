//! Store and forward: lanes with durable cursors on top of the log.
//!
//! A lane is (endpoint, priority). Per endpoint the lane of the best priority with work goes
//! first; inside a lane records are delivered in order, may be acknowledged in any order, and
//! come again after a restart unless their acknowledgement was committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::Disk;
use crate::log::{
    Bounds, Budget, CommitError, Committed, LaneId, Log, LogOptions, OpenLogError, Position,
    ReadError, Reader, Record, Recovered, StageError, StoredRecord, Totals,
};

mod lane;
#[cfg(test)]
mod tests;

use lane::Lane;

/// Most records of one lane that are delivered and not acknowledged.
pub const WINDOW_RECORDS_MAX: usize = 1_000;

/// The queue; one owner.
#[derive(Debug)]
pub struct Queue {
    log: Log,
    reader: Reader,
    lanes: BTreeMap<LaneId, Lane>,
    /// Lane and bytes of what the next commit brings.
    staged: Vec<(LaneId, u64)>,
}

/// Records of one lane, in order, handed out and to be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The lane.
    pub lane: LaneId,
    /// At least one.
    pub records: Vec<StoredRecord>,
}

/// How a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStats {
    /// The lane.
    pub lane: LaneId,
    /// Its endpoint.
    pub endpoint: Box<str>,
    /// Its priority; smaller goes first.
    pub priority: u32,
    /// Records not yet acknowledged (those that expired unseen included).
    pub depth: u64,
    /// Their bytes on disk; a body shared by several lanes counts in each.
    pub bytes: u64,
    /// Age of the oldest in milliseconds.
    pub oldest_ms: Option<i64>,
    /// Records dropped because they expired, since the queue was opened.
    pub expired: u64,
    /// Everything before this is done with.
    pub cursor: Position,
    /// Closed segments from the first on that the lane still needs: none of them can be freed
    /// before it is read on, whoever else needs them too. A lane with few bytes that holds many
    /// segments is what fills a disk.
    pub held_segments: u64,
    /// Bytes on disk of those segments.
    pub held_bytes: u64,
}

impl Queue {
    /// Opens the queue on `disk`, or starts one.
    ///
    /// # Errors
    /// As [`crate::log::Log::open`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        instance: u128,
        now_ms: i64,
    ) -> Result<(Self, Recovered), OpenLogError> {
        let (log, recovered) = Log::open(disk, options, instance, now_ms)?;
        let reader = log.reader();
        let mut lanes = BTreeMap::new();
        for (id, cursor, label) in log.lanes() {
            let Some((priority, endpoint)) = label.and_then(|label| label.split_once(':')) else {
                continue;
            };
            let priority = priority.parse().unwrap_or(u32::MAX);
            let mut lane = Lane::new(endpoint, priority, cursor);
            let (count, bytes) = reader.remaining(id, cursor).map_err(|source| {
                OpenLogError::Disk { action: "count", file: "the records of a lane".into(), source }
            })?;
            (lane.depth, lane.bytes) = (count, bytes);
            lanes.insert(id, lane);
        }
        Ok((Self { log, reader, lanes, staged: Vec::new() }, recovered))
    }

    /// The lane of `endpoint` and `priority`; made if new, durable with the next commit. The id
    /// stays the same over restarts.
    pub fn lane(&mut self, endpoint: &str, priority: u32) -> LaneId {
        let same = |lane: &Lane| &*lane.endpoint == endpoint && lane.priority == priority;
        if let Some((id, _)) = self.lanes.iter().find(|(_, lane)| same(lane)) {
            return *id;
        }
        let id = LaneId(self.log.lanes().last().map_or(1, |(last, ..)| last.0 + 1));
        let cursor = self.reader.bounds().end;
        self.log.stage_cursor(id, cursor);
        self.log.stage_label(id, &format!("{priority}:{endpoint}"));
        self.lanes.insert(id, Lane::new(endpoint, priority, cursor));
        id
    }

    /// The lanes of `endpoint`, best priority (smallest number) first.
    pub fn lanes(&self, endpoint: &str) -> Vec<LaneId> {
        let own = self.lanes.iter().filter(|(_, lane)| &*lane.endpoint == endpoint);
        let mut own: Vec<(u32, LaneId)> = own.map(|(id, lane)| (lane.priority, *id)).collect();
        own.sort_unstable();
        own.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes `records` into the next commit, all or none.
    ///
    /// # Errors
    /// [`StageError`]; `Full` is the policy "reject new".
    pub fn stage(&mut self, records: &[Record]) -> Result<(), StageError> {
        self.log.stage(records)?;
        for record in records {
            let bytes = frame_bytes(record);
            self.staged.extend(record.lanes.iter().map(|lane| (*lane, bytes)));
        }
        Ok(())
    }

    /// Writes and syncs staged records and the cursors that moved.
    ///
    /// # Errors
    /// As [`crate::log::Log::commit`]; cursors that did not make it are staged again.
    pub fn commit(&mut self, now_ms: i64) -> Result<Committed, CommitError> {
        for (id, lane) in &mut self.lanes {
            if lane.moved {
                lane.moved = false;
                self.log.stage_cursor(*id, lane.cursor());
            }
        }
        let outcome = self.log.commit(now_ms);
        for (id, bytes) in self.staged.drain(..) {
            if outcome.is_ok()
                && let Some(lane) = self.lanes.get_mut(&id)
            {
                lane.depth += 1;
                lane.bytes += bytes;
            }
        }
        outcome
    }

    /// The next records of the first of `lanes` that has any, within `budget`. They are in
    /// flight until [`Queue::acknowledge`] or [`Queue::rewind`]. Expired ones are dropped.
    ///
    /// # Errors
    /// [`ReadError`]; trying again is fine.
    pub fn next(
        &mut self,
        lanes: &[LaneId],
        budget: Budget,
        now_ms: i64,
    ) -> Result<Option<Delivery>, ReadError> {
        for id in lanes {
            if let Some(lane) = self.lanes.get_mut(id) {
                let records = lane.next(*id, &self.reader, budget, now_ms)?;
                if !records.is_empty() {
                    return Ok(Some(Delivery { lane: *id, records }));
                }
            }
        }
        Ok(None)
    }

    /// Marks one record in flight as done. The cursor moves with the next commit. Unknown
    /// positions are ignored: every acknowledgement may come twice.
    pub fn acknowledge(&mut self, lane: LaneId, position: Position) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.acknowledge(position);
        }
    }

    /// Takes everything of `lane` that is in flight back; it is delivered again, in order,
    /// without what was acknowledged meanwhile.
    pub fn rewind(&mut self, lane: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.rewind();
        }
    }

    /// Gives up everything stored for `endpoint`; durable with the next commit.
    pub fn drop_endpoint(&mut self, endpoint: &str) {
        let end = self.reader.bounds().end;
        for lane in self.lanes.values_mut().filter(|lane| &*lane.endpoint == endpoint) {
            lane.give_up(end);
        }
    }

    /// How every lane stands, by lane.
    ///
    /// # Errors
    /// [`ReadError`] if the oldest record of a lane cannot be read.
    pub fn stats(&self, now_ms: i64) -> Result<Vec<LaneStats>, ReadError> {
        let each = self.lanes.iter().map(|(id, lane)| lane.stats(*id, &self.reader, now_ms));
        each.collect()
    }

    /// Where the log of the queue begins and ends.
    pub fn bounds(&self) -> Bounds {
        self.reader.bounds()
    }

    /// From now on records are refused beyond so many bytes on disk; what lies there stays.
    pub fn set_bytes_max(&mut self, bytes_max: Option<u64>) {
        self.log.set_bytes_max(bytes_max);
    }

    /// Unlinks the oldest segments that every lane has passed or whose records expired. Returns
    /// the bytes freed.
    pub fn reclaim(&mut self, now_ms: i64) -> u64 {
        let mut freed = 0;
        while let Some((end, totals)) = self.log.oldest_totals() {
            let done = |(id, totals): (&LaneId, &Totals)| {
                self.lanes.get(id).is_none_or(|lane| lane.is_done(totals, now_ms))
            };
            if !totals.iter().all(done) {
                break;
            }
            let mut unseen = Vec::new();
            for id in totals.keys() {
                let Some(lane) = self.lanes.get(id).filter(|lane| lane.cursor() < end) else {
                    continue;
                };
                // Without the count the depth would be wrong for good.
                let Ok(all) = self.reader.remaining(*id, lane.cursor()) else { return freed };
                let Ok(behind) = self.reader.remaining(*id, end) else { return freed };
                unseen.push((*id, all.0 - behind.0, behind));
            }
            match self.log.remove_oldest() {
                0 => break,
                bytes => freed += bytes,
            }
            for (id, expired, behind) in unseen {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.skip_expired(end, expired, behind);
                }
            }
        }
        freed
    }
}

/// The size of `record` on disk.
fn frame_bytes(record: &Record) -> u64 {
    crate::log::frame_bytes(record) as u64
}
