//! `selvedge up` as a process, and what must be gone once it has stopped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::hub::output;
use crate::place::{binary, free_address};
use crate::{process, wait};

/// Longest wait for anything here.
pub const LIMIT: Duration = Duration::from_mins(1);
/// The device that `up` makes of this machine.
pub const DEVICE: &str = "this-machine";

/// A running `selvedge up` and its folder. Dropped, it and what it started are ended.
#[derive(Debug)]
pub struct Up {
    data: PathBuf,
    engine: &'static str,
    gateway: String,
    process: Option<Child>,
}

impl Up {
    /// Starts it in `scratch`, whose path must be short, and waits until the hub serves.
    pub fn start(scratch: &Path, engine: &'static str) -> Result<Self> {
        let (data, gateway) = (scratch.join("d"), free_address()?.to_string());
        let mut up = Self { data, engine, gateway, process: None };
        up.start_again()?;
        Ok(up)
    }

    /// Starts it on its folder after it ended, and waits until the hub serves.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "up runs already");
        let path = self.data.with_extension("log");
        let log = File::options().create(true).append(true).open(&path)?;
        let spawned = self.itself()?.stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(spawned.context("starting selvedge up")?);
        wait::until("the hub to serve", LIMIT, || {
            if let Some(status) = self.process.as_mut().and_then(|up| up.try_wait().transpose()) {
                bail!("up ended with {}: {}", status?, fs::read_to_string(&path)?);
            }
            Ok(self.command(&["device", "show", DEVICE]).ok().map(drop))
        })
    }

    fn itself(&self) -> Result<Command> {
        let mut command = Command::new(binary("selvedge")?);
        command.arg("--data").arg(&self.data).args(["up", "--engine", self.engine]);
        if self.engine == "embedded" {
            let images = std::env::var_os("SELVEDGE_IMAGES").context("SELVEDGE_IMAGES")?;
            command.arg("--images").arg(images);
        } else {
            command.args(["--gateway", &self.gateway]);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// A second one on the same folder, run to its end.
    pub fn second(&self) -> Result<Output> {
        output(self.itself()?, LIMIT)
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process's id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("up does not run")?.id())
    }

    /// Runs a command of the command line, which must succeed; what it prints.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("selvedge")?);
        command.arg("--data").arg(&self.data).args(args);
        let done = output(command, LIMIT)?;
        ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }

    /// Follows all telemetry from the oldest on.
    pub fn follow(&self) -> Result<Telemetry> {
        let mut command = Command::new(binary("selvedge")?);
        command.arg("--data").arg(&self.data);
        command.args(["-o", "jsonl", "monitor", "--from", "start"]);
        Telemetry::follow(command)
    }

    /// Sets desired properties of a module and waits until it reports each `value` as in force.
    pub fn set(&self, module: &str, desired: &Value) -> Result<()> {
        let text = desired.to_string();
        self.command(&["twin", "set", DEVICE, "-m", module, "--desired", &text])?;
        wait::until("the module to report what it was set to", LIMIT, || {
            let twin = self.command(&["-o", "json", "twin", "get", DEVICE, "-m", module])?;
            let twin: Value = serde_json::from_str(&twin)?;
            let reported = &twin["properties"]["reported"];
            let wanted = desired.as_object().context("an object")?;
            let is_set = |(name, value): (&String, &Value)| {
                let said = &reported[name]["value"];
                said == value || (said.is_number() && said.as_f64() == value.as_f64())
            };
            Ok(wanted.iter().all(is_set).then_some(()))
        })
    }

    /// The processes of `module`.
    pub fn module(&self, module: &str) -> Vec<u32> {
        let folder = self.data.join("edge/run/mnt").join(module);
        let socket = format!("unix://{}/workload.sock", folder.display());
        let wanted = BTreeMap::from([("IOTEDGE_WORKLOADURI".to_owned(), socket)]);
        process::all().into_iter().filter(|pid| process::has_environment(*pid, &wanted)).collect()
    }

    /// Kills it with no signal that it could catch.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.process.take().context("up does not run")?;
        child.kill()?;
        let status = child.wait()?;
        ensure!(status.signal() == Some(9), "up ended by itself, with {status}");
        Ok(())
    }

    /// Stops it in order, as Ctrl-C does.
    pub fn interrupt(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGINT)?;
        let mut child = self.process.take().context("up does not run")?;
        let status = wait::until("up to end after an interrupt", LIMIT, || Ok(child.try_wait()?))?;
        ensure!(status.success(), "up ended with {status}");
        Ok(())
    }

    /// What is left of it on this machine, its data apart: processes, mounts, network
    /// interfaces, network namespaces and control groups.
    pub fn remains(&self) -> Result<Vec<String>> {
        let data = self.data.display().to_string();
        let mut found = Vec::new();
        for pid in process::all().into_iter().filter(|pid| process::mentions(*pid, &data)) {
            found.push(format!("process {pid} {:?}", process::command_line(pid)));
        }
        for mount in fs::read_to_string("/proc/self/mounts")?.lines() {
            if mount.split(' ').nth(1).is_some_and(|place| place.starts_with(&data)) {
                found.push(format!("mount {mount}"));
            }
        }
        for interface in self.interfaces()? {
            found.push(format!("interface {interface}"));
        }
        found.extend(empty_parents()?);
        for id in self.containers()? {
            let mut places = vec![
                Path::new("/run/selvedge/netns").join(&id),
                Path::new("/sys/fs/cgroup/selvedge").join(&id),
            ];
            for entry in fs::read_dir("/sys/fs/cgroup")? {
                places.push(entry?.path().join("selvedge").join(&id));
            }
            let there = places.into_iter().filter(|place| place.exists());
            found.extend(there.map(|place| place.display().to_string()));
        }
        Ok(found)
    }

    /// Names of the containers' control groups and namespaces.
    fn containers(&self) -> Result<Vec<String>> {
        let Ok(folders) = fs::read_dir(self.data.join("edge/engine/containers")) else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::new();
        for folder in folders {
            let record = fs::read(folder?.path().join("module.json"))?;
            let record: Value = serde_json::from_slice(&record)?;
            ids.push(record["id"].as_str().context("an id")?.to_owned());
        }
        Ok(ids)
    }

    /// Network interfaces that are marked with a folder below its data.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let data = self.data.display().to_string();
        let mut all = Vec::new();
        for entry in fs::read_dir("/sys/class/net")? {
            let entry = entry?;
            // Others' interfaces come and go.
            let alias = fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
            if alias.starts_with(&data) {
                all.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(all)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Of a failed test; whatever has ended already is as good.
        if self.process.is_some() && self.interrupt().is_err() {
            self.kill().ok();
        }
        let data = self.data.display().to_string();
        for pid in process::all().into_iter().filter(|pid| process::mentions(*pid, &data)) {
            if let Ok(pid) = i32::try_from(pid) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if place.starts_with(&data) {
                nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH).ok();
            }
        }
    }
}

/// All telemetry so far, growing. Dropped, nobody listens any more.
#[derive(Debug)]
pub struct Telemetry {
    monitor: Child,
    rows: Arc<Mutex<Vec<Row>>>,
}

/// One message with a body of JSON.
#[derive(Clone, Debug)]
pub struct Row {
    /// The module that sent it; empty for a device.
    pub module: String,
    /// By which output.
    pub output: String,
    /// What it said.
    pub body: Value,
}

impl Telemetry {
    fn follow(mut command: Command) -> Result<Self> {
        let mut monitor =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = BufReader::new(monitor.stdout.take().context("no output")?);
        let rows = Arc::new(Mutex::new(Vec::new()));
        let filled = Arc::clone(&rows);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some(row) = row(&line) else { continue };
                filled.lock().unwrap_or_else(PoisonError::into_inner).push(row);
            }
        });
        Ok(Self { monitor, rows })
    }

    /// The bodies that `module` sent by `output`, oldest first.
    pub fn of(&self, module: &str, output: &str) -> Vec<Value> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = rows.iter().filter(|row| row.module == module && row.output == output);
        of_it.map(|row| row.body.clone()).collect()
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // It may have ended with its hub.
        self.monitor.kill().ok();
        self.monitor.wait().ok();
    }
}

fn row(line: &str) -> Option<Row> {
    let message: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let body = serde_json::from_str(message["body"].as_str()?).ok()?;
    let output = text(&message["systemProperties"]["outputName"]);
    Some(Row { module: text(&message["moduleId"]), output, body })
}

/// Folders of the whole machine that engines share, and that hold nothing of any engine: the last
/// one should have taken them away.
fn empty_parents() -> Result<Vec<String>> {
    let is_empty = |folder: &Path| {
        let inside = fs::read_dir(folder)
            .map(|entries| entries.flatten().filter(|entry| entry.path().is_dir()).count());
        inside.is_ok_and(|count| count == 0)
    };
    let mut groups = vec![PathBuf::from("/sys/fs/cgroup/selvedge")];
    for entry in fs::read_dir("/sys/fs/cgroup")? {
        groups.push(entry?.path().join("selvedge"));
    }
    let mut found: Vec<PathBuf> = groups.into_iter().filter(|group| is_empty(group)).collect();
    let machine = Path::new("/run/selvedge");
    let namespaces = machine.join("netns");
    if machine.exists() && (!namespaces.exists() || is_empty(&namespaces)) {
        found.push(machine.to_owned());
    }
    Ok(found.iter().map(|folder| format!("folder {}", folder.display())).collect())
}
