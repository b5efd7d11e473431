//! The command line as a new user meets it: what went wrong, what to do, and a code for
//! scripts; never a panic, never silence.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use blackbox::hub::{Door, Hub, output};
use blackbox::place::{self, Scratch};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const NOT_ALLOWED: i32 = 5;
const UNREACHABLE: i32 = 6;
const INVALID_MANIFEST: i32 = 7;
const LIMIT: Duration = Duration::from_mins(1);

/// One line: the command, the exit code, and words that standard error must hold.
type Case<'c> = (&'c [&'c str], i32, &'c [&'c str]);

/// Runs all cases and reports every one that differs.
fn check_all(cases: &[Case<'_>], command: impl Fn(&[&str]) -> Result<Command>) -> Result<()> {
    let mut faults = Vec::new();
    for &(args, code, words) in cases {
        if let Err(fault) = check(command(args)?, code, words) {
            faults.push(format!("selvedge {}: {fault:#}", args.join(" ")));
        }
    }
    println!("cli: {} of {} cases as expected", cases.len() - faults.len(), cases.len());
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn check(command: Command, code: i32, words: &[&str]) -> Result<()> {
    let done = output(command, LIMIT)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(code), "{}, not {code}; said {said:?}", done.status);
    ensure!(!said.contains("panicked"), "{said}");
    ensure!(said.contains("error:"), "says no error: {said:?}");
    if let Some(word) = words.iter().find(|word| !said.contains(**word)) {
        bail!("says nothing of {word:?}: {said:?}");
    }
    ensure!(done.stdout.is_empty(), "an error on standard output: {:?}", done.stdout);
    Ok(())
}

#[test]
fn bad_input_is_refused_with_a_reason_and_a_code() -> Result<()> {
    let scratch = Scratch::new("cli")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    hub.create_device("here")?;
    let long = "x".repeat(129);
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(70_000));
    let missing = scratch.path().join("missing.json");
    let broken = scratch.path().join("broken.json");
    std::fs::write(&broken, "{\"modulesContent\": {")?;
    let (missing, broken) = (path_text(&missing)?, path_text(&broken)?);
    check_all(
        &[
            (&["device", "show", "nobody"], NOT_FOUND, &["nobody"]),
            (&["device", "delete", "nobody", "--yes"], NOT_FOUND, &["nobody"]),
            (&["twin", "get", "nobody"], NOT_FOUND, &["nobody"]),
            (&["twin", "get", "here", "-m", "nobody"], NOT_FOUND, &["nobody"]),
            (&["twin", "set", "nobody", "--tags", "{}"], NOT_FOUND, &["nobody"]),
            (&["method", "nobody", "reboot"], NOT_FOUND, &["nobody"]),
            (&["device", "create", "here"], CONFLICT, &["here"]),
            (&["device", "create", "a/b"], USAGE, &["a/b"]),
            (&["device", "create", ""], USAGE, &[]),
            (&["device", "create", &long], USAGE, &[]),
            (&["device", "create", "blank id"], USAGE, &["blank id"]),
            (&["device", "delete", "here"], USAGE, &["--yes"]),
            (&["twin", "set", "here"], USAGE, &["--desired", "--tags"]),
            (&["twin", "set", "here", "--desired", "{"], USAGE, &["--desired", "JSON"]),
            (&["twin", "set", "here", "--tags", "[1]"], USAGE, &["--tags", "object"]),
            (&["twin", "set", "here", "--desired", r#"{"$x":1}"#], FAILED, &["$x"]),
            (&["twin", "set", "here", "--desired", &big], FAILED, &[]),
            (&["twin", "set", "here", "--tags", "{}", "--etag", "AAAA"], CONFLICT, &[]),
            (&["method", "here", "reboot", "{"], USAGE, &["payload", "JSON"]),
            (&["method", "here", "reboot", "--timeout", "1"], FAILED, &["5"]),
            (&["monitor", "--from", "yesterday", "--count", "1"], FAILED, &["from"]),
            (&["edge", "set-modules", "here", "--content", missing], FAILED, &["missing.json"]),
            (
                &["edge", "set-modules", "here", "--content", broken],
                INVALID_MANIFEST,
                &["broken.json"],
            ),
            (&["devise", "list"], USAGE, &["devise"]),
            (&["device", "list", "--top", "0"], USAGE, &["--top"]),
            (&["twin", "get", "here/m"], USAGE, &["here/m", "--module"]),
            (&["twin", "get", "here", "-m", "a b"], USAGE, &["a b"]),
            (&["twin", "set", "here", "--tags", "@file"], USAGE, &["--tags", "help:", "cat"]),
            (&["method", "no way", "reboot"], USAGE, &["no way"]),
            (&["edge", "set-modules", "a/b", "--content", broken], USAGE, &["a/b"]),
            (&["monitor", "--device", "no way"], USAGE, &["no way"]),
            (&["monitor", "--device", "nobody"], NOT_FOUND, &["nobody"]),
            (&["console", "revoke", ""], USAGE, &["16 hexadecimal", "console sessions"]),
            (&["console", "revoke", "0123456789abcdef"], NOT_FOUND, &["session"]),
            (&["console", "--policy", "nobody"], FAILED, &["nobody", "iothubowner"]),
            (&["monitor", "--count", "many"], USAGE, &["many"]),
        ],
        |args| hub.command(args),
    )?;
    let listed = hub.json(&["device", "list"])?;
    ensure!(listed.as_array().is_some_and(|all| all.len() == 1), "{listed}");
    hub.stop()?;
    scratch.passed()
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

#[test]
fn a_new_user_registers_reads_changes_and_removes_a_device() -> Result<()> {
    let scratch = Scratch::new("cli-new")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let text = hub.create_device("first")?;
    let key = text.split_once("SharedAccessKey=").context("no key")?.1;
    ensure!(text == format!("HostName={};DeviceId=first;SharedAccessKey={key}", hub.address()));
    // Keys are masked wherever nobody asked for them.
    for args in
        [&["device", "show", "first"][..], &["device", "list"], &["-o", "json", "device", "list"]]
    {
        let shown = hub.run(args)?;
        ensure!(shown.contains("first") && !shown.contains(key), "{args:?} shows {shown}");
    }
    let shown = hub.run(&["--show-secrets", "device", "show", "first"])?;
    ensure!(shown.contains(key), "--show-secrets shows {shown}");
    hub.run(&["device", "create", "gateway", "--edge"])?;
    let listed = hub.json(&["device", "list"])?;
    let ids: Vec<&str> =
        listed.as_array().into_iter().flatten().filter_map(|d| d["deviceId"].as_str()).collect();
    ensure!(ids == ["first", "gateway"], "{listed}");
    ensure!(hub.json(&["device", "list", "--top", "1"])?.as_array().map(Vec::len) == Some(1));
    ensure!(hub.run(&["device", "list"])?.contains("DEVICE"), "the table has a head");
    let twin = hub.json(&["twin", "set", "first", "--tags", r#"{"site":"A"}"#])?;
    let etag = twin["etag"].as_str().context("no etag")?.to_owned();
    let next = hub.json(&["twin", "set", "first", "--tags", r#"{"site":"B"}"#, "--etag", &etag])?;
    ensure!(next["tags"]["site"] == "B" && next["etag"] != etag, "{next}");
    // What was written is still there after a stop and after a kill.
    hub.stop()?;
    hub.start_again()?;
    ensure!(hub.json(&["twin", "get", "first"])? == next);
    hub.kill()?;
    hub.start_again()?;
    ensure!(hub.json(&["twin", "get", "first"])? == next);
    ensure!(hub.run(&["device", "connection-string", "first"])?.trim() == text);
    hub.run(&["device", "delete", "first", "--yes"])?;
    check(hub.command(&["twin", "get", "first"])?, NOT_FOUND, &["first"])
        .context("after delete")?;
    ensure!(!hub.log()?.contains(key), "the hub's log holds a key");
    hub.stop()?;
    scratch.passed()
}

#[test]
fn a_hub_that_cannot_be_reached_or_does_not_know_us_is_said_so() -> Result<()> {
    let scratch = Scratch::new("cli-away")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let https = hub.https()?;
    let wrong_key = format!(
        "HostName={https};SharedAccessKeyName=iothubowner;SharedAccessKey=d3JvbmcgLSB3cm9uZw=="
    );
    let wrong_policy = wrong_key.replace("iothubowner", "nobody");
    let device = hub.create_device("here")?;
    let ca = hub.ca();
    let ca = path_text(&ca)?;
    let elsewhere = |text: &str| -> Result<Command> {
        let mut command = Command::new(place::binary("selvedge")?);
        command.args(["--ca", ca, "--login", text, "device", "list"]);
        command.env_remove("SELVEDGE_DATA").stdin(Stdio::null());
        Ok(command)
    };
    let by_text = |args: &[&str]| elsewhere(args[0]);
    check_all(
        &[
            (&["nonsense"], USAGE, &["connection string"]),
            (&[""], USAGE, &["connection string"]),
            (&["HostName=x;Colour=red"], USAGE, &["connection string", "Colour"]),
            (&["HostName=x;SharedAccessKeyName=a"], USAGE, &["SharedAccessKey"]),
            (&[&device], USAGE, &["SharedAccessKeyName"]),
            (&[&wrong_key], NOT_ALLOWED, &[]),
            (&[&wrong_policy], NOT_ALLOWED, &[]),
        ],
        by_text,
    )?;
    let stranger = |ca: &[&str]| -> Result<Command> {
        let mut command = Command::new(place::binary("selvedge")?);
        command.args(ca).args(["--login", &wrong_key, "device", "list"]);
        command.env_remove("SELVEDGE_DATA").env_remove("SELVEDGE_CA");
        Ok(command)
    };
    check(stranger(&[])?, USAGE, &["authority", "--ca"]).context("no authority")?;
    // Another hub's authority is real, but not this hub's.
    let other_folder = scratch.path().join("other");
    std::fs::create_dir(&other_folder)?;
    let other = Hub::start(&other_folder, Door::Stock)?;
    let other_ca = other.ca();
    check(stranger(&["--ca", path_text(&other_ca)?])?, UNREACHABLE, &["certificate"])
        .context("another hub's authority")?;
    hub.stop()?;
    let words = [&*https.to_string(), "help:"];
    check(hub.command(&["device", "list"])?, UNREACHABLE, &words).context("a stopped hub")?;
    let empty = scratch.path().join("empty");
    let mut nowhere = Command::new(place::binary("selvedge")?);
    nowhere.arg("--data").arg(&empty).args(["device", "list"]);
    check(nowhere, FAILED, &["no hub has run in", "help:", "selvedge hub"])
        .context("a folder without a hub")?;
    scratch.passed()
}

#[test]
fn a_hub_that_cannot_start_says_why() -> Result<()> {
    let scratch = Scratch::new("cli-start")?;
    let mut hub = Hub::start(scratch.path(), Door::Stock)?;
    let pid = hub.pid()?.to_string();
    let folder = hub.folder().to_owned();
    let folder = path_text(&folder)?;
    let start = |data: &str, mqtt: &str, https: &str| -> Result<Command> {
        let mut command = Command::new(place::binary("selvedge")?);
        command.args(["hub", "--data", data, "--mqtt", mqtt, "--https", https]);
        command.stdin(Stdio::null());
        Ok(command)
    };
    let free = "127.0.0.1:0";
    check(start(folder, free, free)?, FAILED, &[&pid, "already", folder, "help:"])
        .context("a second hub on one folder")?;
    let other = scratch.path().join("other");
    let other = path_text(&other)?;
    let mqtt = hub.mqtt()?.to_string();
    check(start(other, &mqtt, free)?, FAILED, &[&mqtt, "in use", "--mqtt"])
        .context("a port in use for MQTT")?;
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let taken = holder.local_addr()?.to_string();
    check(start(other, free, &taken)?, FAILED, &[&taken, "in use", "--https"])
        .context("a port in use for HTTPS")?;
    drop(holder);
    check(start(other, "somewhere", free)?, USAGE, &["somewhere", "127.0.0.1:8883"])
        .context("a bad address")?;
    let mut elsewhere = start(other, free, free)?;
    elsewhere.args(["--console-dir", other]);
    check(elsewhere, USAGE, &["--console-dir", "index.html", other]).context("no console")?;
    let file = scratch.path().join("file");
    std::fs::write(&file, "not a folder")?;
    check(start(path_text(&file)?, free, free)?, FAILED, &["file"]).context("a file as folder")?;
    // A damaged file is named, not replaced.
    hub.stop()?;
    std::fs::write(hub.folder().join("hub/ca.pem"), "damaged")?;
    check(start(folder, free, free)?, FAILED, &["ca.pem", "damaged"]).context("a damaged file")?;
    ensure!(std::fs::read(hub.folder().join("hub/ca.pem"))? == b"damaged");
    scratch.passed()
}
