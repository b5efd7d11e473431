//! The overview of a running hub, and one device whole.

use std::sync::{Arc, Mutex, PoisonError};

use api::error::ApiError;
use api::fleet::{Change, DeviceView, Overview, TwinState};
use model::id::{DeviceId, IdentityId, ModuleName};
use model::names::EDGE_AGENT;
use model::refusal::Refusal;
use model::time::WallTime;

use super::count::Census;
use super::{Standing, standing, view};
use crate::registry::{http as registry, shapes};
use crate::session::shell::Core;
use crate::storage::feed::{Kind, ReadChange};
use crate::storage::{fleet, rows};

/// Changes in an overview.
const RECENT_MAX: u32 = 20;
/// Slices that one request reads before it answers with what there is.
const REQUEST_SLICES_MAX: usize = 4;

/// The count of the fleet, shared by all who look.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    census: Mutex<Census>,
    /// One slice at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Fleet {
    /// Reads one more slice; gives whether a pass over the whole fleet ended with it.
    pub(crate) async fn step(&self, core: &Arc<Core>) -> Result<bool, Refusal> {
        let _turn = self.turn.lock().await;
        let (after, mut counts) = {
            let mut census = self.census();
            (census.next(), census.take())
        };
        let memory = Arc::clone(&core.connections);
        let now = core.world.now().wall;
        let look = move |db: &rusqlite::Connection| {
            let seen = |ord| {
                let presence = memory.presence(ord);
                (presence.connected, presence.activity.map(|activity| activity.last_activity))
            };
            let last = fleet::slice(db, after, |row| counts.handle(row, seen, now))?;
            Ok((counts, last))
        };
        let (counts, last) = core.reader.look(look).await?;
        Ok(self.census().handle_slice(counts, last))
    }

    /// The state of the fleet as far as it is counted.
    pub(crate) async fn overview(&self, core: &Arc<Core>) -> Result<Overview, Refusal> {
        let look = |db: &rusqlite::Connection| {
            Ok((fleet::newest_changes(db, RECENT_MAX)?, rows::device_totals(db)?))
        };
        let (recent, totals) = core.reader.look(look).await?;
        let now = core.world.now();
        let (_, connected) = core.connections.counts();
        let census = self.census();
        let (counts, complete) = census.counts();
        let counts = counts.clone().finish(connected, totals);
        Ok(Overview {
            as_of: now.wall.to_string(),
            complete,
            scanned: counts.scanned,
            devices: counts.devices,
            modules: counts.modules,
            ingest: core.telemetry.series(now),
            recent: recent.iter().map(change).collect(),
        })
    }

    /// Counts afresh, as far as one request may, and gives the state.
    pub(crate) async fn fresh(&self, core: &Arc<Core>) -> Result<Overview, Refusal> {
        for _ in 0..REQUEST_SLICES_MAX {
            if self.step(core).await? {
                break;
            }
        }
        self.overview(core).await
    }

    fn census(&self) -> std::sync::MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change as the console reads it.
pub(crate) fn change(read: &ReadChange) -> Change {
    let (device, module) = match read.identity.split_once('/') {
        Some((device, module)) => (device, Some(module.to_owned())),
        None => (read.identity.as_str(), None),
    };
    let cause = match read.cause {
        1 => "service",
        2 => "device",
        _ => "deployment",
    };
    Change {
        sequence: read.seq,
        at: read.at.to_string(),
        kind: Kind::name(read.kind).to_owned(),
        device_id: device.to_owned(),
        module_id: module,
        version: read.version,
        cause: cause.to_owned(),
    }
}

/// One device whole.
///
/// # Errors
/// When there is no such device, or the tables cannot be read.
pub(crate) async fn device(core: &Core, id: &DeviceId) -> Result<DeviceView, ApiError> {
    let entry = registry::find(core, IdentityId::device(id)).await?;
    let name: ModuleName = EDGE_AGENT.parse().expect("the system modules have good names");
    let (of, agent, wants_agent) = (id.clone(), IdentityId::module(id, &name), entry.iot_edge);
    let ord = entry.ord;
    let look = move |db: &rusqlite::Connection| {
        let twin = match rows::entry(db, &agent)?.filter(|_| wants_agent) {
            Some(agent) => rows::twin(db, agent.ord)?,
            None => None,
        };
        Ok((fleet::twin_versions(db, &of)?, rows::activity(db, ord)?, twin))
    };
    let (versions, stored, agent) = core.reader.look(look).await?;
    let presence = core.connections.presence(ord);
    let last = presence.activity.unwrap_or(stored).last_activity;
    let now = core.world.now().wall;
    let mut device = shapes::device(&entry, shapes::Seen::new(stored, presence));
    if let Some(authentication) = &mut device.authentication {
        authentication.symmetric_key = None;
    }
    let twins = versions.into_iter().map(|(ord, module, twin)| TwinState {
        module_id: Some(module).filter(|name| !name.is_empty()),
        etag: twin.etag.text(),
        version: twin.version,
        desired_version: twin.desired,
        reported_version: twin.reported,
        connected: core.connections.presence(ord).connected,
    });
    Ok(DeviceView {
        device,
        stale: is_stale(entry.enabled, presence.connected, last, now),
        twins: twins.collect(),
        edge: agent.map(|t| view::edge(&t.desired.values, &t.reported.values, t.desired.version.0)),
    })
}

/// Whether a device counts as stale.
pub(crate) fn is_stale(enabled: bool, connected: bool, last: WallTime, now: WallTime) -> bool {
    standing(enabled, connected, last, now) == Standing::Stale
}
