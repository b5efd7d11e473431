//! `selvedge up`: the main job from one command.
//!
//! It starts a hub in this process and the device runtime as a child, registers this machine
//! as an edge device, gives it the pipeline, and shows what happens. It speaks to the hub as
//! any operator would: through the public service API.

mod pipeline;
mod screen;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use api::registry::{Capabilities, Device};
use api::telemetry::TelemetryMessage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cli::{HubArgs, PlaceArgs, UpArgs, UpEngine};
use crate::client::{Events, Service};
use crate::commands::device::connection_text;
use crate::commands::hub::{Running, lock, start_log, stop_asked};
use crate::commands::up::screen::Screen;
use crate::failure::{Failure, FailureKind};
use crate::place;
use crate::terminal::Terminal;

/// The device that this machine becomes.
const DEVICE: &str = "this-machine";
/// Where the SDKs of modules dial; they know no other port.
const ROUTER_PORT: u16 = 8883;
/// Where modules that are plain processes dial, beside a hub on 127.0.0.1.
const PROCESS_GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// How long the device runtime may take to stop before it is killed.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a killed runtime is gone.
const ORPHAN_PAUSE: Duration = Duration::from_millis(50);
/// How often the status is shown.
const REFRESH: Duration = Duration::from_secs(1);

pub(crate) async fn run(
    args_place: &PlaceArgs,
    args: UpArgs,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let engine = EngineArgs::check(&args)?;
    start_log();
    let data = place::data_folder(args_place)?;
    let data = std::path::absolute(&data)
        .map_err(|error| Failure::failed(format!("{}: {error}", data.display())))?;
    let hub_folder = place::hub_folder(&data);
    make_folder(&hub_folder)?;
    let _lock = lock(&hub_folder)?;
    let world = net::world::system(tokio::runtime::Handle::current());
    let hub = Running::start(&hub_folder, &hub_args(&args), &world).await?;
    terminal.say(&format!(
        "hub    {} (MQTT), {} (HTTPS)\ndata   {}\nlogin  {}",
        hub.endpoint.mqtt,
        hub.endpoint.https,
        data.display(),
        hub_folder.join("owner.connection").display()
    ));
    hub.say_link(terminal);
    let place = PlaceArgs { data: Some(data.clone()), login: None, ca: None };
    let ports = Ports { mqtt: port(&hub.endpoint.mqtt)?, https: port(&hub.endpoint.https)? };
    let done = with_device(&place, &data, ports, &engine, terminal).await;
    hub.stop().await;
    done
}

fn hub_args(args: &UpArgs) -> HubArgs {
    HubArgs {
        mqtt: args.mqtt,
        https: args.https,
        hosts: vec!["localhost".to_owned()],
        retention_hours: 24,
        retention_mib: 4096,
        console_dir: args.console_dir.clone(),
    }
}

/// Where the hub listens.
#[derive(Clone, Copy)]
struct Ports {
    mqtt: u16,
    https: u16,
}

/// The engine that was asked for, with what it needs.
struct EngineArgs {
    kind: UpEngine,
    images: Vec<PathBuf>,
    gateway: Option<IpAddr>,
}

impl EngineArgs {
    fn check(args: &UpArgs) -> Result<Self, Failure> {
        const HELP: &str =
            "or run the modules as plain processes, without isolation: --engine process";
        let mut images = Vec::new();
        if args.engine == UpEngine::Embedded {
            if !nix::unistd::geteuid().is_root() {
                return Err(Failure::new(FailureKind::NotAllowed, "containers need root")
                    .with_help(format!("run it as root, {HELP}")));
            }
            let Some(folder) = &args.images else {
                return Err(Failure::usage("the modules' image archives are not named")
                    .with_help(format!("give --images DIR, as `cargo xtask up` does; {HELP}")));
            };
            for name in ["host-sensor.tar", "anomaly.tar"] {
                let path = folder.join(name);
                if !path.is_file() {
                    return Err(Failure::usage(format!("{} is missing", path.display()))
                        .with_help("`cargo xtask image` packs the archives"));
                }
                images.push(path);
            }
        }
        Ok(Self { kind: args.engine, images, gateway: args.gateway })
    }

    /// The name that modules dial, and where the router listens besides the containers' network.
    fn router(&self) -> (String, SocketAddr) {
        match (self.kind, self.gateway) {
            (UpEngine::Process, gateway) => {
                // Nobody but the address itself tells a plain process where it leads.
                let gateway = gateway.unwrap_or(PROCESS_GATEWAY);
                (gateway.to_string(), SocketAddr::new(gateway, ROUTER_PORT))
            }
            (UpEngine::Embedded, Some(gateway)) => {
                (DEVICE.to_owned(), SocketAddr::new(gateway, ROUTER_PORT))
            }
            // For whoever asks on this machine; any free port will do.
            (UpEngine::Embedded, None) => {
                (DEVICE.to_owned(), SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
            }
        }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            UpEngine::Embedded => "embedded",
            UpEngine::Process => "process",
        }
    }
}

/// Runs the device beside the hub until somebody asks to stop or the runtime ends by itself.
async fn with_device(
    place: &PlaceArgs,
    data: &Path,
    ports: Ports,
    engine: &EngineArgs,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let service = Service::connect(place)?;
    let text = device(&service).await?;
    let folder = data.join("edge");
    make_folder(&folder)?;
    let config = configuration(&folder, data, &text, ports, engine)?;
    let programs = Programs::find(engine.kind)?;
    end_orphan(&folder, &config).await?;
    let content = pipeline::content(engine.kind);
    let path = format!("/devices/{DEVICE}/applyConfigurationContent");
    service.post_nothing(&path, &content).await?;
    let mut runtime = programs.start(&config, &folder, engine)?;
    terminal.say(&format!("device {DEVICE}, log {}", folder.join("runtime.log").display()));
    if engine.kind == UpEngine::Process {
        terminal.say("DEVELOPMENT ENGINE: modules run as plain processes, without isolation");
    }
    let shown = show(&service, &mut runtime, terminal).await;
    stop(&mut runtime, terminal).await;
    shown
}

/// The programs that lie beside this one.
struct Programs {
    runtime: PathBuf,
    /// Images and the programs that stand for them, where modules are plain processes.
    modules: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    fn find(engine: UpEngine) -> Result<Self, Failure> {
        let here = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
        let beside = |name: &str| {
            let path = here.with_file_name(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(Failure::failed(format!("{} is missing", path.display()))
                .with_help("`cargo xtask up` builds all that is needed"))
        };
        let modules = match engine {
            UpEngine::Embedded => Vec::new(),
            UpEngine::Process => vec![
                (pipeline::HOST_SENSOR_IMAGE, beside("host-sensor")?),
                (pipeline::ANOMALY_IMAGE, beside("anomaly")?),
            ],
        };
        Ok(Self { runtime: beside("selvedge-edge")?, modules })
    }

    fn start(&self, config: &Path, folder: &Path, engine: &EngineArgs) -> Result<Child, Failure> {
        let log = folder.join("runtime.log");
        let open = fs::File::options().create(true).append(true).open(&log);
        let log = open.map_err(|e| Failure::failed(format!("{}: {e}", log.display())))?;
        let mut command = Command::new(&self.runtime);
        command.arg("run").arg("--config").arg(config).args(["--engine", engine.name()]);
        command.arg("--stop-modules");
        for (image, program) in &self.modules {
            command.arg("--program").arg(format!("{image}={}", program.display()));
        }
        for archive in &engine.images {
            command.arg("--import").arg(archive);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            // A Ctrl-C reaches this process only, which stops the runtime in order.
            .process_group(0)
            .spawn()
            .map_err(|e| Failure::failed(format!("cannot start {}: {e}", self.runtime.display())))
    }
}

/// Ends a runtime that an earlier `up` left behind when it was killed: its hub is gone. Killed,
/// it leaves its modules running, and the next runtime adopts them.
async fn end_orphan(folder: &Path, config: &Path) -> Result<(), Failure> {
    let Ok(text) = fs::read(folder.join("edge.json")) else { return Ok(()) };
    let left: Value = serde_json::from_slice(&text).unwrap_or_default();
    // The launcher first: the kernel ends the others with it.
    for role in ["launcher", "pid"] {
        let pid = left.get(role).and_then(Value::as_i64);
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
        if let Some(pid) = pid {
            end_process(pid, config).await?;
        }
    }
    Ok(())
}

/// Kills a process of the runtime, if `pid` is still one's number.
async fn end_process(pid: i32, config: &Path) -> Result<(), Failure> {
    let alive = || {
        // The number may be another process's by now.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("selvedge-edge") && line.contains(&config.display().to_string())
    };
    let mut waited = Duration::ZERO;
    while alive() {
        if waited > RUNTIME_PATIENCE {
            return Err(Failure::failed(format!("process {pid} still runs this device"))
                .with_help("stop it, then try again"));
        }
        // It may end by itself meanwhile.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        tokio::time::sleep(ORPHAN_PAUSE).await;
        waited += ORPHAN_PAUSE;
    }
    Ok(())
}

/// Registers this machine if it is not; gives its connection string.
async fn device(service: &Service) -> Result<String, Failure> {
    let path = format!("/devices/{DEVICE}");
    let found = match service.get::<Device>(&path).await {
        Err(failure) if failure.kind == FailureKind::NotFound => {
            let wanted = Device {
                device_id: Some(DEVICE.to_owned()),
                capabilities: Some(Capabilities { iot_edge: true }),
                ..Device::default()
            };
            service.put(&path, &wanted, None).await?
        }
        other => other?,
    };
    connection_text(service, DEVICE, &found)
}

/// Writes the device's config.toml.
fn configuration(
    folder: &Path,
    data: &Path,
    connection: &str,
    Ports { mqtt, https }: Ports,
    engine: &EngineArgs,
) -> Result<PathBuf, Failure> {
    let kind = engine.name();
    let (hostname, mqtt_address) = engine.router();
    let quoted = |path: &Path| Value::String(path.display().to_string()).to_string();
    let text = format!(
        "# Written by `selvedge up` at every start.\n\
         hostname = \"{hostname}\"\n\
         trust_bundle_cert = {}\n\n\
         [provisioning]\nsource = \"manual\"\nconnection_string = {}\n\n\
         [selvedge]\nengine = \"{kind}\"\ndata = {}\nmqtt = \"{mqtt_address}\"\n\
         upstream_address = \"127.0.0.1\"\nupstream_mqtt_port = {mqtt}\n\
         upstream_https_port = {https}\n",
        quoted(&place::hub_folder(data).join("ca.pem")),
        Value::String(connection.to_owned()),
        quoted(folder),
    );
    let path = folder.join("config.toml");
    crate::commands::hub::write(&path, text.as_bytes(), 0o600)?;
    Ok(path)
}

fn port(address: &str) -> Result<u16, Failure> {
    let parsed = address.parse::<SocketAddr>();
    parsed.map(|a| a.port()).map_err(|e| Failure::failed(format!("{address}: {e}")))
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|error| Failure::failed(format!("cannot make {}: {error}", folder.display())))
}

/// Shows the status until somebody asks to stop.
async fn show(service: &Service, runtime: &mut Child, terminal: &Terminal) -> Result<(), Failure> {
    let path = format!("/api/v1/telemetry/stream?from=now&device={DEVICE}");
    let mut events: Events<'_> = service.events(&path).await?;
    let mut screen = Screen::new();
    let mut tick = interval(REFRESH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = std::pin::pin!(stop_asked());
    loop {
        tokio::select! {
            biased;
            asked = stopping.as_mut() => return asked,
            ended = runtime.wait() => {
                let how = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
                return Err(Failure::failed(format!("the device runtime ended: {how}"))
                    .with_help("its log says why"));
            }
            event = events.next() => match event? {
                None => return Err(Failure::failed("the hub ended the stream of telemetry")),
                Some(event) if event.kind == "message" => {
                    if let Ok(message) = serde_json::from_str::<TelemetryMessage>(&event.data) {
                        screen.handle_message(&message);
                    }
                }
                Some(_) => {}
            },
            at = tick.tick() => refresh(service, &mut screen, at, terminal).await,
        }
    }
}

async fn refresh(service: &Service, screen: &mut Screen, at: Instant, terminal: &Terminal) {
    // A hub that is busy for a moment is asked again at the next tick.
    if let Ok(twin) = service.get::<Value>(&format!("/twins/{DEVICE}/modules/%24edgeAgent")).await {
        screen.handle_agent(&twin);
    }
    if let Some(text) = screen.poll(at) {
        terminal.say(&text);
    }
}

/// Lets the runtime stop its modules and itself in order.
async fn stop(runtime: &mut Child, terminal: &Terminal) {
    let Some(pid) = runtime.id().and_then(|id| i32::try_from(id).ok()) else { return };
    terminal.say("stopping the device runtime, then the hub; the data stays");
    // It may have ended meanwhile.
    kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    if timeout(RUNTIME_PATIENCE, runtime.wait()).await.is_err() {
        terminal.say("the device runtime did not stop in time and is killed");
        runtime.kill().await.ok();
    }
}
