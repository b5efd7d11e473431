//! Operations on the registry, each inside one turn of the writer.
//!
//! Each looks and decides first. What writes gives a [`rusqlite::Result`], which has no place
//! for a refusal: once something is written, only the store can say no.

use model::id::{DeviceId, IdentityId, ModuleName};
use model::manifest::MODULES_MAX;
use model::refusal::{Refusal, RefusalKind};

use super::feed::{Cause, Change, Kind};
use super::writer::{Fault, Writing};
use super::{fleet, rows, words};
use crate::registry::{
    Auth, Entry, Etag, IfMatch, Ordinal, SYSTEM_MODULES, Wanted, fresh_generation,
};
use crate::session::effect::Effect;

/// What a deployment and the edge agent write as the manager of a module.
pub(crate) const MANAGED_BY_EDGE: &str = "IotEdge";

/// Makes an identity with an empty twin; an edge device gets its two system modules.
pub(crate) fn create(
    w: &mut Writing<'_>,
    identity: &IdentityId,
    wanted: Wanted,
    cause: Cause,
) -> Result<Entry, Fault> {
    if rows::entry(w.db, identity)?.is_some() {
        return Err(
            Refusal::new(RefusalKind::AlreadyExists, format!("{identity} exists already")).into()
        );
    }
    if let Some(module) = identity.module_str() {
        let device = find(w, &IdentityId::device(&identity.device_id()))?;
        let there = rows::module_names(w.db, &identity.device_id())?;
        demand_room(&device, there.iter().map(String::as_str).chain([module]))?;
    }
    Ok(make(w, identity, wanted, cause)?)
}

/// Refuses if `device` may not have the modules called `names`.
pub(crate) fn demand_room<'n>(
    device: &Entry,
    names: impl IntoIterator<Item = &'n str>,
) -> Result<(), Refusal> {
    let count = device.counted_modules(names);
    if count <= MODULES_MAX {
        return Ok(());
    }
    let kind = if device.iot_edge { "an edge device" } else { "a plain device" };
    let besides = if device.iot_edge { " besides $edgeAgent and $edgeHub" } else { "" };
    let reason = format!("{kind} has at most {MODULES_MAX} modules{besides}, not {count}");
    Err(Refusal::new(RefusalKind::QuotaExceeded, reason))
}

/// Writes an identity that was found to be absent and to have room.
pub(super) fn make(
    w: &mut Writing<'_>,
    identity: &IdentityId,
    wanted: Wanted,
    cause: Cause,
) -> rusqlite::Result<Entry> {
    let entry = insert(w, identity, wanted, cause)?;
    if entry.iot_edge {
        make_system_modules(w, &identity.device_id(), &[], cause)?;
    }
    Ok(entry)
}

fn insert(
    w: &mut Writing<'_>,
    identity: &IdentityId,
    wanted: Wanted,
    cause: Cause,
) -> rusqlite::Result<Entry> {
    let auth = match wanted.auth {
        Some(auth) => auth.complete(None, w.random),
        None => Auth::fresh(w.random),
    };
    let mut entry = Entry {
        ord: Ordinal(0),
        identity: identity.clone(),
        generation_id: fresh_generation(w.random),
        etag: Etag::first(w.random),
        enabled: wanted.enabled,
        status_reason: wanted.status_reason,
        status_updated: w.now.wall,
        auth,
        iot_edge: wanted.iot_edge.unwrap_or(false) && !identity.is_module(),
        managed_by: wanted.managed_by.unwrap_or_default(),
    };
    entry.ord = rows::insert_entry(w.db, &entry)?;
    rows::put_twin(w.db, entry.ord, &rows::Twin::new(Etag::first(w.random), w.now.wall))?;
    if !identity.is_module() {
        words::put(w.db, &entry, &serde_json::Map::new())?;
    }
    record(w, &entry, Kind::IdentityCreated, cause)?;
    Ok(entry)
}

/// Changes an identity; sessions end if they could not be opened any more.
pub(crate) fn update(
    w: &mut Writing<'_>,
    identity: &IdentityId,
    wanted: Wanted,
    if_match: &IfMatch,
) -> Result<Entry, Fault> {
    let old = find(w, identity)?;
    demand(if_match, old.etag)?;
    let auth = match wanted.auth {
        Some(auth) => auth.complete(Some(&old.auth), w.random),
        None => old.auth.clone(),
    };
    let status_changed = wanted.enabled != old.enabled || wanted.status_reason != old.status_reason;
    let entry = Entry {
        etag: old.etag.next(),
        enabled: wanted.enabled,
        status_reason: wanted.status_reason,
        status_updated: if status_changed { w.now.wall } else { old.status_updated },
        auth,
        iot_edge: wanted.iot_edge.unwrap_or(old.iot_edge) && !identity.is_module(),
        managed_by: wanted.managed_by.unwrap_or_else(|| old.managed_by.clone()),
        ..old.clone()
    };
    if entry.iot_edge == old.iot_edge {
        rewrite(w, &old, &entry, &[])?;
    } else {
        let there = rows::module_names(w.db, &identity.device_id())?;
        demand_room(&entry, there.iter().map(String::as_str))?;
        rewrite(w, &old, &entry, &there)?;
    }
    Ok(entry)
}

/// Writes `new` over `old`; a device that becomes an edge device has the modules `there`.
fn rewrite(
    w: &mut Writing<'_>,
    old: &Entry,
    new: &Entry,
    there: &[String],
) -> rusqlite::Result<()> {
    let identity = &new.identity;
    rows::update_entry(w.db, new)?;
    let flags_changed = new.enabled != old.enabled || new.iot_edge != old.iot_edge;
    if flags_changed && !identity.is_module() {
        words::replace(w.db, new, &fleet::tags(w.db, new.ord)?)?;
    }
    record(w, new, Kind::IdentityUpdated, Cause::Service)?;
    if new.iot_edge && !old.iot_edge {
        make_system_modules(w, &identity.device_id(), there, Cause::Service)?;
    }
    if new.auth != old.auth || !new.enabled {
        w.effects.push(Effect::Revoke(new.ord));
    }
    if !new.enabled && !identity.is_module() {
        for module in rows::modules(w.db, &identity.device_id())? {
            w.effects.push(Effect::Revoke(module.ord));
        }
    }
    Ok(())
}

/// Removes an identity, its twin, its subscriptions, and the modules of a device.
pub(crate) fn delete(
    w: &mut Writing<'_>,
    identity: &IdentityId,
    if_match: &IfMatch,
    cause: Cause,
) -> Result<(), Fault> {
    let entry = find(w, identity)?;
    demand(if_match, entry.etag)?;
    if !identity.is_module() {
        for module in rows::modules(w.db, &identity.device_id())? {
            remove(w, &module, cause)?;
        }
    }
    Ok(remove(w, &entry, cause)?)
}

/// Removes an identity that is there, and nothing else.
pub(super) fn remove(w: &mut Writing<'_>, entry: &Entry, cause: Cause) -> rusqlite::Result<()> {
    rows::delete_entry(w.db, entry.ord)?;
    if !entry.identity.is_module() {
        words::delete(w.db, entry.ord)?;
    }
    record(w, entry, Kind::IdentityDeleted, cause)?;
    w.effects.push(Effect::Revoke(entry.ord));
    Ok(())
}

/// The module `name` of `device`, made if absent.
pub(crate) fn ensure_module(
    w: &mut Writing<'_>,
    device: &DeviceId,
    name: &ModuleName,
    managed_by: Box<str>,
    cause: Cause,
) -> Result<Entry, Fault> {
    let identity = IdentityId::module(device, name);
    if let Some(entry) = rows::entry(w.db, &identity)? {
        return Ok(entry);
    }
    create(w, &identity, Wanted { managed_by: Some(managed_by), ..Wanted::default() }, cause)
}

fn make_system_modules(
    w: &mut Writing<'_>,
    device: &DeviceId,
    there: &[String],
    cause: Cause,
) -> rusqlite::Result<()> {
    for name in SYSTEM_MODULES.into_iter().filter(|name| !there.iter().any(|had| had == name)) {
        let name = name.parse().expect("the system modules have good names");
        insert(w, &IdentityId::module(device, &name), managed_by_edge(), cause)?;
    }
    Ok(())
}

/// A module that belongs to the edge runtime.
pub(super) fn managed_by_edge() -> Wanted {
    Wanted { managed_by: Some(MANAGED_BY_EDGE.into()), ..Wanted::default() }
}

/// The entry of `identity`, or the refusal that names what is missing.
pub(crate) fn find(w: &Writing<'_>, identity: &IdentityId) -> Result<Entry, Fault> {
    match rows::entry(w.db, identity)? {
        Some(entry) => Ok(entry),
        None => Err(missing(identity).into()),
    }
}

/// Nothing is called `identity`.
pub(crate) fn missing(identity: &IdentityId) -> Refusal {
    let kind = if identity.is_module() {
        RefusalKind::ModuleNotFound
    } else {
        RefusalKind::DeviceNotFound
    };
    Refusal::new(kind, format!("{identity} does not exist"))
}

/// Refuses unless `if_match` allows to write over `present`.
pub(crate) fn demand(if_match: &IfMatch, present: Etag) -> Result<(), Refusal> {
    if if_match.allows(present) {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::PreconditionFailed, "it changed since it was read"))
}

fn record(w: &mut Writing<'_>, entry: &Entry, kind: Kind, cause: Cause) -> rusqlite::Result<()> {
    let change = Change {
        kind,
        ord: entry.ord,
        identity: &entry.identity,
        version: entry.etag.0 & 0xFFFF_FFFF,
        cause,
        body: String::new(),
    };
    w.feed.append(w.db, w.now.wall, &change)
}
