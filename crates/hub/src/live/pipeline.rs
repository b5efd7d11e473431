//! What a device's router does, over time. Pure.

pub(crate) mod shell;

use api::router::{
    Pipeline, PipelineDropped, PipelineQueue, PipelineReceived, PipelineSent, Problem,
    RouterMetrics,
};
use model::time::{Now, Tick};

/// Turns the totals of two looks into rates.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    before: Option<(Tick, RouterMetrics)>,
    shown: Pipeline,
}

impl Meter {
    /// The router answered.
    pub(crate) fn handle_metrics(&mut self, metrics: RouterMetrics, now: Now) -> Pipeline {
        // A router that started anew counts from zero: there is nothing to compare with.
        let before = self.before.take().filter(|(_, b)| b.uptime_seconds <= metrics.uptime_seconds);
        let rate = |total: u64, older: Option<u64>| {
            let (at, _) = before.as_ref()?;
            let span = now.tick.since(*at).as_secs_f64();
            let more = total.checked_sub(older.unwrap_or(0))?;
            (span > 0.0).then(|| f64::from(u32::try_from(more).unwrap_or(u32::MAX)) / span)
        };
        let older = before.as_ref().map(|(_, metrics)| metrics);
        let received = metrics.received.iter().map(|one| {
            let same = older.and_then(|older| {
                older
                    .received
                    .iter()
                    .find(|o| (&o.id, &o.route_output) == (&one.id, &one.route_output))
            });
            PipelineReceived {
                from: one.id.clone(),
                output: one.route_output.clone(),
                total: one.value,
                per_second: rate(one.value, same.map(|same| same.value)),
            }
        });
        let sent = metrics.sent.iter().map(|one| {
            let same = older.and_then(|older| {
                older
                    .sent
                    .iter()
                    .find(|o| (&o.endpoint, o.priority) == (&one.endpoint, one.priority))
            });
            PipelineSent {
                endpoint: one.endpoint.clone(),
                priority: one.priority,
                total: one.value,
                per_second: rate(one.value, same.map(|same| same.value)),
            }
        });
        let queues = metrics.queues.iter().map(|one| PipelineQueue {
            endpoint: one.endpoint.clone(),
            priority: one.priority,
            length: one.value,
            oldest_age_seconds: one
                .oldest_age_ms
                .map(|ms| f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1000.0),
        });
        let dropped = metrics.dropped.iter().map(|one| PipelineDropped {
            endpoint: one.endpoint.clone(),
            reason: one.reason.clone(),
            total: one.value,
        });
        self.shown = Pipeline {
            as_of: Some(now.wall.to_string()),
            problem: None,
            uptime_seconds: metrics.uptime_seconds,
            routes: metrics.routes.clone(),
            received: received.collect(),
            sent: sent.collect(),
            queues: queues.collect(),
            dropped: dropped.collect(),
        };
        self.before = Some((now.tick, metrics));
        self.shown.clone()
    }

    /// The router could not be asked: what was known stays, with the reason.
    pub(crate) fn handle_problem(&mut self, problem: Problem) -> Pipeline {
        self.before = None;
        self.shown.problem = Some(problem);
        self.shown.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::router::{EndpointTotal, ReceivedTotal};
    use model::time::WallTime;

    use super::*;

    fn at(seconds: u64) -> Now {
        let span = Duration::from_secs(seconds);
        Now { tick: Tick(0).after(span), wall: WallTime(0).after(span) }
    }

    fn metrics(uptime_seconds: u64, value: u64) -> RouterMetrics {
        RouterMetrics {
            uptime_seconds,
            received: vec![ReceivedTotal { id: "m".into(), route_output: None, value }],
            sent: vec![EndpointTotal { endpoint: "$upstream".into(), priority: 0, value }],
            ..RouterMetrics::default()
        }
    }

    #[test]
    fn totals_of_two_looks_make_a_rate_and_a_restart_makes_none() {
        let mut meter = Meter::default();
        let rates = |shown: &Pipeline| (shown.received[0].per_second, shown.sent[0].per_second);
        assert_eq!(rates(&meter.handle_metrics(metrics(10, 100), at(10))), (None, None));
        let shown = meter.handle_metrics(metrics(12, 130), at(12));
        assert_eq!(rates(&shown), (Some(15.0), Some(15.0)));
        let restarted = meter.handle_metrics(metrics(1, 5), at(14));
        assert_eq!(rates(&restarted), (None, None));
        assert_eq!(restarted.received[0].total, 5);
    }

    #[test]
    fn a_silent_device_keeps_what_was_known_with_the_reason() {
        let mut meter = Meter::default();
        meter.handle_metrics(metrics(10, 100), at(10));
        let problem = Problem { code: "offline".into(), message: "not online".into() };
        let shown = meter.handle_problem(problem.clone());
        assert_eq!(shown.problem, Some(problem));
        assert_eq!(shown.as_of.as_deref(), Some("1970-01-01T00:00:10.000Z"));
        assert_eq!(shown.received[0].total, 100);
        let back = meter.handle_metrics(metrics(20, 200), at(20));
        assert_eq!((back.problem, back.received[0].per_second), (None, None));
    }
}
