//! Stock clients in Python, Node.js and Java, driven line by line: JSON commands in, JSON events out.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::place;

/// Most events that a script may be ahead of its test.
const EVENTS_MAX: usize = 100_000;

/// The interpreter with the unmodified SDK, which `cargo xtask test` installs.
pub fn interpreter() -> Result<PathBuf> {
    let path = place::root().join("target/python-sdk/bin/python");
    ensure!(path.exists(), "{} is missing; run `cargo xtask test`", path.display());
    Ok(path)
}

/// Node, which `cargo xtask test` names, and whose packages it installs.
fn node() -> Result<PathBuf> {
    let node = std::env::var_os("SELVEDGE_NODE")
        .context("SELVEDGE_NODE is not set; run these tests with `cargo xtask test`")?;
    Ok(PathBuf::from(node))
}

/// The command for `script`: Node for `.js`, Java for `.java`, else Python. An authority in a file
/// of its own is one that Node itself is to trust.
fn command(script: &str, args: &[String]) -> Result<Command> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ending = Path::new(script).extension().and_then(|ending| ending.to_str());
    Ok(match ending {
        Some("js") => {
            let mut command = Command::new(node()?);
            command.arg(sources.join("node").join(script));
            if let [ca] = args
                && Path::new(ca).extension().is_some_and(|ending| ending == "pem")
            {
                command.env("NODE_EXTRA_CA_CERTS", ca);
            }
            command
        }
        Some("java") => {
            let built = place::root().join("target/java");
            let missing = "is missing; run `cargo xtask test`";
            ensure!(built.join("lib").exists(), "{} {missing}", built.display());
            let class = script.trim_end_matches(".java");
            let path =
                format!("{}:{}", built.join("classes").display(), built.join("lib/*").display());
            let mut command = Command::new("java");
            // Short runs: the first compiler is enough.
            command.args(["-XX:TieredStopAtLevel=1", "-cp", &path, class]);
            command
        }
        _ => {
            let mut command = Command::new(interpreter()?);
            command.arg(sources.join("python").join(script));
            command
        }
    })
}

/// A running script of `python/`, `node/` or `java/`. Dropped, it is killed.
#[derive(Debug)]
pub struct Script {
    name: String,
    process: Child,
    input: Option<ChildStdin>,
    events: Receiver<String>,
    /// Events that arrived while another was awaited.
    held: Vec<Value>,
    last_id: u64,
    errors: PathBuf,
}

impl Script {
    /// Starts `script`, whose ending says its language, with `args`; `name` names its log in
    /// `scratch`.
    pub fn start(
        script: &str,
        name: &str,
        scratch: &Path,
        args: impl IntoIterator<Item = String>,
        secret: &str,
    ) -> Result<Self> {
        let errors = scratch.join(format!("{name}.log"));
        let args: Vec<String> = args.into_iter().collect();
        let mut process = command(script, &args)?
            .args(args)
            .env("PYTHONUNBUFFERED", "1")
            // Keys travel in the environment: command lines are public.
            .env("DEVICE_CONNECTION_STRING", secret)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&errors)?)
            .spawn()
            .with_context(|| format!("starting {script}"))?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("no output")?);
        let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let name = name.to_owned();
        Ok(Self { name, process, input, events, held: Vec::new(), last_id: 0, errors })
    }

    /// Sends a command; the number that its answer will carry.
    pub fn tell(&mut self, mut command: Value) -> Result<u64> {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        let input = self.input.as_mut().context("the script's input is closed")?;
        writeln!(input, "{command}").with_context(|| format!("telling {}", self.name))?;
        Ok(self.last_id)
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: Value, limit: Duration) -> Result<Value> {
        let shown = command.to_string();
        let id = self.tell(command)?;
        self.answer(id, limit).with_context(|| shown)
    }

    /// Waits for the answer to command `id`; fails if the client failed.
    pub fn answer(&mut self, id: u64, limit: Duration) -> Result<Value> {
        let event = self.event(&format!("the answer to command {id}"), limit, |event| {
            event["id"].as_u64() == Some(id)
        })?;
        ensure!(event["event"] == "done", "{}: {event}", self.name);
        Ok(event["value"].clone())
    }

    /// Sends a command that the client must fail; what it said.
    pub fn refusal(&mut self, command: Value, limit: Duration) -> Result<String> {
        let id = self.tell(command)?;
        let event = self.event("a refusal", limit, |event| event["id"].as_u64() == Some(id))?;
        let error = event["error"].as_str();
        Ok(error.with_context(|| format!("{}: not refused: {event}", self.name))?.to_owned())
    }

    /// Waits for the first event, held back or new, that fits.
    pub fn event(
        &mut self,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        if let Some(place) = self.held.iter().position(&fits) {
            return Ok(self.held.remove(place));
        }
        let start = Instant::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let line = match self.events.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "{}: waited {} s in vain for {what}; saw {:?}",
                    self.name,
                    limit.as_secs(),
                    self.held
                ),
                Err(RecvTimeoutError::Disconnected) => bail!(
                    "{} ended while {what} was awaited; its log is {}",
                    self.name,
                    self.errors.display()
                ),
            };
            let event: Value =
                serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))?;
            if fits(&event) {
                return Ok(event);
            }
            self.held.push(event);
        }
    }

    /// Waits for an event of this kind.
    pub fn event_of(&mut self, kind: &str, limit: Duration) -> Result<Value> {
        self.event(kind, limit, |event| event["event"] == kind)
    }

    /// Drops the events of this kind that came so far.
    pub fn forget(&mut self, kind: &str) -> Result<()> {
        while let Ok(line) = self.events.try_recv() {
            self.held.push(serde_json::from_str(&line)?);
        }
        self.held.retain(|event| event["event"] != kind);
        Ok(())
    }

    /// Ends the script by the end of its input and waits for it.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        self.input = None;
        let process = &mut self.process;
        let status = crate::wait::until("the script to end", limit, || Ok(process.try_wait()?))?;
        ensure!(
            status.success(),
            "{} ended with {status}; see {}",
            self.name,
            self.errors.display()
        );
        Ok(())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended already; either way nothing of it is left.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
