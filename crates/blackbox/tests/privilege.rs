//! Who runs as whom: launcher and engine helper as root, the runtime as nobody in particular.
//! Each of the three is killed; modules run on and are adopted.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::hub::{Door, Hub, output};
use blackbox::place::{binary, free_address};
use blackbox::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);
/// The user when the machine has none of the name `selvedge` and nobody names one.
const USER: u32 = 61_000;

/// A device in a folder that only root can reach.
struct Device {
    data: PathBuf,
    config: PathBuf,
    log: PathBuf,
    images: Vec<PathBuf>,
    launcher: Child,
}

impl Device {
    fn start(scratch: &Path, hub: &Hub, more: &str) -> Result<Self> {
        hub.run(&["device", "create", "gate", "--edge"])?;
        let text = hub.run(&["device", "connection-string", "gate", "--show-secrets"])?;
        let config = scratch.join("config.toml");
        let data = scratch.join("d");
        fs::write(
            &config,
            format!(
                "hostname = \"localhost\"\ntrust_bundle_cert = \"{}\"\n\
                 [provisioning]\nsource = \"manual\"\nconnection_string = {:?}\n\
                 [selvedge]\ndata = \"{}\"\nmqtt = \"{}:8883\"\nupstream_address = \"{}\"\n\
                 upstream_mqtt_port = {}\nupstream_https_port = {}\n{more}",
                hub.ca().display(),
                text.trim(),
                data.display(),
                free_address()?,
                hub.address(),
                hub.mqtt()?.port(),
                hub.https()?.port(),
            ),
        )?;
        for secret in [&config, &hub.ca()] {
            fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        let images = std::env::var_os("SELVEDGE_IMAGES").context("SELVEDGE_IMAGES")?;
        let images = vec![PathBuf::from(images).join("host-sensor.tar")];
        let log = scratch.join("edge.log");
        let launcher = spawn(&config, &images, &log)?;
        let mut device = Self { data, config, log, images, launcher };
        device.ready()?;
        Ok(device)
    }

    fn start_again(&mut self) -> Result<()> {
        self.launcher = spawn(&self.config, &self.images, &self.log)?;
        self.ready()
    }

    /// Waits until the runtime of this launcher listens.
    fn ready(&mut self) -> Result<()> {
        wait::until("the runtime to be ready", LIMIT, || {
            if let Some(status) = self.launcher.try_wait()? {
                let log = fs::read_to_string(&self.log)?;
                anyhow::bail!("the launcher ended with {status}:\n{log}");
            }
            let launcher = self.note("edge.json", "launcher").ok();
            Ok((launcher == Some(self.launcher.id())).then_some(()))
        })
    }

    fn note(&self, file: &str, key: &str) -> Result<u32> {
        let note: Value = serde_json::from_slice(&fs::read(self.data.join(file))?)?;
        Ok(u32::try_from(note[key].as_u64().context("no number")?)?)
    }

    fn runtime(&self) -> Result<u32> {
        self.note("edge.json", "pid")
    }

    fn helper(&self) -> Result<u32> {
        wait::until("the helper to serve", LIMIT, || {
            Ok(self.note("engine/helper.json", "pid").ok())
        })
    }

    /// The module's process, once the device says that it runs.
    fn module(&self) -> Result<u64> {
        wait::until("the module to run", LIMIT, || {
            let mut ask = self.ask(&["list", "-o", "json"])?;
            // Nobody may listen yet.
            let Ok(done) = ask.output() else { return Ok(None) };
            let list: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
            let modules = list.as_array().cloned().unwrap_or_default();
            let sensor = modules.iter().find(|module| module["name"] == "host-sensor");
            let running = sensor.is_some_and(|module| module["actual"] == "running");
            Ok(running.then(|| process_of("/usr/bin/host-sensor", &self.data)).flatten())
        })
    }

    fn ask(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("selvedge-edge")?);
        command.args(args).arg("--config").arg(&self.config);
        Ok(command)
    }

    fn end(&mut self) -> Result<ExitStatus> {
        wait::until("the launcher to end", LIMIT, || Ok(self.launcher.try_wait()?))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Its two children go with it.
        self.launcher.kill().ok();
        self.launcher.wait().ok();
    }
}

fn spawn(config: &Path, images: &[PathBuf], log: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(binary("selvedge-edge")?);
    command.arg("run").arg("--config").arg(config).arg("--stop-modules");
    for image in images {
        command.arg("--import").arg(image);
    }
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
}

/// The process that runs `program` in a container below `data`.
fn process_of(program: &str, data: &Path) -> Option<u64> {
    let marker = data.join("run/mnt").display().to_string();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u64 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let mounts = fs::read_to_string(entry.path().join("environ")).ok()?;
        (line.starts_with(program.as_bytes()) && mounts.contains(&marker)).then_some(pid)
    })
}

fn field(pid: u32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("{name} of {pid}"))?.trim().to_owned())
}

fn gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
        || field(pid, "State").is_ok_and(|s| s.starts_with('Z'))
}

fn shoot(pid: u32) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?)
}

fn deploy(hub: &Hub, scratch: &Path) -> Result<()> {
    let system =
        json!({"type": "docker", "settings": {"image": "selvedge", "createOptions": "{}"}});
    let edge_hub = json!({
        "type": "docker", "status": "running", "restartPolicy": "always",
        "settings": {"image": "selvedge", "createOptions": "{}"},
    });
    let content = json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {
            "schemaVersion": "1.1", "runtime": {"type": "docker", "settings": {}},
            "systemModules": {"edgeAgent": system, "edgeHub": edge_hub},
            "modules": {"host-sensor": {
                "version": "1", "type": "docker", "status": "running", "restartPolicy": "always",
                "settings": {
                    "image": "selvedge/host-sensor:0.1.0",
                    "createOptions": r#"{"HostConfig":{"NetworkMode":"host"}}"#,
                },
            }},
        }},
        "$edgeHub": {"properties.desired": {
            "schemaVersion": "1.1",
            "routes": {"all": {"route": "FROM /messages/* INTO $upstream"}},
            "storeAndForwardConfiguration": {"timeToLiveSecs": 3600},
        }},
    }});
    let path = scratch.join("content.json");
    fs::write(&path, content.to_string())?;
    hub.run(&["edge", "set-modules", "gate", "--content", &path.display().to_string()])?;
    Ok(())
}

/// The runtime has no right that its user has not; root's two processes are root's.
fn rights(device: &Device, user: u32) -> Result<()> {
    let runtime = device.runtime()?;
    let ids = format!("{user}\t{user}\t{user}\t{user}");
    for name in ["Uid", "Gid"] {
        ensure!(field(runtime, name)? == ids, "{name}: {}", field(runtime, name)?);
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(runtime, name)?.trim_matches('0').is_empty(), "{name} is not empty");
    }
    ensure!(field(runtime, "NoNewPrivs")? == "1", "the runtime may gain privileges");
    ensure!(field(runtime, "Groups")?.is_empty(), "groups: {}", field(runtime, "Groups")?);
    for root in [device.launcher.id(), device.helper()?] {
        ensure!(field(root, "Uid")? == "0\t0\t0\t0");
        ensure!(field(root, "PPid")? != "1", "process {root} is an orphan");
    }
    ensure!(field(device.launcher.id(), "Threads")? == "1", "the launcher has threads");
    let launcher = device.launcher.id();
    ensure!(!sockets(launcher)?.iter().any(|inode| is_tcp(inode)), "the launcher has TCP");
    ensure!(!sockets(device.helper()?)?.iter().any(|inode| is_tcp(inode)), "the helper has TCP");
    Ok(())
}

/// The numbers of a process's sockets.
fn sockets(pid: u32) -> Result<Vec<String>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    Ok(targets
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect())
}

fn is_tcp(inode: &str) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let text = fs::read_to_string(table).unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().nth(9) == Some(inode))
    })
}

/// Files are whose they should be.
fn files(device: &Device, user: u32) -> Result<()> {
    let check = |name: &str, uid: u32, mode: u32| {
        let found =
            fs::symlink_metadata(device.data.join(name)).with_context(|| name.to_owned())?;
        let is = (found.uid(), found.mode() & 0o7777);
        ensure!(is == (uid, mode), "{name}: {} {:o}, not {uid} {mode:o}", is.0, is.1);
        Ok(())
    };
    check("", 0, 0o1770)?;
    for name in ["edge.db", "edge.json", "keys/edge-ca.key.pem", "keys/edge-ca.pem"] {
        check(name, user, 0o600)?;
    }
    for name in ["keys", "messages", "run"] {
        check(name, user, 0o700)?;
    }
    check("run/mgmt.sock", user, 0o600)?;
    check("engine", 0, 0o711)?;
    check("engine/images", 0, 0o700)?;
    check("engine/helper.sock", user, 0o600)?;
    check("given/trust-bundle.pem", 0, 0o640)
}

/// Another user does not get in, root included: the helper asks the kernel who it is.
fn others_are_refused(device: &Device) -> Result<()> {
    let mut as_root = UnixStream::connect(device.data.join("engine/helper.sock"))?;
    let body = br#"{"version":1,"id":1,"ask":"info"}"#;
    let mut frame = u32::try_from(body.len())?.to_be_bytes().to_vec();
    frame.extend(body);
    // It may be closed before anything is written.
    as_root.write_all(&frame).ok();
    let mut answer = Vec::new();
    as_root.read_to_end(&mut answer).ok();
    ensure!(answer.is_empty(), "root was answered: {}", String::from_utf8_lossy(&answer));
    let socket = device.data.join("engine/helper.sock").display().to_string();
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
    let mut other = Command::new("python3");
    other.args(["-c", script, &socket]).uid(61_999).gid(61_999);
    let refused = other.output()?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && words.contains("Permission"), "{words}");
    let log = fs::read_to_string(&device.log)?;
    ensure!(log.contains("another user is refused"), "the helper is silent:\n{log}");
    Ok(())
}

fn unmount(data: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(place).starts_with(data) {
            nix::mount::umount(place)?;
        }
    }
    Ok(())
}

fn closed_scratch() -> Result<tempfile::TempDir> {
    // Short, because paths of Unix sockets are.
    let scratch = tempfile::Builder::new().prefix("pr").tempdir_in("/tmp")?;
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(scratch.path(), closed)?;
    Ok(scratch)
}

#[test]
fn only_the_launcher_and_the_helper_are_root_and_a_kill_of_any_leaves_the_module_running()
-> Result<()> {
    let scratch = closed_scratch()?;
    let hub = Hub::start(scratch.path(), Door::Behind)?;
    let mut device = Device::start(scratch.path(), &hub, "")?;
    deploy(&hub, scratch.path())?;
    let module = device.module()?;
    rights(&device, USER)?;
    files(&device, USER)?;
    others_are_refused(&device)?;

    // The helper: a new one serves the same runtime.
    let (runtime, helper) = (device.runtime()?, device.helper()?);
    shoot(helper)?;
    wait::until("another helper", LIMIT, || Ok((device.helper()? != helper).then_some(())))?;
    let mut logs = device.ask(&["logs", "host-sensor"])?;
    wait::until("the new helper to answer", LIMIT, || {
        Ok(logs.output()?.status.success().then_some(()))
    })?;
    ensure!(device.module()? == module, "the module was started again");
    ensure!(
        device.runtime()? == runtime && !gone(runtime),
        "the runtime did not outlive the helper"
    );

    // The runtime: the launcher ends as it did, and takes the helper with it.
    let helper = device.helper()?;
    shoot(runtime)?;
    ensure!(device.end()?.code() == Some(128 + 9));
    ensure!(gone(helper), "helper {helper} is an orphan");
    device.start_again()?;
    ensure!(device.module()? == module, "the module was not adopted");

    // The launcher: the kernel ends the others, and the next start waits for that itself.
    let (runtime, helper) = (device.runtime()?, device.helper()?);
    shoot(device.launcher.id())?;
    ensure!(device.end()?.signal() == Some(9));
    device.start_again()?;
    ensure!(gone(runtime) && gone(helper), "the launcher left processes behind");
    ensure!(device.module()? == module, "the module was not adopted");
    rights(&device, USER)?;

    // A second device in the same folder is told who has it.
    let mut second = Command::new(binary("selvedge-edge")?);
    second.arg("run").arg("--config").arg(&device.config).stdin(Stdio::null());
    let refused = output(second, LIMIT)?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    let holder = format!("process {} already runs a device", device.launcher.id());
    ensure!(!refused.status.success() && words.contains(&holder), "{words}");

    // In order: modules, then runtime, then helper; nothing is left.
    let (runtime, helper) = (device.runtime()?, device.helper()?);
    kill(Pid::from_raw(i32::try_from(device.launcher.id())?), Signal::SIGTERM)?;
    let status = device.end()?;
    ensure!(status.success(), "the launcher ended with {status}");
    ensure!(gone(runtime) && gone(helper) && gone(u32::try_from(module)?), "something is left");
    unmount(&device.data)?;
    scratch.close().context("removing the scratch folder")
}

#[test]
fn the_configured_user_and_group_are_taken_and_wrong_ones_are_refused() -> Result<()> {
    let scratch = closed_scratch()?;
    let hub = Hub::start(scratch.path(), Door::Behind)?;
    let mut device = Device::start(scratch.path(), &hub, "user = \"61007\"\n")?;
    rights(&device, 61_007)?;
    files(&device, 61_007)?;
    // The user itself asks, too, by the socket: the configuration is root's.
    let mut ask = Command::new(binary("selvedge-edge")?);
    ask.args(["status", "--socket"]).arg(device.data.join("run/mgmt.sock"));
    ensure!(ask.output()?.status.success(), "root is refused");
    kill(Pid::from_raw(i32::try_from(device.launcher.id())?), Signal::SIGTERM)?;
    ensure!(device.end()?.success());

    // Another user later gets what the first one left.
    let text = fs::read_to_string(&device.config)?;
    fs::write(&device.config, text.replace("\"61007\"", "\"nobody:nogroup\""))?;
    device.start_again()?;
    let runtime = device.runtime()?;
    ensure!(field(runtime, "Uid")?.starts_with("65534"), "{}", field(runtime, "Uid")?);
    files(&device, 65_534)?;
    kill(Pid::from_raw(i32::try_from(device.launcher.id())?), Signal::SIGTERM)?;
    ensure!(device.end()?.success());

    let check = |line: &str, args: &[&str], words: &str| -> Result<()> {
        fs::write(&device.config, text.replace("user = \"61007\"", line))?;
        let mut run = Command::new(binary("selvedge-edge")?);
        run.arg("run").arg("--config").arg(&device.config).args(args).stdin(Stdio::null());
        let done = output(run, LIMIT)?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(!done.status.success() && said.contains(words), "{line}: {said}");
        Ok(())
    };
    check("user = \"ghost\"", &[], "no user")?;
    check("user = \"root\"", &[], "does not run as root")?;
    check("user = \"61007\"\ngroup = \"ghosts\"", &[], "no group")?;
    check("user = \"61007\"", &["--engine", "process"], "[selvedge] user")?;
    unmount(&device.data)?;
    scratch.close().context("removing the scratch folder")
}
