//! `selvedge-edge`: the device's binary.
//!
//! `run` joins the device runtime (`edge`) to sockets (`net`) and to an engine. It holds no rules.

mod helper;
mod run;
mod sockets;

mod ask;
mod failure;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use engine::create_options::Policy;
use engine::embedded::EmbeddedSettings;
use engine::network::Subnet;

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
    /// Run containers for a runtime that started this process; not for people
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

/// What `engine` takes.
#[derive(Debug, clap::Args)]
struct EngineArgs {
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
        let Self { root, monitor, network } = self;
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
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let done = match cli.command {
                Command::Ask(command) => runtime.block_on(ask::run(command)).map_err(Into::into),
                Command::Run(args) => runtime.block_on(run::run(&args)),
                Command::Engine(args) => {
                    let world = net::world::system(runtime.handle().clone());
                    helper::serve_on_stdin(args.settings(), &world)
                }
            };
            // A thread that waits for the disk must not hold the process.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
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
