//! A device runtime as a process, for a device that is registered at a hub of a test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::hub::Hub;
use crate::{place, process, wait};

/// Longest start, images included.
const READY: Duration = Duration::from_mins(2);
/// Longest orderly end, modules included.
const END: Duration = Duration::from_mins(1);
/// The name that modules dial; only their containers know where it leads.
pub const HOSTNAME: &str = "gateway.edge";

/// Whom a runtime trusts to name its hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The hub's authority, as `trust_bundle_cert`, named by a URI.
    #[default]
    Bundle,
    /// What the system trusts, which is this file and nothing else.
    System(PathBuf),
}

/// How a runtime proves itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// By a connection string.
    #[default]
    ConnectionString,
    /// By host, device and a file with the raw key.
    KeyFile,
}

/// How a runtime is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `embedded` or `process`.
    pub engine: &'static str,
    /// Names of image archives without their ending, brought in at the start.
    pub images: Vec<&'static str>,
    /// Paths of further image archives.
    pub archives: Vec<PathBuf>,
    /// For the process engine: programs that stand for images.
    pub programs: Vec<(String, PathBuf)>,
    /// What the log holds.
    pub log: &'static str,
    /// Whom it trusts.
    pub trust: Trust,
    /// How it proves itself.
    pub proof: Proof,
    /// Further lines of `[selvedge]`.
    pub settings: &'static str,
}

/// A running device runtime and its folder. Dropped, it and its modules are ended.
#[derive(Debug)]
pub struct Edge {
    folder: PathBuf,
    device: String,
    address: Ipv4Addr,
    options: Options,
    process: Option<Child>,
    starts: u32,
}

impl Edge {
    /// Registers `device` at `hub` as an edge device and starts its runtime in `scratch`, whose
    /// path must be short: paths of Unix sockets are.
    pub fn start(scratch: &Path, hub: &Hub, device: &str, options: Options) -> Result<Self> {
        hub.run(&["device", "create", device, "--edge"])?;
        let text = hub.run(&["device", "connection-string", device])?;
        let address = place::free_address()?;
        let folder = scratch.join("e");
        fs::create_dir_all(&folder)?;
        let hostname =
            if options.engine == "process" { address.to_string() } else { HOSTNAME.to_owned() };
        let trust = match options.trust {
            Trust::Bundle => format!("trust_bundle_cert = \"file://{}\"\n", hub.ca().display()),
            Trust::System(_) => String::new(),
        };
        let proof = match options.proof {
            Proof::ConnectionString => format!("connection_string = \"{}\"\n", text.trim()),
            Proof::KeyFile => key_file(&folder, hub, device, text.trim())?,
        };
        let config = format!(
            "hostname = \"{hostname}\"\n{trust}\
             [provisioning]\n\
             source = \"manual\"\n{proof}\
             [selvedge]\n\
             engine = \"{engine}\"\n\
             data = \"{data}\"\n\
             mqtt = \"{address}:{port}\"\n\
             gateway_addresses = [\"{address}\"]\n\
             upstream_address = \"{hub_address}\"\n\
             upstream_mqtt_port = {mqtt}\n\
             upstream_https_port = {https}\n{more}",
            more = options.settings,
            engine = options.engine,
            data = folder.display(),
            port = place::MQTT_PORT,
            hub_address = hub.address(),
            mqtt = hub.mqtt()?.port(),
            https = hub.https()?.port(),
        );
        let path = folder.join("config.toml");
        fs::write(&path, config)?;
        // It holds a key.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let mut edge =
            Self { folder, device: device.to_owned(), address, options, process: None, starts: 0 };
        edge.start_again()?;
        Ok(edge)
    }

    /// Starts the runtime on its folder and waits until it listens.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        self.ready()
    }

    /// Brings no images in at later starts: they are in the store.
    pub fn import_no_more(&mut self) {
        self.options.images.clear();
        self.options.archives.clear();
    }

    /// Starts the runtime's process on its folder and returns at once.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the runtime runs already");
        self.starts += 1;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(place::binary("selvedge-edge")?);
        command.arg("run").arg("--config").arg(self.folder.join("config.toml"));
        command.arg("--stop-modules");
        for image in &self.options.images {
            command.arg("--import").arg(place::image(image)?);
        }
        for archive in &self.options.archives {
            command.arg("--import").arg(archive);
        }
        for (image, program) in &self.options.programs {
            command.arg("--program").arg(format!("{image}={}", program.display()));
        }
        let filter = if self.options.log.is_empty() { "info" } else { self.options.log };
        if let Trust::System(roots) = &self.options.trust {
            command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
        }
        let child = command
            .env("RUST_LOG", filter)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting selvedge-edge")?;
        self.process = Some(child);
        Ok(())
    }

    /// Waits until the started process, or one that it started, has published its addresses.
    pub fn ready(&mut self) -> Result<()> {
        let start = self.starts;
        wait::until("the runtime to be ready", READY, || {
            if let Some(status) = self.ended()? {
                bail!("start {start} of the runtime ended with {status}:\n{}", self.log_tail()?);
            }
            Ok(self.runtime().ok().filter(|pid| self.owns(*pid)).map(drop))
        })
    }

    /// Whether `pid` is the started process or one that it started.
    fn owns(&self, pid: u32) -> bool {
        let Ok(launcher) = self.pid() else { return false };
        let mut next = Some(pid);
        while let Some(pid) = next {
            if pid == launcher {
                return true;
            }
            next = process::parent(pid).filter(|parent| *parent > 1);
        }
        false
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().context("no runtime was started")?.try_wait()?)
    }

    /// The process's id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("no runtime runs")?.id())
    }

    /// The process that holds the sockets: the one that was started, or its child.
    pub fn runtime(&self) -> Result<u32> {
        let published: Value = serde_json::from_slice(&fs::read(self.folder.join("edge.json"))?)?;
        let pid = published["pid"].as_u64().context("no pid in edge.json")?;
        Ok(u32::try_from(pid)?)
    }

    /// The engine helper of the process that was started, if there is one.
    pub fn helper(&self) -> Option<u32> {
        let is_helper = |pid: &u32| process::command_line(*pid).iter().any(|word| word == "engine");
        process::all().into_iter().filter(is_helper).find(|pid| self.owns(*pid))
    }

    /// The processes of `module`, its monitor not included.
    pub fn module(&self, module: &str) -> Vec<u32> {
        let wanted = BTreeMap::from([
            ("IOTEDGE_DEVICEID".to_owned(), self.device.clone()),
            ("IOTEDGE_MODULEID".to_owned(), module.to_owned()),
        ]);
        process::all().into_iter().filter(|pid| process::has_environment(*pid, &wanted)).collect()
    }

    /// The monitors of all modules.
    pub fn monitors(&self) -> Vec<u32> {
        let root = self.folder.join("engine/containers").display().to_string();
        let of_ours = |pid: &u32| {
            let line = process::command_line(*pid);
            line.first().is_some_and(|program| program.ends_with("selvedge-monitor"))
                && line.iter().any(|word| word.starts_with(&root))
        };
        process::all().into_iter().filter(of_ours).collect()
    }

    /// Where modules find the router.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of `module`'s workload socket.
    pub fn workload_folder(&self, module: &str) -> PathBuf {
        self.folder.join("run/mnt").join(module)
    }

    /// Applies modules and routes to the device through the hub.
    pub fn set_modules(&self, hub: &Hub, modules: &Value, routes: &Value) -> Result<()> {
        self.deploy(hub, &content(modules, routes))
    }

    /// Applies a whole content to the device through the hub.
    pub fn deploy(&self, hub: &Hub, content: &Value) -> Result<()> {
        let path = self.folder.join("content.json");
        fs::write(&path, content.to_string())?;
        let path = path.to_str().context("a path that is text")?;
        hub.run(&["edge", "set-modules", &self.device, "--content", path])?;
        Ok(())
    }

    /// One look at the runtime through its management socket.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&["status", "-o", "json"])?)?)
    }

    /// Asks the running device as its operator does; what it prints.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(place::binary("selvedge-edge")?);
        command.args(args).arg("--socket").arg(self.folder.join("run/mgmt.sock"));
        let done = crate::hub::output(command, END)?;
        let words = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success(), "selvedge-edge {}: {words}", args.join(" "));
        Ok(String::from_utf8(done.stdout)?)
    }

    /// Stops the runtime and its modules in order, as Ctrl-C does.
    pub fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGINT)?;
        let status = wait::until("the runtime to stop", END, || self.ended())?;
        self.process = None;
        ensure!(status.success(), "the runtime stopped with {status}:\n{}", self.log_tail()?);
        Ok(())
    }

    /// Kills the runtime alone; its modules run on.
    pub fn kill(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGKILL)?;
        self.wait_killed()
    }

    /// Waits until a kill has ended the runtime.
    pub fn wait_killed(&mut self) -> Result<()> {
        let status = wait::until("the runtime to be killed", END, || self.ended())?;
        self.process = None;
        // A launcher passes on how the runtime ended.
        let killed = status.signal() == Some(9) || status.code() == Some(128 + 9);
        ensure!(killed, "the runtime ended by itself, with {status}");
        Ok(())
    }

    /// Everything the runtime logged since its first start.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_path())?).into_owned())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.with_extension("edge.log")
    }

    fn log_tail(&self) -> Result<String> {
        let log = self.log()?;
        let lines: Vec<&str> = log.lines().collect();
        Ok(lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

/// Writes the key of `connection` to a file; what `config.toml` says about it.
fn key_file(folder: &Path, hub: &Hub, device: &str, connection: &str) -> Result<String> {
    let (_, key) = connection.split_once("SharedAccessKey=").context("a key")?;
    let path = folder.join("device.key");
    fs::write(&path, unbase64(key)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(format!(
        "iothub_hostname = \"{}\"\ndevice_id = \"{device}\"\n[provisioning.authentication]\n\
         method = \"sas\"\ndevice_id_pk = {{ uri = \"file://{}\" }}\n",
        hub.address(),
        path.display()
    ))
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for digit in text.trim_end_matches('=').chars() {
        let value = DIGITS.find(digit).with_context(|| format!("{digit:?} is no digit"))?;
        bits = bits << 6 | u32::try_from(value)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xFF)?);
        }
    }
    Ok(bytes)
}

impl Drop for Edge {
    fn drop(&mut self) {
        if self.process.is_some() && self.stop().is_err() {
            self.kill().ok();
        }
        // Of a failed test; whatever has ended already is as good.
        let device = BTreeMap::from([("IOTEDGE_DEVICEID".to_owned(), self.device.clone())]);
        let left = process::all().into_iter();
        let left = left.filter(|pid| process::has_environment(*pid, &device));
        for pid in left.chain(self.monitors()).filter_map(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        // A stopped container keeps its file system until it is removed; the folder cannot go
        // before.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.display().to_string();
        for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if place.starts_with(&folder) {
                nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH).ok();
            }
        }
    }
}

/// A content for one device: `modules` and `routes` by name.
pub fn content(modules: &Value, routes: &Value) -> Value {
    let system = json!({ "type": "docker", "settings": { "image": "selvedge" } });
    json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} },
            "systemModules": { "edgeAgent": system, "edgeHub": system },
            "modules": modules,
        } },
        "$edgeHub": { "properties.desired": { "schemaVersion": "1.1", "routes": routes } },
    } })
}

/// One module of a content.
pub fn module(image: &str, options: &Value, env: &[(&str, &str)]) -> Value {
    let env: BTreeMap<&str, Value> =
        env.iter().map(|(name, value)| (*name, json!({ "value": value }))).collect();
    json!({
        "version": "1.0", "type": "docker", "status": "running", "restartPolicy": "always",
        "settings": { "image": image, "createOptions": options.to_string() }, "env": env,
    })
}
