//! Under strace: between the read that completes a patch of a twin and the write that holds its
//! answer lies a completed sync of the tables' log, which holds the patch.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::script::Script;
use blackbox::trace::{Call, Tracer};
use serde_json::{Map, Value, json};

/// Reported patches of the stock device, and patches by the command line.
const REPORTS: usize = 60;
const PATCHES: usize = 8;
/// Keys of a patch, and the bytes of each: close to what a section may have.
const KEYS: usize = 7;
const TEXT_BYTES: usize = 4000;
/// Less than any patch; more than a handshake and anything else that a client sends.
const REQUEST_BYTES: i64 = 27_000;
/// A page of the tables; a patch fills more of them than any other write.
const PAGE_BYTES: i64 = 4096;
const PAGES: usize = 7;

const SOON: Duration = Duration::from_secs(30);

fn patch(number: usize) -> Value {
    let fill = |key| (format!("k{key}"), json!(format!("{number} {}", "x".repeat(TEXT_BYTES - 8))));
    Value::Object((0..KEYS).map(fill).collect::<Map<_, _>>())
}

#[test]
fn every_answer_to_a_patch_is_written_after_the_tables_were_synced() -> Result<()> {
    let scratch = Scratch::new("twin-sync")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let secret = hub.create_device("traced")?;
    let args = [json!({ "ca": hub.ca() }).to_string()];
    let mut device = Script::start("device.py", "device", scratch.path(), args, &secret)?;
    device.ask(json!({"do": "connect"}), SOON)?;
    // The first brings the subscriptions, before the trace.
    device.ask(json!({"do": "report", "patch": {"first": true}}), SOON)?;
    let tracer = Tracer::attach(hub.pid()?, &scratch.path().join("trace"))?;
    for number in 0..REPORTS {
        device.ask(json!({"do": "report", "patch": patch(number)}), SOON)?;
    }
    for number in 0..PATCHES {
        hub.run(&["twin", "set", "traced", "--desired", &patch(number).to_string()])?;
    }
    let calls = tracer.finish()?;
    // By HTTPS the answer is the twin; what is shorter belongs to the handshake. By MQTT nothing
    // at all may come before.
    let ports = [(MQTT_PORT, 1, REPORTS), (hub.https()?.port(), REQUEST_BYTES, PATCHES)];
    for (port, least, expected) in ports {
        let checked = check(&calls, (port, least))?;
        ensure!(checked == expected, "{checked} answers at port {port}, not {expected}");
        // The control: without the syncs of the log, as `synchronous=NORMAL` has it, it is seen.
        let unsynced: Vec<_> = calls.iter().filter(|call| !is_sync(call)).cloned().collect();
        ensure!(
            check(&unsynced, (port, least)).is_err(),
            "answers without a sync pass at port {port}"
        );
    }
    println!("twin sync: {REPORTS} reports and {PATCHES} patches were synced before their answers");
    drop(device);
    hub.stop()?;
    scratch.passed()
}

fn is_sync(call: &Call) -> bool {
    ["fsync", "fdatasync"].contains(&call.name.as_str()) && call.target.ends_with("hub.db-wal")
}

/// Counts the answers at `port`: the first write to a socket of `least` bytes or more, after as
/// many bytes were read from it as a patch has. Each must have its sync before it.
fn check(calls: &[Call], (port, least): (u16, i64)) -> Result<usize> {
    let local = format!(":{port}->");
    let mut read: BTreeMap<&str, (i64, usize)> = BTreeMap::new();
    let mut count = 0;
    // A read counts when it has ended, a write when it begins.
    let place = |call: &Call| if call.name.starts_with("re") { call.ended } else { call.begun };
    let on_socket = |call: &&Call| call.target.starts_with("TCP") && call.target.contains(&local);
    let mut on_port: Vec<_> = calls.iter().filter(on_socket).filter(|it| it.result > 0).collect();
    on_port.sort_by_key(|call| place(call));
    for call in on_port {
        let (bytes, ended) = read.entry(&call.target).or_default();
        if call.name.starts_with("re") {
            *bytes += call.result;
            *ended = call.ended;
        } else if call.result >= least {
            if *bytes >= REQUEST_BYTES {
                synced_between(calls, *ended, call.begun)
                    .with_context(|| format!("answer {count} at port {port}: {call:?}"))?;
                count += 1;
            }
            *bytes = 0;
        }
    }
    Ok(count)
}

/// Between the lines `read` and `answer` all pages of a patch are written to the log, and then
/// the log is synced.
fn synced_between(calls: &[Call], read: usize, answer: usize) -> Result<()> {
    let between = |call: &&Call| call.begun > read && call.ended < answer;
    let pages: Vec<_> = calls
        .iter()
        .filter(between)
        .filter(|call| call.target.ends_with("hub.db-wal") && call.result == PAGE_BYTES)
        .collect();
    ensure!(pages.len() >= PAGES, "{} pages were written before it", pages.len());
    let last = pages.iter().map(|page| page.ended).max().context("no page")?;
    let synced = calls
        .iter()
        .filter(between)
        .any(|call| is_sync(call) && call.begun > last && call.result == 0);
    ensure!(synced, "the log was not synced before it");
    Ok(())
}
