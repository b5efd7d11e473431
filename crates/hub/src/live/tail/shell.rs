//! Follows the telemetry journal for all who watch, reading each record once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::log::{Budget, StoredRecord};
use model::message::Message;
use model::query::message::MessageFields;
use model::time::Tick;
use tracing::debug;

use super::Rows;
use crate::live::shell::Watched;
use crate::live::topic::Topic;
use crate::session::shell::Core;
use crate::telemetry::{decode, http, partition_of};

/// Records of one read.
const READ_RECORDS: usize = 512;
/// Most bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Records behind the journal's end at which the reader passes over what lies between.
const LAG_RECORDS_MAX: u64 = 200_000;
/// Pause between two rounds, so that a busy journal is read in large pieces.
const ROUND: Duration = Duration::from_millis(50);
/// How long nobody tells the reader anything before it looks by itself.
const LOOK: Duration = Duration::from_secs(5);

/// One watched topic with its rows.
struct Watch {
    watched: Arc<Watched>,
    rows: Rows,
}

#[derive(Default)]
struct Tail {
    watches: BTreeMap<Arc<str>, Watch>,
    /// The next offset of each partition that somebody watches.
    cursors: BTreeMap<u16, u64>,
}

/// Reads and tells until nobody watches.
pub(crate) async fn follow(core: Arc<Core>) {
    let mut tail = Tail::default();
    let mut commits = core.telemetry.follow();
    loop {
        commits.borrow_and_update();
        tail.refresh(&core);
        if tail.watches.is_empty() && core.live.end_tail() {
            return;
        }
        let moved = tail.read_all(&core).await;
        let due = tail.flush(core.world.now().tick);
        if moved {
            tokio::time::sleep(ROUND).await;
            continue;
        }
        let now = core.world.now().tick;
        let patience = due.map_or(LOOK, |due| due.since(now));
        tokio::select! {
            biased;
            () = core.live.tail_wake.notified() => {}
            changed = commits.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(patience) => {}
        }
    }
}

impl Tail {
    /// Sees who watches now; a partition that is new is read from where its first watcher began.
    fn refresh(&mut self, core: &Core) {
        let all = core.live.watched(|topic| matches!(topic, Topic::Telemetry { .. }));
        self.watches.retain(|_, watch| !watch.watched.is_closed());
        for watched in all {
            let fresh = || Watch { watched: Arc::clone(&watched), rows: Rows::default() };
            self.watches.entry(Arc::clone(&watched.name)).or_insert_with(fresh);
        }
        let partitions = core.telemetry.partitions;
        let mut wanted: BTreeMap<u16, u64> = BTreeMap::new();
        for Watch { watched, .. } in self.watches.values() {
            let Some(device) = device_of(&watched.topic) else { continue };
            let from = wanted.entry(partition_of(device, partitions)).or_insert(watched.began);
            *from = watched.began.min(*from);
        }
        self.cursors.retain(|partition, _| wanted.contains_key(partition));
        for (partition, began) in wanted {
            self.cursors.entry(partition).or_insert(began);
        }
    }

    /// Reads every partition once; gives whether there may be more.
    async fn read_all(&mut self, core: &Core) -> bool {
        let mut moved = false;
        for partition in self.cursors.keys().copied().collect::<Vec<_>>() {
            let Some(from) = self.cursors.get(&partition).copied() else { continue };
            let (_, end) = core.telemetry.bounds();
            let from = if end.saturating_sub(from) > LAG_RECORDS_MAX {
                self.skip(partition, core.telemetry.partitions, end - from);
                end
            } else {
                from
            };
            let budget = Budget { records: READ_RECORDS, bytes: READ_BYTES };
            let Ok(batch) = core.telemetry.read(partition, from, budget).await else { continue };
            for record in &batch.records {
                self.handle_record(partition, record);
            }
            let next = batch.next.0.max(batch.bounds.oldest.0).max(from);
            moved |= next > from;
            self.cursors.insert(partition, next);
        }
        moved
    }

    fn skip(&mut self, partition: u16, partitions: u16, records: u64) {
        for watch in self.watches.values_mut() {
            let device = device_of(&watch.watched.topic);
            if device.is_some_and(|device| partition_of(device, partitions) == partition) {
                watch.rows.handle_skipped(records);
            }
        }
    }

    fn handle_record(&mut self, partition: u16, record: &StoredRecord) {
        let message = match decode(record.payload.clone()) {
            Ok(message) => message,
            Err(error) => {
                debug!(partition, offset = record.position.0, %error, "record not shown");
                return;
            }
        };
        let mut row = None;
        for watch in self.watches.values_mut() {
            if !matches(&watch.watched.topic, &message) {
                continue;
            }
            // Made once, however many watch.
            let made = row.get_or_insert_with(|| {
                let shape = http::shape(partition, record, &message);
                Bytes::from(serde_json::to_vec(&shape).unwrap_or_default())
            });
            if !made.is_empty() {
                watch.rows.handle_row(made.clone());
            }
        }
    }

    /// Tells what is due; gives when the next is.
    fn flush(&mut self, now: Tick) -> Option<Tick> {
        for watch in self.watches.values_mut() {
            if let Some(piece) = watch.rows.poll(now) {
                watch.watched.publish(&piece, now);
            }
        }
        self.watches.values().filter_map(|watch| watch.rows.due()).min()
    }
}

fn device_of(topic: &Topic) -> Option<&str> {
    match topic {
        Topic::Telemetry { device, .. } => Some(device.as_str()),
        _ => None,
    }
}

fn matches(topic: &Topic, message: &Message) -> bool {
    let Topic::Telemetry { device, module, condition } = topic else { return false };
    message.system.connection_device_id.as_deref() == Some(device.as_str())
        && module.as_ref().is_none_or(|module| {
            message.system.connection_module_id.as_deref() == Some(module.as_str())
        })
        && (condition.always_holds() || condition.holds(&MessageFields::new(message)))
}
