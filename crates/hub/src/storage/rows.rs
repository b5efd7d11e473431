//! Rows and the values they stand for.

use model::feature::{Feature, FeatureSet, Subscription};
use model::id::{DeviceId, IdentityId};
use model::secret::Secret;
use model::time::WallTime;
use model::twin::Version;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::{Map, Value};

use crate::registry::{Auth, Entry, Etag, Ordinal};
use model::twin::section::Section;

const ENTRY: &str = "ord, device, module, generation, etag, enabled, status_reason, \
                     status_updated, auth, credential1, credential2, iot_edge, managed_by";

/// A twin and everything about it that changes with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Twin {
    pub(crate) version: u64,
    pub(crate) etag: Etag,
    pub(crate) tags: Map<String, Value>,
    pub(crate) desired: Section,
    pub(crate) reported: Section,
    /// The model its owner announced; empty if none.
    pub(crate) model_id: String,
}

impl Twin {
    /// The twin of a new identity.
    pub(crate) fn new(etag: Etag, at: WallTime) -> Self {
        Self {
            version: 2,
            etag,
            tags: Map::new(),
            desired: Section::new(at),
            reported: Section::new(at),
            model_id: String::new(),
        }
    }
}

/// When an identity was last seen, as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity {
    pub(crate) connection_updated: WallTime,
    pub(crate) last_activity: WallTime,
}

impl Default for Activity {
    fn default() -> Self {
        Self { connection_updated: WallTime::UNSET, last_activity: WallTime::UNSET }
    }
}

/// The entry of `identity`.
pub(crate) fn entry(db: &Connection, identity: &IdentityId) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {ENTRY} FROM identity WHERE device = ? AND module = ?");
    let key = (identity.device_str(), identity.module_str().unwrap_or_default());
    db.prepare_cached(&sql)?.query_row(key, to_entry).optional()
}

/// Modules of `device`, by name.
pub(crate) fn modules(db: &Connection, device: &DeviceId) -> rusqlite::Result<Vec<Entry>> {
    let sql =
        format!("SELECT {ENTRY} FROM identity WHERE device = ? AND module <> '' ORDER BY module");
    db.prepare_cached(&sql)?.query_map([device.as_str()], to_entry)?.collect()
}

/// Names of the modules of `device`, sorted.
pub(crate) fn module_names(db: &Connection, device: &DeviceId) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT module FROM identity WHERE device = ? AND module <> '' ORDER BY module";
    db.prepare_cached(sql)?.query_map([device.as_str()], |row| row.get(0))?.collect()
}

/// Up to `top` devices whose ids come after `after`, by id.
pub(crate) fn devices(db: &Connection, after: &str, top: u32) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {ENTRY} FROM identity WHERE module = '' AND device > ? ORDER BY device LIMIT ?"
    );
    db.prepare_cached(&sql)?.query_map((after, top), to_entry)?.collect()
}

/// How many devices there are, kept with every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceTotals {
    pub(crate) total: u64,
    pub(crate) enabled: u64,
    pub(crate) edge: u64,
}

/// How many devices there are.
pub(crate) fn device_totals(db: &Connection) -> rusqlite::Result<DeviceTotals> {
    let number = |key: &str| -> rusqlite::Result<u64> {
        Ok(super::schema::number(db, key)?.unwrap_or(0).cast_unsigned())
    };
    Ok(DeviceTotals {
        total: number("devices")?,
        enabled: number("devices_enabled")?,
        edge: number("devices_edge")?,
    })
}

/// Writes a new entry; gives its ordinal.
pub(crate) fn insert_entry(db: &Connection, entry: &Entry) -> rusqlite::Result<Ordinal> {
    let (auth, first, second) = from_auth(&entry.auth);
    db.prepare_cached(
        "INSERT INTO identity (device, module, generation, etag, enabled, status_reason, \
         status_updated, auth, credential1, credential2, iot_edge, managed_by) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute((
        entry.identity.device_str(),
        entry.identity.module_str().unwrap_or_default(),
        &*entry.generation_id,
        entry.etag.0.cast_signed(),
        entry.enabled,
        entry.status_reason.as_deref(),
        entry.status_updated.0,
        auth,
        first,
        second,
        entry.iot_edge,
        &*entry.managed_by,
    ))?;
    u32::try_from(db.last_insert_rowid())
        .map(Ordinal)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, db.last_insert_rowid()))
}

/// Writes over an entry; its ordinal, names and generation stay.
pub(crate) fn update_entry(db: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let (auth, first, second) = from_auth(&entry.auth);
    db.prepare_cached(
        "UPDATE identity SET etag = ?, enabled = ?, status_reason = ?, status_updated = ?, \
         auth = ?, credential1 = ?, credential2 = ?, iot_edge = ?, managed_by = ? WHERE ord = ?",
    )?
    .execute((
        entry.etag.0.cast_signed(),
        entry.enabled,
        entry.status_reason.as_deref(),
        entry.status_updated.0,
        auth,
        first,
        second,
        entry.iot_edge,
        &*entry.managed_by,
        entry.ord.0,
    ))
    .map(|_| ())
}

/// Removes an entry and everything that hangs on it, except its changes.
pub(crate) fn delete_entry(db: &Connection, ord: Ordinal) -> rusqlite::Result<()> {
    const TABLES: [&str; 7] =
        ["identity", "activity", "twin", "twin_metadata", "model", "session", "subscription"];
    for table in TABLES {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE ord = ?"))?.execute([ord.0])?;
    }
    Ok(())
}

/// The twin of `ord`.
pub(crate) fn twin(db: &Connection, ord: Ordinal) -> rusqlite::Result<Option<Twin>> {
    db.prepare_cached(
        "SELECT t.version, t.etag, t.tags, t.desired, t.desired_version, t.reported, \
         t.reported_version, m.desired, m.reported, coalesce(o.id, '') \
         FROM twin t JOIN twin_metadata m ON m.ord = t.ord LEFT JOIN model o ON o.ord = t.ord \
         WHERE t.ord = ?",
    )?
    .query_row([ord.0], |row| {
        Ok(Twin {
            version: unsigned(row, 0)?,
            etag: Etag(row.get::<_, i64>(1)?.cast_unsigned()),
            tags: object(row, 2)?,
            desired: Section {
                values: object(row, 3)?,
                version: Version(unsigned(row, 4)?),
                metadata: object(row, 7)?,
            },
            reported: Section {
                values: object(row, 5)?,
                version: Version(unsigned(row, 6)?),
                metadata: object(row, 8)?,
            },
            model_id: row.get(9)?,
        })
    })
    .optional()
}

/// Writes a whole twin, but for the model, which [`put_model`] writes.
pub(crate) fn put_twin(db: &Connection, ord: Ordinal, twin: &Twin) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO twin (ord, version, etag, tags, desired, desired_version, \
         reported, reported_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute((
        ord.0,
        twin.version.cast_signed(),
        twin.etag.0.cast_signed(),
        json(&twin.tags),
        json(&twin.desired.values),
        twin.desired.version.0.cast_signed(),
        json(&twin.reported.values),
        twin.reported.version.0.cast_signed(),
    ))?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO twin_metadata (ord, desired, reported) VALUES (?, ?, ?)",
    )?
    .execute((ord.0, json(&twin.desired.metadata), json(&twin.reported.metadata)))
    .map(|_| ())
}

/// Writes only what a reported patch changes.
pub(crate) fn put_reported(db: &Connection, ord: Ordinal, twin: &Twin) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE twin SET version = ?, reported = ?, reported_version = ? WHERE ord = ?",
    )?
    .execute((
        twin.version.cast_signed(),
        json(&twin.reported.values),
        twin.reported.version.0.cast_signed(),
        ord.0,
    ))?;
    db.prepare_cached("UPDATE twin_metadata SET reported = ? WHERE ord = ?")?
        .execute((json(&twin.reported.metadata), ord.0))
        .map(|_| ())
}

/// The model that `ord` announced last.
pub(crate) fn model(db: &Connection, ord: Ordinal) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT id FROM model WHERE ord = ?")?
        .query_row([ord.0], |row| row.get(0))
        .optional()
}

/// Writes the model of `ord` and the version that its twin has with it.
pub(crate) fn put_model(db: &Connection, ord: Ordinal, twin: &Twin) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO model (ord, id) VALUES (?, ?)")?
        .execute((ord.0, &twin.model_id))?;
    db.prepare_cached("UPDATE twin SET version = ? WHERE ord = ?")?
        .execute((twin.version.cast_signed(), ord.0))
        .map(drop)
}

/// Whether a persistent session is kept for `ord`.
pub(crate) fn has_session(db: &Connection, ord: Ordinal) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM session WHERE ord = ?")?.exists([ord.0])
}

/// Begins a persistent session of `ord`, who had none. Subscriptions without one are what older
/// hubs left of clean sessions.
pub(crate) fn begin_session(db: &Connection, ord: Ordinal) -> rusqlite::Result<()> {
    end_session(db, ord)?;
    db.prepare_cached("INSERT INTO session (ord) VALUES (?)")?.execute([ord.0]).map(drop)
}

/// Ends the persistent session of `ord`, if there is one, with its subscriptions.
pub(crate) fn end_session(db: &Connection, ord: Ordinal) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM session WHERE ord = ?")?.execute([ord.0])?;
    db.prepare_cached("DELETE FROM subscription WHERE ord = ?")?.execute([ord.0]).map(drop)
}

/// Subscriptions of `ord`.
pub(crate) fn subscriptions(db: &Connection, ord: Ordinal) -> rusqlite::Result<FeatureSet> {
    db.prepare_cached("SELECT filter, feature, qos FROM subscription WHERE ord = ?")?
        .query_map([ord.0], |row| {
            let feature: i64 = row.get(1)?;
            let feature =
                to_feature(feature).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, feature))?;
            Ok(Subscription { feature, qos: row.get(2)?, filter: row.get::<_, String>(0)?.into() })
        })?
        .collect()
}

/// Adds one subscription, replacing one with the same filter.
pub(crate) fn put_subscription(
    db: &Connection,
    ord: Ordinal,
    subscription: &Subscription,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO subscription (ord, filter, feature, qos) VALUES (?, ?, ?, ?)",
    )?
    .execute((ord.0, &*subscription.filter, from_feature(subscription.feature), subscription.qos))
    .map(|_| ())
}

/// Removes one subscription, if it is there.
pub(crate) fn delete_subscription(
    db: &Connection,
    ord: Ordinal,
    filter: &str,
) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM subscription WHERE ord = ? AND filter = ?")?
        .execute((ord.0, filter))
        .map(drop)
}

/// What the table knows of the activity of `ord`.
pub(crate) fn activity(db: &Connection, ord: Ordinal) -> rusqlite::Result<Activity> {
    let found = db
        .prepare_cached("SELECT connection_updated, last_activity FROM activity WHERE ord = ?")?
        .query_row([ord.0], |row| {
            Ok(Activity {
                connection_updated: WallTime(row.get(0)?),
                last_activity: WallTime(row.get(1)?),
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// Writes what was seen of whom; those deleted meanwhile are skipped.
pub(crate) fn put_activity(db: &Connection, seen: &[(Ordinal, Activity)]) -> rusqlite::Result<()> {
    let mut put = db.prepare_cached(
        "INSERT OR REPLACE INTO activity (ord, connection_updated, last_activity) \
         SELECT ord, ?2, ?3 FROM identity WHERE ord = ?1",
    )?;
    for (ord, activity) in seen {
        put.execute((ord.0, activity.connection_updated.0, activity.last_activity.0))?;
    }
    Ok(())
}

/// Numbers on disk; never change one.
pub(crate) fn from_feature(feature: Feature) -> i64 {
    match feature {
        Feature::CloudToDevice => 1,
        Feature::Inputs => 2,
        Feature::Methods => 3,
        Feature::TwinAnswers => 4,
        Feature::DesiredChanges => 5,
    }
}

fn to_feature(number: i64) -> Option<Feature> {
    const ALL: [Feature; 5] = [
        Feature::CloudToDevice,
        Feature::Inputs,
        Feature::Methods,
        Feature::TwinAnswers,
        Feature::DesiredChanges,
    ];
    ALL.into_iter().find(|feature| from_feature(*feature) == number)
}

fn to_entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let device: String = row.get(1)?;
    let module: String = row.get(2)?;
    let name = if module.is_empty() { device } else { format!("{device}/{module}") };
    let identity = name.parse::<IdentityId>().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error))
    })?;
    Ok(Entry {
        ord: Ordinal(row.get(0)?),
        identity,
        generation_id: row.get::<_, String>(3)?.into(),
        etag: Etag(row.get::<_, i64>(4)?.cast_unsigned()),
        enabled: row.get(5)?,
        status_reason: row.get::<_, Option<String>>(6)?.map(Into::into),
        status_updated: WallTime(row.get(7)?),
        auth: to_auth(row)?,
        iot_edge: row.get(11)?,
        managed_by: row.get::<_, String>(12)?.into(),
    })
}

fn to_auth(row: &Row<'_>) -> rusqlite::Result<Auth> {
    let first: Option<String> = row.get(9)?;
    let second: Option<String> = row.get(10)?;
    match row.get(8)? {
        0 => Ok(Auth::None),
        1 => Ok(Auth::Sas {
            primary: first.unwrap_or_default().into(),
            secondary: second.unwrap_or_default().into(),
        }),
        2 => Ok(Auth::SelfSigned {
            primary: first.map(Into::into),
            secondary: second.map(Into::into),
        }),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(8, other)),
    }
}

fn from_auth(auth: &Auth) -> (i64, Option<&str>, Option<&str>) {
    match auth {
        Auth::None => (0, None, None),
        Auth::Sas { primary, secondary } => (1, key_text(primary), key_text(secondary)),
        Auth::SelfSigned { primary, secondary } => (2, primary.as_deref(), secondary.as_deref()),
    }
}

fn key_text(key: &Secret) -> Option<&str> {
    key.expose_str()
}

fn object(row: &Row<'_>, at: usize) -> rusqlite::Result<Map<String, Value>> {
    let text = row.get_ref(at)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error)))
}

fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::cast_unsigned)
}

/// JSON text; a map of strings and values always has one.
pub(crate) fn json(map: &Map<String, Value>) -> String {
    serde_json::to_string(map).expect("keys are strings and values are JSON")
}
