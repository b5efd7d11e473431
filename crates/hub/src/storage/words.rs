//! The index of words under which devices are found.

use rusqlite::Connection;
use serde_json::{Map, Value};

use crate::fleet::words;
use crate::registry::{Entry, Ordinal};

/// Most devices of a step of [`fill`] between two looks at the table.
const FILL_ROWS: u32 = 1000;

/// The words of a device that is new, with its tags.
pub(crate) fn put(
    db: &Connection,
    entry: &Entry,
    tags: &Map<String, Value>,
) -> rusqlite::Result<()> {
    let id = entry.identity.device_str();
    put_text(db, entry.ord, &words::of_device(id, (entry.enabled, entry.iot_edge), tags))
}

/// The words of a device after a change.
pub(crate) fn replace(
    db: &Connection,
    entry: &Entry,
    tags: &Map<String, Value>,
) -> rusqlite::Result<()> {
    delete(db, entry.ord)?;
    put(db, entry, tags)
}

/// A device is gone.
pub(crate) fn delete(db: &Connection, ord: Ordinal) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM device_words WHERE rowid = ?")?.execute([ord.0]).map(|_| ())
}

/// Devices that have all of `words`, by ordinal; at most `max`. No words find nothing.
pub(crate) fn find<'w>(
    db: &Connection,
    words: impl IntoIterator<Item = &'w String>,
    max: usize,
) -> rusqlite::Result<Vec<Ordinal>> {
    // A word has only letters and digits: it needs no quotes.
    let all = words.into_iter().map(String::as_str).collect::<Vec<_>>().join(" AND ");
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let mut select =
        db.prepare_cached("SELECT rowid FROM device_words WHERE device_words MATCH ? LIMIT ?")?;
    let rows = select
        .query_map((all, i64::try_from(max).unwrap_or(i64::MAX)), |row| row.get(0).map(Ordinal))?;
    rows.collect()
}

/// Writes the words of all devices, for a file that has none yet.
pub(super) fn fill(db: &Connection) -> rusqlite::Result<()> {
    let mut select = db.prepare(
        "SELECT i.ord, i.device, i.enabled, i.iot_edge, t.tags FROM identity i \
         JOIN twin t ON t.ord = i.ord WHERE i.module = '' AND i.ord > ? ORDER BY i.ord LIMIT ?",
    )?;
    let mut after = Ordinal(0);
    loop {
        let mut rows = select.query((after.0, FILL_ROWS))?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let ord = Ordinal(row.get(0)?);
            let tags: Map<String, Value> =
                serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default();
            let flags = (row.get(2)?, row.get(3)?);
            put_text(db, ord, &words::of_device(row.get_ref(1)?.as_str()?, flags, &tags))?;
            last = Some(ord);
        }
        match last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

fn put_text(db: &Connection, ord: Ordinal, words: &str) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO device_words (rowid, words) VALUES (?, ?)")?
        .execute((ord.0, words))
        .map(|_| ())
}
