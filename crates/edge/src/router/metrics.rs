//! What the router counts by sender and by lane. Pure.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::router::{
    DroppedTotal, EndpointTotal, QueueLength, ReceivedTotal, RouteState, RouterMetrics,
};
use journal::log::LaneId;
use journal::queue::LaneStats;
use model::route::{Endpoint, Route};

/// Most senders and outputs that are counted apart; the rest is counted as [`OTHERS`].
const SENDERS_MAX: usize = 256;
/// The name of those who are not counted apart.
const OTHERS: &str = "(others)";
/// The endpoint of the hub or the parent.
const UPSTREAM: &str = "$upstream";

/// Totals by sender and lane, since the router started.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Totals>);

/// What a [`Tally`] held at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    received: BTreeMap<(String, Option<String>), u64>,
    sent: BTreeMap<LaneId, u64>,
}

/// Counts that belong to no lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drops {
    pub(crate) no_route: u64,
    pub(crate) refused_upstream: u64,
    pub(crate) sender_removed: u64,
    pub(crate) damaged: u64,
}

impl Tally {
    /// `count` messages of `sender` were taken, sent to `output`.
    pub(crate) fn handle_received(&self, sender: &str, output: Option<&str>, count: u64) {
        let mut totals = self.lock();
        let key = (sender.to_owned(), output.map(str::to_owned));
        let known = totals.received.len() < SENDERS_MAX || totals.received.contains_key(&key);
        let key = if known { key } else { (OTHERS.to_owned(), None) };
        *totals.received.entry(key).or_default() += count;
    }

    /// A message of `lane` arrived.
    pub(crate) fn handle_sent(&self, lane: LaneId) {
        *self.lock().sent.entry(lane).or_default() += 1;
    }

    /// What was counted until now.
    pub(crate) fn totals(&self) -> Totals {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    /// Everything, with how the lanes stand.
    pub(crate) fn metrics<'a>(
        self,
        uptime_seconds: u64,
        routes: impl Iterator<Item = (&'a str, &'a Route)>,
        lanes: &[LaneStats],
        drops: Drops,
    ) -> RouterMetrics {
        let received = self.received.into_iter().map(|((id, route_output), value)| ReceivedTotal {
            id,
            route_output,
            value,
        });
        let sent = lanes.iter().map(|lane| EndpointTotal {
            endpoint: short(&lane.endpoint),
            priority: lane.priority,
            value: self.sent.get(&lane.lane).copied().unwrap_or(0),
        });
        let queues = lanes.iter().map(|lane| QueueLength {
            endpoint: short(&lane.endpoint),
            priority: lane.priority,
            value: lane.depth,
            oldest_age_ms: lane.oldest_ms.and_then(|ms| u64::try_from(ms).ok()),
            held_segments: lane.held_segments,
            held_bytes: lane.held_bytes,
        });
        RouterMetrics {
            schema_version: "1.0".to_owned(),
            uptime_seconds,
            routes: routes.map(|(name, route)| state(name, route)).collect(),
            received: received.collect(),
            sent: sent.collect(),
            queues: queues.collect(),
            dropped: dropped(lanes, drops),
        }
    }
}

fn dropped(lanes: &[LaneStats], drops: Drops) -> Vec<DroppedTotal> {
    let total = |endpoint: Option<String>, reason: &str, value| DroppedTotal {
        endpoint,
        reason: reason.to_owned(),
        value,
    };
    let upstream = || Some(UPSTREAM.to_owned());
    let mut expired: BTreeMap<String, u64> = BTreeMap::new();
    for lane in lanes {
        *expired.entry(short(&lane.endpoint)).or_default() += lane.expired;
    }
    let expired = expired.into_iter().map(|(name, value)| total(Some(name), "ttl_expiry", value));
    let others = [
        total(None, "no_route", drops.no_route),
        total(upstream(), "refused_upstream", drops.refused_upstream),
        total(upstream(), "sender_removed", drops.sender_removed),
        total(None, "damaged", drops.damaged),
    ];
    others.into_iter().chain(expired).filter(|dropped| dropped.value > 0).collect()
}

fn state(name: &str, route: &Route) -> RouteState {
    let condition = (!route.condition.always_holds()).then(|| route.condition.to_string());
    RouteState {
        name: name.to_owned(),
        source: route.source.to_string(),
        condition,
        endpoint: match &route.endpoint {
            Endpoint::Upstream => UPSTREAM.to_owned(),
            Endpoint::ModuleInput { module, input } => format!("{module}/{input}"),
        },
        priority: route.priority,
        time_to_live_secs: route.time_to_live.map(|life| life.as_secs()),
    }
}

/// `module/input` of `BrokeredEndpoint("/modules/module/inputs/input")`; others as they are.
fn short(endpoint: &str) -> String {
    let inner = endpoint.strip_prefix("BrokeredEndpoint(\"/modules/");
    let inner = inner.and_then(|rest| rest.strip_suffix("\")"));
    inner.map_or_else(|| endpoint.to_owned(), |path| path.replacen("/inputs/", "/", 1))
}

#[cfg(test)]
mod tests {
    use journal::log::Position;

    use super::*;

    fn lane(id: u32, endpoint: &str, depth: u64, expired: u64) -> LaneStats {
        LaneStats {
            lane: LaneId(id),
            endpoint: endpoint.into(),
            priority: 0,
            depth,
            bytes: 0,
            oldest_ms: (depth > 0).then_some(1500),
            expired,
            cursor: Position(0),
            held_segments: depth,
            held_bytes: depth * 100,
        }
    }

    #[test]
    fn what_came_in_is_what_went_out_waits_or_was_dropped() {
        let tally = Tally::default();
        tally.handle_received("m", Some("o"), 7);
        tally.handle_received("m", Some("o"), 1);
        for _ in 0..3 {
            tally.handle_sent(LaneId(1));
        }
        let input = "BrokeredEndpoint(\"/modules/b/inputs/i\")";
        let lanes = [lane(1, "$upstream", 2, 0), lane(2, input, 0, 1)];
        let route = Route::parse("FROM /messages/* WHERE x > 1 INTO $upstream").unwrap();
        let drops = Drops { no_route: 2, ..Drops::default() };
        let all = tally.totals().metrics(9, [("up", &route)].into_iter(), &lanes, drops);
        assert_eq!(all.received[0].value, 8);
        assert_eq!((&*all.sent[0].endpoint, all.sent[0].value), ("$upstream", 3));
        assert_eq!((&*all.sent[1].endpoint, all.sent[1].value), ("b/i", 0));
        assert_eq!((all.queues[0].value, all.queues[0].oldest_age_ms), (2, Some(1500)));
        assert_eq!(all.queues[1].oldest_age_ms, None);
        assert_eq!((all.queues[0].held_segments, all.queues[0].held_bytes), (2, 200));
        let reasons: Vec<_> = all.dropped.iter().map(|d| (&*d.reason, d.value)).collect();
        assert_eq!(reasons, [("no_route", 2), ("ttl_expiry", 1)]);
        assert_eq!(
            (&*all.routes[0].endpoint, all.routes[0].condition.is_some()),
            ("$upstream", true)
        );
        let accounted: u64 = all.sent.iter().map(|s| s.value).sum::<u64>()
            + all.queues.iter().map(|q| q.value).sum::<u64>()
            + all.dropped.iter().map(|d| d.value).sum::<u64>();
        assert_eq!(accounted, 8);
    }

    #[test]
    fn senders_beyond_the_limit_are_counted_together() {
        let tally = Tally::default();
        for n in 0..SENDERS_MAX + 3 {
            tally.handle_received(&n.to_string(), None, 1);
        }
        let all = tally.totals().metrics(0, std::iter::empty(), &[], Drops::default());
        assert_eq!(all.received.len(), SENDERS_MAX + 1);
        let others = all.received.iter().find(|one| one.id == OTHERS).unwrap();
        assert_eq!(others.value, 3);
    }
}
