//! A hub as a process, and the command line pointed at it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{place, wait};

/// Longest start of a hub, recovery included.
const READY: Duration = Duration::from_secs(30);
/// Longest command of the command line that is not told to wait.
const COMMAND: Duration = Duration::from_mins(1);

/// Where devices find a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// At the port that stock SDKs dial.
    Stock,
    /// At any port, behind a proxy that holds the stock port.
    Behind,
    /// At the stock port, and the service API at the port that stock service SDKs dial.
    Service,
}

/// A running hub and its folder. Dropped, it is killed.
#[derive(Debug)]
pub struct Hub {
    folder: PathBuf,
    address: Ipv4Addr,
    door: Door,
    process: Option<Child>,
    starts: u32,
    filter: &'static str,
    /// Its limit of open files, if not that of this process.
    descriptors: Option<u32>,
}

impl Hub {
    /// Starts a hub on `scratch` and waits until it serves.
    pub fn start(scratch: &Path, door: Door) -> Result<Self> {
        Self::start_with_log(scratch, door, "warn,net=debug,hub=info")
    }

    /// The same, with a filter for its log.
    pub fn start_with_log(scratch: &Path, door: Door, filter: &'static str) -> Result<Self> {
        let address = place::free_address()?;
        let folder = scratch.join("data");
        let descriptors = None;
        let mut hub = Self { folder, address, door, process: None, starts: 0, filter, descriptors };
        hub.start_again()?;
        Ok(hub)
    }

    /// Starts a hub at any ports that may open so many files and no more.
    pub fn start_with_descriptors(scratch: &Path, descriptors: u32) -> Result<Self> {
        let (address, folder) = (place::free_address()?, scratch.join("data"));
        let (door, filter, descriptors) = (Door::Behind, "warn", Some(descriptors));
        let mut hub = Self { folder, address, door, process: None, starts: 0, filter, descriptors };
        hub.start_again()?;
        Ok(hub)
    }

    /// How many files it has open now.
    pub fn open_descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    /// Starts the hub on its folder after it ended, and waits until it serves.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        self.ready()
    }

    /// Starts the hub's process on its folder and returns at once.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the hub runs already");
        self.starts += 1;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let port = if self.door == Door::Behind { 0 } else { place::MQTT_PORT };
        let https = match self.door {
            Door::Service => place::HTTPS_PORT,
            // Where it was before: device runtimes are told once where their hub is.
            _ if self.starts > 1 => self.https()?.port(),
            Door::Stock | Door::Behind => 0,
        };
        let program = place::binary("selvedge")?;
        let mut command = match self.descriptors {
            None => Command::new(program),
            Some(limit) => {
                // The shell becomes the hub, so its number is the hub's.
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]);
                shell.arg(program);
                shell
            }
        };
        let child = command
            .args(["hub", "--mqtt", &format!("{}:{port}", self.address)])
            .args(["--https", &format!("{}:{https}", self.address)])
            .args(["--host", &self.address.to_string()])
            .arg("--data")
            .arg(&self.folder)
            .env("RUST_LOG", self.filter)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting selvedge hub")?;
        self.process = Some(child);
        Ok(())
    }

    /// Waits until the started process has published its addresses and takes connections.
    pub fn ready(&mut self) -> Result<()> {
        let start = self.starts;
        wait::until("the hub to be ready", READY, || {
            if let Some(status) = self.ended()? {
                bail!("start {start} of the hub ended with {status}:\n{}", self.log_tail()?);
            }
            let Ok(endpoint) = self.endpoint() else { return Ok(None) };
            if endpoint["pid"].as_u64() != Some(self.pid()?.into()) {
                return Ok(None);
            }
            let reached = TcpStream::connect(self.mqtt()?).and(TcpStream::connect(self.https()?));
            Ok(reached.ok().map(drop))
        })
    }

    fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.process.as_mut().context("no hub was started")?.try_wait()?)
    }

    /// Fails if the hub has ended without being asked by this test.
    pub fn running(&mut self) -> Result<()> {
        match self.ended()? {
            Some(status) => bail!("the hub ended with {status}:\n{}", self.log_tail()?),
            None => Ok(()),
        }
    }

    /// The process's id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("no hub runs")?.id())
    }

    /// Kills the hub as a power cut of the process would: no signal it could catch.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.process.take().context("no hub runs")?;
        child.kill()?;
        let status = child.wait()?;
        ensure!(status.signal() == Some(9), "the hub ended by itself, with {status}");
        Ok(())
    }

    /// Waits until somebody else's kill has ended the hub.
    pub fn wait_killed(&mut self) -> Result<()> {
        let limit = Duration::from_secs(20);
        let status = wait::until("the hub to be killed", limit, || self.ended())?;
        self.process = None;
        ensure!(status.signal() == Some(9), "the hub ended by itself, with {status}");
        Ok(())
    }

    /// Stops the hub in order, as Ctrl-C does.
    pub fn stop(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()?)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        let limit = Duration::from_secs(30);
        let status = wait::until("the hub to stop", limit, || self.ended())?;
        self.process = None;
        ensure!(status.success(), "the hub stopped with {status}");
        Ok(())
    }

    /// What the hub says about itself.
    pub fn endpoint(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.folder.join("hub/endpoint.json"))?)?)
    }

    /// Where it listens for MQTT.
    pub fn mqtt(&self) -> Result<SocketAddr> {
        self.published("mqtt")
    }

    /// Where it listens for HTTPS.
    pub fn https(&self) -> Result<SocketAddr> {
        self.published("https")
    }

    fn published(&self, key: &str) -> Result<SocketAddr> {
        let endpoint = self.endpoint()?;
        let text = endpoint[key].as_str().with_context(|| format!("endpoint.json has no {key}"))?;
        text.parse().with_context(|| format!("{key} of endpoint.json"))
    }

    /// The address that devices dial; also the hub's host name.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The authority that clients trust.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("hub/ca.pem")
    }

    /// Everything the hub logged since its first start.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_path())?).into_owned())
    }

    /// How many lines of the log are about `device` and hold `words`.
    pub fn logged(&self, device: &str, words: &str) -> Result<usize> {
        let named = format!("device_id={device}");
        let log = self.log()?;
        let of_device = |line: &&str| {
            line.split_ascii_whitespace().any(|word| word == named) && line.contains(words)
        };
        Ok(log.lines().filter(of_device).count())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.with_extension("hub.log")
    }

    fn log_tail(&self) -> Result<String> {
        let log = self.log()?;
        let lines: Vec<&str> = log.lines().collect();
        Ok(lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// The command line pointed at this hub.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(place::binary("selvedge")?);
        command.arg("--data").arg(&self.folder).args(args);
        command.env_remove("IOTHUB_CONNECTION_STRING").env_remove("SELVEDGE_DATA");
        command.env_remove("SELVEDGE_CA").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command that must succeed; its standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let done = output(self.command(args)?, COMMAND)?;
        ensure!(
            done.status.success(),
            "selvedge {} ended with {}: {}",
            args.join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8(done.stdout)?)
    }

    /// Runs a command that must print one JSON document.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[&["-o", "json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("selvedge {}", args.join(" ")))
    }

    /// Registers a device; its connection string.
    pub fn create_device(&self, device: &str) -> Result<String> {
        self.run(&["device", "create", device])?;
        let text = self.run(&["device", "connection-string", device])?;
        Ok(text.trim().to_owned())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended already; either way nothing of it is left.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Runs `command` to its end; kills it and fails when `limit` has passed.
pub fn output(mut command: Command, limit: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let start = Instant::now();
    let done = std::thread::spawn(move || child.wait_with_output());
    while !done.is_finished() {
        if start.elapsed() > limit {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            bail!("{shown} took longer than {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    match done.join() {
        Ok(output) => output.with_context(|| shown),
        Err(_) => bail!("reading the output of {shown} panicked"),
    }
}
