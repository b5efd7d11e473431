//! The fleet through our own API.

use api::error::{ApiError, ErrorCode};
use api::fleet::{DEVICE_ROWS_MAX, DevicePage, DeviceRow};
use api::registry::Status;
use http::Method;
use model::id::DeviceId;
use model::time::WallTime;
use rusqlite::Connection;
use serde_json::Map;

use super::search::Search;
use super::{STALE_AFTER, standing, words};
use crate::access::Rights;
use crate::connections::{Connections, Presence};
use crate::service::http::{Call, Outcome, answer};
use crate::storage::fleet::{
    self, CANDIDATES_MAX, Candidates, Examined, FoundDevice, SEARCH_TWINS_MAX,
};
use crate::storage::rows;

/// Rows of a page when the caller does not say.
const ROWS: u64 = 50;
/// Most connected devices among which a search for connected ones is done in memory; with more
/// of them, a scan finds some soon.
const CONNECTED_MAX: u64 = 20_000;

/// GET `/api/v1/overview`.
pub(crate) async fn overview(call: Call) -> Outcome {
    call.prove(Rights::REGISTRY_READ)?;
    call.only(&Method::GET)?;
    call.only_query(&[])?;
    answer(&call.core.fleet.fresh(&call.core).await?, None)
}

/// GET `/api/v1/devices/{d}`.
pub(crate) async fn device(call: Call, device: DeviceId) -> Outcome {
    call.prove(Rights::REGISTRY_READ.and(Rights::SERVICE))?;
    call.only(&Method::GET)?;
    call.only_query(&[])?;
    answer(&super::shell::device(&call.core, &device).await?, None)
}

/// GET `/api/v1/devices?search=&tag=&status=&connection=&edge=&top=&after=`.
pub(crate) async fn devices(call: Call) -> Outcome {
    call.prove(Rights::REGISTRY_READ)?;
    call.only(&Method::GET)?;
    call.only_query(&["search", "tag", "status", "connection", "edge", "top", "after"])?;
    let search = Search::parse(call.parameters())?;
    let with_tags = call.prove(Rights::SERVICE).is_ok();
    if search.needs_tags() && !with_tags {
        let words = "tags belong to twins: searching them needs the right `service`";
        return Err(call.not_allowed(words));
    }
    let top = usize::try_from(call.number("top", ROWS)?).unwrap_or(usize::MAX);
    if top == 0 || top > DEVICE_ROWS_MAX {
        let words = format!("`top` must be 1 to {DEVICE_ROWS_MAX}");
        return Err(ApiError::new(ErrorCode::ArgumentInvalid, words));
    }
    let after = call.query("after").unwrap_or_default().to_owned();
    let core = &call.core;
    let (memory, now) = (std::sync::Arc::clone(&core.connections), core.world.now().wall);
    let page = core.reader.look(move |db| {
        let (rows, twins) = (Vec::new(), 0);
        let mut finder = Finder { search, memory: &memory, now, top, with_tags, rows, twins };
        let (_, connected) = memory.counts();
        if finder.search.is_connected_only() && connected <= CONNECTED_MAX {
            return finder.among_connected(db, &after);
        }
        let candidates = finder.candidates(db)?;
        let only = finder.search.clone();
        let (scanned, next) = fleet::search(
            db,
            &after,
            &candidates,
            |id| only.fits_id(id),
            |db, found| finder.examine(db, found),
        )?;
        Ok(DevicePage { devices: finder.rows, next, scanned })
    });
    answer(&page.await?, None)
}

struct Finder<'a> {
    search: Search,
    memory: &'a Connections,
    now: WallTime,
    top: usize,
    with_tags: bool,
    rows: Vec<DeviceRow>,
    twins: u32,
}

impl Finder<'_> {
    /// What an index says about which devices can be meant.
    fn candidates(&self, db: &Connection) -> rusqlite::Result<Candidates> {
        let totals = rows::device_totals(db)?;
        let mut words = self.search.words();
        // A word that most devices have costs time and narrows nothing.
        let many = |count: u64| count > CANDIDATES_MAX as u64;
        for (name, count) in [('e', totals.enabled), ('g', totals.edge)] {
            for (value, count) in [(true, count), (false, totals.total.saturating_sub(count))] {
                if many(count) {
                    words.remove(&words::flag(name, value));
                }
            }
        }
        match Candidates::with_words(db, &words)? {
            Candidates::All if self.search.is_stale_only() => {
                let silence = i64::try_from(STALE_AFTER.as_millis()).unwrap_or(i64::MAX);
                let cutoff = WallTime(self.now.0.saturating_sub(silence));
                Candidates::silent_since(db, cutoff)
            }
            candidates => Ok(candidates),
        }
    }

    fn examine(&mut self, db: &Connection, found: FoundDevice) -> rusqlite::Result<Examined> {
        let presence = std::cell::OnceCell::new();
        let seen = || *presence.get_or_init(|| self.memory.presence(found.ord));
        let facts = (found.enabled, found.iot_edge);
        let last = |seen: Presence| seen.activity.map_or(found.last_activity, |a| a.last_activity);
        let stands = || standing(found.enabled, seen().connected, last(seen()), self.now);
        if !self.search.fits(&found.id, facts, stands) {
            return Ok(Examined::GoOn);
        }
        let tags = if self.with_tags { fleet::tags(db, found.ord)? } else { Map::new() };
        self.twins += u32::from(self.search.needs_tags());
        if self.search.fits_tags(&tags) {
            let last = last(seen());
            self.rows.push(DeviceRow {
                status: if found.enabled { Status::Enabled } else { Status::Disabled },
                connection_state: if seen().connected { "Connected" } else { "Disconnected" }
                    .to_owned(),
                stale: stands() == super::Standing::Stale,
                last_activity_time: (last != WallTime::UNSET).then(|| last.to_string()),
                iot_edge: found.iot_edge,
                tags,
                device_id: found.id,
                status_reason: found.status_reason,
            });
        }
        let full = self.rows.len() >= self.top || self.twins >= SEARCH_TWINS_MAX;
        Ok(if full { Examined::Stop } else { Examined::GoOn })
    }

    /// Few are connected: their names are known, no scan is needed.
    fn among_connected(mut self, db: &Connection, after: &str) -> rusqlite::Result<DevicePage> {
        let names = self.memory.devices_after(after);
        let mut scanned = 0;
        for name in &names {
            scanned += 1;
            let Some(found) = fleet::find_device(db, name)? else { continue };
            if self.examine(db, found)? == Examined::Stop {
                let next = Some(name.clone());
                return Ok(DevicePage { devices: self.rows, next, scanned });
            }
        }
        Ok(DevicePage { devices: self.rows, next: None, scanned })
    }
}
