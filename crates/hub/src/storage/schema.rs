//! The tables, their version, and how a connection is set up.
//!
//! A file of another version or a damaged one is an error that names it; nothing is replaced.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

/// The version of the tables in this file.
pub(crate) const VERSION: i64 = 1;
/// Marks the file as ours: "SLVG".
const APPLICATION_ID: i64 = 0x534C_5647;

/// The golden shape of version 1; changing it means a new version.
pub(crate) const TABLES: &str = include_str!("schema_v1.sql");

/// Opens the writing connection, making the tables if the file is new.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, String> {
    let connection = Connection::open(path).map_err(text)?;
    set_up(&connection).map_err(text)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(text)?;
    if tables == 0 {
        make(&connection).map_err(text)?;
    }
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
    };
    if pragma("application_id").map_err(text)? != APPLICATION_ID {
        return Err("the file is not a hub's".into());
    }
    match pragma("user_version").map_err(text)? {
        VERSION => Ok(connection),
        other => Err(format!(
            "its tables have version {other}, this hub knows up to {VERSION}; start the newer hub"
        )),
    }
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(text)?;
    connection.pragma_update(None, "query_only", true).map_err(text)?;
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
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Pages of 4 KiB: 16 MiB of log before a checkpoint, 32 MiB of cache.
    connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
    connection.pragma_update(None, "cache_size", -32_768)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION_ID}; \
         PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

fn text(error: rusqlite::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(script: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hub.db");
        drop(open_writer(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch(script).unwrap();
        let before = std::fs::read(&path).unwrap();
        let words = open_writer(&path).map(drop).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), before, "what is refused is left alone");
        words
    }

    #[test]
    fn a_new_file_has_exactly_the_golden_tables() {
        let folder = tempfile::tempdir().unwrap();
        let made = open_writer(&folder.path().join("hub.db")).unwrap();
        let mut select =
            made.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
        let rows = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let dump: Vec<String> = rows.map(|row| row.unwrap()).collect();
        // SQLite's own table for AUTOINCREMENT has no text of ours.
        let ours = dump.iter().filter(|sql| !sql.contains("sqlite_sequence"));
        let golden = TABLES.split(';').map(str::trim).filter(|sql| !sql.is_empty());
        assert!(ours.map(String::as_str).eq(golden), "{dump:#?}");
    }

    #[test]
    fn what_is_newer_or_not_ours_is_refused_by_name_and_left_alone() {
        let newer = format!("PRAGMA user_version = {};", VERSION + 1);
        let words = refusal(&newer);
        assert!(words.contains(&format!("version {}", VERSION + 1)), "{words}");
        assert!(words.contains("start the newer hub"), "{words}");
        assert_eq!(refusal("PRAGMA application_id = 1;"), "the file is not a hub's");
    }

    #[test]
    fn tables_do_not_change_without_their_version() {
        // FNV-1a of the text; another value here needs another VERSION and a migration.
        let hash = TABLES.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!((VERSION, hash), (1, 6_716_491_199_630_311_353));
    }
}
