//! Operations on twins and subscriptions, each inside one turn of the writer.

use model::feature::FeatureSet;
use model::id::{DeviceId, IdentityId, ModuleName};
use model::refusal::{Refusal, RefusalKind};
use model::twin::limits::{self, PROPERTIES_BYTES_MAX, TAGS_BYTES_MAX};
use model::twin::patch;
use model::twin::slot::DesiredChange;
use model::twin::{TwinDocument, TwinPatch, Version};
use serde_json::{Map, Value};

use super::feed::{Cause, Change, Kind};
use super::writer::{Fault, Writing};
use super::{identities, rows, words};
use crate::registry::{Entry, IfMatch, Ordinal};
use crate::session::effect::Effect;
use crate::session::state::FeatureMask;

/// How a service writes a section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SectionWrite {
    /// Leaves it.
    Keep,
    /// Merges into it.
    Merge(Map<String, Value>),
    /// Puts this in its place.
    Replace(Map<String, Value>),
}

/// The twin as its owner sees it.
pub(crate) fn read(w: &Writing<'_>, ord: Ordinal) -> Result<TwinDocument, Fault> {
    let twin = find(w, ord)?;
    Ok(TwinDocument {
        desired: twin.desired.values,
        desired_version: twin.desired.version,
        reported: twin.reported.values,
        reported_version: twin.reported.version,
    })
}

/// Merges into the reported properties; gives their version.
pub(crate) fn patch_reported(
    w: &mut Writing<'_>,
    (ord, identity): (Ordinal, &IdentityId),
    patch: &TwinPatch,
    if_version: Option<Version>,
) -> Result<Version, Fault> {
    limits::check_shape(&patch.0)?;
    let mut twin = find(w, ord)?;
    if if_version.is_some_and(|demanded| demanded != twin.reported.version) {
        let reason = "the reported properties have another version";
        return Err(Refusal::new(RefusalKind::PreconditionFailed, reason).into());
    }
    twin.reported.merge(&patch.0, w.now.wall);
    limits::check_size("reported", &twin.reported.values, PROPERTIES_BYTES_MAX)?;
    twin.version += 1;
    rows::put_reported(w.db, ord, &twin)?;
    let change = Change {
        kind: Kind::ReportedUpdated,
        ord,
        identity,
        version: twin.reported.version.0,
        cause: Cause::Device,
        body: rows::json(&patch.0),
    };
    w.feed.append(w.db, w.now.wall, &change)?;
    Ok(twin.reported.version)
}

/// Writes tags and desired properties for the service; gives entry and twin.
pub(crate) fn write(
    w: &mut Writing<'_>,
    identity: &IdentityId,
    (tags, desired): (SectionWrite, SectionWrite),
    if_match: &IfMatch,
    cause: Cause,
) -> Result<(Entry, rows::Twin), Fault> {
    let entry = identities::find(w, identity)?;
    let mut twin = find(w, entry.ord)?;
    identities::demand(if_match, twin.etag)?;
    let new_tags = write_tags(&twin.tags, &tags)?;
    let change = write_desired(w, &mut twin, desired)?;
    if let Some(tags) = new_tags {
        twin.tags = tags;
        if !identity.is_module() {
            words::replace(w.db, &entry, &twin.tags)?;
        }
        record(w, &entry, Kind::TagsUpdated, (twin.version + 1, cause), &twin.tags)?;
    }
    twin.version += 1;
    twin.etag = twin.etag.next();
    rows::put_twin(w.db, entry.ord, &twin)?;
    if let Some(change) = change {
        let version = change.version.0;
        record(w, &entry, Kind::DesiredUpdated, (version, cause), &change.patch)?;
        w.effects.push(Effect::Desired(entry.ord, Box::new(change)));
    }
    Ok((entry, twin))
}

fn write_tags(
    old: &Map<String, Value>,
    write: &SectionWrite,
) -> Result<Option<Map<String, Value>>, Refusal> {
    // Tags have no metadata of their own here.
    let (change, mut tags) = match write {
        SectionWrite::Keep => return Ok(None),
        SectionWrite::Merge(change) => (change, old.clone()),
        SectionWrite::Replace(values) => (values, Map::new()),
    };
    limits::check_shape(change)?;
    patch::apply(&mut tags, change);
    limits::check_size("tags", &tags, TAGS_BYTES_MAX)?;
    Ok(Some(tags))
}

fn write_desired(
    w: &Writing<'_>,
    twin: &mut rows::Twin,
    write: SectionWrite,
) -> Result<Option<DesiredChange>, Refusal> {
    let before = twin.desired.values.clone();
    let merged = match write {
        SectionWrite::Keep => return Ok(None),
        SectionWrite::Merge(change) => {
            limits::check_shape(&change)?;
            twin.desired.merge(&change, w.now.wall);
            Some(change)
        }
        SectionWrite::Replace(values) => {
            limits::check_shape(&values)?;
            twin.desired.replace(values, w.now.wall);
            None
        }
    };
    limits::check_size("desired", &twin.desired.values, PROPERTIES_BYTES_MAX)?;
    let after = twin.desired.values.clone();
    // Devices merge what they are told, so what a replacement removes must be named.
    let patch = merged.unwrap_or_else(|| patch::replacement(&before, &after));
    Ok(Some(DesiredChange { patch, before, after, version: twin.desired.version }))
}

/// What a deployment sets on one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Deployment {
    /// Desired properties by module.
    pub(crate) desired: Vec<(ModuleName, Map<String, Value>)>,
    /// All modules of the manifest besides the system's; `None` leaves identities alone.
    pub(crate) modules: Option<Vec<ModuleName>>,
}

/// Applies `deployment` whole or not at all; equal content writes nothing.
pub(crate) fn deploy(
    w: &mut Writing<'_>,
    device: &DeviceId,
    deployment: &Deployment,
) -> Result<(), Fault> {
    let entry = identities::find(w, &IdentityId::device(device))?;
    if !entry.iot_edge {
        let reason = format!("{device} is not an edge device");
        return Err(Refusal::new(RefusalKind::InvalidRequest, reason).into());
    }
    // Every refusal comes before the first write.
    for (name, values) in &deployment.desired {
        limits::check_shape(values)?;
        limits::check_size("desired", values, PROPERTIES_BYTES_MAX)?;
        let made = deployment.modules.as_ref().is_some_and(|all| all.contains(name));
        if !made && !name.as_str().starts_with("$edge") {
            identities::find(w, &IdentityId::module(device, name))?;
        }
    }
    if let Some(modules) = &deployment.modules {
        let managed = identities::MANAGED_BY_EDGE;
        for old in rows::modules(w.db, device)? {
            let name = old.identity.module_str().unwrap_or_default();
            let kept = name.starts_with("$edge") || modules.iter().any(|new| new.as_str() == name);
            if !kept && &*old.managed_by == managed {
                identities::delete(w, &old.identity, &IfMatch::Any, Cause::Deployment)?;
            }
        }
        for name in modules {
            identities::ensure_module(w, device, name, managed.into(), Cause::Deployment)?;
        }
    }
    for (name, values) in &deployment.desired {
        let identity = IdentityId::module(device, name);
        let present = find(w, identities::find(w, &identity)?.ord)?;
        if present.desired.values != *values {
            let sections = (SectionWrite::Keep, SectionWrite::Replace(values.clone()));
            write(w, &identity, sections, &IfMatch::Any, Cause::Deployment)?;
        }
    }
    Ok(())
}

/// Adds subscriptions; gives all that are in force.
pub(crate) fn subscribe(
    w: &mut Writing<'_>,
    ord: Ordinal,
    wanted: &FeatureSet,
) -> Result<FeatureSet, Fault> {
    find(w, ord)?;
    let mut all = rows::subscriptions(w.db, ord)?;
    let mut granted = FeatureSet::new();
    for subscription in wanted {
        let known = all.iter().find(|held| held.filter == subscription.filter);
        if known.is_none() && all.len() >= model::feature::SUBSCRIPTIONS_MAX {
            continue;
        }
        // Planted: subscriptions live no longer than their session.
        if known != Some(subscription) && !model::planted::is("forgotten_feature") {
            rows::put_subscription(w.db, ord, subscription)?;
        }
        all.insert(subscription.clone());
        granted.insert(subscription.clone());
    }
    w.effects.push(Effect::Features(ord, FeatureMask::of(&all)));
    Ok(granted)
}

/// Removes subscriptions by filter.
pub(crate) fn unsubscribe(
    w: &mut Writing<'_>,
    ord: Ordinal,
    filters: &[Box<str>],
) -> Result<(), Fault> {
    for filter in filters {
        w.db.prepare_cached("DELETE FROM subscription WHERE ord = ? AND filter = ?")?
            .execute((ord.0, &**filter))?;
    }
    let left = rows::subscriptions(w.db, ord)?;
    w.effects.push(Effect::Features(ord, FeatureMask::of(&left)));
    Ok(())
}

fn find(w: &Writing<'_>, ord: Ordinal) -> Result<rows::Twin, Fault> {
    match rows::twin(w.db, ord)? {
        Some(twin) => Ok(twin),
        None => Err(Refusal::new(RefusalKind::DeviceNotFound, "the identity is gone").into()),
    }
}

fn record(
    w: &mut Writing<'_>,
    entry: &Entry,
    kind: Kind,
    (version, cause): (u64, Cause),
    body: &Map<String, Value>,
) -> Result<(), Fault> {
    let change = Change {
        kind,
        ord: entry.ord,
        identity: &entry.identity,
        version,
        cause,
        body: rows::json(body),
    };
    w.feed.append(w.db, w.now.wall, &change)?;
    Ok(())
}
