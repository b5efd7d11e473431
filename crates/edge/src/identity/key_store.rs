//! The device CA in files: made at first start, read at every later one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credentials::certificate::{Authority, CertificateError, Issued, Validity};
use model::id::DeviceId;
use model::secret::Secret;
use model::world::World;
use thiserror::Error;

use crate::settings::EdgeCa;

/// How long a server certificate holds; it is made afresh at every start and when asked for.
pub const SERVER_LIFE: Duration = Duration::from_hours(24 * 90);
const CERTIFICATE: &str = "edge-ca.pem";
const KEY: &str = "edge-ca.key.pem";

/// Why the device CA cannot be used.
#[derive(Debug, Error)]
pub enum KeyStoreError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The files hold no authority, or it cannot issue what is needed.
    #[error("the device CA cannot be used")]
    Certificate(#[from] CertificateError),
}

/// The device CA with its key, and what it is trusted along with.
#[derive(Debug)]
pub struct KeyStore {
    authority: Authority,
    bundle: String,
    world: World,
}

impl KeyStore {
    /// Reads the authority that `ca` names from `folder`, or makes it there.
    ///
    /// # Errors
    /// [`KeyStoreError`] names the file that cannot be used.
    pub fn open(
        folder: &Path,
        ca: &EdgeCa,
        device: &DeviceId,
        trusted: Option<&Path>,
        world: &World,
    ) -> Result<Self, KeyStoreError> {
        let authority = match ca {
            EdgeCa::Given { cert, key } => authority(cert, key)?,
            EdgeCa::Made { days } => made(folder, *days, device, world)?,
        };
        let more = trusted.map(read).transpose()?;
        let bundle = format!("{}{}", authority.to_pem(), more.unwrap_or_default());
        Ok(Self { authority, bundle, world: world.clone() })
    }

    /// Certificates that modules trust, PEM.
    pub fn trust_bundle(&self) -> &str {
        &self.bundle
    }

    /// A server certificate for `names`, each a DNS name or an address.
    ///
    /// # Errors
    /// [`KeyStoreError::Certificate`] if a name cannot stand in a certificate.
    pub fn server_certificate(&self, names: &[&str]) -> Result<Issued, KeyStoreError> {
        let common_name = names.first().copied().unwrap_or("localhost");
        Ok(self.authority.issue_server(common_name, names, validity(&self.world, SERVER_LIFE))?)
    }
}

fn validity(world: &World, life: Duration) -> Validity {
    Validity { now: world.now().wall, life, serial: world.random.number() }
}

fn made(
    folder: &Path,
    days: u16,
    device: &DeviceId,
    world: &World,
) -> Result<Authority, KeyStoreError> {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    // The certificate is written last: if it is there, so is its key.
    if certificate.exists() {
        return authority(&certificate, &key);
    }
    fs::create_dir_all(folder).map_err(file("make", folder))?;
    let life = Duration::from_hours(24 * u64::from(days));
    let name = format!("selvedge edge CA {device}");
    let made = Authority::generate(&name, validity(world, life))?;
    write(&key, made.key_pem().expose())?;
    write(&certificate, made.to_pem().as_bytes())?;
    Ok(made)
}

fn authority(certificate: &Path, key: &Path) -> Result<Authority, KeyStoreError> {
    let key = Secret::from(read(key)?);
    Ok(Authority::from_pem(&read(certificate)?, &key)?)
}

fn read(path: &Path) -> Result<String, KeyStoreError> {
    fs::read_to_string(path).map_err(file("read", path))
}

/// Readable by this user only, and on disk when it returns.
fn write(path: &Path, bytes: &[u8]) -> Result<(), KeyStoreError> {
    let fresh = path.with_extension("new");
    let open =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let mut open = open.map_err(file("make", &fresh))?;
    open.write_all(bytes).and_then(|()| open.sync_all()).map_err(file("write", &fresh))?;
    fs::rename(&fresh, path).map_err(file("name", path))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyStoreError {
    let path = path.to_owned();
    move |source| KeyStoreError::File { action, path, source }
}
