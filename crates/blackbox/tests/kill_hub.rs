//! Kill -9 of the hub at times from a printed seed: nothing acknowledged is lost, nothing is
//! out of order, and repeats stay within what was in flight.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use blackbox::hub::{Door, Hub};
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::script::Script;
use blackbox::seed::Seed;
use blackbox::wait;
use serde_json::{Value, json};

const SENDERS: usize = 3;
/// Kills right after an acknowledgement, by the process that read it.
const KILLS_AFTER_ACK: usize = 20;
/// Kills at any time while messages flow.
const KILLS_ANY_TIME: usize = 25;
/// Kills while the hub starts and recovers.
const KILLS_AT_START: usize = 15;
const KILLS: usize = KILLS_AFTER_ACK + KILLS_ANY_TIME + KILLS_AT_START;
/// Acknowledged messages without which the run proves too little.
const MESSAGES_MIN: usize = 300_000;
/// Messages in flight per sender.
const IN_FLIGHT_MAX: usize = 64;
/// How soon after an acknowledgement a kill counts as one.
const AFTER_ACK_MAX: Duration = Duration::from_millis(2);
const AFTER_ACK_MIN: usize = 10;
/// Longest time without any acknowledgement while the hub runs.
const PROGRESS: Duration = Duration::from_mins(1);
/// Longest time to read the whole log back.
const READ_BACK: Duration = Duration::from_mins(2);

struct Sender {
    device: String,
    acks: PathBuf,
    script: Script,
}

impl Sender {
    fn start(hub: &Hub, scratch: &Path, number: usize) -> Result<Self> {
        let device = format!("sender-{number}");
        let secret = hub.create_device(&device)?;
        let acks = scratch.join(format!("{device}.acks"));
        let options = json!({
            "port": MQTT_PORT, "ca": hub.ca(), "window": IN_FLIGHT_MAX, "pad": 200, "acks": acks,
        });
        let args = [options.to_string()];
        let script = Script::start("sender.py", &device, scratch, args, &secret)?;
        Ok(Self { device, acks, script })
    }

    /// The numbers that this sender's process wrote down as acknowledged.
    fn acknowledged(&self) -> Result<Vec<u32>> {
        let bytes = fs::read(&self.acks)?;
        ensure!(bytes.len() % 4 == 0, "the list of {} is torn", self.device);
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

fn acknowledged(senders: &[Sender]) -> Result<usize> {
    senders.iter().try_fold(0, |sum, sender| {
        let bytes = fs::metadata(&sender.acks).map_or(0, |file| file.len());
        Ok(sum + usize::try_from(bytes / 4)?)
    })
}

#[test]
fn a_killed_hub_loses_and_reorders_nothing_it_acknowledged() -> Result<()> {
    let start = Instant::now();
    let scratch = Scratch::new("kill-hub")?;
    let mut seed = Seed::announced("kill_hub");
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let mut senders = Vec::new();
    for number in 0..SENDERS {
        senders.push(Sender::start(&hub, scratch.path(), number)?);
    }
    let soon_after_ack = kill_many(&mut hub, &mut senders, &mut seed)?;
    wait_for_acks(&senders, MESSAGES_MIN)?;
    for sender in &mut senders {
        sender.script.tell(json!({"do": "stop"}))?;
    }
    for sender in &mut senders {
        sender.script.event_of("finished", PROGRESS)?;
    }
    let sent = acknowledged(&senders)?;
    println!(
        "kill_hub: {KILLS} kills, {soon_after_ack} of them within {} ms of an acknowledgement, \
         {sent} messages acknowledged, {} s",
        AFTER_ACK_MAX.as_millis(),
        start.elapsed().as_secs()
    );
    let log = read_back(&hub, &senders)?;
    for sender in &senders {
        compare(sender, log.get(&sender.device).map_or(&[], Vec::as_slice))?;
    }
    ensure!(soon_after_ack >= AFTER_ACK_MIN, "only {soon_after_ack} kills soon after an answer");
    ensure!(sent >= MESSAGES_MIN, "only {sent} messages");
    println!("kill_hub: read back and compared after {} s", start.elapsed().as_secs());
    hub.stop()?;
    drop(senders);
    scratch.passed()
}

#[derive(Clone, Copy)]
enum Moment {
    AfterAck,
    AnyTime,
    AtStart,
}

/// Kills and starts again; how many kills came within [`AFTER_ACK_MAX`] of an acknowledgement.
fn kill_many(hub: &mut Hub, senders: &mut [Sender], seed: &mut Seed) -> Result<usize> {
    let mut plan = [
        vec![Moment::AfterAck; KILLS_AFTER_ACK],
        vec![Moment::AnyTime; KILLS_ANY_TIME],
        vec![Moment::AtStart; KILLS_AT_START],
    ]
    .concat();
    let mut soon = 0;
    // So many messages lie between two kills that all kills fall into the run.
    let share = u64::try_from(MESSAGES_MIN / KILLS)?;
    while !plan.is_empty() {
        let moment = plan.swap_remove(usize::try_from(seed.below(u64::try_from(plan.len())?))?);
        let progress = usize::try_from(1 + seed.below(2 * share))?;
        match moment {
            Moment::AtStart => {
                hub.kill()?;
                hub.spawn()?;
                sleep(Duration::from_micros(seed.below(150_000)));
                hub.kill()?;
            }
            Moment::AnyTime => {
                wait_for_acks(senders, acknowledged(senders)? + progress)?;
                sleep(Duration::from_micros(seed.below(20_000)));
                hub.kill()?;
            }
            Moment::AfterAck => {
                wait_for_acks(senders, acknowledged(senders)? + progress)?;
                let chosen = usize::try_from(seed.below(u64::try_from(senders.len())?))?;
                let micros = kill_after_ack(hub, &mut senders[chosen].script)?;
                soon += usize::from(Duration::from_micros(micros) <= AFTER_ACK_MAX);
            }
        }
        hub.start_again()?;
    }
    Ok(soon)
}

/// The sender itself kills, right after it read and wrote down an acknowledgement.
fn kill_after_ack(hub: &mut Hub, sender: &mut Script) -> Result<u64> {
    sender.tell(json!({"do": "kill", "pid": hub.pid()?}))?;
    let killed = sender.event_of("killed", PROGRESS)?;
    hub.wait_killed()?;
    killed["micros"].as_u64().context("no time")
}

fn wait_for_acks(senders: &[Sender], count: usize) -> Result<()> {
    let (mut seen, mut moved) = (acknowledged(senders)?, Instant::now());
    wait::until("acknowledgements", Duration::from_mins(10), || {
        let now = acknowledged(senders)?;
        if now > seen {
            (seen, moved) = (now, Instant::now());
        }
        ensure!(moved.elapsed() < PROGRESS, "nothing was acknowledged for a minute");
        Ok((now >= count).then_some(()))
    })
}

/// What the hub's log holds per device, in its order, up to each sender's last message.
fn read_back(hub: &Hub, senders: &[Sender]) -> Result<HashMap<String, Vec<u32>>> {
    let mut monitor = hub
        .command(&["-o", "jsonl", "monitor", "--from", "start"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(monitor.stdout.take().context("no output")?);
    let (sender, lines) = mpsc::sync_channel(10_000);
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut log: HashMap<String, Vec<u32>> = HashMap::new();
    let mut ends = 0;
    while ends < senders.len() {
        let left = READ_BACK.saturating_sub(start.elapsed());
        let Ok(line) = lines.recv_timeout(left) else {
            monitor.kill()?;
            let found: usize = log.values().map(Vec::len).sum();
            bail!("the monitor gave {found} messages and {ends} ends, then no more");
        };
        let message: Value = serde_json::from_str(&line)?;
        let device = message["deviceId"].as_str().context("no deviceId")?;
        let body = message["body"].as_str().context("no body")?;
        if body == "end" {
            ends += 1;
            continue;
        }
        let (number, _) = body.split_once(' ').context("a body of somebody else")?;
        log.entry(device.to_owned()).or_default().push(number.parse()?);
    }
    monitor.kill()?;
    monitor.wait()?;
    Ok(log)
}

/// First copies are complete and strictly ascending; repeats are few.
fn compare(sender: &Sender, log: &[u32]) -> Result<()> {
    let device = &sender.device;
    let acknowledged = sender.acknowledged()?;
    let mut firsts: Vec<u32> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for &number in log {
        if seen.insert(number) {
            if let Some(&before) = firsts.last() {
                ensure!(before < number, "{device}: {number} first came after {before}");
            }
            firsts.push(number);
        }
    }
    let lost: Vec<u32> =
        acknowledged.iter().copied().filter(|number| !seen.contains(number)).collect();
    ensure!(lost.is_empty(), "{device}: acknowledged and lost: {lost:?}");
    // At the end all is acknowledged, so the log has no holes at all.
    let last = u32::try_from(firsts.len())?;
    ensure!(
        firsts.last().copied().unwrap_or(0) == last,
        "{device}: {last} first copies have holes"
    );
    let repeats = log.len() - firsts.len();
    let repeats_max = KILLS * IN_FLIGHT_MAX;
    ensure!(repeats <= repeats_max, "{device}: {repeats} repeats; at most {repeats_max}");
    println!("kill_hub: {device}: {last} messages in order, {repeats} repeats (≤ {repeats_max})");
    Ok(())
}
