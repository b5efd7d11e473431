use super::*;
use crate::storage::schema;

const DEVICES: u32 = 7000;

/// Devices whose ordinals do not follow their ids, and a module of each tenth.
fn fleet() -> Connection {
    let db = schema::in_memory();
    db.execute_batch(&format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {DEVICES}) \
         INSERT INTO identity (device, module, generation, etag, enabled, status_updated, auth, \
         iot_edge, managed_by) SELECT printf('d%05d', n * 3001 % {DEVICES}), \
         CASE n % 10 WHEN 0 THEN 'm' ELSE '' END, '1', 1, 1, 0, 0, 0, '' FROM n;"
    ))
    .unwrap();
    db
}

/// All that a search finds, page by page.
fn paged(
    db: &Connection,
    candidates: &Candidates,
    fits: impl Fn(&str) -> bool + Copy,
    top: usize,
) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let mut page = Vec::new();
        let examine = |_: &Connection, found: FoundDevice| {
            page.push(found.id);
            Ok(if page.len() == top { Examined::Stop } else { Examined::GoOn })
        };
        let (_, next) = search(db, &after, candidates, fits, examine).unwrap();
        all.append(&mut page);
        match next {
            Some(next) => after = next,
            None => return all,
        }
    }
}

#[test]
fn few_many_or_all_candidates_lead_to_the_same_devices_in_the_order_of_their_ids() {
    let db = fleet();
    let ids: Vec<(u32, String)> = db
        .prepare("SELECT ord, device FROM identity WHERE module = '' ORDER BY device")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let named = |wanted: &dyn Fn(u32) -> bool| {
        Candidates::of((1..=DEVICES).filter(|ord| wanted(*ord)).map(Ordinal).collect())
    };
    let check = |candidates: &Candidates, wanted: &dyn Fn(u32) -> bool, part: &str, top: usize| {
        let expected: Vec<&str> = ids
            .iter()
            .filter(|(ord, id)| wanted(*ord) && id.contains(part))
            .map(|(_, id)| id.as_str())
            .collect();
        assert!(!expected.is_empty());
        assert_eq!(paged(&db, candidates, |id| id.contains(part), top), expected);
    };
    let (few, many) = (|ord| ord % 7 == 0, |ord| ord % 7 != 0);
    assert!(matches!(named(&many), Candidates::These(all) if all.len() > SORTED_MAX));
    for (part, top) in [("", 200), ("1", 50), ("d069", 7), ("", 1000)] {
        check(&Candidates::All, &|_| true, part, top);
        check(&named(&few), &few, part, top);
        check(&named(&many), &many, part, top);
    }
    // The walk goes over ids that stand in an index: no row is read for one that does not fit.
    let plan: Vec<String> = db
        .prepare(
            "EXPLAIN QUERY PLAN SELECT ord, device FROM identity WHERE module = '' AND \
             device > 'd' ORDER BY device LIMIT 5",
        )
        .unwrap()
        .query_map([], |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(plan[0].contains("COVERING INDEX identity_device"), "{plan:?}");
}
