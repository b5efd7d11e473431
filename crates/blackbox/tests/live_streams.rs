//! Two hundred browsers' worth of live streams on one hub: those that take nothing are cut,
//! the others notice nothing, and what the slow ones held is free again.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::script::Script;
use serde_json::{Value, json};

const QUICK: usize = 194;
const SLOW: usize = 6;
const SOON: Duration = Duration::from_mins(1);
/// Streams of events are cut within 20 s, their connections within 30 s of the last byte taken;
/// their windows fill in a few seconds.
const CUT_BY: Duration = Duration::from_secs(50);
/// Longest silence of a stream that is told ten small messages a second, at most four times a
/// second; far below the time that a slow one is waited for.
const SILENCE_MS_MAX: u64 = 5000;
/// Rounds of opening and closing all streams. What one leaves is used again by the next; the
/// allocator may need a few until each of its arenas has had its share.
const ROUNDS: usize = 20;
/// So many rounds follow each other; then all streams are given up, for the hub keeps one for half
/// a minute in case its browser comes back, and no more than a thousand.
const ROUNDS_GROUP: usize = 4;
/// What a round may add, by the slope over all groups but the first, in which the arenas fill. A
/// forgotten stream holds its queue, some 40 KiB: seven of a round's two hundred are more.
const SLOPE_KIB_MAX: f64 = 256.0;

/// The hub's side of its HTTPS connections, as the kernel tells: how many stand, and the bytes
/// that wait in it.
fn sockets(hub: &Hub) -> Result<(usize, u64)> {
    let SocketAddr::V4(here) = hub.https()? else { bail!("not IPv4") };
    let name = kernel_name(here);
    let table = fs::read_to_string("/proc/net/tcp")?;
    let (mut standing, mut waiting) = (0, 0);
    for line in table.lines().skip(1) {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, _, state, queues) =
            (words.next(), words.next(), words.next(), words.next().context("no queues")?);
        // Listening sockets and those that the other side has to forget do not count.
        if local != Some(&name) || matches!(state, Some("0A" | "06")) {
            continue;
        }
        let (unsent, _) = queues.split_once(':').context("no queues")?;
        standing += 1;
        waiting += u64::from_str_radix(unsent, 16)?;
    }
    Ok((standing, waiting))
}

fn kernel_name(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// Memory of the process that it shares with nobody, in KiB, and its CPU time in seconds.
fn spent(hub: &Hub) -> Result<(u64, f64)> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", hub.pid()?))?;
    let own = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let own = own.context("no memory of its own")?.trim().trim_end_matches(" kB").parse()?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", hub.pid()?))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no tick")?;
    Ok((own, ticks / f64::from(i32::try_from(per_second)?)))
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no {name} in {value}"))
}

fn policy_key(hub: &Hub) -> Result<Value> {
    let policies: Value =
        serde_json::from_slice(&fs::read(hub.folder().join("hub/policies.json"))?)?;
    Ok(policies["policies"]["iothubowner"].clone())
}

#[test]
fn of_two_hundred_browsers_those_that_take_nothing_are_cut_and_harm_nobody() -> Result<()> {
    let scratch = Scratch::new("streams")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let secret = hub.create_device("d")?;
    let options = json!({
        "host": hub.address().to_string(), "port": hub.https()?.port(), "mqtt_port": MQTT_PORT,
        "ca": hub.ca(), "key": policy_key(&hub)?,
    });
    let mut browsers =
        Script::start("browsers.py", "browsers", scratch.path(), [options.to_string()], &secret)?;
    let before = spent(&hub)?;
    browsers.ask(json!({"do": "open", "quick": QUICK, "slow": SLOW}), SOON)?;
    let open = browsers.ask(json!({"do": "health"}), SOON)?;
    ensure!(number(&open["live"], "open")? == (QUICK + SLOW) as u64, "{open}");
    browsers.ask(json!({"do": "talk"}), SOON)?;
    browsers.ask(json!({"do": "report"}), SOON)?;
    let start = Instant::now();
    let (mut most, mut waited_most) = (0, 0);
    let cut_after = loop {
        let (standing, waiting) = sockets(&hub)?;
        most = most.max(spent(&hub)?.0);
        waited_most = waited_most.max(waiting);
        if standing == QUICK {
            break start.elapsed();
        }
        ensure!(start.elapsed() < CUT_BY, "{standing} connections stand, {QUICK} are read");
        sleep(Duration::from_millis(200));
    };
    let said = browsers.ask(json!({"do": "report"}), SOON)?;
    let health = browsers.ask(json!({"do": "health"}), SOON)?;
    let live = &health["live"];
    ensure!(number(live, "cut")? == SLOW as u64, "counted: {live}");
    ensure!(number(live, "open")? == QUICK as u64, "counted: {live}");
    ensure!(number(live, "overflows")? > 0, "their room was used up: {live}");
    ensure!(waited_most > 0, "the kernel kept nothing for the slow ones");
    check_quick(&said, start.elapsed())?;
    let slow = browsers.ask(json!({"do": "slow"}), SOON)?;
    ensure!(slow == json!(SLOW), "{slow} of {SLOW} slow browsers noticed");
    // Nothing is left of them: what waits is what the quick ones are about to read.
    let sent = browsers.ask(json!({"do": "hush"}), SOON)?;
    let sent = sent.as_u64().context("no count")?;
    let reached = blackbox::wait::until("the last message", SOON, || {
        let said = browsers.ask(json!({"do": "report"}), SOON)?;
        ensure!(number(&said, "missed")? == 0 && said["ended"] == json!([]), "{said}");
        Ok((number(&said, "reached")? >= sent).then_some(sent))
    })?;
    blackbox::wait::until("the kernel's buffers to be empty", SOON, || {
        Ok((sockets(&hub)?.1 == 0).then_some(()))
    })?;
    let (with_quick, cpu) = spent(&hub)?;
    let after = close_all(&mut browsers, &hub)?;
    println!(
        "streams: {QUICK} read, {SLOW} not; cut after {:.1} s; {reached} messages to each; \
         longest silence {} ms; {} KiB before, {most} at most, {with_quick} with the rest, \
         {after} after; CPU {:.1} s in {:.0} s",
        cut_after.as_secs_f64(),
        number(&said, "longest_silence_ms")?,
        before.0,
        cpu - before.1,
        start.elapsed().as_secs_f64(),
    );
    levels_off(after, &mut browsers, &hub)?;
    browsers.finish(SOON)?;
    hub.stop()?;
    scratch.passed()
}

/// Opens and closes all streams twenty times; the memory of the hub may have no slope.
#[expect(clippy::cast_precision_loss, reason = "a few KiB and a few rounds are exact as f64")]
fn levels_off(before: u64, browsers: &mut Script, hub: &Hub) -> Result<()> {
    let mut groups = Vec::new();
    for round in 1..=ROUNDS {
        if round % ROUNDS_GROUP == 1 {
            groups.push(given_up(browsers, hub)?);
        }
        browsers.ask(json!({"do": "open", "quick": QUICK, "slow": SLOW}), SOON)?;
        close_all(browsers, hub)?;
    }
    groups.push(given_up(browsers, hub)?);
    let found = slope(&groups[1..]) / ROUNDS_GROUP as f64;
    println!("streams: {found:.1} KiB more each round, {before} and then {groups:?} KiB");
    ensure!(found <= SLOPE_KIB_MAX, "each round adds {found:.1} KiB: {groups:?} KiB");
    Ok(())
}

/// Waits until no stream is kept for anybody; the memory of the hub then, in KiB.
fn given_up(browsers: &mut Script, hub: &Hub) -> Result<u64> {
    blackbox::wait::until("all streams to be given up", SOON, || {
        let health = browsers.ask(json!({"do": "health"}), SOON)?;
        Ok((number(&health["live"], "open")? == 0).then_some(()))
    })?;
    Ok(spent(hub)?.0)
}

/// The median of the slopes between any two rounds (Theil and Sen): a single step of the
/// allocator, early or late, does not move it; what every round adds does.
#[expect(clippy::cast_precision_loss, reason = "a few KiB and a few rounds are exact as f64")]
fn slope(rounds: &[u64]) -> f64 {
    let at = |place: usize| rounds[place] as f64;
    let mut slopes: Vec<f64> = (0..rounds.len())
        .flat_map(|from| (from + 1..rounds.len()).map(move |to| (from, to)))
        .map(|(from, to)| (at(to) - at(from)) / (to - from) as f64)
        .collect();
    slopes.sort_by(f64::total_cmp);
    slopes[slopes.len() / 2]
}

#[test]
fn a_slope_is_what_every_round_adds_and_no_single_step() {
    let check = |rounds: Vec<u64>, expected: f64| {
        assert!((slope(&rounds) - expected).abs() < 1e-9, "{rounds:?}: {}", slope(&rounds));
    };
    check((0..17).map(|round| 5000 + 40 * round).collect(), 40.0);
    check((0..17).map(|round| if round < 3 { 5000 } else { 9000 }).collect(), 0.0);
    check((0..17).map(|round| 5000 - round % 2).collect(), 0.0);
}

/// Ends every stream; the memory of the hub once it has noticed, in KiB.
fn close_all(browsers: &mut Script, hub: &Hub) -> Result<u64> {
    browsers.ask(json!({"do": "close"}), SOON)?;
    blackbox::wait::until("all connections to end", SOON, || {
        Ok((sockets(hub)?.0 == 0).then_some(()))
    })?;
    Ok(spent(hub)?.0)
}

fn check_quick(said: &Value, span: Duration) -> Result<()> {
    ensure!(said["ended"] == json!([]), "streams that were read ended: {said}");
    ensure!(number(said, "missed")? == 0, "messages were left out: {said}");
    ensure!(number(said, "longest_silence_ms")? < SILENCE_MS_MAX, "a stream was silent: {said}");
    // At least one update a second, where four are allowed.
    ensure!(number(said, "fewest_updates")? >= span.as_secs(), "in {span:?}: {said}");
    Ok(())
}
