//! TLS 1.2 and 1.3 with ring, passed explicitly; certificates that can be swapped live.
//!
//! Streams use rustls' unbuffered interface: bytes pass through buffers of the thread, and an
//! idle connection holds none.

mod hello;
mod reason;
mod stream;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use model::log_limit::LogLimit;
use model::secret::Secret;
use model::world::Clock as _;
use rustls::client::{Resumption, UnbufferedClientConnection, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::clock::SystemClock;
use crate::network::{ByteStream, Peer};

/// A peer that has not finished the handshake by then is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes that a client may send in a handshake: a hello, and a certificate with its chain.
/// Who waits for a handshake holds one of the listener's seats for the unproven, so their number
/// needs no limit here.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;

/// Servers whose tickets one client remembers.
const RESUMPTIONS_MAX: usize = 32;

/// Why TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// The private key is none that we can use.
    #[error("the private key cannot be used")]
    Key(#[source] rustls::Error),
    /// The settings do not go together.
    #[error("the TLS settings do not go together")]
    Settings(#[source] rustls::Error),
    /// The text holds no certificate to trust.
    #[error("the text holds no PEM certificate to trust")]
    Roots,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates that a listener shows; replaced while it listens.
///
/// One is for everybody, and one with an RSA key is for those who can read no other. That one may
/// come later, for its key takes long to make: who needs it waits in its handshake until then.
#[derive(Clone)]
pub struct ServerCertificate(Arc<Shown>);

struct Shown {
    now: RwLock<Pair>,
    rsa_is_coming: watch::Sender<bool>,
}

#[derive(Clone)]
struct Pair {
    main: Arc<CertifiedKey>,
    rsa: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ServerCertificate {
    /// Shows `chain` (DER, leaf first) with its PKCS#8 DER `key`.
    ///
    /// # Errors
    /// [`TlsSetupError::Key`] if the key cannot be used.
    pub fn new(chain: &[Bytes], key: &Secret) -> Result<Self, TlsSetupError> {
        let now = RwLock::new(Pair { main: certified(chain, key)?, rsa: None });
        Ok(Self(Arc::new(Shown { now, rsa_is_coming: watch::Sender::new(false) })))
    }

    /// Shows another certificate to everybody who connects from now on.
    ///
    /// # Errors
    /// [`TlsSetupError::Key`]; the old one is still shown then.
    pub fn replace(&self, chain: &[Bytes], key: &Secret) -> Result<(), TlsSetupError> {
        let fresh = certified(chain, key)?;
        self.0.now.write().unwrap_or_else(PoisonError::into_inner).main = fresh;
        Ok(())
    }

    /// Shows another certificate to those who know RSA alone, from now on.
    ///
    /// # Errors
    /// As [`ServerCertificate::replace`].
    pub fn replace_rsa(&self, chain: &[Bytes], key: &Secret) -> Result<(), TlsSetupError> {
        let fresh = certified(chain, key)?;
        self.0.now.write().unwrap_or_else(PoisonError::into_inner).rsa = Some(fresh);
        self.0.rsa_is_coming.send_replace(false);
        Ok(())
    }

    /// Whether [`ServerCertificate::replace_rsa`] will be called soon.
    pub fn set_rsa_is_coming(&self, coming: RsaIsComing) {
        self.0.rsa_is_coming.send_replace(coming == RsaIsComing::Yes);
    }

    /// The leaf that is shown now, DER.
    pub fn leaf(&self) -> Option<Bytes> {
        leaf(&self.shown().main)
    }

    /// The leaf that those see who know RSA alone, DER, once there is one.
    pub fn rsa_leaf(&self) -> Option<Bytes> {
        leaf(&*self.shown().rsa?)
    }

    fn shown(&self) -> Pair {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_rsa_coming(&self) -> bool {
        *self.0.rsa_is_coming.borrow()
    }

    /// Returns when nothing is being made any more.
    pub async fn rsa_came(&self) {
        // The sender lives as long as we do.
        self.0.rsa_is_coming.subscribe().wait_for(|coming| !coming).await.ok();
    }
}

/// Whether a certificate with an RSA key is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RsaIsComing {
    /// Whoever needs it waits, as long as a handshake may take.
    Yes,
    /// Nobody waits.
    No,
}

fn leaf(shown: &CertifiedKey) -> Option<Bytes> {
    shown.cert.first().map(|der| Bytes::copy_from_slice(der))
}

fn certified(chain: &[Bytes], key: &Secret) -> Result<Arc<CertifiedKey>, TlsSetupError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose().to_vec()));
    let signer = provider().key_provider.load_private_key(key).map_err(TlsSetupError::Key)?;
    let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

#[derive(Debug)]
struct Choice(ServerCertificate);

impl ResolvesServerCert for Choice {
    /// The main one if the client can read it: its signatures cost a tenth. If it can read none,
    /// the handshake fails with the alert that says so.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let reads = |one: &CertifiedKey| one.key.choose_scheme(hello.signature_schemes()).is_some();
        let Pair { main, rsa } = self.0.shown();
        if reads(&main) {
            return Some(main);
        }
        Some(rsa.filter(|rsa| reads(rsa)).unwrap_or(main))
    }
}

/// The server's side of TLS for one listener.
#[derive(Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
    certificate: ServerCertificate,
    told: Arc<Mutex<LogLimit>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// A stream whose handshake is done.
pub struct Secured {
    /// The plain bytes.
    pub stream: Box<dyn ByteStream>,
    /// What the client showed, DER, leaf first; possession of the key is proven, nothing else.
    pub client_chain: Option<Arc<[Bytes]>>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").finish_non_exhaustive()
    }
}

impl Server {
    /// A server that shows `certificate` and lets `verifier` look at client certificates.
    ///
    /// # Errors
    /// [`TlsSetupError::Settings`] if the library refuses the settings.
    pub fn new(
        certificate: ServerCertificate,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<Self, TlsSetupError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsSetupError::Settings)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Choice(certificate.clone())));
        // Sessions kept for resumption would cost memory per connection.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsSetupError::Settings)?;
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), certificate, told: Arc::default() })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// `TimedOut` after [`HANDSHAKE_TIMEOUT`]; else what the peer or the library did.
    pub async fn accept(&self, stream: Box<dyn ByteStream>) -> io::Result<Secured> {
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.shake(stream)).await;
        shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn shake(&self, mut stream: Box<dyn ByteStream>) -> io::Result<Secured> {
        if self.certificate.is_rsa_coming() {
            let hello = hello::read(&mut stream).await?;
            if hello.needs_rsa {
                self.certificate.rsa_came().await;
            }
            stream = hello.replayed(stream);
        }
        let machine =
            UnbufferedServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        stream::handshake(stream, machine, HANDSHAKE_BYTES_MAX).await
    }

    /// One line in the log for a handshake with `peer` that failed: who and why. So many a minute
    /// at most; the rest is counted.
    pub fn tell_failed(&self, peer: &Peer, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
            debug!(?peer, %error, "a peer left during its handshake");
            return;
        }
        // Nothing but the log hangs on this time, so it need not be the world's.
        let now_ms = SystemClock::default().now().wall.0;
        let admitted = self.told.lock().unwrap_or_else(PoisonError::into_inner).admit(now_ms);
        if let Some(silenced) = admitted {
            warn!(?peer, silenced, reason = reason::of(error), "TLS handshake failed");
        }
    }
}

/// The client's side of TLS: whom to trust.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// A client that trusts exactly the authorities in `pem`.
    ///
    /// # Errors
    /// [`TlsSetupError::Roots`] if there is none in it.
    pub fn trusting(pem: &str) -> Result<Self, TlsSetupError> {
        let config = Self::builder(pem)?.with_no_client_auth();
        Ok(Self::of(config))
    }

    /// A client that trusts the authorities in `der`, one certificate each. A system's store may
    /// hold some that nobody can use; they are left out.
    ///
    /// # Errors
    /// [`TlsSetupError::Roots`] if none can be used.
    pub fn trusting_system(der: impl IntoIterator<Item = Bytes>) -> Result<Self, TlsSetupError> {
        let mut roots = RootCertStore::empty();
        let all = der.into_iter().map(|der| CertificateDer::from(der.to_vec()));
        let (added, _) = roots.add_parsable_certificates(all);
        if added == 0 {
            return Err(TlsSetupError::Roots);
        }
        Ok(Self::of(Self::with_roots(roots)?.with_no_client_auth()))
    }

    /// As [`Client::trusting`], and shows `chain` (DER, leaf first) with its PKCS#8 DER `key`.
    ///
    /// # Errors
    /// As [`Client::trusting`]; [`TlsSetupError::Key`] if the key cannot be used.
    pub fn trusting_and_showing(
        pem: &str,
        chain: &[Bytes],
        key: &Secret,
    ) -> Result<Self, TlsSetupError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose().to_vec()));
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let config = Self::builder(pem)?.with_client_auth_cert(chain, key);
        Ok(Self::of(config.map_err(TlsSetupError::Key)?))
    }

    fn builder(pem: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsSetupError> {
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(|_| TlsSetupError::Roots)?;
            roots.add(der).map_err(|_| TlsSetupError::Roots)?;
        }
        if roots.is_empty() {
            return Err(TlsSetupError::Roots);
        }
        Self::with_roots(roots)
    }

    fn with_roots(
        roots: RootCertStore,
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsSetupError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsSetupError::Settings)?;
        Ok(builder.with_root_certificates(roots))
    }

    fn of(mut config: ClientConfig) -> Self {
        config.resumption = Resumption::in_memory_sessions(RESUMPTIONS_MAX);
        Self(Arc::new(config))
    }

    /// Does the handshake with a server that must prove to be `name`.
    ///
    /// # Errors
    /// `InvalidInput` if `name` is no name; `TimedOut`; else why the server is not trusted.
    pub async fn connect(
        &self,
        name: &str,
        stream: Box<dyn ByteStream>,
    ) -> io::Result<Box<dyn ByteStream>> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let machine =
            UnbufferedClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        // The server was chosen by us.
        let shaken = stream::handshake(stream, machine, usize::MAX);
        let shaken = timeout(HANDSHAKE_TIMEOUT, shaken).await;
        Ok(shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.stream)
    }
}
