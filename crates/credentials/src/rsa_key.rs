//! RSA keys, for peers whose TLS knows nothing else.
//!
//! The signature library makes none, so the prime numbers are found here; it alone signs with
//! them. Finding them takes between a tenth of a second and some seconds: once, never in a loop
//! that serves somebody.

use model::secret::Secret;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::rand_core::OsRng;
use thiserror::Error;

/// Length of the keys, in bits; what boards of ten years ago compute in bearable time.
pub const RSA_BITS: usize = 2048;

/// Why no key was made.
#[derive(Debug, Error)]
#[error("no RSA key could be made: {0}")]
pub struct MakeRsaKeyError(String);

/// A new key of [`RSA_BITS`], PKCS#8 PEM, from the operating system's randomness.
///
/// # Errors
/// [`MakeRsaKeyError`] in the library's words.
pub fn generate() -> Result<Secret, MakeRsaKeyError> {
    let key = rsa::RsaPrivateKey::new(&mut OsRng, RSA_BITS)
        .map_err(|error| MakeRsaKeyError(error.to_string()))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| MakeRsaKeyError(e.to_string()))?;
    Ok(Secret::from(pem.as_str()))
}
