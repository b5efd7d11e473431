//! Twins are durable: the power is cut at every write between a patch and its answer, and the
//! recovered tables hold what was acknowledged.

mod recording;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::twin::TwinPatch;
use rusqlite::Connection;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use testkit::chance::Chance;

use self::recording::{Event, Log};
use super::feed::Cause;
use super::schema;
use super::twins::{self, SectionWrite};
use super::writer::settle;
use super::writer::tests::Desk;
use super::{identities, rows};
use crate::registry::{IfMatch, Wanted};

/// The file of the tables.
const FILE: &str = "hub.db";
/// The first patches are cut at every write; of the others only those during which the log is
/// brought into the tables.
const CLOSE_PATCHES: u64 = 24;
/// Enough for the log to be brought into the tables once or twice.
const PATCHES: u64 = 44;
/// Pages after which that is done here; hubs wait longer, which only takes time.
const CHECKPOINT_PAGES: u32 = 256;

/// What one file holds: for sure, and what was written since.
#[derive(Clone, Debug, Default)]
struct Kept {
    synced: Vec<u8>,
    since: Vec<Event>,
}

/// What becomes of what was written and not synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    Kept,
    /// The last write is there to its half.
    Torn,
    /// Each write is there or not.
    Some(u64),
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

fn apply(content: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { at, bytes, .. } => put(content, *at, bytes),
        Event::Truncate { len, .. } => content.resize(*len, 0),
        Event::Sync { .. } | Event::Delete { .. } | Event::Answered(_) => {}
    }
}

impl Kept {
    fn handle(&mut self, event: &Event) {
        if let Event::Sync { .. } = event {
            for event in std::mem::take(&mut self.since) {
                apply(&mut self.synced, &event);
            }
        } else {
            self.since.push(event.clone());
        }
    }

    fn after_a_cut(&self, fate: Fate) -> Vec<u8> {
        let mut content = self.synced.clone();
        let chance = Chance::new(if let Fate::Some(seed) = fate { seed } else { 0 });
        for (at, event) in self.since.iter().enumerate() {
            let is_last = at + 1 == self.since.len();
            match (fate, event) {
                (Fate::Lost, _) => {}
                (Fate::Torn, Event::Write { at, bytes, .. }) if is_last => {
                    put(&mut content, *at, &bytes[..bytes.len() / 2]);
                }
                (Fate::Some(_), _) if chance.below(2) == 0 => {}
                _ => apply(&mut content, event),
            }
        }
        content
    }
}

/// What was acknowledged and is not there.
#[derive(Debug)]
struct Lost {
    acknowledged: u64,
    found: String,
    fate: Fate,
}

/// Patches a twin, as the device and as the service by turns, and records what happens to the
/// files; `mode` is put into force before.
async fn patched(folder: &Path, mode: &str) -> Vec<Event> {
    let log: Log = recording::record(folder);
    let db = schema::open_writer(&folder.join(FILE)).unwrap();
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).unwrap();
    db.execute_batch(mode).unwrap();
    let desk = Desk::over(db);
    let identity: model::id::IdentityId = "d".parse().unwrap();
    let of = identity.clone();
    let made = desk.submit(move |w| identities::create(w, &of, Wanted::default(), Cause::Service));
    let ord = settle(made).await.unwrap().ord;
    log.lock().unwrap().push(Event::Answered(0));
    for n in 1..=PATCHES {
        // Long ones fill the log.
        let filler = if n > CLOSE_PATCHES { "x".repeat(3500) } else { String::new() };
        let mut patch: Map<String, Value> =
            (0..8).map(|at| (format!("k{at}"), json!(format!("{n}{filler}")))).collect();
        patch.insert("n".to_owned(), json!(n));
        let of = identity.clone();
        if n % 2 == 0 {
            let done = desk.submit(move |w| {
                twins::patch_reported(w, (ord, &of), &TwinPatch(patch), None).map(drop)
            });
            settle(done).await.unwrap();
        } else {
            let sections = (SectionWrite::Keep, SectionWrite::Merge(patch));
            let done = desk.submit(move |w| {
                twins::write(w, &of, sections, &IfMatch::Any, Cause::Service).map(drop)
            });
            settle(done).await.unwrap();
        }
        log.lock().unwrap().push(Event::Answered(n));
    }
    drop(desk);
    let events = log.lock().unwrap();
    events.clone()
}

/// The highest number that either section holds, in tables that came through a power cut.
fn recovered(files: &BTreeMap<Arc<str>, Kept>, fate: Fate) -> Result<u64, String> {
    let folder = TempDir::new().unwrap();
    for (name, kept) in files {
        std::fs::write(folder.path().join(&**name), kept.after_a_cut(fate)).unwrap();
    }
    let db = Connection::open(folder.path().join(FILE)).unwrap();
    // These are looked at once and thrown away.
    db.pragma_update(None, "synchronous", "OFF").map_err(|error| error.to_string())?;
    let check: String =
        db.query_row("PRAGMA quick_check", [], |row| row.get(0)).map_err(|e| e.to_string())?;
    if check != "ok" {
        return Err(check);
    }
    let entry = rows::entry(&db, &"d".parse().unwrap()).map_err(|error| error.to_string())?;
    let entry = entry.ok_or("the device is gone")?;
    let twin = rows::twin(&db, entry.ord).map_err(|error| error.to_string())?;
    let twin = twin.ok_or("the twin is gone")?;
    let number = |values: &Map<String, Value>| values.get("n").and_then(Value::as_u64).unwrap_or(0);
    let (desired, reported) = (number(&twin.desired.values), number(&twin.reported.values));
    // Neighbours: the one that is behind is behind by one.
    if desired.abs_diff(reported) > 1 {
        return Err(format!("desired {desired} beside reported {reported}"));
    }
    Ok(desired.max(reported))
}

/// Whether the patch whose events begin `events` writes into the tables' own file.
fn is_checkpoint(events: &[Event]) -> bool {
    let mut own = events.iter().take_while(|event| !matches!(event, Event::Answered(_)));
    own.any(|event| matches!(event, Event::Write { file, .. } if **file == *FILE))
}

/// Cuts the power at every write of the patches that are looked at; gives how often, how many of
/// them were during a checkpoint, and what was lost first.
fn cut_everywhere(events: &[Event]) -> (u64, u64, Option<Lost>) {
    let mut files: BTreeMap<Arc<str>, Kept> = BTreeMap::new();
    let (mut acknowledged, mut cuts, mut in_checkpoints) = (None, 0, 0);
    let mut looks = false;
    let mut in_checkpoint = false;
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Answered(n) => {
                acknowledged = Some(*n);
                in_checkpoint = is_checkpoint(&events[at + 1..]);
                // The patch after a checkpoint begins the log anew.
                looks = *n < CLOSE_PATCHES || in_checkpoint || was_checkpoint(&events[..at]);
            }
            Event::Delete { file } => drop(files.remove(file)),
            Event::Write { file, .. } | Event::Truncate { file, .. } | Event::Sync { file } => {
                files.entry(Arc::clone(file)).or_default().handle(event);
            }
        }
        let Some(acknowledged) = acknowledged.filter(|_| looks) else { continue };
        cuts += 1;
        in_checkpoints += u64::from(in_checkpoint);
        let fates = [Fate::Lost, Fate::Kept, Fate::Torn, Fate::Some(at as u64)];
        for fate in fates {
            let found = recovered(&files, fate);
            if !found.as_ref().is_ok_and(|found| *found >= acknowledged) {
                let found = format!("{found:?}");
                return (cuts, in_checkpoints, Some(Lost { acknowledged, found, fate }));
            }
        }
    }
    (cuts, in_checkpoints, None)
}

/// Whether the last patch of `events` did.
fn was_checkpoint(events: &[Event]) -> bool {
    let before = events.iter().rposition(|event| matches!(event, Event::Answered(_)));
    before.is_some_and(|before| is_checkpoint(&events[before + 1..]))
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_twin_is_there_wherever_the_power_fails() {
    let folder = TempDir::new().unwrap();
    let events = patched(folder.path(), "").await;
    let (cuts, in_checkpoints, lost) = cut_everywhere(&events);
    assert!(lost.is_none(), "after {cuts} cuts: {lost:?}");
    assert!(cuts > 300 && in_checkpoints > 50, "{cuts} cuts, {in_checkpoints} in checkpoints");
}

/// The control: the same with commits that are not synced is caught.
#[tokio::test(start_paused = true)]
async fn without_a_sync_at_each_commit_the_cuts_are_caught() {
    let folder = TempDir::new().unwrap();
    let events = patched(folder.path(), "PRAGMA synchronous = NORMAL").await;
    let (_, _, lost) = cut_everywhere(&events);
    let lost = lost.expect("NORMAL keeps less than it acknowledges");
    assert!(matches!(lost.fate, Fate::Lost), "{lost:?}");
    let device = "Err(\"the device is gone\")";
    assert_eq!((lost.acknowledged, &*lost.found), (0, device), "even the device was acknowledged");
}
