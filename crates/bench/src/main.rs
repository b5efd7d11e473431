//! `selvedge-bench`: bounded load on servers that it starts itself on loopback, beside peers.
//!
//! It prints Markdown with medians and ratios, and says what was measured and how.
//! It is a measuring tool, no test: it fails only if a server answers wrongly.

mod clock;
mod group_commit;
mod load;
mod process;
mod report;
mod server;
mod sse;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use crate::load::{Load, Outcome};
use crate::report::line;
use crate::server::Server;

/// Measures Selvedge beside its peers on this machine.
#[derive(Debug, Parser)]
#[command(name = "selvedge-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Also put the tables into this page, as a section of their own
    #[arg(long, global = true, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Durable QoS 1 ingest over TLS, beside mosquitto with persistence
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
    /// Group commit of the journal alone, in a folder made in the current one
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
        #[arg(long, default_value_t = 45)]
        seconds: u64,
    },
    /// Memory of the hub per idle TLS connection, beside mosquitto
    Idle {
        /// Connections; each server and the client need as many descriptors
        #[arg(long, default_value_t = 9000)]
        connections: usize,
    },
    /// Starting a container, beside `runc run` of the same bundle; needs root
    Start {
        /// Interleaved rounds
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
}

impl Command {
    /// Name and title of its section.
    fn section(&self) -> (&'static str, &'static str) {
        match self {
            Self::Sse { .. } => ("sse", "Live streams of browsers"),
            Self::Ingest { .. } => ("ingest", "Durable QoS 1 ingest"),
            Self::Journal { .. } => ("journal", "Group commit of the journal"),
            Self::Idle { .. } => ("idle", "Memory of an idle TLS connection"),
            Self::Start { .. } => ("start", "Start of a container"),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("starting the runtime").and_then(|runtime| {
        runtime.block_on(async {
            process::raise_descriptor_limit()?;
            let (name, title) = cli.command.section();
            match cli.command {
                Command::Ingest { rounds, seconds, payload } => {
                    ingest(rounds, Duration::from_secs(seconds), payload).await
                }
                Command::Journal { rounds, seconds, payload } => {
                    group_commit(rounds, Duration::from_secs(seconds), payload)
                }
                Command::Sse { clients, slow, seconds } => {
                    streams(clients, slow, Duration::from_secs(seconds)).await
                }
                Command::Idle { connections } => idle(connections).await,
                Command::Start { rounds } => container_start(rounds),
            }?;
            cli.write.map_or(Ok(()), |page| report::write(&page, name, title))
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("selvedge-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Records waiting for their commit at any time.
const WINDOWS: [u64; 4] = [1, 16, 256, 4096];

fn group_commit(rounds: usize, span: Duration, payload: usize) -> Result<()> {
    ensure!(rounds > 0 && payload > 0, "at least one round and one byte");
    let mut all: [Vec<group_commit::Outcome>; 4] = Default::default();
    for _ in 0..rounds {
        for (window, outcomes) in WINDOWS.into_iter().zip(&mut all) {
            outcomes.push(group_commit::run(window, payload, span)?);
        }
    }
    line("| records in flight | records/s | records per sync | log/payload | written/payload |");
    line("|---|---|---|---|---|");
    for (window, outcomes) in WINDOWS.into_iter().zip(&all) {
        let of =
            |value: fn(&group_commit::Outcome) -> f64| median(outcomes.iter().map(value).collect());
        line(&format!(
            "| {window} | {:.0} | {:.1} | {:.2} | {:.2} |",
            of(|o| o.rate),
            of(|o| o.group),
            of(|o| o.stored),
            of(|o| o.written),
        ));
    }
    line(&format!(
        "\n{payload} B payload, 32 lanes, one sender, one writer, {rounds} interleaved rounds of \
         {} s each, medians. Log: header, frames and lanes; written: what the kernel sent to the \
         block device, in whole pages.",
        span.as_secs()
    ));
    Ok(())
}

/// The loads of the report: connections × messages in flight on each.
const SHAPES: [(usize, usize); 3] = [(1, 1), (1, 16), (200, 16)];

async fn ingest(rounds: usize, span: Duration, payload: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    let servers = [Server::selvedge(200).await?, Server::mosquitto().await?];
    line(
        "| load | server | msg/s | ratio | p50 ms | p99 ms | server CPU µs/msg | bytes written/payload byte |",
    );
    line("|---|---|---|---|---|---|---|---|");
    for (connections, in_flight) in SHAPES {
        let load = Load { connections, in_flight, payload, span };
        let mut all: [Vec<Outcome>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (server, outcomes) in servers.iter().zip(&mut all) {
                outcomes.push(load::run(server, load).await?);
            }
        }
        let ratios = all[0].iter().zip(&all[1]).map(|(ours, peer)| ours.rate / peer.rate).collect();
        let ratio = median(ratios);
        for (server, outcomes) in servers.iter().zip(&all) {
            let of = |value: fn(&Outcome) -> f64| median(outcomes.iter().map(value).collect());
            let first = server.name == servers[0].name;
            line(&format!(
                "| {connections} × {in_flight} | {} | {:.0} | {} | {:.2} | {:.2} | {:.1} | {:.2} |",
                server.name,
                of(|o| o.rate),
                if first { format!("{ratio:.2}") } else { "1".to_owned() },
                of(|o| o.p50_ms),
                of(|o| o.p99_ms),
                of(|o| o.cpu_us),
                of(|o| o.written),
            ));
        }
    }
    line(&format!(
        "\n{payload} B payload, QoS 1, TLS 1.3, {rounds} interleaved rounds of {} s each, medians; \
         the ratio is the median of the rounds' ratios. Selvedge syncs before each PUBACK; \
         mosquitto runs with persistence on and its default autosave, has no subscriber, and \
         syncs nothing. Client and servers share {} cores.",
        span.as_secs(),
        std::thread::available_parallelism().map_or(0, usize::from),
    ));
    Ok(())
}

async fn streams(clients: usize, slow: usize, span: Duration) -> Result<()> {
    let outcome = sse::run(clients, slow, span).await?;
    line(
        "| streams | never read | KiB per stream (PSS) | CPU | CPU, nobody watches | updates/s, fewest | median |",
    );
    line("|---|---|---|---|---|---|---|");
    line(&format!(
        "| {clients} | {slow} | {:.1} | {:.0} % | {:.0} % | {:.1} | {:.1} |",
        outcome.kib_each,
        outcome.cpu_percent,
        outcome.cpu_alone_percent,
        outcome.updates.0,
        outcome.updates.1,
    ));
    line(&format!(
        "\nEach stream watches overview, changes and the telemetry of one device that sends {:.0} \
         messages/s (QoS 1, synced); CPU in percent of one core of the hub's process, {} s. The \
         hub's own counters: {}.",
        outcome.messages_per_second,
        span.as_secs(),
        outcome.live,
    ));
    Ok(())
}

async fn idle(connections: usize) -> Result<()> {
    line("| server | connections | KiB per connection (RSS) | KiB per connection (PSS) |");
    line("|---|---|---|---|");
    for server in [Server::selvedge(connections).await?, Server::mosquitto().await?] {
        let before = process::memory(server.pid())?;
        let held = load::hold(&server, connections).await?;
        let after = process::memory(server.pid())?;
        let each = |now: u64, then: u64| {
            let (bytes, count) = (now.saturating_sub(then), u32::try_from(connections));
            count.map(|count| to_f64(bytes) / 1024.0 / f64::from(count))
        };
        line(&format!(
            "| {} | {connections} | {:.2} | {:.2} |",
            server.name,
            each(after.rss, before.rss)?,
            each(after.pss, before.pss)?,
        ));
        drop(held);
    }
    line("\nUser memory only; each connection is a device that connected over TLS 1.3 and idles.");
    Ok(())
}

fn container_start(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    let all = start::run(rounds)?;
    let ratios = all.start.iter().zip(&all.runc).map(|(ours, peer)| ours / peer).collect();
    let ratio = median(ratios);
    line("| what | p50 ms | p95 ms | least | most | of runc |");
    line("|---|---|---|---|---|---|");
    let rows: [(&str, &[f64], Option<f64>); 3] = [
        ("selvedge: start of a created container", &all.start, Some(ratio)),
        ("runc run --detach", &all.runc, Some(1.0)),
        ("selvedge: create from a stored image", &all.create, None),
    ];
    for (name, times, ratio) in rows {
        let at = |share: usize| percentile(times, share);
        let of = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        line(&format!(
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} | {of} |",
            at(50),
            at(95),
            at(0),
            at(100),
        ));
    }
    line(&format!(
        "\n{rounds} interleaved rounds after 3 of warm-up, the same static program, host network, \
         the configuration that the engine wrote; the ratio is the median of the rounds' ratios. \
         Selvedge's start mounts overlayfs and ends when the program runs under its monitor with \
         seccomp, logs and a durable record; runc's ends when the command returns: a plain folder \
         as root, no seccomp filter, no logs."
    ));
    Ok(())
}

/// The value below which `share` percent lie.
fn percentile(values: &[f64], share: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) * share).div_ceil(100);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2, middle.checked_sub(1).and_then(|i| values.get(i)))
    {
        (Some(upper), 0, Some(lower)) => f64::midpoint(*upper, *lower),
        (Some(value), _, _) => *value,
        (None, _, _) => f64::NAN,
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures of a report, far below 2^52")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::print_stderr, reason = "words beside the report")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let check = |share: usize, expected: f64| {
            let found = percentile(&[3.0, 1.0, 2.0, 5.0, 4.0], share);
            assert!((found - expected).abs() < 1e-9, "{share}: {found}");
        };
        check(0, 1.0);
        check(50, 3.0);
        check(95, 5.0);
        check(100, 5.0);
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let check = |values: &[f64], expected: f64| {
            assert!((median(values.to_vec()) - expected).abs() < 1e-9, "{values:?}");
        };
        check(&[3.0, 1.0, 2.0], 2.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5);
        check(&[7.0], 7.0);
        assert!(median(Vec::new()).is_nan());
    }
}
