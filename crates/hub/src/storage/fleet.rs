//! Bounded looks over many identities.

use std::collections::BTreeSet;

use model::id::DeviceId;
use model::time::WallTime;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::{Map, Value};

use super::feed::{Kind, ReadChange, SHARD};
use crate::fleet::count::Counted;
use crate::registry::{Etag, Ordinal};

/// Most identities that one look counts.
pub(crate) const SLICE_ROWS_MAX: u32 = 20_000;
/// Most bytes of agents' reports that one look parses.
const SLICE_REPORT_BYTES_MAX: usize = 2 << 20;
/// Most ids that one look of a search walks over.
pub(crate) const SEARCH_IDS_MAX: u32 = 100_000;
/// Most devices that one look of a search reads.
pub(crate) const SEARCH_ROWS_MAX: u32 = 10_000;
/// Most twins that one look of a search reads for their tags.
pub(crate) const SEARCH_TWINS_MAX: u32 = 5000;
/// Most devices that an index names; when more fit, walking over all ids finds some soon.
pub(crate) const CANDIDATES_MAX: usize = 100_000;
/// Up to so many devices that an index names are sorted by id; of more, the ids are walked over.
const SORTED_MAX: usize = 2000;

/// Hands the identities after `after` to `count`, as many as one look may. Gives the last one,
/// or `None` when nothing came after it.
pub(crate) fn slice(
    db: &Connection,
    after: Ordinal,
    mut count: impl FnMut(&Counted),
) -> rusqlite::Result<Option<Ordinal>> {
    let mut select = db.prepare_cached(
        "SELECT i.ord, i.module, i.enabled, a.last_activity, i.device, \
         CASE i.module WHEN '$edgeAgent' \
         THEN (SELECT t.reported FROM twin t WHERE t.ord = i.ord) END \
         FROM identity i LEFT JOIN activity a ON a.ord = i.ord \
         WHERE i.ord > ? ORDER BY i.ord LIMIT ?",
    )?;
    let mut rows = select.query((after.0, SLICE_ROWS_MAX))?;
    let (mut last, mut bytes, mut seen) = (None, 0, 0);
    while let Some(row) = rows.next()? {
        let ord = Ordinal(row.get(0)?);
        let report = row.get_ref(5)?.as_str_or_null()?;
        bytes += report.map_or(0, str::len);
        count(&counted(row, ord, report)?);
        last = Some(ord);
        seen += 1;
        if bytes > SLICE_REPORT_BYTES_MAX {
            return Ok(last);
        }
    }
    Ok(last.filter(|_| seen >= SLICE_ROWS_MAX))
}

fn counted(row: &Row<'_>, ord: Ordinal, report: Option<&str>) -> rusqlite::Result<Counted> {
    if row.get_ref(1)?.as_str()?.is_empty() {
        let last: Option<i64> = row.get(3)?;
        return Ok(Counted::Device {
            ord,
            enabled: row.get(2)?,
            last_activity: last.map_or(WallTime::UNSET, WallTime),
        });
    }
    let Some(text) = report else { return Ok(Counted::Other) };
    let reported: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    Ok(Counted::Agent { device: row.get(4)?, reported })
}

/// A device as a search sees it.
#[derive(Clone, Debug)]
pub(crate) struct FoundDevice {
    pub(crate) ord: Ordinal,
    pub(crate) id: String,
    pub(crate) enabled: bool,
    pub(crate) status_reason: Option<String>,
    pub(crate) iot_edge: bool,
    pub(crate) last_activity: WallTime,
}

const FOUND: &str = "SELECT i.ord, i.device, i.enabled, i.status_reason, i.iot_edge, \
    a.last_activity FROM identity i LEFT JOIN activity a ON a.ord = i.ord";

/// What became of one device of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Examined {
    /// Go on with the next.
    GoOn,
    /// The page is full or the look has cost enough.
    Stop,
}

/// Which devices a search can mean at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// Any.
    All,
    /// None but these identities, by ordinal; some may be modules.
    These(Vec<Ordinal>),
}

impl Candidates {
    /// Those that an index named when it was asked for one more than [`CANDIDATES_MAX`].
    fn of(mut named: Vec<Ordinal>) -> Self {
        if named.len() > CANDIDATES_MAX {
            return Self::All;
        }
        named.sort_unstable();
        Self::These(named)
    }

    /// Devices that have all of `words`; none of them names any device.
    pub(crate) fn with_words(db: &Connection, words: &BTreeSet<String>) -> rusqlite::Result<Self> {
        if words.is_empty() {
            return Ok(Self::All);
        }
        super::words::find(db, words, CANDIDATES_MAX + 1).map(Self::of)
    }

    /// Devices whose last activity, as the table knows it, lies before `cutoff`.
    pub(crate) fn silent_since(db: &Connection, cutoff: WallTime) -> rusqlite::Result<Self> {
        let mut select =
            db.prepare_cached("SELECT ord FROM activity WHERE last_activity < ? LIMIT ?")?;
        let most = i64::try_from(CANDIDATES_MAX + 1).unwrap_or(i64::MAX);
        let rows = select.query_map((cutoff.0, most), |row| row.get(0).map(Ordinal))?;
        rows.collect::<rusqlite::Result<_>>().map(Self::of)
    }
}

/// Hands those of `candidates` after `after` to `examine`, by id, until it says stop or the look
/// has cost enough; only devices whose id `fits`. Gives how many ids were looked at, and the last
/// one unless the end was reached.
pub(crate) fn search(
    db: &Connection,
    after: &str,
    candidates: &Candidates,
    fits: impl Fn(&str) -> bool,
    examine: impl FnMut(&Connection, FoundDevice) -> rusqlite::Result<Examined>,
) -> rusqlite::Result<(u64, Option<String>)> {
    match candidates {
        Candidates::All => walk(db, after, |_, id| fits(id), examine),
        Candidates::These(few) if few.len() <= SORTED_MAX => sorted(db, after, few, fits, examine),
        Candidates::These(many) => {
            let fits = |ord, id: &str| many.binary_search(&ord).is_ok() && fits(id);
            walk(db, after, fits, examine)
        }
    }
}

/// Over the ids in their order: they stand in an index of their own.
fn walk(
    db: &Connection,
    after: &str,
    fits: impl Fn(Ordinal, &str) -> bool,
    mut examine: impl FnMut(&Connection, FoundDevice) -> rusqlite::Result<Examined>,
) -> rusqlite::Result<(u64, Option<String>)> {
    let mut select = db.prepare_cached(
        "SELECT ord, device FROM identity WHERE module = '' AND device > ? \
         ORDER BY device LIMIT ?",
    )?;
    let mut rows = select.query((after, SEARCH_IDS_MAX))?;
    let (mut walked, mut read, mut last) = (0, 0, None);
    while let Some(row) = rows.next()? {
        walked += 1;
        let (ord, id) = (Ordinal(row.get(0)?), row.get_ref(1)?.as_str()?);
        let ends = walked >= SEARCH_IDS_MAX;
        if fits(ord, id) {
            read += 1;
            let Some(device) = device_at(db, ord)? else { continue };
            if examine(db, device)? == Examined::Stop || read >= SEARCH_ROWS_MAX || ends {
                return Ok((walked.into(), Some(id.to_owned())));
            }
        } else if ends {
            last = Some(id.to_owned());
        }
    }
    Ok((walked.into(), last))
}

/// Over few devices, which are brought into the order of their ids first.
fn sorted(
    db: &Connection,
    after: &str,
    few: &[Ordinal],
    fits: impl Fn(&str) -> bool,
    mut examine: impl FnMut(&Connection, FoundDevice) -> rusqlite::Result<Examined>,
) -> rusqlite::Result<(u64, Option<String>)> {
    let mut name =
        db.prepare_cached("SELECT device FROM identity WHERE ord = ? AND module = ''")?;
    let mut all = Vec::new();
    for ord in few {
        let mut rows = name.query([ord.0])?;
        if let Some(row) = rows.next()? {
            let id = row.get_ref(0)?.as_str()?;
            if id > after && fits(id) {
                all.push((id.to_owned(), *ord));
            }
        }
    }
    all.sort_unstable();
    let mut looked = 0;
    for (id, ord) in all {
        looked += 1;
        let Some(device) = device_at(db, ord)? else { continue };
        if examine(db, device)? == Examined::Stop {
            return Ok((looked, Some(id)));
        }
    }
    Ok((looked, None))
}

fn device_at(db: &Connection, ord: Ordinal) -> rusqlite::Result<Option<FoundDevice>> {
    let sql = format!("{FOUND} WHERE i.ord = ?");
    db.prepare_cached(&sql)?.query_row([ord.0], found).optional()
}

/// One device.
pub(crate) fn find_device(db: &Connection, id: &str) -> rusqlite::Result<Option<FoundDevice>> {
    let sql = format!("{FOUND} WHERE i.module = '' AND i.device = ?");
    db.prepare_cached(&sql)?.query_row([id], found).optional()
}

fn found(row: &Row<'_>) -> rusqlite::Result<FoundDevice> {
    let last: Option<i64> = row.get(5)?;
    Ok(FoundDevice {
        ord: Ordinal(row.get(0)?),
        id: row.get(1)?,
        enabled: row.get(2)?,
        status_reason: row.get(3)?,
        iot_edge: row.get(4)?,
        last_activity: last.map_or(WallTime::UNSET, WallTime),
    })
}

/// The tags of `ord`.
pub(crate) fn tags(db: &Connection, ord: Ordinal) -> rusqlite::Result<Map<String, Value>> {
    let text: Option<String> = db
        .prepare_cached("SELECT tags FROM twin WHERE ord = ?")?
        .query_row([ord.0], |row| row.get(0))
        .optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// The versions of one twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TwinVersions {
    pub(crate) etag: Etag,
    pub(crate) version: u64,
    pub(crate) desired: u64,
    pub(crate) reported: u64,
}

/// A device's own twin first, then its modules', by name; each with its ordinal.
pub(crate) fn twin_versions(
    db: &Connection,
    device: &DeviceId,
) -> rusqlite::Result<Vec<(Ordinal, String, TwinVersions)>> {
    let mut select = db.prepare_cached(
        "SELECT i.ord, i.module, t.etag, t.version, t.desired_version, t.reported_version \
         FROM identity i JOIN twin t ON t.ord = i.ord WHERE i.device = ? ORDER BY i.module",
    )?;
    let rows = select.query_map([device.as_str()], |row| {
        let number = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
        let versions = TwinVersions {
            etag: Etag(number(2)?),
            version: number(3)?,
            desired: number(4)?,
            reported: number(5)?,
        };
        Ok((Ordinal(row.get(0)?), row.get(1)?, versions))
    })?;
    rows.collect()
}

/// The newest changes, newest first.
pub(crate) fn newest_changes(db: &Connection, max: u32) -> rusqlite::Result<Vec<ReadChange>> {
    let mut select = db.prepare_cached(
        "SELECT seq, at, kind, identity, version, cause, '' FROM change \
         WHERE shard = ? ORDER BY seq DESC LIMIT ?",
    )?;
    let rows = select.query_map((SHARD, max), super::feed::to_change)?;
    rows.collect()
}

/// Changes that one look for method calls examines.
pub(crate) const CALLS_SCAN_MAX: u64 = 50_000;

/// Calls of methods of `device` and its modules, newest first, that came before `before`; at
/// most `max`. And where to go on, if older changes were not examined.
pub(crate) fn calls(
    db: &Connection,
    device: &DeviceId,
    before: u64,
    max: u32,
) -> rusqlite::Result<(Vec<ReadChange>, Option<u64>)> {
    let (oldest, newest): (Option<i64>, Option<i64>) =
        db.query_row("SELECT min(seq), max(seq) FROM change WHERE shard = ?", [SHARD], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (Some(oldest), Some(newest)) = (oldest, newest) else { return Ok((Vec::new(), None)) };
    let before = before.min(newest.cast_unsigned() + 1);
    let from = before.saturating_sub(CALLS_SCAN_MAX).max(oldest.cast_unsigned());
    let mut select = db.prepare_cached(
        "SELECT seq, at, kind, identity, version, cause, body FROM change \
         WHERE shard = ?1 AND seq >= ?2 AND seq < ?3 AND kind = ?4 \
         AND (identity = ?5 OR substr(identity, 1, length(?5) + 1) = ?5 || '/') \
         ORDER BY seq DESC LIMIT ?6",
    )?;
    let key = (SHARD, from.cast_signed(), before.cast_signed());
    let kind = Kind::MethodInvoked as i64;
    let rows = select
        .query_map((key.0, key.1, key.2, kind, device.as_str(), max), super::feed::to_change)?;
    let calls = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let full = calls.len() >= usize::try_from(max).unwrap_or(usize::MAX);
    let next = if full {
        calls.last().map(|call| call.seq)
    } else {
        (from > oldest.cast_unsigned()).then_some(from)
    };
    Ok((calls, next))
}

#[cfg(test)]
mod tests;
