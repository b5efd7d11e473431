//! Browsers' worth of live streams on one hub, with a few that take nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::figures::to_f64;
use crate::load::{self, Load};
use crate::report::line;
use crate::server::Server;
use crate::{clock, process};

/// The topics of each browser: a page that shows the fleet and one device's telemetry.
const TOPICS: &str = "topic=overview&topic=changes&topic=telemetry%3Abench-0";

/// Measures and tells.
pub(crate) async fn section(clients: usize, slow: usize, span: Duration) -> Result<()> {
    let outcome = run(clients, slow, span).await?;
    line(
        "| streams | never read | KiB per stream (PSS) | CPU | CPU, nobody watches | updates/s, fewest | median |",
    );
    line("|---|---|---|---|---|---|---|");
    line(&format!(
        "| {clients} | {slow} | {:.1} | {:.0} % | {:.0} % | {:.1} | {:.1} |",
        outcome.kib_each,
        outcome.cpu_percent,
        outcome.cpu_alone_percent,
        outcome.updates.0,
        outcome.updates.1,
    ));
    line(&format!(
        "\nEach stream watches overview, changes and the telemetry of one device that sends {:.0} \
         messages/s (QoS 1, synced); CPU in percent of one core of the hub's process, {} s. The \
         hub's own counters: {}.",
        outcome.messages_per_second,
        span.as_secs(),
        outcome.live,
    ));
    Ok(())
}

/// What was measured.
#[derive(Clone, Debug)]
struct Outcome {
    kib_each: f64,
    cpu_percent: f64,
    /// Of the same load with nobody watching.
    cpu_alone_percent: f64,
    messages_per_second: f64,
    /// Updates a second that each quick browser got: fewest and median.
    updates: (f64, f64),
    live: Value,
}

/// Holds `clients` streams of which `slow` are never read, under a load for `span`.
async fn run(clients: usize, slow: usize, span: Duration) -> Result<Outcome> {
    ensure!(clients > slow, "some browsers must read");
    let server = Server::hub(1).await?;
    let load = Load { connections: 1, in_flight: 1, payload: 256, span };
    let (alone, _) = under_load(&server, load).await?;
    let before = process::memory(server.pid()?)?;
    let mut quick = JoinSet::new();
    let mut idle = Vec::new();
    for number in 0..clients {
        let body = open(&server).await?;
        if number < slow {
            idle.push(body);
        } else {
            quick.spawn(count_updates(body, span));
        }
    }
    let (cpu_percent, messages_per_second) = under_load(&server, load).await?;
    let after = process::memory(server.pid()?)?;
    let mut updates = Vec::new();
    while let Some(done) = quick.join_next().await {
        updates.push(to_f64(done??) / span.as_secs_f64());
    }
    updates.sort_by(f64::total_cmp);
    let fewest = updates.first().copied().context("nobody read")?;
    let median = updates.get(updates.len() / 2).copied().context("nobody read")?;
    let answer = ask(&server, "/api/v1/health").await?;
    let health: Value = serde_json::from_slice(&answer.collect().await?.to_bytes())?;
    drop(idle);
    Ok(Outcome {
        kib_each: to_f64(after.pss.saturating_sub(before.pss)) / 1024.0 / to_f64(clients as u64),
        cpu_percent,
        cpu_alone_percent: alone,
        messages_per_second,
        updates: (fewest, median),
        live: health.get("live").cloned().unwrap_or_default(),
    })
}

/// CPU in percent of one core, and messages a second.
async fn under_load(server: &Server, load: Load) -> Result<(f64, f64)> {
    let (cpu, start) = (process::cpu_seconds(server.pid()?)?, clock::now());
    let outcome = load::run(server, load).await?;
    let took = start.elapsed().as_secs_f64();
    Ok(((process::cpu_seconds(server.pid()?)? - cpu) / took * 100.0, outcome.rate))
}

async fn open(server: &Server) -> Result<hyper::body::Incoming> {
    ask(server, &format!("/api/v1/events?{TOPICS}")).await
}

async fn ask(server: &Server, path: &str) -> Result<hyper::body::Incoming> {
    let service = server.service.as_ref().context("only the hub has a service")?;
    service.ask(Method::GET, path, None).await
}

/// Updates that arrive within `span`.
async fn count_updates(mut body: hyper::body::Incoming, span: Duration) -> Result<u64> {
    let start = clock::now();
    let (mut updates, mut tail) = (0, Vec::new());
    while let Some(left) = span.checked_sub(start.elapsed()) {
        let Ok(frame) = tokio::time::timeout(left, body.frame()).await else { break };
        let frame = frame.context("the hub ended a stream that was read")??;
        let Ok(data) = frame.into_data() else { continue };
        tail.extend_from_slice(&data);
        let mark = b"event: update\n";
        updates += tail.windows(mark.len()).filter(|window| window == mark).count() as u64;
        // A mark may lie across two pieces; what was counted must not count again.
        let keep = tail.len().min(mark.len() - 1);
        tail.drain(..tail.len() - keep);
    }
    Ok(updates)
}
