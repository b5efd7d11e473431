//! The change feed: what changed, in commit order, written with the change itself.
//!
//! Gap-free and equal to commit order within its shard (embedded: one shard, 0). Bounded by age
//! and bytes: a reader that is too slow is told `Behind`, reads the tables, and follows again
//! from the present head.

use model::id::IdentityId;
use model::time::WallTime;
use rusqlite::Connection;

use crate::registry::Ordinal;
use crate::settings::Retention;

/// The only shard of the embedded store.
pub(crate) const SHARD: u32 = 0;
/// Bytes a change takes besides its texts.
const ROW_BYTES: u64 = 64;
/// Changes between two looks at the limits.
const TRIM_EVERY: u64 = 64;
/// Most changes removed in one turn.
const TRIM_MAX: u64 = 4096;

/// What changed; numbers on disk, never change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    IdentityCreated = 1,
    IdentityUpdated = 2,
    IdentityDeleted = 3,
    TagsUpdated = 4,
    DesiredUpdated = 5,
    ReportedUpdated = 6,
    /// Nothing changed: somebody called a method. Never its payloads.
    MethodInvoked = 7,
    /// Its owner announced another model.
    ModelUpdated = 8,
}

impl Kind {
    /// The name on our API.
    pub(crate) fn name(number: i64) -> &'static str {
        match number {
            1 => "identityCreated",
            2 => "identityUpdated",
            3 => "identityDeleted",
            4 => "tagsUpdated",
            5 => "desiredUpdated",
            6 => "reportedUpdated",
            7 => "methodInvoked",
            8 => "modelUpdated",
            _ => "unknown",
        }
    }
}

/// Who caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Service = 1,
    Device = 2,
    Deployment = 3,
}

/// One change to append.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) kind: Kind,
    pub(crate) ord: Ordinal,
    pub(crate) identity: &'a IdentityId,
    pub(crate) version: u64,
    pub(crate) cause: Cause,
    /// JSON: the patch as applied; empty when the kind says all.
    pub(crate) body: String,
}

/// One change as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadChange {
    pub(crate) seq: u64,
    pub(crate) at: WallTime,
    pub(crate) kind: i64,
    pub(crate) identity: String,
    pub(crate) version: u64,
    pub(crate) cause: i64,
    pub(crate) body: String,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FeedPage {
    /// Changes after the cursor; the cursor to go on from.
    Changes { changes: Vec<ReadChange>, next: u64 },
    /// Retention has removed what comes after the cursor. Read the tables, go on from `head`.
    Behind { head: u64 },
}

/// The writing end, inside the writer.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    durable: Position,
    staged: Position,
    retention: Retention,
}

/// Where a feed stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last number given; 0 if none.
    head: u64,
    bytes: u64,
    untrimmed: u64,
}

impl Feed {
    /// Reads where the feed stands.
    pub(crate) fn open(db: &Connection, retention: Retention) -> rusqlite::Result<Self> {
        let (head, bytes) = db.query_row(
            "SELECT coalesce(max(seq), 0), \
             coalesce(sum(octet_length(body) + octet_length(identity) + ?1), 0) \
             FROM change WHERE shard = ?2",
            (ROW_BYTES.cast_signed(), SHARD),
            |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?)),
        )?;
        // The head outlives the last change, so that numbers never come twice.
        let kept = super::schema::number(db, "feed_head")?.unwrap_or(0).cast_unsigned();
        let at = Position { head: head.max(kept), bytes: bytes.cast_unsigned(), untrimmed: 0 };
        Ok(Self { durable: at, staged: at, retention })
    }

    /// Appends `change` to the running transaction.
    pub(crate) fn append(
        &mut self,
        db: &Connection,
        at: WallTime,
        change: &Change<'_>,
    ) -> rusqlite::Result<()> {
        self.staged.head += 1;
        self.staged.untrimmed += 1;
        self.staged.bytes += bytes_of(change.identity.as_str().len(), change.body.len());
        db.prepare_cached(
            "INSERT INTO change (shard, seq, at, kind, ord, identity, version, cause, body) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            SHARD,
            self.staged.head.cast_signed(),
            at.0,
            change.kind as i64,
            change.ord.0,
            change.identity.as_str(),
            change.version.cast_signed(),
            change.cause as i64,
            &change.body,
        ))
        .map(|_| ())
    }

    /// Removes what retention no longer keeps, now and then; by age only if `now` is believed.
    pub(crate) fn trim(&mut self, db: &Connection, now: Option<WallTime>) -> rusqlite::Result<()> {
        if self.staged.untrimmed < TRIM_EVERY && self.staged.bytes <= self.retention.bytes {
            return Ok(());
        }
        self.staged.untrimmed = 0;
        super::schema::set_number(db, "feed_head", self.staged.head.cast_signed())?;
        let age = i64::try_from(self.retention.age.as_millis()).unwrap_or(i64::MAX);
        let keep_from = now.map_or(WallTime(i64::MIN), |now| WallTime(now.0.saturating_sub(age)));
        let mut oldest = db.prepare_cached(
            "SELECT seq, at, octet_length(body), octet_length(identity) FROM change WHERE shard = ? \
             ORDER BY seq LIMIT ?",
        )?;
        let mut rows = oldest.query((SHARD, TRIM_MAX.cast_signed()))?;
        let mut last_gone = None;
        while let Some(row) = rows.next()? {
            let at = WallTime(row.get(1)?);
            if at >= keep_from && self.staged.bytes <= self.retention.bytes {
                break;
            }
            last_gone = Some(row.get::<_, i64>(0)?);
            let gone = bytes_of(row.get::<_, u32>(3)? as usize, row.get::<_, u32>(2)? as usize);
            self.staged.bytes = self.staged.bytes.saturating_sub(gone);
        }
        drop(rows);
        if let Some(seq) = last_gone {
            db.prepare_cached("DELETE FROM change WHERE shard = ? AND seq <= ?")?
                .execute((SHARD, seq))?;
        }
        Ok(())
    }

    /// The number of the newest durable change; 0 if there is none.
    pub(crate) fn head(&self) -> u64 {
        self.durable.head
    }

    /// Where the running transaction stands.
    pub(crate) fn mark(&self) -> Position {
        self.staged
    }

    /// What was appended after `mark` is gone.
    pub(crate) fn back_to(&mut self, mark: Position) {
        self.staged = mark;
    }

    /// What was appended is durable.
    pub(crate) fn committed(&mut self) {
        self.durable = self.staged;
    }

    /// What was appended is gone.
    pub(crate) fn rolled_back(&mut self) {
        self.staged = self.durable;
    }
}

fn bytes_of(identity: usize, body: usize) -> u64 {
    ROW_BYTES + identity as u64 + body as u64
}

/// A row of `seq, at, kind, identity, version, cause, body`.
pub(crate) fn to_change(row: &rusqlite::Row<'_>) -> rusqlite::Result<ReadChange> {
    Ok(ReadChange {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        at: WallTime(row.get(1)?),
        kind: row.get(2)?,
        identity: row.get(3)?,
        version: row.get::<_, i64>(4)?.cast_unsigned(),
        cause: row.get(5)?,
        body: row.get(6)?,
    })
}

/// Up to `max` changes after `from`.
pub(crate) fn read(db: &Connection, from: u64, max: u32) -> rusqlite::Result<FeedPage> {
    let mut select = db.prepare_cached(
        "SELECT seq, at, kind, identity, version, cause, body FROM change \
         WHERE shard = ? AND seq > ? ORDER BY seq LIMIT ?",
    )?;
    let changes = select
        .query_map((SHARD, from.cast_signed(), max), to_change)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let kept = super::schema::number(db, "feed_head")?.unwrap_or(0).cast_unsigned();
    let removed = match changes.first() {
        Some(first) => first.seq != from + 1,
        None => from < kept,
    };
    if removed {
        let newest: i64 = db.query_row(
            "SELECT coalesce(max(seq), 0) FROM change WHERE shard = ?",
            [SHARD],
            |row| row.get(0),
        )?;
        return Ok(FeedPage::Behind { head: newest.cast_unsigned().max(kept) });
    }
    let next = changes.last().map_or(from, |change| change.seq);
    Ok(FeedPage::Changes { changes, next })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::schema;

    fn database() -> Connection {
        schema::in_memory()
    }

    fn append(feed: &mut Feed, db: &Connection, at: i64) {
        append_body(feed, db, at, "x".repeat(34));
    }

    fn append_body(feed: &mut Feed, db: &Connection, at: i64, body: String) {
        let identity = "d1".parse().unwrap();
        let change = Change {
            kind: Kind::ReportedUpdated,
            ord: Ordinal(1),
            identity: &identity,
            version: 1,
            cause: Cause::Device,
            body,
        };
        feed.append(db, WallTime(at), &change).unwrap();
        feed.trim(db, Some(WallTime(at))).unwrap();
        feed.committed();
    }

    #[test]
    fn the_feed_has_no_gaps_and_a_slow_reader_is_told_that_it_is_behind() {
        let db = database();
        // A change takes 100 bytes here: room for ten.
        let retention = Retention { age: Duration::from_hours(1), bytes: 1000 };
        let mut feed = Feed::open(&db, retention).unwrap();
        (0..10).for_each(|_| append(&mut feed, &db, 0));
        let FeedPage::Changes { changes, next } = read(&db, 0, 100).unwrap() else {
            panic!("nothing was removed yet");
        };
        assert_eq!(changes.iter().map(|c| c.seq).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        assert_eq!(next, 10);
        append(&mut feed, &db, 0);
        assert_eq!(read(&db, 0, 100).unwrap(), FeedPage::Behind { head: 11 });
        assert!(matches!(read(&db, 1, 3).unwrap(), FeedPage::Changes { next: 4, .. }));
    }

    /// Counted in characters, what is removed would give back less than what was added took.
    #[test]
    fn bytes_are_bytes_in_every_alphabet() {
        let db = database();
        let retention = Retention { age: Duration::from_hours(1), bytes: 1000 };
        let mut feed = Feed::open(&db, retention).unwrap();
        (0..100).for_each(|_| append_body(&mut feed, &db, 0, "ж".repeat(17)));
        assert_eq!(feed.durable.bytes, 1000, "ten changes of 100 bytes are kept");
        assert!(matches!(read(&db, 90, 100).unwrap(), FeedPage::Changes { next: 100, .. }));
        assert_eq!(Feed::open(&db, retention).unwrap().durable.bytes, feed.durable.bytes);
    }

    #[test]
    fn age_removes_changes_and_their_numbers_never_come_again() {
        let db = database();
        let retention = Retention { age: Duration::from_secs(1), bytes: 1 << 20 };
        let mut feed = Feed::open(&db, retention).unwrap();
        (0..TRIM_EVERY).for_each(|_| append(&mut feed, &db, 0));
        (0..TRIM_EVERY).for_each(|_| append(&mut feed, &db, 5000));
        assert!(matches!(read(&db, 0, 1).unwrap(), FeedPage::Behind { head: 128 }));
        db.execute("DELETE FROM change", []).unwrap();
        assert_eq!(Feed::open(&db, retention).unwrap().durable.head, 128);
        assert_eq!(read(&db, 0, 1).unwrap(), FeedPage::Behind { head: 128 });
    }
}
