//! Devices that ask and read nothing: what they pin is bounded, others are answered at once, and
//! they are cut off in the end.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::script::Script;
use serde_json::json;

const DEAF: u64 = 20;
/// Twin reads of each: 18 kB on the wire.
const READS: usize = 450;
/// Desired changes for each, of a kilobyte.
const PATCHES: usize = 100;
/// Answers of the twin of `deaf.py`, in KiB each.
const ANSWER_KIB: usize = 31;
/// What one of them may pin in the hub's own memory, in KiB; what it asks for is five times that.
const KIB_MAX: u64 = 3 * 1024;
/// The window of a deaf device, in bytes.
const WINDOW: usize = 4096;
const SOON: Duration = Duration::from_secs(30);
/// An honest device waits no longer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// The hub's patience is a minute.
const CUT_BY: Duration = Duration::from_secs(100);

/// Memory of the hub that it shares with nobody, in KiB.
fn memory(hub: &Hub) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", hub.pid()?))?;
    let own = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    Ok(own.context("no memory of its own")?.trim().trim_end_matches(" kB").parse()?)
}

/// The memory once it grows no more.
fn level(hub: &Hub) -> Result<u64> {
    let mut last = memory(hub)?;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = memory(hub)?;
        if now <= last + 256 {
            return Ok(now);
        }
        last = now;
    }
}

fn open(hub: &Hub, scratch: &Scratch, name: &str, window: usize) -> Result<Script> {
    let secret = hub.create_device(name)?;
    let options = json!({"port": MQTT_PORT, "ca": hub.ca()}).to_string();
    let mut script = Script::start("deaf.py", name, scratch.path(), [options], &secret)?;
    script.ask(json!({"do": "open", "window": window}), SOON)?;
    Ok(script)
}

#[test]
fn devices_that_read_nothing_pin_little_and_are_cut_off() -> Result<()> {
    let scratch = Scratch::new("outward")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut honest = open(&hub, &scratch, "honest", 0)?;
    honest.ask(json!({"do": "read"}), SOON)?;
    let mut deaf = Vec::new();
    for at in 0..DEAF {
        deaf.push(open(&hub, &scratch, &format!("deaf{at}"), WINDOW)?);
    }
    let before = level(&hub)?;
    let start = Instant::now();
    for script in &mut deaf {
        script.ask(json!({"do": "deafen", "reads": READS}), SOON)?;
    }
    for round in 0..PATCHES {
        let text = format!("{{\"p{round}\": \"{}\"}}", "x".repeat(1024));
        let drop = format!("{{\"p{round}\": null}}");
        for patch in [text, drop] {
            hub.run(&["twin", "set", "deaf0", "--desired", &patch])?;
        }
        if start.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    let pinned = level(&hub)?.saturating_sub(before);
    let seconds = honest.ask(json!({"do": "read"}), SOON)?;
    let seconds = seconds.as_f64().context("no time")?;
    println!(
        "outward: {DEAF} devices that ask for {} KiB each and read nothing pin {} MB, {} KiB \
         each; an honest device has its twin in {:.0} ms",
        READS * ANSWER_KIB,
        pinned / 1024,
        pinned / DEAF,
        seconds * 1000.0
    );
    ensure!(pinned / DEAF <= KIB_MAX, "{} KiB are pinned by each", pinned / DEAF);
    ensure!(seconds <= ANSWER_MAX.as_secs_f64(), "the honest device waited {seconds} s");
    loop {
        let cut = (0..DEAF)
            .map(|at| hub.logged(&format!("deaf{at}"), "takes nothing and is cut off"))
            .collect::<Result<Vec<_>>>()?;
        if cut.iter().all(|told| *told > 0) {
            break;
        }
        ensure!(start.elapsed() < CUT_BY, "not all were cut off: {cut:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
    honest.ask(json!({"do": "read"}), SOON)?;
    println!("outward: all were cut off after {:.0} s", start.elapsed().as_secs_f64());
    drop(deaf);
    hub.stop()?;
    scratch.passed()
}
