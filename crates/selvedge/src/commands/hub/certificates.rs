//! The certificates that a hub shows: two authorities of its own, a server certificate of each,
//! and both renewed while the hub runs.
//!
//! | file | what |
//! |---|---|
//! | `ca.pem`, `ca.key.pem` | the authority that clients trust, ECDSA P-256 |
//! | `ca-rsa.pem`, `ca-rsa.key.pem` | the authority for clients that know RSA alone |
//! | `server-rsa.key.pem` | the key of the server certificate for those, kept because it takes long to make |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use credentials::certificate::{Authority, Issued, Validity};
use credentials::renewal::{CERTIFICATE, Lifetime, Renewal, renewal};
use credentials::rsa_key;
use model::secret::Secret;
use model::time::WallTime;
use model::world::World;
use net::tls::{RsaIsComing, ServerCertificate};
use tracing::{error, info};

use super::{cannot, write};
use crate::failure::{Failure, chain};

/// Life of the hub's authorities; the hub makes them at its first start.
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3650);
/// Life of the hub's server certificates, made anew at every start and before their end.
const CERTIFICATE_LIFE: Duration = Duration::from_hours(24 * 365);
const AUTHORITY: (&str, &str) = ("ca.pem", "ca.key.pem");
const RSA_AUTHORITY: (&str, &str) = ("ca-rsa.pem", "ca-rsa.key.pem");
const RSA_KEY: &str = "server-rsa.key.pem";

/// What clients are shown, and what it is made from.
pub(crate) struct Certificates {
    folder: PathBuf,
    /// The hub's names, its own first.
    names: Vec<String>,
    world: World,
    authority: Authority,
    rsa: Mutex<Option<Rsa>>,
    shown: ServerCertificate,
    /// How long the first one holds.
    life: Lifetime,
}

/// For clients that know RSA alone.
struct Rsa {
    authority: Authority,
    key: Secret,
}

impl Certificates {
    /// Reads the authorities from `folder`, or makes them, and shows certificates for `names`.
    /// Where there are no RSA keys yet, a thread makes them meanwhile.
    pub(crate) fn open(
        folder: &Path,
        names: &[String],
        world: &World,
    ) -> Result<Arc<Self>, Failure> {
        let authority = authority(folder, world)?;
        let now = world.now().wall;
        let issued = issue(&authority, None, names, world)
            .map_err(|failure| Failure::usage(format!("--host: {failure}")))?;
        let shown = ServerCertificate::new(&issued.chain, &issued.key_der)
            .map_err(|error| Failure::failed(format!("TLS: {}", chain(&error))))?;
        let all = Arc::new(Self {
            folder: folder.to_owned(),
            names: names.to_vec(),
            world: world.clone(),
            authority,
            rsa: Mutex::new(None),
            shown,
            life: Lifetime { from: now, until: issued.expires },
        });
        if all.folder.join(RSA_AUTHORITY.1).exists() {
            all.show_rsa(all.kept_rsa()?)?;
        } else {
            all.make_rsa()?;
        }
        Ok(all)
    }

    /// What listeners show.
    pub(crate) fn shown(&self) -> ServerCertificate {
        self.shown.clone()
    }

    /// Renews before the end, as long as it is polled. It asks the world's clock again and again,
    /// which may jump.
    pub(crate) async fn keep(self: Arc<Self>) {
        let (mut life, mut failed) = (self.life, None);
        loop {
            let now = self.world.now().wall;
            match renewal(life, CERTIFICATE, failed, now) {
                Renewal::Wait(wait) => tokio::time::sleep(wait).await,
                Renewal::Due => match self.renew() {
                    Ok(until) => {
                        info!(%until, "server certificates renewed");
                        (life, failed) = (Lifetime { from: now, until }, None);
                    }
                    Err(failure) => {
                        error!(%failure, "the older server certificate is shown");
                        failed = Some(now);
                    }
                },
            }
        }
    }

    fn renew(&self) -> Result<WallTime, Failure> {
        let fresh = issue(&self.authority, None, &self.names, &self.world)?;
        let bad = |error| Failure::failed(format!("TLS: {}", chain(&error)));
        self.shown.replace(&fresh.chain, &fresh.key_der).map_err(bad)?;
        if let Some(rsa) = &*self.rsa.lock().unwrap_or_else(PoisonError::into_inner) {
            self.replace_rsa(rsa)?;
        }
        Ok(fresh.expires)
    }

    fn replace_rsa(&self, rsa: &Rsa) -> Result<(), Failure> {
        let fresh = issue(&rsa.authority, Some(&rsa.key), &self.names, &self.world)?;
        let bad = |error| Failure::failed(format!("TLS: {}", chain(&error)));
        self.shown.replace_rsa(&fresh.chain, &fresh.key_der).map_err(bad)
    }

    fn show_rsa(&self, rsa: Rsa) -> Result<(), Failure> {
        self.replace_rsa(&rsa)?;
        *self.rsa.lock().unwrap_or_else(PoisonError::into_inner) = Some(rsa);
        Ok(())
    }

    fn kept_rsa(&self) -> Result<Rsa, Failure> {
        let key = self.folder.join(RSA_KEY);
        let key = Secret::new(fs::read(&key).map_err(|e| cannot("read", &key, &e))?);
        Ok(Rsa { authority: kept(&self.folder, RSA_AUTHORITY)?, key })
    }

    /// Makes the RSA keys on threads of their own: it takes a second or some, and nobody but the
    /// clients that need them has to wait.
    fn make_rsa(self: &Arc<Self>) -> Result<(), Failure> {
        self.shown.set_rsa_is_coming(RsaIsComing::Yes);
        let all = Arc::clone(self);
        thread(move || {
            if let Err(failure) = all.fresh_rsa().and_then(|rsa| all.show_rsa(rsa)) {
                error!(%failure, "clients that know RSA alone cannot connect");
                all.shown.set_rsa_is_coming(RsaIsComing::No);
            }
        })
        .map(drop)
    }

    fn fresh_rsa(&self) -> Result<Rsa, Failure> {
        let failed = |error| Failure::failed(chain(&error));
        let other = thread(rsa_key::generate)?;
        let root = rsa_key::generate().map_err(failed)?;
        let key = other
            .join()
            .map_err(|_| Failure::failed("the thread that made an RSA key has died"))?
            .map_err(failed)?;
        let life = validity(&self.world, AUTHORITY_LIFE);
        let authority = Authority::with_key("Selvedge hub authority for RSA", life, &root)
            .map_err(|error| Failure::failed(format!("the authority: {}", chain(&error))))?;
        write(&self.folder.join(RSA_KEY), key.expose(), 0o600)?;
        keep(&self.folder, RSA_AUTHORITY, &authority)?;
        Ok(Rsa { authority, key })
    }
}

/// A thread that is none of the runtime's, which would wait for it when the hub is to stop.
fn thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    let started = std::thread::Builder::new().name("rsa-keys".into()).spawn(work);
    started.map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))
}

fn issue(
    authority: &Authority,
    key: Option<&Secret>,
    names: &[String],
    world: &World,
) -> Result<Issued, Failure> {
    let now = world.now().wall;
    if authority.life().until <= now {
        let words = format!("the hub's authority has ended at {}", authority.life().until);
        return Err(Failure::failed(words)
            .with_help("move ca.pem and ca.key.pem away; a fresh one is made at the next start"));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = names.first().copied().unwrap_or("localhost");
    let validity = validity(world, CERTIFICATE_LIFE);
    let issued = match key {
        None => authority.issue_server(name, &names, validity),
        Some(key) => authority.issue_server_for(key, name, &names, validity),
    };
    issued.map_err(|error| Failure::failed(chain(&error)))
}

/// The hub's own authority: read back, or made at the first start.
fn authority(folder: &Path, world: &World) -> Result<Authority, Failure> {
    if folder.join(AUTHORITY.1).exists() {
        return kept(folder, AUTHORITY);
    }
    let made = Authority::generate("Selvedge hub authority", validity(world, AUTHORITY_LIFE))
        .map_err(|error| Failure::failed(format!("the authority: {}", chain(&error))))?;
    keep(folder, AUTHORITY, &made)?;
    Ok(made)
}

fn kept(folder: &Path, (certificate, key): (&str, &str)) -> Result<Authority, Failure> {
    let (certificate, key) = (folder.join(certificate), folder.join(key));
    let text = fs::read_to_string(&certificate).map_err(|e| cannot("read", &certificate, &e))?;
    let secret = fs::read(&key).map_err(|e| cannot("read", &key, &e))?;
    Authority::from_pem(&text, &Secret::new(secret))
        .map_err(|error| Failure::failed(format!("{} is damaged: {error}", certificate.display())))
}

fn keep(
    folder: &Path,
    (certificate, key): (&str, &str),
    authority: &Authority,
) -> Result<(), Failure> {
    write(&folder.join(certificate), authority.to_pem().as_bytes(), 0o644)?;
    // The key last: it marks the pair as complete.
    write(&folder.join(key), authority.key_pem().expose(), 0o600)
}

fn validity(world: &World, life: Duration) -> Validity {
    Validity { now: world.now().wall, life, serial: world.random.number() }
}

#[cfg(test)]
mod tests {
    use credentials::certificate::Leaf;
    use testkit::world::Host;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn open(folder: &Path, host: &Host) -> Arc<Certificates> {
        let names = ["hub.test".to_owned(), "10.0.0.9".to_owned()];
        Certificates::open(folder, &names, &host.world()).unwrap()
    }

    fn until(der: Option<bytes::Bytes>) -> WallTime {
        Leaf::parse(&der.unwrap()).unwrap().not_after
    }

    #[tokio::test(start_paused = true)]
    async fn server_certificates_are_renewed_before_their_end_while_the_hub_runs() {
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(1));
        let all = open(folder.path(), &host);
        all.shown.rsa_came().await;
        let first = all.shown.leaf();
        let end = until(first.clone());
        // It was made a moment later.
        assert!(until(all.shown.rsa_leaf()).since(end) < DAY);
        host.world().spawn(Arc::clone(&all).keep());
        Host::sleep(291 * DAY).await;
        assert_eq!(all.shown.leaf(), first, "four fifths have not passed");
        Host::sleep(2 * DAY).await;
        assert_ne!(all.shown.leaf(), first);
        assert!(until(all.shown.leaf()) > end.after(200 * DAY));
        assert!(until(all.shown.rsa_leaf()) > end.after(200 * DAY));
        // And again, and never an ended one, in years of running.
        for _ in 0..30 {
            Host::sleep(100 * DAY).await;
            assert!(until(all.shown.leaf()) > host.world().now().wall);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn authorities_and_the_rsa_key_are_made_once_and_a_pinned_one_stays() {
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new(1));
        // A folder of a hub that knew no RSA.
        let old = authority(folder.path(), &host.world()).unwrap();
        open(folder.path(), &host).shown.rsa_came().await;
        let files = [AUTHORITY.0, AUTHORITY.1, RSA_AUTHORITY.0, RSA_AUTHORITY.1, RSA_KEY];
        let read = || files.map(|name| fs::read(folder.path().join(name)).unwrap());
        let before = read();
        assert_eq!(before[0], old.to_pem().as_bytes());
        let again = open(folder.path(), &host);
        assert!(again.shown.rsa_leaf().is_some(), "nobody waits for what was kept");
        assert_eq!(read(), before);
        let failure = {
            fs::write(folder.path().join(RSA_KEY), "damaged").unwrap();
            let names = ["hub.test".to_owned()];
            Certificates::open(folder.path(), &names, &host.world()).err().unwrap()
        };
        assert!(failure.to_string().contains("usable certificate and key"), "{failure}");
    }
}
