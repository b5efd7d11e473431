//! Under strace: between the read that holds a publish and the write that holds its PUBACK
//! lies a completed sync of the file that holds the message.

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
