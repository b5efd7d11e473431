//! Search, overview and writes of a hub that holds a large fleet.
//!
//! The fleet is written as tables of version 1, whose shape never changes, straight into the
//! file; the hub brings them to its own version when it starts, which is measured too.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use http_body_util::BodyExt as _;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::figures::{Rounds, to_f64};
use crate::report::line;
use crate::server::Server;
use crate::service::Service;
use crate::{clock, process};

/// The tables of version 1.
const TABLES_V1: &str = include_str!("../../hub/src/storage/schema_v1.sql");
/// "SLVG".
const APPLICATION_ID: u32 = 0x534C_5647;
/// Most devices: their tables take a gigabyte a million.
const DEVICES_MAX: u32 = 2_000_000;
/// The hub brings the tables to its version within that.
const START_PATIENCE: Duration = Duration::from_mins(10);
/// Pages in a row of a search that goes on.
const PAGES: usize = 20;
/// Pause between two writes beside the searches.
const WRITE_PAUSE: Duration = Duration::from_millis(5);
/// Every row has the same; it opens nothing on a hub that is gone after the run.
const KEY: &str = "c2VsdmVkZ2UgYmVuY2gga2V5LCBubyBzZWNyZXQgYXQ=";
/// The end of activity that was written: 2026-11-01.
const ACTIVE_UNTIL_MS: i64 = 1_793_491_200_000;

/// What is asked: a name, and the query of `/api/v1/devices`.
const SEARCHES: [(&str, &str); 16] = [
    ("first page", ""),
    ("part of id, one fits", "search=0123457"),
    ("part of id, 0.02 % fit", "search=e-00123"),
    ("part of id, 2.5 % fit", "search=ump-00"),
    ("part of id, 25 % fit", "search=valve"),
    ("part of id, none fits", "search=nowhere"),
    ("two letters of the id", "search=va"),
    ("two letters, none fits", "search=zz"),
    ("tag, 0.5 % fit", "tag=site%3Ds17"),
    ("tag, 2 % in a row at the end", "tag=hall%3Dh49"),
    ("tag and part of id", "tag=owner.team%3Dt3&search=press-0009"),
    ("status disabled, 0.1 %", "status=disabled"),
    ("edge devices, 2 %", "edge=true"),
    ("stale", "connection=stale"),
    ("never seen", "connection=neverSeen"),
    ("disabled with a tag, one fits", "status=disabled&tag=site%3Ds0&search=0100000"),
];

/// Runs everything on `devices` devices; each question `rounds` times.
pub(crate) async fn section(devices: u32, rounds: usize) -> Result<()> {
    ensure!((1..=DEVICES_MAX).contains(&devices), "1 to {DEVICES_MAX} devices");
    ensure!(rounds > 0, "at least one round");
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("hub");
    std::fs::create_dir(&data)?;
    let filled = clock::now();
    fill(&data.join("hub.db"), devices)?;
    let filled = filled.elapsed();
    let started = clock::now();
    let server = Server::hub_in(folder, START_PATIENCE, 0).await?;
    let started = started.elapsed();
    line(&format!(
        "{devices} devices, written in {:.0} s; the hub brought their tables to its version and \
         was ready after {:.1} s; PSS {:.0} MiB.\n",
        filled.as_secs_f64(),
        started.as_secs_f64(),
        to_f64(process::memory(server.pid()?)?.pss) / 1_048_576.0,
    ));
    let service = server.service.clone().context("only the hub has a service")?;
    let asker = Asker(service);
    let alone = asker.write_many(rounds.max(100)).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let beside = asker.write_until(Arc::clone(&stop));
    let questions = async {
        let asked = ask_all(&asker, rounds).await;
        stop.store(true, Ordering::Relaxed);
        asked
    };
    let (beside, asked) = tokio::join!(beside, questions);
    asked?;
    line("\n| writes of a tag | p50 ms | p99 ms | longest ms |\n|---|---|---|---|");
    for (name, spans) in [("alone", alone), ("beside the questions", beside?)] {
        line(&format!("| {name} | {} |", spread(&spans)));
    }
    line(
        "\nEach call opens a TLS connection of its own. \"Calls\" is how many it takes to fill the \
         first page of 50 or to reach the end; times are of one call.",
    );
    Ok(())
}

async fn ask_all(asker: &Asker, rounds: usize) -> Result<()> {
    line("| question | calls | found | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|---|");
    for (name, query) in SEARCHES {
        let mut spans = Rounds::default();
        let (mut calls, mut found) = (0, 0);
        for _ in 0..rounds {
            (calls, found) = asker.page(query, None, &mut spans).await.map(|(c, f, _)| (c, f))?;
        }
        row(name, calls, found, &spans);
    }
    let (mut spans, mut after, mut found, mut calls) = (Rounds::default(), None, 0, 0);
    for _ in 0..PAGES {
        let (asked, more, next) = asker.page("search=pump&top=200", after, &mut spans).await?;
        calls += asked;
        found += more;
        after = next;
    }
    row("pages in a row", calls, found, &spans);
    for (name, path) in [
        ("overview", "/api/v1/overview"),
        ("one device", "/api/v1/devices/valve-0000001"),
        ("device statistics", "/statistics/devices?api-version=2021-04-12"),
    ] {
        let mut spans = Rounds::default();
        for _ in 0..rounds {
            asker.get(path, &mut spans).await?;
        }
        row(name, 1, 1, &spans);
    }
    Ok(())
}

fn row(name: &str, calls: usize, found: usize, spans: &Rounds) {
    line(&format!("| {name} | {calls} | {found} | {} |", spread(spans)));
}

/// Median, 99th percentile and maximum, as cells.
fn spread(spans: &Rounds) -> String {
    let [p50, p99, most] = [50, 99, 100].map(|share| spans.percentile(share));
    format!("{p50:.1} | {p99:.1} | {most:.1}")
}

struct Asker(Arc<Service>);

impl Asker {
    /// The whole answer, and how long it took in milliseconds.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(Value, f64)> {
        let start = clock::now();
        let answer = self.0.ask(method, path, body).await?.collect().await?.to_bytes();
        let span = start.elapsed().as_secs_f64() * 1000.0;
        Ok((serde_json::from_slice(&answer)?, span))
    }

    async fn get(&self, path: &str, spans: &mut Rounds) -> Result<Value> {
        let (answer, span) = self.call(Method::GET, path, None).await?;
        spans.push(span);
        Ok(answer)
    }

    /// Asks until a page is full or nothing comes after it: calls, devices, where to go on.
    async fn page(
        &self,
        query: &str,
        mut after: Option<String>,
        spans: &mut Rounds,
    ) -> Result<(usize, usize, Option<String>)> {
        let wanted = if query.contains("top=200") { 200 } else { 50 };
        let (mut calls, mut found) = (0, 0);
        loop {
            let cursor = after.as_deref().map_or_else(String::new, |id| format!("&after={id}"));
            let answer = self.get(&format!("/api/v1/devices?{query}{cursor}"), spans).await?;
            calls += 1;
            found += answer.get("devices").and_then(Value::as_array).map_or(0, Vec::len);
            after = answer.get("next").and_then(Value::as_str).map(str::to_owned);
            if found >= wanted || after.is_none() {
                return Ok((calls, found, after));
            }
        }
    }

    /// Writes a tag of one device after another.
    async fn write(&self, number: usize) -> Result<f64> {
        let path = format!("/twins/valve-{:07}?api-version=2021-04-12", 1 + 4 * (number % 1000));
        let body = json!({ "tags": { "round": number } });
        Ok(self.call(Method::PATCH, &path, Some(&body)).await?.1)
    }

    async fn write_many(&self, count: usize) -> Result<Rounds> {
        let mut spans = Rounds::default();
        for number in 0..count {
            spans.push(self.write(number).await?);
        }
        Ok(spans)
    }

    async fn write_until(&self, stop: Arc<AtomicBool>) -> Result<Rounds> {
        let mut spans = Rounds::default();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            spans.push(self.write(number).await?);
            tokio::time::sleep(WRITE_PAUSE).await;
        }
        Ok(spans)
    }
}

/// A quarter each of pumps, valves, motors and presses, numbered through; one in 1000 is
/// disabled, one in 50 an edge device, one in ten was never seen, the others within a month.
fn fill(path: &Path, devices: u32) -> Result<()> {
    let db = Connection::open(path)?;
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000; \
         BEGIN; {TABLES_V1} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; \
         CREATE TEMP TABLE number AS \
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {devices}) \
             SELECT n FROM n; \
         INSERT INTO identity SELECT n, \
             CASE n % 4 WHEN 0 THEN 'pump' WHEN 1 THEN 'valve' WHEN 2 THEN 'motor' \
             ELSE 'press' END || printf('-%07d', n), \
             '', n, n * 4294967296 + 1, n % 1000 <> 0, NULL, 0, 1, '{KEY}', '{KEY}', n % 50 = 0, '' \
             FROM number; \
         INSERT INTO twin SELECT n, 3, n, \
             json_object('site', 's' || (n % 200), 'hall', 'h' || (50 * (n - 1) / {devices}), \
             'line', n % 10, 'owner', json_object('team', 't' || (n % 7))), '{{}}', 1, '{{}}', 1 \
             FROM number; \
         INSERT INTO twin_metadata SELECT n, '{{}}', '{{}}' FROM number; \
         INSERT INTO activity SELECT n, {ACTIVE_UNTIL_MS} - (n * 7919 % 2592000) * 1000, \
             {ACTIVE_UNTIL_MS} - (n * 7919 % 2592000) * 1000 FROM number WHERE n % 10 <> 0; \
         COMMIT; PRAGMA wal_checkpoint(TRUNCATE);"
    ))?;
    Ok(())
}
