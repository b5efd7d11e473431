//! `selvedge-edge`: the device's binary.
//!
//! `run` joins the device runtime (`edge`) to sockets (`net`) and to an engine. It holds no rules.
//! With containers it is three processes: `launch` is the first of them, which starts the runtime
//! (`run`, under a user of its own, see `privilege`) and the engine helper (`helper`, root).

mod launch;

mod folder;
mod privilege;
mod user;

mod run;

mod helper;
mod sockets;

mod ask;
mod clock;
mod failure;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use edge::settings::EngineKind;
use engine::create_options::Policy;
use engine::embedded::EmbeddedSettings;
use engine::network::Subnet;
use tokio::runtime::{Builder, Runtime};

/// The device runtime: makes modules run as the cloud desires, and carries their messages.
#[derive(Debug, Parser)]
#[command(name = "selvedge-edge", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Ask(ask::AskCommand),
    /// Run the runtime until it is told to stop
    Run(RunArgs),
    /// The runtime itself, started by `run`; not for people
    #[command(hide = true)]
    Runtime(RuntimeArgs),
    /// Run containers for the runtime, started by `run`; not for people
    #[command(hide = true)]
    Engine(EngineArgs),
}

/// What `run` takes.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The device's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/selvedge/config.toml")]
    config: PathBuf,
    /// Folder of all state, instead of the one in the configuration
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Engine that runs the modules, instead of the one in the configuration
    #[arg(long)]
    engine: Option<Engine>,
    /// For the process engine: the program that stands for an image; may be repeated
    #[arg(long = "program", value_name = "IMAGE=PATH", value_parser = program)]
    programs: Vec<(String, PathBuf)>,
    /// Bring an image archive (OCI layout or `docker save`) into the store first; may be repeated
    #[arg(long = "import", value_name = "FILE")]
    imports: Vec<PathBuf>,
    /// Stop the modules, too, when told to stop; the process engine always does
    #[arg(long)]
    stop_modules: bool,
    /// For the embedded engine: the program `selvedge-monitor` [default: beside this one]
    #[arg(long, value_name = "FILE")]
    monitor: Option<PathBuf>,
}

/// What `runtime` takes.
#[derive(Debug, clap::Args)]
struct RuntimeArgs {
    /// The process that started this one
    #[arg(long, value_name = "PID")]
    launcher: u32,
    /// The user to become
    #[arg(long)]
    uid: u32,
    /// Its group
    #[arg(long)]
    gid: u32,
    /// The group of the management socket
    #[arg(long)]
    group: Option<u32>,
    #[command(flatten)]
    run: RunArgs,
}

/// What `engine` takes.
#[derive(Debug, clap::Args)]
struct EngineArgs {
    /// The process that started this one
    #[arg(long, value_name = "PID")]
    launcher: u32,
    /// The one user that may ask
    #[arg(long)]
    uid: u32,
    /// Folder of images and containers
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// The program `selvedge-monitor`
    #[arg(long, value_name = "FILE")]
    monitor: PathBuf,
    /// The network of the bridge
    #[arg(long, value_name = "NET")]
    network: Option<Subnet>,
}

impl EngineArgs {
    fn settings(self) -> EmbeddedSettings {
        let Self { root, monitor, network, launcher: _, uid: _ } = self;
        EmbeddedSettings { root, monitor, policy: Policy::default(), network }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// Plain processes without isolation, for development only
    Process,
    /// Containers, without a daemon
    Embedded,
}

fn program(text: &str) -> Result<(String, PathBuf), String> {
    match text.rsplit_once('=') {
        Some((image, path)) if !image.is_empty() && path.starts_with('/') => {
            Ok((image.to_owned(), PathBuf::from(path)))
        }
        _ => Err("write IMAGE=/absolute/path".to_owned()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match perform(cli.command) {
        Ok(code) => code,
        Err(error) => {
            if let Some(failure) = error.downcast_ref::<failure::Failure>() {
                failure::say(&failure.to_string());
                return ExitCode::from(failure.exit_code());
            }
            let chain: Vec<_> = error.chain().map(ToString::to_string).collect();
            tracing::error!(error = chain.join(": "), "selvedge-edge ends");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<ExitCode> {
    let mut many = Builder::new_multi_thread();
    let done = match command {
        Command::Ask(command) => {
            on(&mut many, |tokio| tokio.block_on(ask::run(command)).map_err(Into::into))
        }
        Command::Run(args) => {
            let settings = run::read_settings(&args)?;
            match settings.own.engine {
                EngineKind::Embedded => return launch::run(&args, &settings),
                EngineKind::Process => {
                    on(&mut many, |tokio| tokio.block_on(run::as_started(&args, settings)))
                }
            }
        }
        Command::Runtime(args) => {
            // Before there is a second thread, which would keep its rights.
            let settings = run::give_up_root(&args)?;
            on(&mut many, |tokio| tokio.block_on(run::under_launcher(&args, settings)))
        }
        // Its work blocks, so only the threads for that are needed.
        Command::Engine(args) => on(&mut Builder::new_current_thread(), |tokio| {
            helper::run(args, &net::world::system(tokio.handle().clone()))
        }),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn on(builder: &mut Builder, work: impl FnOnce(&Runtime) -> Result<()>) -> Result<()> {
    let tokio = builder.enable_all().build()?;
    let done = work(&tokio);
    // A thread that waits for the disk must not hold the process.
    tokio.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_and_a_bad_program_is_refused() {
        let read = |arguments: &[&str]| Cli::try_parse_from(arguments).map(|_| ());
        let good = ["selvedge-edge", "run", "--engine", "process", "--program", "a:1=/bin/true"];
        assert!(read(&good).is_ok());
        let check = |last: &str| {
            let said = read(&["selvedge-edge", "run", "--program", last]).unwrap_err().to_string();
            assert!(said.contains("IMAGE=/absolute/path"), "{said}");
        };
        check("a:1");
        check("a:1=relative");
        check("=/bin/true");
    }
}
