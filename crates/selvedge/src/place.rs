//! Where a hub's folder and credentials lie, and what the hub writes there for its clients.

use std::path::{Path, PathBuf};

use credentials::connection_string::ConnectionString;
use serde::{Deserialize, Serialize};

use crate::cli::PlaceArgs;
use crate::failure::{Failure, chain};

/// What a running hub says about itself, in `hub/endpoint.json`. Strict: hub and command line are
/// one program, so a stranger means that another version of it wrote the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    /// `host:port` of HTTPS.
    pub(crate) https: String,
    /// `host:port` of MQTT over TLS.
    pub(crate) mqtt: String,
    /// The name that devices use.
    pub(crate) host: String,
    /// The process that serves.
    pub(crate) pid: u32,
}

/// A hub to talk to.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) server_name: String,
    pub(crate) connection: ConnectionString,
    pub(crate) ca_pem: Option<String>,
}

/// The data folder: as given, or the user's.
pub(crate) fn data_folder(args: &PlaceArgs) -> Result<PathBuf, Failure> {
    if let Some(folder) = &args.data {
        return Ok(folder.clone());
    }
    let home = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    home.map(|home| home.join("selvedge")).ok_or_else(|| {
        Failure::usage("neither --data nor HOME is set").with_help("give --data DIR")
    })
}

/// The hub's own folder inside the data folder.
pub(crate) fn hub_folder(data: &Path) -> PathBuf {
    data.join("hub")
}

impl Place {
    /// Finds the hub: by connection string if one is given, else in the data folder.
    pub(crate) fn find(args: &PlaceArgs) -> Result<Self, Failure> {
        match &args.login {
            Some(text) => Self::elsewhere(args, text),
            None => Self::here(args),
        }
    }

    fn elsewhere(args: &PlaceArgs, text: &str) -> Result<Self, Failure> {
        let connection = ConnectionString::parse(text)
            .map_err(|error| Failure::usage(format!("connection string: {}", chain(&error))))?;
        if connection.key.is_none() || connection.policy.is_none() {
            return Err(Failure::usage(
                "the connection string has no SharedAccessKeyName and SharedAccessKey",
            ));
        }
        let (name, port) = match connection.host_name.rsplit_once(':') {
            Some((name, port)) => (name.to_owned(), port.to_owned()),
            None => (connection.host_name.clone(), "443".to_owned()),
        };
        let ca_pem = match &args.ca {
            Some(file) => Some(read(file)?),
            None => None,
        };
        Ok(Self { address: format!("{name}:{port}"), server_name: name, connection, ca_pem })
    }

    fn here(args: &PlaceArgs) -> Result<Self, Failure> {
        let folder = hub_folder(&data_folder(args)?);
        let file = folder.join("endpoint.json");
        let text = std::fs::read_to_string(&file).map_err(|_| {
            Failure::failed(format!("no hub has run in {}", folder.display()))
                .with_help("start one with `selvedge hub`, or give --data DIR or --login TEXT")
        })?;
        let endpoint: Endpoint = serde_json::from_str(&text)
            .map_err(|error| Failure::failed(format!("{} is damaged: {error}", file.display())))?;
        let owner = read(&folder.join("owner.connection"))?;
        let connection = ConnectionString::parse(&owner)
            .map_err(|error| Failure::failed(format!("owner.connection: {}", chain(&error))))?;
        Ok(Self {
            address: endpoint.https,
            server_name: endpoint.host,
            connection,
            ca_pem: Some(read(&folder.join("ca.pem"))?),
        })
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))
}
