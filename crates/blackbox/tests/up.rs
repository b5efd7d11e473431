//! `selvedge up` as a new user starts it: hub, device, and the pipeline of containers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use blackbox::place::Scratch;
use blackbox::up::{DEVICE, LIMIT, Telemetry, Up};
use blackbox::wait;
use serde_json::{Value, json};

/// A threshold that no score reaches.
const SILENT: f64 = 1e6;
/// The threshold at which a burden is an anomaly.
const THRESHOLD: f64 = 4.0;
/// A burden shows by so many points of a hundred more than anything before it.
const JUMP: f64 = 8.0;
/// Processors as busy as this have no room for a burden that shows.
const CPU_BUSY_PERCENT: f64 = 60.0;
/// Readings without an anomaly that count as quiet.
const QUIET: u64 = 8;
/// Longest time that a burden lasts.
const BURDEN_MAX: Duration = Duration::from_mins(1);

#[test]
fn containers_run_the_pipeline_and_the_hub_sees_every_reading_in_order() -> Result<()> {
    the_pipeline_runs_on("embedded")
}

#[test]
fn the_process_engine_runs_the_same_pipeline() -> Result<()> {
    the_pipeline_runs_on("process")
}

fn the_pipeline_runs_on(engine: &'static str) -> Result<()> {
    let scratch = Scratch::short("up")?;
    let mut up = Up::start(scratch.path(), engine)?;
    if engine == "embedded" {
        wait::until("the containers' bridge", LIMIT, || Ok(up.interfaces()?.pop()))?;
    }
    let telemetry = up.follow()?;
    let seen = wait_for_readings(&telemetry, 4)?;
    ensure!(seen.iter().all(|body| body["cpu"]["percent"].is_number()), "{seen:?}");
    ensure!(follows(&seen), "readings out of order: {seen:?}");

    // A threshold that silences everything is obeyed by the living module.
    up.set("anomaly", &json!({ "threshold": SILENT, "history": 30 }))?;

    // Both modules' logs come through the hub by the built-in method.
    for module in ["host-sensor", "anomaly"] {
        let ask = json!({
            "schemaVersion": "1.0", "items": { "id": module, "filter": { "tail": 20 } },
            "encoding": "none", "contentType": "text",
        });
        let ask = ask.to_string();
        let args = ["method", DEVICE, "-m", "$edgeAgent", "GetModuleLogs", &ask];
        let answer = up.command(&args)?;
        ensure!(answer.contains("module starts"), "{module}'s log: {answer}");
    }
    ends_whole(&mut up, telemetry)?;
    drop(up);
    scratch.passed()
}

/// Ctrl-C, after which nothing but the data is left.
fn ends_whole(up: &mut Up, telemetry: Telemetry) -> Result<()> {
    drop(telemetry);
    up.interrupt()?;
    let remains = up.remains()?;
    ensure!(remains.is_empty(), "left behind:\n{}", remains.join("\n"));
    Ok(())
}

#[test]
fn a_burden_is_an_anomaly_until_the_threshold_says_otherwise() -> Result<()> {
    let scratch = Scratch::short("up")?;
    let mut up = Up::start(scratch.path(), "embedded")?;
    let telemetry = up.follow()?;
    let metric = metric(&telemetry)?;
    let parameters = json!({ "metrics": [metric], "history": 10, "threshold": THRESHOLD });
    up.set("anomaly", &parameters)?;
    wait_for(&telemetry, last(&telemetry)?.max(4) + 10)?;
    let (before, usual) = (last(&telemetry)?, highest(&telemetry, metric));
    let burden = Burden::start()?;
    let number = |body: &Value, name: &str| body[name].as_f64().unwrap_or(f64::NAN);
    let found = wait::until("an anomaly of the burden", LIMIT, || {
        // Nothing but the burden is that high.
        let rises = |body: &Value| number(body, "value") > usual + JUMP;
        Ok(anomalies(&telemetry, before).into_iter().find(rises))
    })?;
    println!("burden: at most {usual} before, then {found}");
    ensure!(number(&found, "score") > THRESHOLD && found["metric"] == metric, "{found}");
    ensure!(found["threshold"].as_f64() == Some(THRESHOLD), "{found}");
    drop(burden);

    // The same burden again; the threshold is so high now that nobody minds.
    up.set("anomaly", &json!({ "threshold": SILENT }))?;
    let silent = last(&telemetry)? + 1;
    wait_for(&telemetry, silent + 2)?;
    let burden = Burden::start()?;
    wait_for(&telemetry, silent + 2 + QUIET)?;
    drop(burden);
    let found = anomalies(&telemetry, silent);
    ensure!(found.is_empty(), "anomalies though nothing should be one: {found:?}");
    ends_whole(&mut up, telemetry)?;
    drop(up);
    scratch.passed()
}

/// What shows a burden: the processors, unless this machine keeps them busy anyway; then the
/// memory that the burden takes as well.
fn metric(telemetry: &Telemetry) -> Result<&'static str> {
    let readings = wait_for_readings(telemetry, 5)?;
    let percent = |body: &Value| body["cpu"]["percent"].as_f64().unwrap_or(100.0);
    let busy = readings.iter().map(percent).fold(0.0, f64::max);
    Ok(if busy < CPU_BUSY_PERCENT { "cpu.percent" } else { "memory.usedPercent" })
}

/// The highest that `metric` was in any reading so far.
fn highest(telemetry: &Telemetry, metric: &str) -> f64 {
    let pointer = format!("/{}", metric.replace('.', "/"));
    let readings = telemetry.of("host-sensor", "readings");
    let values = readings.iter().filter_map(|body| body.pointer(&pointer)?.as_f64());
    values.fold(0.0, f64::max)
}

/// The sequence number of the newest reading.
fn last(telemetry: &Telemetry) -> Result<u64> {
    let readings = wait_for_readings(telemetry, 1)?;
    readings.last().and_then(|body| body["seq"].as_u64()).context("no seq")
}

fn wait_for(telemetry: &Telemetry, seq: u64) -> Result<()> {
    let what = format!("reading {seq}");
    wait::until(&what, LIMIT, || Ok((last(telemetry)? >= seq).then_some(())))
}

fn wait_for_readings(telemetry: &Telemetry, count: usize) -> Result<Vec<Value>> {
    wait::until("readings", LIMIT, || {
        let seen = telemetry.of("host-sensor", "readings");
        Ok((seen.len() >= count).then_some(seen))
    })
}

/// Anomalies in readings after `seq`.
fn anomalies(telemetry: &Telemetry, seq: u64) -> Vec<Value> {
    let mut found = telemetry.of("anomaly", "anomalies");
    found.retain(|body| body["seq"].as_u64().is_some_and(|found| found > seq));
    found
}

/// Whether the readings are of one life of the sensor and none is missing.
fn follows(readings: &[Value]) -> bool {
    readings.windows(2).all(|two| {
        let seq = |body: &Value| body["seq"].as_u64().unwrap_or(0);
        two[0]["run"] == two[1]["run"] && seq(&two[1]) == seq(&two[0]) + 1
    })
}

/// Work for every core, and a sixth of the memory taken, until dropped.
struct Burden {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Burden {
    fn start() -> Result<Self> {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let total = memory.split_ascii_whitespace().nth(1).context("MemTotal")?.parse::<usize>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |bytes: usize| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (start, held) = (Instant::now(), vec![1_u8; bytes]);
                let mut sum = 0_u64;
                while !stop.load(Ordering::Relaxed) && start.elapsed() < BURDEN_MAX {
                    sum = held.iter().take(4096).fold(sum, |sum, byte| sum ^ u64::from(*byte));
                }
                std::hint::black_box((sum, held));
            })
        };
        let cores = thread::available_parallelism()?.get();
        let mut workers = vec![worker(total * 1024 / 6)];
        workers.extend((0..cores).map(|_| worker(4096)));
        Ok(Self { stop, workers })
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // It has no result that could be wrong.
            worker.join().ok();
        }
    }
}

#[test]
fn a_killed_up_leaves_its_modules_running_and_the_next_one_adopts_them() -> Result<()> {
    let scratch = Scratch::short("up")?;
    let mut up = Up::start(scratch.path(), "embedded")?;
    let telemetry = up.follow()?;
    wait_for_readings(&telemetry, 3)?;
    let pids = |up: &Up| ["host-sensor", "anomaly"].map(|module| up.module(module));
    let before = pids(&up);
    ensure!(before.iter().all(|pids| pids.len() == 1), "one process each: {before:?}");

    let second = up.second()?;
    let said = String::from_utf8(second.stderr)?;
    ensure!(!second.status.success(), "a second up on the same folder: {said}");
    let holder = format!("process {} already runs", up.pid()?);
    ensure!(said.contains(&holder), "{holder:?} was not said: {said}");
    ensure!(pids(&up) == before, "the second up touched what runs");

    let seen = last(&telemetry)?;
    up.kill()?;
    drop(telemetry);
    ensure!(pids(&up) == before, "modules ended with up");
    up.start_again()?;
    let telemetry = up.follow()?;
    wait_for(&telemetry, seen + 4)?;
    ensure!(pids(&up) == before, "{:?} run instead of {before:?}", pids(&up));
    let readings = telemetry.of("host-sensor", "readings");
    ensure!(follows(&firsts(&readings)), "readings of two lives do not join: {readings:?}");
    ends_whole(&mut up, telemetry)?;
    drop(up);
    scratch.passed()
}

/// Each reading once: what was on its way at the kill may come again.
fn firsts(readings: &[Value]) -> Vec<Value> {
    let mut firsts: Vec<Value> = Vec::new();
    for reading in readings {
        let is_new = |last: &Value| reading["seq"].as_u64() > last["seq"].as_u64();
        if firsts.last().is_none_or(is_new) {
            firsts.push(reading.clone());
        }
    }
    firsts
}
