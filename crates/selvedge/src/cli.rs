//! What can be typed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Edge computing for IoT fleets: the hub, and the command line to work with it.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Print keys instead of masking them
    #[arg(long, global = true)]
    pub(crate) show_secrets: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the hub is and how to prove who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Folder with the hub's data and credentials [default: ~/.local/share/selvedge]
    #[arg(long, global = true, env = "SELVEDGE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Connection string of a policy, for a hub elsewhere
    #[arg(
        long,
        global = true,
        env = "IOTHUB_CONNECTION_STRING",
        hide_env_values = true,
        value_name = "TEXT"
    )]
    pub(crate) login: Option<String>,
    /// PEM file with the authority to trust, for a hub elsewhere
    #[arg(long, global = true, env = "SELVEDGE_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run hub, this machine as an edge device, and a pipeline of modules on its own readings
    Up(UpArgs),
    /// Run the hub
    Hub(HubArgs),
    /// Register, show and remove devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Show and change twins
    #[command(subcommand)]
    Twin(TwinCommand),
    /// Call a direct method and print the answer
    Method(MethodArgs),
    /// Print telemetry as it arrives
    Monitor(MonitorArgs),
    /// Print a link that opens the web console once, or manage its sessions
    Console(ConsoleArgs),
    /// Configure edge devices
    #[command(subcommand)]
    Edge(EdgeCommand),
}

#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// Address for MQTT over TLS; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8883", value_name = "ADDR", value_parser = address)]
    pub(crate) mqtt: SocketAddr,
    /// Address for HTTPS; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDR", value_parser = address)]
    pub(crate) https: SocketAddr,
    /// Host name that devices use; also in the server certificate (repeatable)
    #[arg(long = "host", value_name = "NAME", default_value = "localhost")]
    pub(crate) hosts: Vec<String>,
    /// Keep telemetry for this many hours
    #[arg(long, default_value_t = 24, value_name = "HOURS")]
    pub(crate) retention_hours: u32,
    /// Keep at most this many MiB of telemetry
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    pub(crate) retention_mib: u64,
    /// Serve the web console from this folder instead of the built-in files
    #[arg(long, value_name = "DIR")]
    pub(crate) console_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Engine that runs the modules
    #[arg(long, value_enum, default_value_t = UpEngine::Embedded)]
    pub(crate) engine: UpEngine,
    /// Folder with the modules' image archives
    #[arg(long, value_name = "DIR")]
    pub(crate) images: Option<PathBuf>,
    /// Address that the device's router listens on, port 8883 [default: 127.0.0.2 with --engine
    /// process; containers find it on their own network]
    #[arg(long, value_name = "IP")]
    pub(crate) gateway: Option<IpAddr>,
    /// The hub's address for MQTT over TLS; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR", value_parser = address)]
    pub(crate) mqtt: SocketAddr,
    /// The hub's address for HTTPS; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR", value_parser = address)]
    pub(crate) https: SocketAddr,
    /// Serve the web console from this folder instead of the built-in files
    #[arg(long, value_name = "DIR")]
    pub(crate) console_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpEngine {
    /// Containers, without a daemon; needs root
    Embedded,
    /// Plain processes without isolation, for development only
    Process,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Register a device; prints its connection string with --show-secrets
    Create {
        /// Its id
        device: String,
        /// Make it an edge device
        #[arg(long)]
        edge: bool,
    },
    /// List devices
    List {
        /// At most this many
        #[arg(long, default_value_t = 1000)]
        top: usize,
    },
    /// Show one device
    Show {
        /// Its id
        device: String,
    },
    /// Print the connection string that a device is given
    ConnectionString {
        /// Its id
        device: String,
    },
    /// Remove a device with its modules and twins
    Delete {
        /// Its id
        device: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The device's id
    pub(crate) device: String,
    /// A module on it
    #[arg(short, long)]
    pub(crate) module: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TwinCommand {
    /// Show the whole twin
    Get {
        #[command(flatten)]
        target: Target,
    },
    /// Merge JSON into tags or desired properties; null deletes
    Set {
        #[command(flatten)]
        target: Target,
        /// JSON object merged into the desired properties
        #[arg(long, value_name = "JSON")]
        desired: Option<String>,
        /// JSON object merged into the tags
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
        /// Only if the twin still has this etag
        #[arg(long)]
        etag: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MethodArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The method's name
    pub(crate) name: String,
    /// JSON to send
    #[arg(default_value = "null")]
    pub(crate) payload: String,
    /// Seconds to wait for the answer (5 to 300)
    #[arg(long, default_value_t = 30)]
    pub(crate) timeout: u64,
    /// Seconds to wait for the device to connect (0 to 300)
    #[arg(long, default_value_t = 0)]
    pub(crate) connect_timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Only this device
    #[arg(short, long)]
    pub(crate) device: Option<String>,
    /// Where to start: `now`, `start`, or a cursor printed earlier
    #[arg(long, default_value = "now")]
    pub(crate) from: String,
    /// Stop after this many messages
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConsoleArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ConsoleCommand>,
    /// Open the session with the rights of this policy instead of the login's own
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConsoleCommand {
    /// List who is signed in
    Sessions,
    /// End a session
    Revoke {
        /// The session's id
        session: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EdgeCommand {
    /// Give one device a deployment manifest (its modules and routes)
    SetModules {
        /// The device's id
        device: String,
        /// The manifest, a JSON file
        #[arg(long, value_name = "FILE")]
        content: PathBuf,
        /// Only check the manifest and show what its routes mean; change nothing
        #[arg(long)]
        check: bool,
    },
}

/// An address to listen at.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "an IP address and a port are needed, such as 127.0.0.1:8883 or [::]:8883".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn what_can_be_typed_fits_together() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["selvedge", "device", "connection-string", "d1"]);
        assert!(cli.place.login.is_none());
    }
}
