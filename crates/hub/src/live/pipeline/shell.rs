//! Asks a device's agent what the router does while somebody watches.

use std::sync::Arc;

use api::router::{GET_ROUTER_METRICS, Problem, RouterMetrics};
use serde_json::json;

use super::Meter;
use crate::live::logs::shell::{POLL, ask_agent};
use crate::live::shell::Watched;
use crate::live::topic::Topic;
use crate::session::shell::Core;

/// Follows one router until nobody watches.
pub(crate) async fn pump(core: Arc<Core>, watched: Arc<Watched>) {
    let Topic::Pipeline(device) = &watched.topic else { return };
    let mut meter = Meter::default();
    let question = json!({ "schemaVersion": "1.0" });
    loop {
        let answer = ask_agent(&core, device, GET_ROUTER_METRICS, &question).await;
        let metrics = answer.map_err(|failed| failed.problem).and_then(|answer| {
            serde_json::from_value::<RouterMetrics>(answer).map_err(|error| Problem {
                code: "refused".to_owned(),
                message: format!("the router's answer makes no sense: {error}"),
            })
        });
        let now = core.world.now();
        let shown = match metrics {
            Ok(metrics) => meter.handle_metrics(metrics, now),
            Err(problem) => meter.handle_problem(problem),
        };
        watched.publish_state(&shown, now.tick);
        if !watched.pause(POLL).await {
            return;
        }
    }
}
