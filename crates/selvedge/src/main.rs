//! `selvedge`: the operator's binary. The hub, and a command line that speaks only its public API.

mod cli;
mod client;
mod commands;
mod failure;
mod place;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.output, cli.show_secrets);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.error(&Failure::failed(format!("cannot start the runtime: {error}")));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(cli, &terminal));
    // A reader blocked on standard input must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(cli: Cli, terminal: &Terminal) -> Result<(), Failure> {
    let place = cli.place.clone();
    match cli.command {
        Command::Up(args) => commands::up::run(&place, args, terminal).await,
        Command::Hub(args) => commands::hub::run(&place, args, terminal).await,
        Command::Device(command) => commands::device::run(&place, command, terminal).await,
        Command::Twin(command) => commands::twin::run(&place, command, terminal).await,
        Command::Method(args) => commands::method::run(&place, args, terminal).await,
        Command::Monitor(args) => commands::monitor::run(&place, args, terminal).await,
        Command::Console(args) => commands::console::run(&place, args, terminal).await,
        Command::Edge(command) => commands::edge::run(&place, command, terminal).await,
    }
}
