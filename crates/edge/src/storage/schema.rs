//! The form of `edge.db`: its table, its version, and the way from older versions to this one.
//!
//! An unknown version is refused by name and the file is left as it is. A known older one is
//! brought up inside one transaction, so that a power cut leaves either form whole.

use rusqlite::Connection;

use super::store::StoreError;

/// The version that this program writes.
pub(crate) const VERSION: i64 = 2;
/// Marks the file as a device's: "SLVE".
const APPLICATION_ID: i64 = 0x534C_5645;

/// The golden shape of [`VERSION`]; changing it means a new version.
pub(crate) const TABLES: &str = include_str!("schema_v2.sql");

/// What leads from version 1 to 2, from 2 to 3, and so on.
const STEPS: [&str; 1] = [
    // One waiting patch became a list of them.
    "UPDATE fact SET value = json_set(value, '$.pending', CASE
         WHEN json_extract(value, '$.pending') = '{}' THEN json_array()
         ELSE json_array(json_extract(value, '$.pending')) END)
     WHERE area = 'twins' AND json_type(value, '$.pending') = 'object';",
];

/// Makes the table in a new file, brings an older one up, refuses any other.
pub(crate) fn prepare(db: &mut Connection) -> Result<(), StoreError> {
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")?;
    let transaction = db.transaction()?;
    let pragma = |name: &str| {
        transaction.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
    };
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match version {
        0 if tables == 0 => transaction.execute_batch(TABLES)?,
        // Nothing to write: a start waits for no sync here.
        VERSION if application == APPLICATION_ID => return Ok(()),
        // Version 1 wrote its number after its table, and had no mark.
        0..VERSION if application == 0 => {
            let done = usize::try_from(version.max(1) - 1).unwrap_or_default();
            STEPS.iter().skip(done).try_for_each(|step| transaction.execute_batch(step))?;
        }
        _ if application != APPLICATION_ID => return Err(StoreError::Foreign),
        other => return Err(StoreError::Version(other)),
    }
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    ))?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(version: i64, script: &str) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(&format!("{TABLES} PRAGMA user_version = {version}; {script}")).unwrap();
        db
    }

    #[test]
    fn a_new_file_has_the_golden_table_and_this_version() {
        let mut db = Connection::open_in_memory().unwrap();
        prepare(&mut db).unwrap();
        prepare(&mut db).unwrap();
        let sql: String =
            db.query_row("SELECT sql FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(format!("{sql};\n"), TABLES);
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, VERSION);
    }

    #[test]
    fn version_1_is_brought_up() {
        for version in [0, 1] {
            let pending = r#"{"known":null,"pending":{"a":{"b":null}},"generation":3}"#;
            let nothing = r#"{"known":null,"pending":{},"generation":0}"#;
            let mut db = made(
                version,
                &format!(
                    "INSERT INTO fact VALUES ('twins', 'd/a', '{pending}');
                     INSERT INTO fact VALUES ('twins', 'd/b', '{nothing}');
                     INSERT INTO fact VALUES ('keys', 'a', '{{\"pending\":{{}}}}');"
                ),
            );
            prepare(&mut db).unwrap();
            let check = |name: &str, expected: Value| {
                let value: String = db
                    .query_row("SELECT value FROM fact WHERE name = ?", [name], |row| row.get(0))
                    .unwrap();
                assert_eq!(serde_json::from_str::<Value>(&value).unwrap(), expected);
            };
            let pending = json!([{ "a": { "b": null } }]);
            check("d/a", json!({ "known": null, "pending": pending, "generation": 3 }));
            check("d/b", json!({ "known": null, "pending": [], "generation": 0 }));
            check("a", json!({ "pending": {} }));
        }
    }

    #[test]
    fn what_is_newer_or_not_ours_is_refused_by_name_and_left_alone() {
        let check = |version: i64, application: i64, words: &str| {
            let mut db = made(version, &format!("PRAGMA application_id = {application};"));
            let error = prepare(&mut db).unwrap_err();
            assert_eq!(error.to_string(), words);
            let pragma = |name| -> i64 { db.query_row(name, [], |row| row.get(0)).unwrap() };
            assert_eq!(pragma("PRAGMA user_version"), version);
            assert_eq!(pragma("PRAGMA application_id"), application);
        };
        check(
            3,
            APPLICATION_ID,
            "the file of facts has version 3, this program knows up to 2; start the newer program",
        );
        // A hub's file.
        check(1, 0x534C_5647, "the file is not one of a device's facts");
        check(7, 0, "the file is not one of a device's facts");
    }

    #[test]
    fn the_table_does_not_change_without_its_version() {
        // FNV-1a of the text; another value here needs another VERSION and a step.
        let hash = TABLES.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!((VERSION, hash), (2, 7_122_917_402_153_601_458));
    }
}
