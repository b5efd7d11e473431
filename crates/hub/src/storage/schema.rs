//! The tables, their version, and how a connection is set up.
//!
//! A file of another version or a damaged one is an error that names it; nothing is replaced.

use std::io::Read as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

/// The version of the tables of this hub.
pub(crate) const VERSION: i64 = 3;
/// Marks the file as ours: "SLVG".
const APPLICATION_ID: i64 = 0x534C_5647;

/// Pages that each connection keeps at most: `SQLite` counts KiB below zero.
const CACHE_KIB: i64 = -32_768;

/// How every file of `SQLite` begins.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// From one version of the tables to the next.
struct Step {
    /// What changes.
    script: &'static str,
    /// What no script can do, after it.
    fill: fn(&Connection) -> rusqlite::Result<()>,
}

/// The step at `n` leads from version `n` to `n + 1`; a new file takes them all. What was
/// released never changes: another shape of the tables is another step.
const STEPS: [Step; 3] = [
    Step { script: include_str!("schema_v1.sql"), fill: |_| Ok(()) },
    Step { script: include_str!("schema_v2.sql"), fill: super::words::fill },
    Step { script: include_str!("schema_v3.sql"), fill: |_| Ok(()) },
];

/// Opens the writing connection. A new file gets its tables, an older one is brought to this
/// version, one step at a time: a step is there whole or not at all.
///
/// # Errors
/// In words: a file that is not a hub's, one of a newer hub, and what `SQLite` says. All of
/// them leave the file as it is.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, String> {
    // What the log beside it holds could hide that the file itself is another.
    match head(path).map(|head| head.is_empty() || head == MAGIC) {
        Ok(false) => return Err("file is not a database".into()),
        Ok(true) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
    }
    let connection = Connection::open(path).map_err(text)?;
    let pragma = |name: &str| {
        let value = connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
        value.map_err(text)
    };
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(text)?;
    if tables > 0 && pragma("application_id")? != APPLICATION_ID {
        return Err("the file is not a hub's".into());
    }
    let version = if tables > 0 { pragma("user_version")? } else { 0 };
    if version > VERSION {
        return Err(format!(
            "its tables have version {version}, this hub knows up to {VERSION}; start the newer \
             hub that wrote it"
        ));
    }
    set_up(&connection).map_err(text)?;
    for (number, step) in (1..).zip(&STEPS).filter(|(number, _)| *number > version) {
        if version > 0 {
            tracing::info!(version = number, "the tables are brought to a newer version");
        }
        take(&connection, number, step)
            .map_err(|error| format!("bringing its tables to version {number}: {error}"))?;
    }
    Ok(connection)
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn take(connection: &Connection, number: i64, step: &Step) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(step.script)?;
    (step.fill)(&transaction)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", number)?;
    transaction.commit()
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(text)?;
    connection.pragma_update(None, "query_only", true).map_err(text)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB).map_err(text)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The number kept under `key`, if any.
pub(crate) fn number(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT value FROM fact WHERE key = ?", [key], |row| row.get(0)).optional()
}

/// Keeps `value` under `key`.
pub(crate) fn set_number(connection: &Connection, key: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .execute("INSERT OR REPLACE INTO fact (key, value) VALUES (?, ?)", (key, value))
        .map(|_| ())
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Planted: what a commit writes is synced at some later time.
    let synchronous = if model::planted::is("tables_not_synced") { "NORMAL" } else { "FULL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // Pages of 4 KiB: 16 MiB of log before a checkpoint.
    connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn text(error: rusqlite::Error) -> String {
    error.to_string()
}

/// Tables in memory, for tests of what works on them.
#[cfg(test)]
pub(crate) fn in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for (number, step) in (1..).zip(&STEPS) {
        take(&connection, number, step).unwrap();
    }
    connection
}

#[cfg(test)]
mod tests;
