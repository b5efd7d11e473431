//! The frame of a module's `main`: one thread, logs on stderr, `--version`, a stop in order.

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Exit code for a command line that makes no sense.
const USAGE: u8 = 2;

/// Tells when the module is to stop: on SIGTERM, as the runtime does it, or SIGINT.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits until the module is to stop; returns at once ever after.
    pub async fn requested(&mut self) {
        // An error means that nobody listens to signals any more, which is a stop as well.
        self.0.wait_for(|stop| *stop).await.map(drop).ok();
    }
}

/// Runs `main` as the module `name` of `version` on a runtime of one thread.
///
/// The environment variable `RuntimeLogLevel` says how much is logged, as for the edge
/// runtime itself; `RUST_LOG` is finer and wins.
pub fn run<E, F>(name: &str, version: &str, main: impl FnOnce(Stop) -> F) -> ExitCode
where
    E: Into<Box<dyn Error + Send + Sync>>,
    F: Future<Output = Result<(), E>>,
{
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["--version" | "-V"] => return say(&mut io::stdout(), &format!("{name} {version}")),
        _ => {
            say(&mut io::stderr(), &format!("usage: {name} [--version]; run by an edge runtime"));
            return ExitCode::from(USAGE);
        }
    }
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    tracing::info!(name, version, "module starts");
    let outcome = runtime.block_on(async {
        let stop = listen()?;
        main(stop).await.map_err(Into::into)
    });
    match outcome {
        Ok(()) => {
            tracing::info!("module stops");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&*error),
    }
}

fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    tracing::error!(error = chain(error), "module failed");
    ExitCode::FAILURE
}

fn say(to: &mut dyn Write, line: &str) -> ExitCode {
    match writeln!(to, "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(level(std::env::var("RuntimeLogLevel").ok().as_deref()))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}

/// The level by the words that the edge runtime knows.
fn level(word: Option<&str>) -> &'static str {
    match word.unwrap_or_default().to_ascii_lowercase().as_str() {
        "fatal" | "error" => "error",
        "warning" | "warn" => "warn",
        "debug" => "debug",
        "verbose" | "trace" => "trace",
        _ => "info",
    }
}

#[expect(clippy::disallowed_methods, reason = "the world of the module is made inside of main")]
fn listen() -> io::Result<Stop> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        // Kept until the process ends, so that waiting never fails.
        sender.closed().await;
    });
    Ok(Stop(receiver))
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_of_the_edge_runtime_are_known() {
        for (word, expected) in [
            (None, "info"),
            (Some("Information"), "info"),
            (Some("Verbose"), "trace"),
            (Some("debug"), "debug"),
            (Some("warning"), "warn"),
            (Some("fatal"), "error"),
        ] {
            assert_eq!(level(word), expected, "{word:?}");
        }
    }
}
