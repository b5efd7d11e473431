//! Operations on twins and subscriptions, each inside one turn of the writer.

use std::sync::Arc;

use model::feature::{FeatureSet, SUBSCRIPTIONS_MAX};
use model::id::{DeviceId, IdentityId, ModuleName};
use model::model_id::ModelId;
use model::refusal::{Refusal, RefusalKind};
use model::time::Now;
use model::twin::limits::{self, PROPERTIES_BYTES_MAX, TAGS_BYTES_MAX, TwinFault};
use model::twin::patch;
use model::twin::slot::DesiredChange;
use model::twin::{TwinDocument, TwinPatch, Version};
use serde_json::{Map, Value};

use super::feed::{Cause, Change, Kind};
use super::writer::{Fault, Writing};
use super::{identities, rows, words};
use crate::registry::{Entry, IfMatch, Ordinal, SYSTEM_MODULES};
use crate::session::effect::Effect;
use crate::session::shell::Shared;
use crate::session::state::{FeatureMask, SessionState};

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

/// Keeps the model that the owner of the twin says it follows. What is known already is not
/// written again, for it is said at every connect. The etag stays, as with reported properties:
/// it guards what services write.
pub(crate) fn announce_model(
    w: &mut Writing<'_>,
    (ord, identity): (Ordinal, &IdentityId),
    model: &ModelId,
) -> Result<(), Fault> {
    if rows::model(w.db, ord)?.as_deref() == Some(model.as_str()) {
        return Ok(());
    }
    let mut twin = find(w, ord)?;
    twin.version += 1;
    model.as_str().clone_into(&mut twin.model_id);
    rows::put_model(w.db, ord, &twin)?;
    let change = Change {
        kind: Kind::ModelUpdated,
        ord,
        identity,
        version: twin.version,
        cause: Cause::Device,
        body: serde_json::json!({ "modelId": model.as_str() }).to_string(),
    };
    Ok(w.feed.append(w.db, w.now.wall, &change)?)
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
    let tags = write_tags(&twin.tags, &tags)?;
    let desired = write_desired(w.now, &mut twin, desired)?;
    put(w, &entry, &mut twin, Written { tags, desired }, cause)?;
    Ok((entry, twin))
}

/// What a write of a twin found to be right changes.
struct Written {
    tags: Option<Map<String, Value>>,
    /// Merged into the twin already.
    desired: Option<DesiredChange>,
}

fn put(
    w: &mut Writing<'_>,
    entry: &Entry,
    twin: &mut rows::Twin,
    written: Written,
    cause: Cause,
) -> rusqlite::Result<()> {
    if let Some(tags) = written.tags {
        twin.tags = tags;
        if !entry.identity.is_module() {
            words::replace(w.db, entry, &twin.tags)?;
        }
        record(w, entry, Kind::TagsUpdated, (twin.version + 1, cause), &twin.tags)?;
    }
    twin.version += 1;
    twin.etag = twin.etag.next();
    rows::put_twin(w.db, entry.ord, twin)?;
    if let Some(change) = written.desired {
        let version = change.version.0;
        record(w, entry, Kind::DesiredUpdated, (version, cause), &change.patch)?;
        w.effects.push(Effect::Desired(entry.ord, Box::new(change)));
    }
    Ok(())
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
    now: Now,
    twin: &mut rows::Twin,
    write: SectionWrite,
) -> Result<Option<DesiredChange>, Refusal> {
    let before = twin.desired.values.clone();
    let patch = match write {
        SectionWrite::Keep => return Ok(None),
        SectionWrite::Merge(change) => {
            limits::check_shape(&change)?;
            twin.desired.merge(&change, now.wall);
            change
        }
        SectionWrite::Replace(values) => {
            check_desired(&values)?;
            return Ok(Some(replace_desired(now, twin, values)));
        }
    };
    limits::check_size("desired", &twin.desired.values, PROPERTIES_BYTES_MAX)?;
    let after = twin.desired.values.clone();
    Ok(Some(DesiredChange { patch, before, after, version: twin.desired.version }))
}

fn check_desired(values: &Map<String, Value>) -> Result<(), TwinFault> {
    limits::check_shape(values)?;
    limits::check_size("desired", values, PROPERTIES_BYTES_MAX)
}

/// Puts `values`, which were checked, in the place of all desired properties.
fn replace_desired(now: Now, twin: &mut rows::Twin, values: Map<String, Value>) -> DesiredChange {
    let before = twin.desired.values.clone();
    twin.desired.replace(values, now.wall);
    let after = twin.desired.values.clone();
    // Devices merge what they are told, so what a replacement removes must be named.
    let patch = patch::replacement(&before, &after);
    DesiredChange { patch, before, after, version: twin.desired.version }
}

/// What a deployment sets on one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Deployment {
    /// Desired properties by module.
    pub(crate) desired: Vec<(ModuleName, Map<String, Value>)>,
    /// All modules of the manifest besides the system's; `None` leaves identities alone.
    pub(crate) modules: Option<Vec<ModuleName>>,
}

/// What a deployment changes on a device, decided before anything is written.
#[derive(Debug, Default)]
struct DeploymentPlan<'d> {
    gone: Vec<Entry>,
    made: Vec<&'d ModuleName>,
    /// Of modules that are there, with their twins as they are.
    desired: Vec<(Entry, rows::Twin, &'d Map<String, Value>)>,
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
    let plan = plan(w, &entry, deployment)?;
    Ok(carry_out(w, device, deployment, plan)?)
}

fn plan<'d>(
    w: &Writing<'_>,
    device: &Entry,
    deployment: &'d Deployment,
) -> Result<DeploymentPlan<'d>, Fault> {
    let id = device.identity.device_id();
    let there = rows::modules(w.db, &id)?;
    let name_of = |entry: &Entry| entry.identity.module_name();
    let mut plan = DeploymentPlan::default();
    let mut kept = there;
    if let Some(wanted) = &deployment.modules {
        let stays = |entry: &Entry| {
            let name = entry.identity.module_str().unwrap_or_default();
            SYSTEM_MODULES.contains(&name)
                || &*entry.managed_by != identities::MANAGED_BY_EDGE
                || wanted.iter().any(|one| one.as_str() == name)
        };
        (kept, plan.gone) = kept.into_iter().partition(stays);
        let is_new =
            |name: &&ModuleName| !kept.iter().any(|old| name_of(old).as_ref() == Some(name));
        plan.made = wanted.iter().filter(is_new).collect();
        let names = kept.iter().filter_map(|entry| entry.identity.module_str());
        identities::demand_room(device, names.chain(plan.made.iter().map(|name| name.as_str())))?;
    }
    for (name, values) in &deployment.desired {
        check_desired(values)?;
        if plan.made.contains(&name) {
            continue;
        }
        let Some(at) = kept.iter().position(|old| name_of(old).as_ref() == Some(name)) else {
            return Err(identities::missing(&IdentityId::module(&id, name)).into());
        };
        let entry = kept.swap_remove(at);
        let twin = find(w, entry.ord)?;
        plan.desired.push((entry, twin, values));
    }
    Ok(plan)
}

fn carry_out(
    w: &mut Writing<'_>,
    device: &DeviceId,
    deployment: &Deployment,
    plan: DeploymentPlan<'_>,
) -> rusqlite::Result<()> {
    for entry in &plan.gone {
        identities::remove(w, entry, Cause::Deployment)?;
    }
    let mut desired = plan.desired;
    for name in plan.made {
        let identity = IdentityId::module(device, name);
        let wanted = identities::managed_by_edge();
        let entry = identities::make(w, &identity, wanted, Cause::Deployment)?;
        let values = deployment.desired.iter().find(|(of, _)| of == name).map(|(_, values)| values);
        if let (Some(values), Some(twin)) = (values, rows::twin(w.db, entry.ord)?) {
            desired.push((entry, twin, values));
        }
    }
    for (entry, mut twin, values) in desired {
        if twin.desired.values != *values {
            let change = replace_desired(w.now, &mut twin, values.clone());
            let written = Written { tags: None, desired: Some(change) };
            put(w, &entry, &mut twin, written, Cause::Deployment)?;
        }
    }
    Ok(())
}

/// Adds subscriptions of `session`; gives those that were granted. Only a durable session's are
/// written; all others live in memory and end with it.
pub(crate) fn subscribe(
    w: &mut Writing<'_>,
    session: &Arc<Shared>,
    wanted: &FeatureSet,
) -> Result<FeatureSet, Fault> {
    find(w, session.ord)?;
    let mut all = subscriptions(w, session)?;
    let mut granted = FeatureSet::new();
    let mut fresh = Vec::new();
    for subscription in wanted {
        let known = all.iter().find(|held| held.filter == subscription.filter);
        if known.is_none() && all.len() >= SUBSCRIPTIONS_MAX {
            continue;
        }
        if known != Some(subscription) {
            fresh.push(subscription);
        }
        all.insert(subscription.clone());
        granted.insert(subscription.clone());
    }
    // Planted: subscriptions live no longer than their session.
    if session.is_durable && !model::planted::is("forgotten_feature") {
        for subscription in fresh {
            rows::put_subscription(w.db, session.ord, subscription)?;
        }
    }
    switch(w, session, all);
    Ok(granted)
}

/// Removes subscriptions of `session` by filter.
pub(crate) fn unsubscribe(
    w: &mut Writing<'_>,
    session: &Arc<Shared>,
    filters: &[Box<str>],
) -> Result<(), Fault> {
    let mut all = subscriptions(w, session)?;
    for filter in filters {
        all.remove(filter);
        if session.is_durable {
            rows::delete_subscription(w.db, session.ord, filter)?;
        }
    }
    switch(w, session, all);
    Ok(())
}

/// What is in force for `session`, with what this turn has changed already.
fn subscriptions(w: &Writing<'_>, session: &Arc<Shared>) -> Result<FeatureSet, Fault> {
    if session.is_durable {
        // A clean session that came meanwhile wiped it, and nothing may come back.
        if !rows::has_session(w.db, session.ord)? {
            let reason = "a newer session of the identity took over";
            return Err(Refusal::new(RefusalKind::TakenOver, reason).into());
        }
        return Ok(rows::subscriptions(w.db, session.ord)?);
    }
    let changed = w.effects.iter().rev().find_map(|effect| match effect {
        Effect::Held(of, held) if Arc::ptr_eq(of, session) => Some(held.clone()),
        _ => None,
    });
    Ok(changed.unwrap_or_else(|| session.read(SessionState::held)))
}

fn switch(w: &mut Writing<'_>, session: &Arc<Shared>, all: FeatureSet) {
    w.effects.push(if session.is_durable {
        Effect::Features(session.ord, FeatureMask::of(&all))
    } else {
        Effect::Held(Arc::clone(session), all)
    });
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
) -> rusqlite::Result<()> {
    let change = Change {
        kind,
        ord: entry.ord,
        identity: &entry.identity,
        version,
        cause,
        body: rows::json(body),
    };
    w.feed.append(w.db, w.now.wall, &change)
}
