//! `selvedge up` as a new user starts it: hub, device, and the pipeline of containers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::output;
use blackbox::place::{binary, free_address};
use blackbox::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);

struct Up {
    data: PathBuf,
    process: Child,
}

impl Up {
    fn start(scratch: &Path, engine: &str) -> Result<Self> {
        let data = scratch.join("d");
        let log =
            std::fs::File::options().create(true).append(true).open(scratch.join("up.log"))?;
        let mut command = Command::new(binary("selvedge")?);
        command.arg("--data").arg(&data).args(["up", "--engine", engine]);
        if engine == "embedded" {
            let images = std::env::var_os("SELVEDGE_IMAGES").context("SELVEDGE_IMAGES")?;
            command.arg("--images").arg(images);
        } else {
            command.arg("--gateway").arg(free_address()?.to_string());
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { data, process })
    }

    fn command(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("selvedge")?);
        command.arg("--data").arg(&self.data).args(args);
        let done = output(command, LIMIT)?;
        ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }

    /// The sequence numbers of `host-sensor`'s readings in the hub's log, at least `count`.
    fn readings(&self, count: usize) -> Result<Vec<u64>> {
        let wanted = (count * 3).to_string();
        let args = ["-o", "jsonl", "monitor", "--from", "start", "--count", &wanted];
        let text = self.command(&args)?;
        let bodies = text.lines().filter_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            let from = message.get("moduleId")?.as_str()? == "host-sensor";
            let body: Value = serde_json::from_str(message.get("body")?.as_str()?).ok()?;
            from.then_some(())?;
            body.get("cpu")?.get("percent")?.as_f64()?;
            body.get("seq")?.as_u64()
        });
        Ok(bodies.collect())
    }

    fn interrupt(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGINT)?;
        wait::until("up ends after an interrupt", LIMIT, || {
            Ok(self.process.try_wait()?.map(drop))
        })?;
        let status = self.process.try_wait()?.context("it ended")?;
        ensure!(status.success(), "up ended with {status}");
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Of a failed test; the device runtime ends on its own signal.
        let runtime = std::fs::read(self.data.join("edge/edge.json")).ok();
        let runtime = runtime.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let pid = runtime.and_then(|value| i32::try_from(value.get("pid")?.as_i64()?).ok());
        if let (Ok(None), Some(pid)) = (self.process.try_wait(), pid) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Processes whose command line holds `words`.
fn processes(words: &str) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&line).contains(words));
    }
    Ok(count)
}

/// Interfaces of this machine that are marked with a folder below `data`.
fn interfaces(data: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        let alias = std::fs::read_to_string(entry?.path().join("ifalias")).unwrap_or_default();
        if alias.starts_with(data) {
            all.push(alias.trim().to_owned());
        }
    }
    Ok(all)
}

fn the_pipeline_runs_on(engine: &str) -> Result<()> {
    // Short, because paths of Unix sockets are; the clone may lie anywhere.
    let scratch = tempfile::Builder::new().prefix("up").tempdir_in("/tmp")?;
    let up = Up::start(scratch.path(), engine)?;
    wait::until("the hub serves", LIMIT, || Ok(up.command(&["device", "list"]).ok()))?;
    if engine == "embedded" {
        let data = up.data.display().to_string();
        wait::until("the containers' bridge", LIMIT, || Ok(interfaces(&data)?.pop()))?;
    }
    let seen = up.readings(4)?;
    ensure!(seen.len() >= 3, "few readings came: {seen:?}");
    ensure!(seen.windows(2).all(|two| two[1] == two[0] + 1), "readings out of order: {seen:?}");

    // A threshold that silences everything is obeyed by the living module.
    let parameters = r#"{"threshold": 1000000, "history": 30}"#;
    up.command(&["twin", "set", "this-machine", "-m", "anomaly", "--desired", parameters])?;
    wait::until("the module reports the new threshold", LIMIT, || {
        let twin = up.command(&["-o", "json", "twin", "get", "this-machine", "-m", "anomaly"])?;
        let twin: Value = serde_json::from_str(&twin)?;
        let value = twin.pointer("/properties/reported/threshold/value").and_then(Value::as_f64);
        Ok((value == Some(1_000_000.0)).then_some(()))
    })?;

    // Both modules' logs come through the hub by the built-in method.
    for module in ["host-sensor", "anomaly"] {
        let ask = format!(
            r#"{{"schemaVersion":"1.0","items":{{"id":"{module}","filter":{{"tail":20}}}},"encoding":"none","contentType":"text"}}"#
        );
        let args = ["method", "this-machine", "-m", "$edgeAgent", "GetModuleLogs", &ask];
        let answer = up.command(&args)?;
        ensure!(answer.contains("module starts"), "{module}'s log: {answer}");
    }
    let data = up.data.display().to_string();
    up.interrupt()?;
    wait::until("no process of it is left", LIMIT, || Ok((processes(&data)? == 0).then_some(())))?;
    ensure!(interfaces(&data)?.is_empty(), "left behind: {:?}", interfaces(&data)?);
    scratch.close().context("removing the scratch folder")
}

#[test]
fn containers_run_the_pipeline_and_the_hub_sees_every_reading_in_order() -> Result<()> {
    the_pipeline_runs_on("embedded")
}

#[test]
fn the_process_engine_runs_the_same_pipeline() -> Result<()> {
    the_pipeline_runs_on("process")
}
