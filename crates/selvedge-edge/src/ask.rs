//! Commands that ask a running device over its management socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use edge::settings::Settings;
use edge::status::{EdgeStatus, ModuleStatus};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use model::id::ModuleName;
use net::http_client::{HttpClient, HttpClientError, read_whole};
use net::network::{Address, SystemNetwork};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, FailureKind, chain, print, say};

/// How long the device may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which running device is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct AskPlace {
    /// The device's configuration, which names the management socket
    #[arg(long, value_name = "FILE", default_value = "/etc/selvedge/config.toml")]
    config: PathBuf,
    /// Folder of all state, if `run` was given one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The management socket itself; the configuration is not read then
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people
    Table,
    /// One JSON document
    Json,
}

/// What a running device can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum AskCommand {
    /// List the modules, as desired and as they are
    List {
        #[command(flatten)]
        place: AskPlace,
    },
    /// Show the device, its link to the hub, and what its router counted
    Status {
        #[command(flatten)]
        place: AskPlace,
    },
    /// Print what a module wrote
    Logs {
        /// The module's name
        module: ModuleName,
        /// Only the last N lines
        #[arg(long, value_name = "N")]
        tail: Option<u32>,
        #[command(flatten)]
        place: AskPlace,
    },
    /// Stop a module and start it again
    Restart {
        /// The module's name
        module: ModuleName,
        #[command(flatten)]
        place: AskPlace,
    },
}

/// Asks, and prints the answer.
pub(crate) async fn run(command: AskCommand) -> Result<(), Failure> {
    match command {
        AskCommand::List { place } => {
            let body = Management::of(&place)?.ask(Method::GET, "/modules").await?;
            show(place.output, &body, |modules: Vec<ModuleStatus>| table_of_modules(&modules))
        }
        AskCommand::Status { place } => {
            let body = Management::of(&place)?.ask(Method::GET, "/status").await?;
            show(place.output, &body, |status: EdgeStatus| text_of_status(&status))
        }
        AskCommand::Logs { module, tail, place } => {
            let query = tail.map(|lines| format!("?tail={lines}")).unwrap_or_default();
            let path = format!("/modules/{}/logs{query}", segment(&module));
            let body = Management::of(&place)?.ask(Method::GET, &path).await?;
            print(&String::from_utf8_lossy(&body));
            Ok(())
        }
        AskCommand::Restart { module, place } => {
            let path = format!("/modules/{}/restart", segment(&module));
            Management::of(&place)?.ask(Method::POST, &path).await?;
            say(&format!("{module} is being restarted"));
            Ok(())
        }
    }
}

fn show<T: DeserializeOwned>(
    output: Output,
    body: &[u8],
    text: impl Fn(T) -> String,
) -> Result<(), Failure> {
    print(&match output {
        Output::Json => pretty(body)?,
        Output::Table => text(parse(body)?),
    });
    Ok(())
}

/// The management socket that the configuration names.
fn socket_of(place: &AskPlace) -> Result<PathBuf, Failure> {
    let path = place.config.display();
    let text = std::fs::read_to_string(&place.config).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FailureKind::NotFound,
            io::ErrorKind::PermissionDenied => FailureKind::NotAllowed,
            _ => FailureKind::Failed,
        };
        Failure::new(kind, format!("cannot read {path}: {error}"))
            .with_help("name the configuration with --config FILE, or the socket with --socket")
    })?;
    let settings = match &place.data {
        None => Settings::parse(&text),
        Some(data) => {
            let data = std::path::absolute(data)
                .map_err(|error| Failure::usage(format!("--data: {error}")))?;
            Settings::parse_in(&text, &data)
        }
    };
    let settings = settings.map_err(|error| Failure::usage(format!("{path}: {error}")))?;
    Ok(settings.connect.management)
}

fn segment(module: &ModuleName) -> String {
    utf8_percent_encode(module.as_str(), NON_ALPHANUMERIC).to_string()
}

/// The management interface of one device.
struct Management {
    client: HttpClient,
    socket: PathBuf,
}

impl Management {
    fn of(place: &AskPlace) -> Result<Self, Failure> {
        let socket = match &place.socket {
            Some(socket) => socket.clone(),
            None => socket_of(place)?,
        };
        let world = net::world::system(tokio::runtime::Handle::current());
        let address = Address::Unix(socket.clone());
        Ok(Self { client: HttpClient::new(Arc::new(SystemNetwork), world, address, None), socket })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, Failure> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request
            .body(Full::new(Bytes::new()))
            .map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        let answer =
            self.client.send(request, PATIENCE).await.map_err(|error| self.unanswered(&error))?;
        let status = answer.status();
        let body = read_whole(answer.into_body(), PATIENCE).await;
        let body = body.map_err(|error| self.unanswered(&error))?;
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    fn unanswered(&self, error: &HttpClientError) -> Failure {
        let socket = self.socket.display();
        if let HttpClientError::Connect { cause, .. } = error {
            if cause.kind() == io::ErrorKind::PermissionDenied {
                let message = format!("{socket} is not open to this user");
                return Failure::new(FailureKind::NotAllowed, message)
                    .with_help("ask as the user that runs the device");
            }
            let message = format!("no device answers at {socket}: {cause}");
            return Failure::new(FailureKind::Unreachable, message).with_help(
                "start it with `selvedge-edge run --config FILE`, or name its socket with \
                 --socket PATH",
            );
        }
        Failure::new(FailureKind::Unreachable, format!("{socket}: {}", chain(error)))
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    #[derive(Deserialize)]
    struct Refused {
        message: String,
    }
    let words = serde_json::from_slice(body)
        .map_or_else(|_| format!("the device answered {status}"), |Refused { message }| message);
    let kind = match status {
        StatusCode::NOT_FOUND => FailureKind::NotFound,
        StatusCode::BAD_REQUEST => FailureKind::Usage,
        _ => FailureKind::Failed,
    };
    let failure = Failure::new(kind, words);
    match kind {
        FailureKind::NotFound => failure.with_help("`selvedge-edge list` names the modules"),
        _ => failure,
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::failed(format!("the device's answer is not understood: {error}")))
}

fn pretty(body: &[u8]) -> Result<String, Failure> {
    let value: serde_json::Value = parse(body)?;
    serde_json::to_string_pretty(&value)
        .map_err(|error| Failure::failed(format!("cannot print the answer: {error}")))
}

fn table_of_modules(modules: &[ModuleStatus]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "MODULE",
        "DESIRED",
        "ACTUAL",
        "CONNECTED",
        "RESTARTS",
        "EXIT",
        "IMAGE",
        "WHY",
    ]);
    for module in modules {
        table.add_row([
            module.name.clone(),
            if module.desired.is_empty() { "-".to_owned() } else { module.desired.clone() },
            module.actual.clone(),
            if module.connected { "yes" } else { "no" }.to_owned(),
            module.restarts.to_string(),
            module.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            module.image.clone(),
            module.words.clone(),
        ]);
    }
    table.to_string()
}

fn text_of_status(status: &EdgeStatus) -> String {
    let router = &status.router;
    let running = status.modules.iter().filter(|module| module.actual == "running").count();
    let upstream = if status.upstream_connected { "connected" } else { "not connected" };
    let mut text = format!(
        "device      {}\n\
         upstream    {upstream}\n\
         deployment  version {}, {} {}\n\
         modules     {running} of {} running\n\
         routes      {} {}\n\
         messages    {} received, {} sent upstream, {} taken by inputs, {} refused\n\
         dropped     {} without route, {} expired, {} unwanted by the hub, {} without sender, \
         {} damaged",
        status.device_id,
        status.desired_version,
        status.desired_code,
        status.desired_words,
        status.modules.len(),
        router.desired_code,
        router.desired_words,
        router.received,
        router.sent_upstream,
        router.sent_inputs,
        router.refused,
        router.dropped_no_route,
        router.dropped_expired,
        router.dropped_poison,
        router.dropped_no_sender,
        router.dropped_damaged,
    );
    if !router.queues.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["QUEUE", "PRIORITY", "WAITING", "OLDEST"]);
        for queue in &router.queues {
            table.add_row([
                queue.endpoint.clone(),
                queue.priority.to_string(),
                queue.depth.to_string(),
                queue.oldest_ms.map_or_else(|| "-".to_owned(), |age| format!("{age} ms")),
            ]);
        }
        text.push('\n');
        text.push_str(&table.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_the_devices_words_and_give_scripts_a_code() {
        let check = |status, body: &str, code, words: &str| {
            let failure = refused(status, body.as_bytes());
            assert_eq!((failure.exit_code(), &*failure.message), (code, words));
        };
        check(StatusCode::NOT_FOUND, r#"{"message":"no such module"}"#, 3, "no such module");
        check(StatusCode::BAD_REQUEST, r#"{"message":"bad"}"#, 2, "bad");
        let bare = "the device answered 500 Internal Server Error";
        check(StatusCode::INTERNAL_SERVER_ERROR, "oops", 1, bare);
    }

    #[test]
    fn a_status_shows_the_link_the_deployment_and_the_modules() {
        let mut status = EdgeStatus { device_id: "d1".to_owned(), ..EdgeStatus::default() };
        let module = ModuleStatus {
            actual: "running".to_owned(),
            name: "m".to_owned(),
            ..Default::default()
        };
        status.modules.push(module);
        let text = text_of_status(&status);
        assert!(text.contains("not connected") && text.contains("1 of 1 running"), "{text}");
        let table = table_of_modules(&status.modules);
        assert!(table.contains("MODULE") && table.contains("running"), "{table}");
    }
}
