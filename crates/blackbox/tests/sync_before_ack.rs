//! Under strace: between the read that holds a publish and the write that holds its PUBACK
//! lies a completed sync of the file that holds the message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::edge::{self, Edge, Options};
use blackbox::hub::{Door, Hub};
use blackbox::oracle::Oracle;
use blackbox::place::{MQTT_PORT, Scratch};
use blackbox::script::Script;
use blackbox::trace::{Call, Tracer};
use blackbox::wait;
use serde_json::json;

const PUBLISHES: usize = 1000;
/// Bytes that make a message larger than any other write to the journal.
const PAD_BYTES: usize = 1024;

const LIMIT: Duration = Duration::from_mins(2);

/// One publish at a time, so that TLS hides nothing that matters: the socket's reads and
/// writes then alternate, and each pair is one publish and its PUBACK.
#[test]
fn every_puback_is_written_after_the_message_was_synced() -> Result<()> {
    let scratch = Scratch::new("sync")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let secret = hub.create_device("traced")?;
    let options = json!({
        "port": MQTT_PORT, "ca": hub.ca(), "window": 1, "count": PUBLISHES,
        "pad": PAD_BYTES, "acks": scratch.path().join("acks"), "hold": true, "linger": 600,
    });
    let args = [options.to_string()];
    let mut sender = Script::start("sender.py", "sender", scratch.path(), args, &secret)?;
    sender.event_of("connected", Duration::from_secs(20))?;
    let tracer = Tracer::attach(hub.pid()?, &scratch.path().join("trace"))?;
    sender.tell(json!({"do": "go"}))?;
    sender.event_of("finished", LIMIT)?;
    let calls = tracer.finish()?;
    let checked = check(&calls)?;
    ensure!(checked == PUBLISHES, "{checked} acknowledgements in the trace, not {PUBLISHES}");
    println!("sync: {checked} of {PUBLISHES} publishes were synced before their PUBACK");
    drop(sender);
    hub.stop()?;
    scratch.passed()
}

/// The same for the device's router, whose sender is a module. What the router sends upstream
/// meanwhile writes to the same journal, but nothing as large as a message.
#[test]
fn every_puback_of_the_router_is_written_after_the_message_was_synced() -> Result<()> {
    let scratch = Scratch::short("sy")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let oracle = Oracle::start(&scratch.path().join("oracle"))?;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_sender"));
    let programs = vec![("sender:1".to_owned(), program)];
    let options = Options { engine: "process", programs, ..Options::default() };
    let mut edge = Edge::start(scratch.path(), &hub, "traced", options)?;
    let (pad, path) = (PAD_BYTES.to_string(), oracle.path().display().to_string());
    let env = [("SENDER_ORACLE", &*path), ("SENDER_WINDOW", "1"), ("SENDER_PAD", &*pad)];
    let sender = edge::module("sender:1", &json!({}), &env);
    let route = "FROM /messages/modules/sender/* INTO $upstream";
    let modules = json!({ "sender": sender });
    edge.set_modules(&hub, &modules, &json!({ "up": route }))?;

    let acknowledged = |count: usize| {
        let count = u64::try_from(count)?;
        oracle.allow(count);
        wait::until("acknowledgements", LIMIT, || {
            Ok((oracle.acknowledged()? == count).then_some(()))
        })
    };
    // The connection and its handshake lie before the trace.
    acknowledged(1)?;
    let tracer = Tracer::attach(edge.pid()?, &scratch.path().join("trace"))?;
    acknowledged(1 + PUBLISHES)?;
    let checked = check(&tracer.finish()?)?;
    ensure!(checked == PUBLISHES, "{checked} acknowledgements in the trace, not {PUBLISHES}");
    println!(
        "sync: {checked} of {PUBLISHES} publishes to the router were synced before their PUBACK"
    );
    edge.stop()?;
    hub.stop()?;
    scratch.passed()
}

/// Senders of the test with a window.
const SENDERS: usize = 3;
/// Messages in flight on each connection: as many as stock SDKs have at most.
const WINDOW: usize = 64;
const WINDOW_PUBLISHES: usize = 800;
/// What is written before the trace, so that the segment's end comes within it: bytes of a
/// message, and how many. The hub's segments have 16 MiB.
const FILL_BYTES: usize = 200 * 1024;
const FILL_COUNT: usize = 76;
/// More than one write of the journal has at this load.
const SHOWN_BYTES: usize = 1 << 20;
/// A record of TLS 1.3 beside what is in it: header, kind, tag.
const RECORD_BYTES: usize = 22;
/// A PUBACK.
const PUBACK_BYTES: usize = 4;

/// Sixty-four messages in flight on each of three connections, and a journal that goes on to
/// its next segment meanwhile: whatever is batched, no PUBACK leaves before its own message is
/// synced. What a write to the journal holds is read from the trace; how many PUBACKs a write to
/// a socket holds, from its length.
#[test]
fn with_a_window_on_three_connections_and_over_segments_no_puback_comes_first() -> Result<()> {
    let scratch = Scratch::new("sync-window")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    fill(&hub, &scratch)?;
    let mut senders = Vec::new();
    for number in 0..SENDERS {
        let name = format!("traced-{number}");
        let secret = hub.create_device(&name)?;
        let options = json!({
            "port": MQTT_PORT, "ca": hub.ca(), "window": WINDOW, "count": WINDOW_PUBLISHES,
            "pad": PAD_BYTES, "tag": format!("from-{number}-"), "hold": true, "linger": 600,
            "acks": scratch.path().join(format!("acks-{number}")),
        });
        let args = [options.to_string()];
        let mut sender = Script::start("sender.py", &name, scratch.path(), args, &secret)?;
        let connected = sender.event_of("connected", Duration::from_secs(20))?;
        senders.push((sender, connected["port"].as_u64().context("no port")?));
    }
    let tracer = Tracer::attach_showing(hub.pid()?, &scratch.path().join("trace"), SHOWN_BYTES)?;
    for (sender, _) in &mut senders {
        sender.tell(json!({"do": "go"}))?;
    }
    for (sender, _) in &mut senders {
        sender.event_of("finished", LIMIT)?;
    }
    let calls = tracer.finish()?;
    let synced = synced(&calls);
    for (number, (_, port)) in senders.iter().enumerate() {
        let tag = format!("from-{number}-");
        let (writes, acks) = check_window(&calls, &synced, *port, &tag)?;
        // Both ends of the scale: they are batched, and all were looked at.
        ensure!(acks == WINDOW_PUBLISHES, "{tag}: {acks} PUBACKs in {writes} writes");
        ensure!(writes < acks, "{tag}: nothing was batched, {writes} writes");
        println!("sync: {tag} {acks} PUBACKs in {writes} writes, each after its sync");
    }
    let segments: BTreeSet<&str> = synced.values().map(|(file, _)| file.as_str()).collect();
    ensure!(segments.len() > 1, "the journal stayed in {segments:?}");
    drop(senders);
    hub.stop()?;
    scratch.passed()
}

/// Brings the hub's journal near to the end of its segment.
fn fill(hub: &Hub, scratch: &Scratch) -> Result<()> {
    let secret = hub.create_device("filler")?;
    let options = json!({
        "port": MQTT_PORT, "ca": hub.ca(), "window": 4, "count": FILL_COUNT, "pad": FILL_BYTES,
        "acks": scratch.path().join("acks-filler"),
    });
    let args = [options.to_string()];
    let mut filler = Script::start("sender.py", "filler", scratch.path(), args, &secret)?;
    filler.event_of("finished", LIMIT)?;
    Ok(())
}

/// The file of each message and the place in the trace where a sync of it was complete, by what
/// is written at the beginning of its body: sender and number.
fn synced(calls: &[Call]) -> BTreeMap<String, (String, usize)> {
    let mut found = BTreeMap::new();
    for write in calls.iter().filter(|call| call.name.starts_with("pwrite") && call.result > 0) {
        let sync = calls.iter().find(|sync| {
            ["fsync", "fdatasync"].contains(&sync.name.as_str())
                && sync.target == write.target
                && sync.begun > write.ended
                && sync.result == 0
        });
        let Some(sync) = sync else { continue };
        for (at, _) in write.rest.match_indices("from-") {
            // `from-0-17 ....`
            let name = write.rest[at..].split(' ').next().unwrap_or_default();
            found.entry(name.to_owned()).or_insert_with(|| (write.target.clone(), sync.ended));
        }
    }
    found
}

/// Goes through the writes to the socket of the sender that says `tag`; how many there were and
/// how many PUBACKs they held. The messages of one sender are acknowledged in their order.
fn check_window(
    calls: &[Call],
    synced: &BTreeMap<String, (String, usize)>,
    port: u64,
    tag: &str,
) -> Result<(usize, usize)> {
    let (own, peer) = (format!(":{MQTT_PORT}->"), format!(":{port}]"));
    let writes = calls.iter().filter(|call| {
        call.target.starts_with("TCP")
            && call.target.contains(&own)
            && call.target.ends_with(&peer)
            && ["write", "writev", "sendto", "sendmsg"].contains(&call.name.as_str())
            && call.result > 0
    });
    let (mut count, mut acks) = (0, 0);
    for write in writes {
        let bytes = usize::try_from(write.result)?;
        let inside = bytes.checked_sub(RECORD_BYTES).context("less than a record")?;
        ensure!(inside.is_multiple_of(PUBACK_BYTES), "{bytes} bytes are no record of PUBACKs");
        count += 1;
        let before = acks;
        acks += inside / PUBACK_BYTES;
        for number in before + 1..=acks.min(WINDOW_PUBLISHES) {
            let message = format!("{tag}{number}");
            let (_, at) = synced.get(&message).with_context(|| format!("{message} unsynced"))?;
            ensure!(
                *at < write.begun,
                "the PUBACK of {message} was written at line {}, its sync ended at line {}",
                write.begun + 1,
                at + 1
            );
        }
    }
    // The last message says "end" and is not among them.
    Ok((count, acks.min(WINDOW_PUBLISHES)))
}

/// Counts the writes to the sender's socket, up to [`PUBLISHES`]; each must have read, write and
/// sync before it. A last message that says "end" is none that is looked at.
fn check(calls: &[Call]) -> Result<usize> {
    let port = format!(":{MQTT_PORT}->");
    let on_socket = |call: &&Call| call.target.starts_with("TCP") && call.target.contains(&port);
    let writes = calls.iter().filter(on_socket).filter(|call| {
        ["write", "writev", "sendto", "sendmsg"].contains(&call.name.as_str()) && call.result > 0
    });
    let mut count = 0;
    let mut last_read = 0;
    for write in writes.take(PUBLISHES) {
        let read = calls
            .iter()
            .filter(on_socket)
            .filter(|call| call.name.starts_with("re") && call.result > 0)
            .rfind(|call| call.ended < write.begun)
            .context("a PUBACK before any read")?;
        ensure!(count == 0 || read.ended > last_read, "two writes after one read: {write:?}");
        last_read = read.ended;
        ensure!(
            synced_between(calls, read.ended, write.begun),
            "PUBACK {count} was written (line {}) but its message (line {}) was not synced",
            write.begun + 1,
            read.ended + 1
        );
        count += 1;
    }
    Ok(count)
}

/// Only a message is that large; cursors and other records are not.
fn synced_between(calls: &[Call], read: usize, ack: usize) -> bool {
    let from = calls.partition_point(|call| call.ended <= read);
    let to = calls.partition_point(|call| call.ended < ack);
    let between = &calls[from..to];
    let holds_message = |call: &&Call| {
        call.name.starts_with("pwrite")
            && call.begun > read
            && usize::try_from(call.result).is_ok_and(|bytes| bytes >= PAD_BYTES)
    };
    between.iter().filter(holds_message).any(|write| {
        between.iter().any(|sync| {
            ["fsync", "fdatasync"].contains(&sync.name.as_str())
                && sync.target == write.target
                && sync.begun > write.ended
                && sync.result == 0
        })
    })
}
