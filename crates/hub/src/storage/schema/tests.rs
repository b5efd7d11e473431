use std::collections::BTreeSet;

use super::*;
use crate::fleet::words;
use crate::registry::Ordinal;
use crate::storage::{rows, words as index};

/// What a hub of version 1 left behind.
const HUB_V1: &str = include_str!("hub_v1.sql");

fn file(script: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    Connection::open(&path).unwrap().execute_batch(script).unwrap();
    (folder, path)
}

fn shape(db: &Connection) -> Vec<(String, Option<String>)> {
    let mut select = db.prepare("SELECT name, sql FROM sqlite_schema ORDER BY type, name").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

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
fn what_is_newer_or_not_ours_is_refused_by_name_and_left_alone() {
    let newer = format!("PRAGMA user_version = {};", VERSION + 1);
    let words = refusal(&newer);
    assert!(words.contains(&format!("version {}", VERSION + 1)), "{words}");
    assert!(words.contains("start the newer hub"), "{words}");
    assert_eq!(refusal("PRAGMA application_id = 1;"), "the file is not a hub's");
}

#[test]
fn steps_never_change_once_they_are_released() {
    // FNV-1a of each text. Never another value here: another shape needs another step.
    let hash = |text: &str| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let hashes: Vec<u64> = STEPS.iter().map(|step| hash(step.script)).collect();
    assert_eq!(
        hashes,
        [6_716_491_199_630_311_353, 1_192_564_798_227_009_986, 12_102_418_118_750_101_364]
    );
    assert_eq!(VERSION, i64::try_from(STEPS.len()).unwrap());
}

#[test]
fn the_file_of_an_older_hub_is_brought_to_this_version_with_everything_in_it() {
    let (_folder, path) = file(HUB_V1);
    let before = Connection::open(&path).unwrap();
    let entry = |db: &Connection, id: &str| rows::entry(db, &id.parse().unwrap()).unwrap();
    let ids = ["pump-1", "Pump-2", "gateway", "gateway/$edgeAgent", "valve"];
    let old: Vec<_> = ids.iter().map(|id| entry(&before, id).unwrap()).collect();
    drop(before);
    let db = open_writer(&path).unwrap();
    assert_eq!(shape(&db), shape(&in_memory()), "the same tables as a new file");
    for (id, old) in ids.iter().zip(&old) {
        assert_eq!(entry(&db, id).as_ref(), Some(old));
        assert!(rows::twin(&db, old.ord).unwrap().is_some());
    }
    let totals = rows::device_totals(&db).unwrap();
    assert_eq!((totals.total, totals.enabled, totals.edge), (4, 3, 1));
    let found = |words: &[String]| {
        let words: BTreeSet<String> = words.iter().cloned().collect();
        let found = index::find(&db, &words, 9).unwrap();
        found.into_iter().map(|Ordinal(ord)| ord).collect::<Vec<_>>()
    };
    assert_eq!(found(&words::parts("pump").collect::<Vec<_>>()), [2, 7]);
    assert_eq!(found(&[words::value(&["place", "floor"], "3")]), [7]);
    assert_eq!(found(&[words::path(&["site"])]), [2, 7]);
    assert_eq!(found(&[words::flag('e', false)]), [6]);
    assert_eq!(found(&[words::flag('g', true)]), [3]);
    drop(db);
    // The second time there is nothing left to do.
    drop(open_writer(&path).unwrap());
}

#[test]
fn the_file_of_a_hub_without_models_gets_a_place_for_them_and_keeps_its_twins() {
    let (_folder, path) = file(HUB_V1);
    let db = Connection::open(&path).unwrap();
    take(&db, 2, &STEPS[1]).unwrap();
    let tags = |db: &Connection| -> Vec<String> {
        let mut select = db.prepare("SELECT tags FROM twin ORDER BY ord").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = tags(&db);
    drop(db);
    let db = open_writer(&path).unwrap();
    assert_eq!(shape(&db), shape(&in_memory()), "the same tables as a new file");
    assert_eq!((tags(&db), before.is_empty()), (before, false));
    let entry = rows::entry(&db, &"pump-1".parse().unwrap()).unwrap().unwrap();
    let mut twin = rows::twin(&db, entry.ord).unwrap().unwrap();
    assert_eq!((twin.model_id.as_str(), rows::model(&db, entry.ord).unwrap()), ("", None));
    twin.model_id = "dtmi:a;1".into();
    rows::put_model(&db, entry.ord, &twin).unwrap();
    assert_eq!(rows::twin(&db, entry.ord).unwrap(), Some(twin));
    rows::delete_entry(&db, entry.ord).unwrap();
    assert_eq!(rows::model(&db, entry.ord).unwrap(), None, "it goes with its identity");
}

#[test]
fn a_step_that_fails_leaves_the_file_as_the_older_hub_wrote_it() {
    // Something of the next version is in the way.
    let (_folder, path) = file(&format!("{HUB_V1} CREATE TABLE device_words (a);"));
    let words = open_writer(&path).map(drop).unwrap_err();
    assert!(words.contains("to version 2") && words.contains("device_words"), "{words}");
    let db = Connection::open(&path).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    db.execute_batch("DROP TABLE device_words").unwrap();
    drop(db);
    assert_eq!(shape(&open_writer(&path).unwrap()), shape(&in_memory()));
}

#[test]
fn totals_follow_every_change() {
    let db = in_memory();
    let totals = |db: &Connection| {
        let totals = rows::device_totals(db).unwrap();
        (totals.total, totals.enabled, totals.edge)
    };
    let put = |device: &str, module: &str, enabled: bool, edge: bool| {
        db.execute(
            "INSERT INTO identity (device, module, generation, etag, enabled, status_updated, \
             auth, iot_edge, managed_by) VALUES (?, ?, '1', 1, ?, 0, 0, ?, '')",
            (device, module, enabled, edge),
        )
        .unwrap();
    };
    put("a", "", true, false);
    put("b", "", false, true);
    put("b", "m", true, false);
    assert_eq!(totals(&db), (2, 1, 1));
    db.execute("UPDATE identity SET enabled = 1, iot_edge = 1 WHERE module = ''", []).unwrap();
    assert_eq!(totals(&db), (2, 2, 2));
    db.execute("UPDATE identity SET enabled = 0 WHERE device = 'b'", []).unwrap();
    assert_eq!(totals(&db), (2, 1, 2));
    db.execute("DELETE FROM identity WHERE device = 'b'", []).unwrap();
    assert_eq!(totals(&db), (1, 1, 1));
}
