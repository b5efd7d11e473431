//! Symmetric keys: read, made, and used for HMAC-SHA256.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::secret::Secret;
use model::world::Random;
use ring::hmac;
use thiserror::Error;

/// Why a text is no key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// It is not base64.
    #[error("a key is base64 text")]
    Base64,
    /// It has no bytes.
    #[error("a key cannot be empty")]
    Empty,
}

/// A key shared by two sides; its text is base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymmetricKey(Secret);

impl SymmetricKey {
    /// Reads the base64 text.
    ///
    /// # Errors
    /// [`InvalidKey`] if it is not base64 or holds nothing.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidKey::Base64)?;
        if bytes.is_empty() { Err(InvalidKey::Empty) } else { Ok(Self(Secret::new(bytes))) }
    }

    /// The key whose bytes are `raw`.
    ///
    /// # Errors
    /// [`InvalidKey::Empty`] if there are none.
    pub fn from_raw(raw: Secret) -> Result<Self, InvalidKey> {
        if raw.expose().is_empty() { Err(InvalidKey::Empty) } else { Ok(Self(raw)) }
    }

    /// A new key of 32 bytes from `random`.
    pub fn generate(random: &dyn Random) -> Self {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        Self(Secret::new(bytes))
    }

    /// The base64 text.
    pub fn to_base64(&self) -> Secret {
        Secret::from(STANDARD.encode(self.0.expose()))
    }

    /// HMAC-SHA256 of `data`, 32 bytes.
    pub fn sign(&self, data: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.expose()), data);
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Whether `signature` is that of `data`, in constant time.
    pub fn verify(&self, data: &[u8], signature: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose());
        hmac::verify(&key, data, signature).is_ok()
    }
}
