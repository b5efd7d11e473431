//! `selvedge-bench`: bounded load on servers that it starts itself on loopback, beside peers.
//!
//! It prints Markdown with medians, spreads and ratios, and says what was measured and how.
//! It is a measuring tool, no test: it fails only if a server answers wrongly.
//! Each section runs in a process of its own, which `keeper` ends with all that it started.

mod apply;
mod beside;
mod calls;
mod clock;
mod device;
mod docker;
mod figures;
mod fleet;
mod group_commit;
mod idle;
mod ingest;
mod keeper;
mod load;
mod peers;
mod process;
mod ready;
mod report;
mod server;
mod service;
mod sizes;
mod sse;
mod stack;
mod start;
mod targets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::keeper::Keeper;
use crate::report::progress;

/// Longest time of one section; all of them with their defaults take some ten minutes.
const SECTION: Duration = Duration::from_mins(15);

/// Measures Selvedge beside its peers on this machine.
#[derive(Debug, Parser)]
#[command(name = "selvedge-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Also put the tables into this page, as a section of their own
    #[arg(long, global = true, value_name = "FILE")]
    write: Option<PathBuf>,
    /// This process is a section and has a keeper
    #[arg(long, hide = true)]
    inside: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every section, one after the other
    All {
        /// Rounds of each section, instead of its own number
        #[arg(long)]
        rounds: Option<usize>,
    },
    /// Durable QoS 1 ingest over TLS of hub and router, beside mosquitto with persistence
    Ingest {
        /// Interleaved rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of load per server and round
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Bytes of each message's body
        #[arg(long, default_value_t = 256)]
        payload: usize,
    },
    /// Group commit of the journal alone
    Journal {
        /// Interleaved rounds
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds per window and round
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Bytes of each record's payload
        #[arg(long, default_value_t = 256)]
        payload: usize,
    },
    /// Memory and CPU of the hub under browsers' live streams, some of which take nothing
    Sse {
        /// Streams
        #[arg(long, default_value_t = 200)]
        clients: usize,
        /// Streams of these that are never read
        #[arg(long, default_value_t = 5)]
        slow: usize,
        /// Seconds of load
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Search, overview and writes of a hub that holds a large fleet
    Fleet {
        /// Devices, at most 2,000,000
        #[arg(long, default_value_t = 1_000_000)]
        devices: u32,
        /// Times that each question is asked
        #[arg(long, default_value_t = 11)]
        rounds: usize,
    },
    /// Memory of the hub per idle TLS connection, beside mosquitto
    Idle {
        /// Connections; each server and the client need as many descriptors
        #[arg(long, default_value_t = 9000)]
        connections: usize,
    },
    /// Starting a container, beside runc and Docker; needs root
    Start {
        /// Interleaved rounds
        #[arg(long, default_value_t = 30)]
        rounds: usize,
    },
    /// From a manifest at the hub to the program on the device, beside Docker; needs root
    Apply {
        /// Interleaved rounds
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Memory of the whole device stack with three modules, beside Docker; needs root
    Stack,
    /// From the start of the runtime to its interfaces and modules; needs root
    Ready {
        /// Starts
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
    /// Sizes of the programs
    Sizes,
    /// Ingest, idle memory and start times beside the programs of another folder, an earlier
    /// build for example; start times need root
    Beside {
        /// The folder with the other `selvedge`, `selvedge-edge` and `selvedge-monitor`
        folder: PathBuf,
        /// Interleaved rounds
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// Seconds of load per server and round
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Idle connections
        #[arg(long, default_value_t = 3000)]
        connections: usize,
    },
}

impl Command {
    /// Name and title of its section.
    fn section(&self) -> (&'static str, &'static str) {
        match self {
            Self::All { .. } => ("all", "All"),
            Self::Fleet { .. } => ("fleet", "A large fleet"),
            Self::Sse { .. } => ("sse", "Live streams of browsers"),
            Self::Ingest { .. } => ("ingest", "Durable QoS 1 ingest"),
            Self::Journal { .. } => ("journal", "Group commit of the journal"),
            Self::Idle { .. } => ("idle", "Memory of an idle TLS connection"),
            Self::Start { .. } => ("start", "Start of a container"),
            Self::Apply { .. } => ("apply", "From a manifest to the running module"),
            Self::Stack => ("stack", "The whole device stack at rest"),
            Self::Ready { .. } => ("ready", "Start of the device runtime"),
            Self::Sizes => ("sizes", "Sizes of the programs"),
            Self::Beside { .. } => ("beside", "Beside an earlier build"),
        }
    }

    async fn perform(self) -> Result<()> {
        let seconds = Duration::from_secs;
        match self {
            Self::All { .. } => bail!("all sections are none"),
            Self::Ingest { rounds, seconds: span, payload } => {
                ingest::section(rounds, seconds(span), payload).await
            }
            Self::Journal { rounds, seconds: span, payload } => {
                group_commit::section(rounds, seconds(span), payload)
            }
            Self::Sse { clients, slow, seconds: span } => {
                sse::section(clients, slow, seconds(span)).await
            }
            Self::Fleet { devices, rounds } => fleet::section(devices, rounds).await,
            Self::Idle { connections } => idle::section(connections).await,
            Self::Start { rounds } => start::section(rounds).await,
            Self::Apply { rounds } => apply::section(rounds).await,
            Self::Stack => stack::section().await,
            Self::Ready { rounds } => ready::section(rounds).await,
            Self::Sizes => sizes::section(),
            Self::Beside { folder, rounds, seconds: span, connections } => {
                let extent = beside::Extent { rounds, span: seconds(span), connections };
                beside::section(&folder, extent).await
            }
        }
    }
}

/// The sections of `all` in the order of the page, and whether they take `--rounds`.
const ALL: [(&str, bool); 9] = [
    ("ingest", true),
    ("idle", false),
    ("start", true),
    ("apply", true),
    ("ready", true),
    ("stack", false),
    ("sizes", false),
    ("sse", false),
    ("journal", true),
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = if cli.inside { inside(cli) } else { keep(&cli) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The section itself.
fn inside(cli: Cli) -> Result<()> {
    keeper::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(async {
        process::raise_descriptor_limit()?;
        let (name, title) = cli.command.section();
        cli.command.perform().await?;
        cli.write.map_or(Ok(()), |page| report::write(&page, name, title))
    })
}

fn keep(cli: &Cli) -> Result<()> {
    let page = keeper::check_page(cli.write.as_deref())?;
    let keeper = Keeper::new()?;
    let Command::All { rounds } = cli.command else {
        let args: Vec<String> = std::env::args().skip(1).collect();
        return keeper.run(&args, SECTION);
    };
    let mut failed = Vec::new();
    for (name, takes_rounds) in ALL {
        progress(&format!("== {name}"));
        let mut args = vec![name.to_owned()];
        if let Some(rounds) = rounds.filter(|_| takes_rounds) {
            args.extend(["--rounds".to_owned(), rounds.to_string()]);
        }
        if let Some(page) = &page {
            args.extend(["--write".to_owned(), page.display().to_string()]);
        }
        if let Err(error) = keeper.run(&args, SECTION) {
            progress(&format!("{name}: {error:#}"));
            failed.push(name);
            if let Some(page) = &page {
                not_measured(page, name, &error)?;
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not measured: {}", failed.join(", "))
}

/// Says in the page that a section has failed, instead of figures of an earlier run.
fn not_measured(page: &Path, name: &str, error: &anyhow::Error) -> Result<()> {
    let title = Cli::try_parse_from(["selvedge-bench", name]).map(|cli| cli.command.section().1);
    let title = title.unwrap_or(name);
    let body =
        format!("## {title}\n\n- **Not measured**: the section `{name}` failed: {error:#}\n");
    report::place(page, name, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_of_all_is_a_command_of_that_name() {
        for (name, takes_rounds) in ALL {
            let mut args = vec!["selvedge-bench", "--inside", name];
            if takes_rounds {
                args.extend(["--rounds", "2"]);
            }
            args.extend(["--write", "page.md"]);
            let cli = Cli::try_parse_from(&args).unwrap();
            assert_eq!(cli.command.section().0, name);
        }
    }
}
