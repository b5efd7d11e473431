//! Browsers' worth of live streams on one hub, with a few that take nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use net::http_client::HttpClient;
use net::network::SystemNetwork;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::load::{self, Load};
use crate::server::Server;
use crate::{clock, process, to_f64};

/// An answer that takes longer is a broken server.
const PATIENCE: Duration = Duration::from_secs(30);
/// The topics of each browser: a page that shows the fleet and one device's telemetry.
const TOPICS: &str = "topic=overview&topic=changes&topic=telemetry%3Abench-0";

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) kib_each: f64,
    pub(crate) cpu_percent: f64,
    /// Of the same load with nobody watching.
    pub(crate) cpu_alone_percent: f64,
    pub(crate) messages_per_second: f64,
    /// Updates a second that each quick browser got: fewest and median.
    pub(crate) updates: (f64, f64),
    pub(crate) live: Value,
}

/// Holds `clients` streams of which `slow` are never read, under a load for `span`.
pub(crate) async fn run(clients: usize, slow: usize, span: Duration) -> Result<Outcome> {
    ensure!(clients > slow, "some browsers must read");
    let server = Server::selvedge(1).await?;
    let load = Load { connections: 1, in_flight: 1, payload: 256, span };
    let (alone, _) = under_load(&server, load).await?;
    let before = process::memory(server.pid())?;
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
    let after = process::memory(server.pid())?;
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
    let (cpu, start) = (process::cpu_seconds(server.pid())?, clock::now());
    let outcome = load::run(server, load).await?;
    let took = start.elapsed().as_secs_f64();
    Ok(((process::cpu_seconds(server.pid())? - cpu) / took * 100.0, outcome.rate))
}

async fn open(server: &Server) -> Result<hyper::body::Incoming> {
    ask(server, &format!("/api/v1/events?{TOPICS}")).await
}

async fn ask(server: &Server, path: &str) -> Result<hyper::body::Incoming> {
    let (https, token) = server.service().context("only the hub has a service")?;
    let world = net::world::system(tokio::runtime::Handle::current());
    let tls = Some((server.tls.clone(), "localhost".into()));
    let client = HttpClient::new(Arc::new(SystemNetwork), world, https, tls);
    let request = Request::get(path)
        .header("host", "localhost")
        .header("authorization", token.expose_str().unwrap_or_default())
        .body(Full::new(Bytes::new()))?;
    let answer = client.send(request, PATIENCE).await?;
    ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    Ok(answer.into_body())
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
