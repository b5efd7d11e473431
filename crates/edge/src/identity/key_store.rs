//! The keys of this device in files: made at first start, read at every later one.
//!
//! | file | what |
//! |---|---|
//! | `edge-ca.pem` | the certificate of the device CA |
//! | `edge-ca.key.pem` | its key, PKCS#8 |
//! | `workload.key` | 32 random bytes, behind all encryption for modules |
//!
//! Keys are readable by this user only. A file that is damaged is an error that names it, for
//! what was encrypted under a lost key is lost.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use credentials::certificate::{Authority, CertificateError, Issued, Validity};
use credentials::cipher::{MASTER_KEY_BYTES, MasterKey, Scope};
use credentials::key_store::{KeyStore, LeafRequest, Purpose, UseKeyError};
use credentials::renewal::{CERTIFICATE as POLICY, Renewal, renewal};
use credentials::rsa_key::MakeRsaKeyError;
use model::id::DeviceId;
use model::secret::Secret;
use model::world::World;
use thiserror::Error;
use tracing::warn;

use super::rsa::{Own, Rsa};
use crate::settings::EdgeCa;

/// How long a leaf certificate holds at most.
pub const LEAF_LIFE: Duration = Duration::from_hours(24 * 90);
const CERTIFICATE: &str = "edge-ca.pem";
const KEY: &str = "edge-ca.key.pem";
const MASTER: &str = "workload.key";

/// Why the keys of this device cannot be used.
#[derive(Debug, Error)]
pub enum OpenKeysError {
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
    /// The file of the master key holds something else.
    #[error("{} is damaged: it must have {MASTER_KEY_BYTES} bytes", .0.display())]
    Master(PathBuf),
    /// The files hold no authority.
    #[error("{} and {} hold no device CA", certificate.display(), key.display())]
    Authority {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of its key.
        key: PathBuf,
        /// What is wrong with them.
        #[source]
        source: CertificateError,
    },
    /// No key for clients that know RSA alone could be made.
    #[error(transparent)]
    Rsa(#[from] MakeRsaKeyError),
    /// No authority could be made.
    #[error("the device CA cannot be made")]
    Certificate(#[from] CertificateError),
}

/// The keys of this device, in files.
#[derive(Debug)]
pub struct FileKeyStore {
    folder: PathBuf,
    authority: Arc<Authority>,
    /// What a second authority is made with, if this device makes its own.
    own: Option<Own>,
    rsa: RwLock<Option<Arc<Rsa>>>,
    master: MasterKey,
    world: World,
}

impl FileKeyStore {
    /// Reads the authority that `ca` names and the master key from `folder`, or makes them there.
    ///
    /// # Errors
    /// [`OpenKeysError`] names the file that cannot be used.
    pub fn open(
        folder: &Path,
        ca: &EdgeCa,
        device: &DeviceId,
        world: &World,
    ) -> Result<Self, OpenKeysError> {
        fs::create_dir_all(folder)
            .and_then(|()| sync(folder.parent().unwrap_or(folder)))
            .map_err(file("make", folder))?;
        let (authority, own) = match ca {
            EdgeCa::Given { cert, key } => (authority(cert, key)?, None),
            EdgeCa::Made { days } => {
                let name = format!("selvedge edge CA for RSA {device}");
                let life = Duration::from_hours(24 * u64::from(*days));
                (made(folder, *days, device, world)?, Some(Own { name, life }))
            }
        };
        let authority = Arc::new(authority);
        let master = master(&folder.join(MASTER), world)?;
        let rsa = Rsa::kept(folder, own.as_ref(), &authority, world)?;
        let rsa = RwLock::new(rsa.map(Arc::new));
        let (folder, world) = (folder.to_owned(), world.clone());
        Ok(Self { folder, authority, own, rsa, master, world })
    }

    fn rsa(&self) -> Option<Arc<Rsa>> {
        self.rsa.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes and keeps the keys for clients that know RSA alone, if there are none yet. Takes
    /// seconds.
    ///
    /// # Errors
    /// [`OpenKeysError`] names the file that cannot be written.
    pub fn make_rsa(&self) -> Result<(), OpenKeysError> {
        if self.rsa().is_some() {
            return Ok(());
        }
        let made = Rsa::made(&self.folder, self.own.as_ref(), &self.authority, &self.world)?;
        *self.rsa.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        Ok(())
    }

    /// A server certificate for clients that know RSA alone; `None` while there are no keys.
    ///
    /// # Errors
    /// As [`KeyStore::issue`].
    pub fn issue_rsa_server(
        &self,
        request: &LeafRequest<'_>,
    ) -> Result<Option<Issued>, UseKeyError> {
        self.rsa().map(|rsa| rsa.issue(request, &self.world)).transpose()
    }

    /// The authority for clients that know RSA alone, PEM, if there is one of its own.
    pub fn rsa_authority(&self) -> Option<String> {
        self.rsa()?.authority().map(str::to_owned)
    }
}

impl KeyStore for FileKeyStore {
    fn authority(&self) -> &str {
        self.authority.to_pem()
    }

    fn issue(&self, request: &LeafRequest<'_>) -> Result<Issued, UseKeyError> {
        let now = self.world.now().wall;
        let expired = self.authority.life().until;
        if expired <= now {
            return Err(UseKeyError::Expired(expired));
        }
        let life = match request.until {
            Some(until) if until <= now => return Err(UseKeyError::Past(until)),
            Some(until) => until.since(now).min(LEAF_LIFE),
            None => LEAF_LIFE,
        };
        let validity = Validity { now, life, serial: self.world.random.number() };
        let LeafRequest { common_name, names, .. } = request;
        Ok(match request.purpose {
            Purpose::Server => self.authority.issue_server(common_name, names, validity)?,
            Purpose::Client => self.authority.issue_client(common_name, names, validity)?,
        })
    }

    fn encrypt(&self, scope: &Scope<'_>, plaintext: &[u8]) -> Result<Vec<u8>, UseKeyError> {
        Ok(self.master.encrypt(scope, plaintext, &*self.world.random))
    }

    fn decrypt(&self, scope: &Scope<'_>, ciphertext: &[u8]) -> Result<Vec<u8>, UseKeyError> {
        Ok(self.master.decrypt(scope, ciphertext)?)
    }
}

/// The authority of earlier starts, or a new one if there is none or it is due.
fn made(
    folder: &Path,
    days: u16,
    device: &DeviceId,
    world: &World,
) -> Result<Authority, OpenKeysError> {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    // The certificate is written last: if it is there, so is its key.
    if certificate.exists() {
        let kept = authority(&certificate, &key)?;
        if renewal(kept.life(), POLICY, None, world.now().wall) != Renewal::Due {
            return Ok(kept);
        }
        warn!(expires = %kept.life().until, "the device CA is made afresh; modules start again");
        // Never a new key beside an old certificate, also not when the power fails.
        fs::remove_file(&certificate)
            .and_then(|()| sync(folder))
            .map_err(file("remove", &certificate))?;
    }
    let life = Duration::from_hours(24 * u64::from(days));
    let name = format!("selvedge edge CA {device}");
    let validity = Validity { now: world.now().wall, life, serial: world.random.number() };
    let made = Authority::generate(&name, validity)?;
    write(&key, made.key_pem().expose())?;
    write(&certificate, made.to_pem().as_bytes())?;
    Ok(made)
}

fn master(path: &Path, world: &World) -> Result<MasterKey, OpenKeysError> {
    match fs::read(path) {
        Ok(bytes) => MasterKey::from_secret(Secret::new(bytes))
            .ok_or_else(|| OpenKeysError::Master(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = MasterKey::generate(&*world.random);
            write(path, made.secret().expose())?;
            Ok(made)
        }
        Err(error) => Err(file("read", path)(error)),
    }
}

pub(super) fn authority(certificate: &Path, key: &Path) -> Result<Authority, OpenKeysError> {
    let (text, secret) = (read(certificate)?, Secret::from(read(key)?));
    Authority::from_pem(&text, &secret).map_err(|source| {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        OpenKeysError::Authority { certificate, key, source }
    })
}

/// The text of `path`.
pub(crate) fn read(path: &Path) -> Result<String, OpenKeysError> {
    fs::read_to_string(path).map_err(file("read", path))
}

/// Readable by this user only, and on disk when it returns.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), OpenKeysError> {
    let fresh = path.with_extension("new");
    let open =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let mut open = open.map_err(file("make", &fresh))?;
    open.write_all(bytes).and_then(|()| open.sync_all()).map_err(file("write", &fresh))?;
    let folder = path.parent().unwrap_or(path);
    fs::rename(&fresh, path).and_then(|()| sync(folder)).map_err(file("name", path))
}

/// Makes the names in `folder` safe.
fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// What went wrong with the file `path`.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenKeysError {
    let path = path.to_owned();
    move |source| OpenKeysError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use testkit::world::{Host, START};

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn open(folder: &Path, host: &Host) -> Result<FileKeyStore, OpenKeysError> {
        let made = EdgeCa::Made { days: 1 };
        FileKeyStore::open(folder, &made, &"d".parse().unwrap(), &host.world())
    }

    fn issue(keys: &FileKeyStore) -> Result<Issued, UseKeyError> {
        let names = &["gateway"];
        let purpose = Purpose::Server;
        keys.issue(&LeafRequest { purpose, common_name: "gateway", names, until: None })
    }

    #[tokio::test(start_paused = true)]
    async fn the_device_ca_is_kept_until_it_is_due_and_then_made_afresh() {
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(1));
        let first = open(folder.path(), &host).unwrap();
        Host::sleep(19 * HOUR).await;
        let kept = open(folder.path(), &host).unwrap();
        assert_eq!(kept.authority(), first.authority());
        // Nothing that it issues outlives it.
        assert_eq!(issue(&kept).unwrap().expires, START.after(24 * HOUR));

        Host::sleep(HOUR).await;
        let fresh = open(folder.path(), &host).unwrap();
        assert_ne!(fresh.authority(), first.authority());
        assert!(issue(&fresh).unwrap().expires > START.after(40 * HOUR));
        let again = open(folder.path(), &host).unwrap();
        assert_eq!(again.authority(), fresh.authority(), "it was kept, with its key");
        assert!(issue(&again).is_ok());

        Host::sleep(5 * HOUR).await;
        assert!(matches!(issue(&kept), Err(UseKeyError::Expired(_))), "an old CA issues nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_for_rsa_alone_are_made_once_and_their_authority_is_renewed_at_a_start() {
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(1));
        let first = open(folder.path(), &host).unwrap();
        let names = &["gateway"];
        let purpose = Purpose::Server;
        let request = LeafRequest { purpose, common_name: "gateway", names, until: None };
        assert!(first.issue_rsa_server(&request).unwrap().is_none());
        first.make_rsa().unwrap();
        let made = first.issue_rsa_server(&request).unwrap().unwrap();
        let authority = first.rsa_authority().unwrap();
        assert!(made.chain_pem.ends_with(&authority));
        first.make_rsa().unwrap();
        assert_eq!(first.rsa_authority(), Some(authority.clone()), "once");

        let kept = open(folder.path(), &host).unwrap();
        assert_eq!(kept.rsa_authority(), Some(authority.clone()));
        let again = kept.issue_rsa_server(&request).unwrap().unwrap();
        assert_eq!(again.key_der, made.key_der, "its key takes long to make");
        Host::sleep(20 * HOUR).await;
        let renewed = open(folder.path(), &host).unwrap();
        assert_ne!(renewed.rsa_authority(), Some(authority));
        let fresh = renewed.issue_rsa_server(&request).unwrap().unwrap();
        assert!(fresh.expires > START.after(40 * HOUR));
        assert_eq!(fresh.key_der, made.key_der);
    }

    #[tokio::test(start_paused = true)]
    async fn a_given_device_ca_issues_for_rsa_alone_too() {
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(1));
        open(folder.path(), &host).unwrap();
        let given =
            EdgeCa::Given { cert: folder.path().join(CERTIFICATE), key: folder.path().join(KEY) };
        let other = tempfile::tempdir().unwrap();
        let open = || {
            let device = "d".parse().unwrap();
            FileKeyStore::open(other.path(), &given, &device, &host.world()).unwrap()
        };
        open().make_rsa().unwrap();
        let kept = open();
        let names = &["gateway"];
        let purpose = Purpose::Server;
        let request = LeafRequest { purpose, common_name: "gateway", names, until: None };
        let issued = kept.issue_rsa_server(&request).unwrap().unwrap();
        assert!(issued.chain_pem.ends_with(kept.authority()));
        assert_eq!(kept.rsa_authority(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_damaged_file_is_named_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(1));
        open(folder.path(), &host).unwrap();
        for name in [MASTER, KEY] {
            let path = folder.path().join(name);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            let good = fs::read(&path).unwrap();
            fs::write(&path, b"damaged").unwrap();
            let refused = open(folder.path(), &host).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
            assert_eq!(fs::read(&path).unwrap(), b"damaged");
            fs::write(&path, good).unwrap();
        }
        assert!(open(folder.path(), &host).is_ok());
    }
}
