//! Who keeps private keys: asked to use them, never to give them.
//!
//! A device keeps its authority and the key behind its modules' encryption in a `KeyStore`. In
//! files today; hardware fits behind the same calls.

use std::fmt;

use model::time::WallTime;
use thiserror::Error;

use crate::certificate::{CertificateError, Issued};
use crate::cipher::{DecryptError, Scope};

/// What a leaf certificate proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The name of a server.
    Server,
    /// The identity of a client.
    Client,
}

/// A leaf certificate that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct LeafRequest<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// The common name of its subject.
    pub common_name: &'a str,
    /// Alternative names: DNS names, IP addresses, or URIs.
    pub names: &'a [&'a str],
    /// Until when it is to hold, if the keeper lets it hold so long.
    pub until: Option<WallTime>,
}

/// Why a key could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UseKeyError {
    /// The certificate cannot be as asked for.
    #[error("the certificate cannot be issued")]
    Certificate(#[from] CertificateError),
    /// It would end before it begins.
    #[error("{0} is past")]
    Past(WallTime),
    /// The authority itself holds no longer.
    #[error("the device CA has expired at {0}")]
    Expired(WallTime),
    /// The ciphertext gives no plaintext.
    #[error(transparent)]
    Decrypt(#[from] DecryptError),
}

/// Keeps keys and uses them.
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// The certificate of the authority, PEM.
    fn authority(&self) -> &str;

    /// Issues a leaf with a key of its own.
    ///
    /// # Errors
    /// [`UseKeyError`], if it cannot be as asked for.
    fn issue(&self, request: &LeafRequest<'_>) -> Result<Issued, UseKeyError>;

    /// Encrypts `plaintext` for `scope`.
    ///
    /// # Errors
    /// [`UseKeyError`], if the keeper cannot be used.
    fn encrypt(&self, scope: &Scope<'_>, plaintext: &[u8]) -> Result<Vec<u8>, UseKeyError>;

    /// What was encrypted for `scope`.
    ///
    /// # Errors
    /// [`UseKeyError::Decrypt`], if it was not.
    fn decrypt(&self, scope: &Scope<'_>, ciphertext: &[u8]) -> Result<Vec<u8>, UseKeyError>;
}
