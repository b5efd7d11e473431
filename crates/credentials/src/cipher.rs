//! Encryption of what a module keeps for itself: AES-256-GCM.
//!
//! Each module, generation and initialisation vector has a key of its own, derived from one
//! master key by HKDF-SHA256. Clients use the same vector again and again, so it is no nonce:
//! each ciphertext carries a random one.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format version, [`VERSION`] |
//! | 12 | nonce |
//! | n | ciphertext, as long as the plaintext |
//! | 16 | tag |

use model::secret::Secret;
use model::world::Random;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use thiserror::Error;

/// The format that is written.
pub const VERSION: u8 = 1;
/// Length of a master key, in bytes.
pub const MASTER_KEY_BYTES: usize = 32;
/// Salt of the derivation: what these keys are for, and nothing else.
const SALT: &[u8] = b"selvedge workload encryption 1";

/// Whose data it is; other scopes have other keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The module.
    pub module: &'a str,
    /// The generation of its identity.
    pub generation: &'a str,
    /// What the caller names to encrypt and must name again to decrypt; need not be secret.
    pub vector: &'a [u8],
}

/// Why a ciphertext gives no plaintext.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecryptError {
    /// Too short, or written by another version.
    #[error("this is no ciphertext of this device")]
    Format,
    /// Another scope, another device, or changed bytes; they cannot be told apart.
    #[error("the ciphertext does not belong to this module, generation and vector")]
    Tag,
}

/// The key that all others are derived from.
#[derive(Clone, Debug)]
pub struct MasterKey(Secret);

impl MasterKey {
    /// A new one from `random`.
    pub fn generate(random: &dyn Random) -> Self {
        let mut bytes = [0; MASTER_KEY_BYTES];
        random.fill(&mut bytes);
        Self(Secret::new(bytes))
    }

    /// One that was kept; none if it has another length than [`MASTER_KEY_BYTES`].
    pub fn from_secret(kept: Secret) -> Option<Self> {
        (kept.expose().len() == MASTER_KEY_BYTES).then_some(Self(kept))
    }

    /// Its bytes, to be kept.
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// Encrypts `plaintext`; the result is longer by 29 bytes and another each time.
    pub fn encrypt(&self, scope: &Scope<'_>, plaintext: &[u8], random: &dyn Random) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce);
        let mut sealed = plaintext.to_vec();
        self.key(scope)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from([VERSION]),
                &mut sealed,
            )
            .expect("only plaintexts beyond 64 GiB are refused");
        let mut whole = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        whole.push(VERSION);
        whole.extend_from_slice(&nonce);
        whole.append(&mut sealed);
        whole
    }

    /// What [`MasterKey::encrypt`] was given.
    ///
    /// # Errors
    /// [`DecryptError`]; the plaintext of another scope is never given.
    pub fn decrypt(&self, scope: &Scope<'_>, ciphertext: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let (version, rest) = ciphertext.split_first().ok_or(DecryptError::Format)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(DecryptError::Format)?;
        if *version != VERSION || sealed.len() < AES_256_GCM.tag_len() {
            return Err(DecryptError::Format);
        }
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key(scope).open_in_place(nonce, Aad::from([VERSION]), &mut opened);
        let length = plain.map_err(|_| DecryptError::Tag)?.len();
        opened.truncate(length);
        Ok(opened)
    }

    fn key(&self, scope: &Scope<'_>) -> LessSafeKey {
        let parts = [scope.module.as_bytes(), scope.generation.as_bytes(), scope.vector];
        // Each with its length, so that no two scopes run together.
        let lengths = parts.map(|part| (part.len() as u64).to_le_bytes());
        let info: Vec<&[u8]> =
            lengths.iter().zip(parts).flat_map(|(length, part)| [&length[..], part]).collect();
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(self.0.expose());
        let key = derived.expand(&info, &AES_256_GCM).expect("a key is short enough for HKDF");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    struct Counting(AtomicU8);

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn random() -> Counting {
        Counting(AtomicU8::new(0))
    }

    const SCOPE: Scope<'_> = Scope { module: "m", generation: "g1", vector: b"iv" };

    #[test]
    fn what_was_encrypted_comes_back_and_looks_different_each_time() {
        let random = random();
        let key = MasterKey::generate(&random);
        let large = vec![7; 70_000];
        for plaintext in [&b""[..], b"x", &large] {
            let first = key.encrypt(&SCOPE, plaintext, &random);
            let second = key.encrypt(&SCOPE, plaintext, &random);
            assert_eq!(first.len(), plaintext.len() + 29);
            assert_ne!(first, second);
            assert_eq!(key.decrypt(&SCOPE, &first).unwrap(), plaintext);
            assert_eq!(key.decrypt(&SCOPE, &second).unwrap(), plaintext);
        }
    }

    #[test]
    fn another_scope_another_key_and_every_flipped_bit_give_nothing() {
        let random = random();
        let key = MasterKey::generate(&random);
        let sealed = key.encrypt(&SCOPE, b"secret", &random);
        let check = |scope: Scope<'_>| {
            assert_eq!(key.decrypt(&scope, &sealed), Err(DecryptError::Tag), "{scope:?}");
        };
        check(Scope { module: "n", ..SCOPE });
        check(Scope { generation: "g2", ..SCOPE });
        check(Scope { vector: b"vi", ..SCOPE });
        // The parts do not run together.
        check(Scope { module: "mg", generation: "1", ..SCOPE });
        check(Scope { generation: "g1i", vector: b"v", ..SCOPE });
        let other = MasterKey::generate(&random);
        assert_eq!(other.decrypt(&SCOPE, &sealed), Err(DecryptError::Tag));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(key.decrypt(&SCOPE, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.decrypt(&SCOPE, &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_kept_key_decrypts_what_it_encrypted_before() {
        // Written once by this code: a later format must still read it, or have another version.
        let key = MasterKey::from_secret(Secret::new([9; MASTER_KEY_BYTES])).unwrap();
        let sealed = key.encrypt(&SCOPE, b"kept", &random());
        let golden = "01000102030405060708090a0b";
        assert_eq!(hex(&sealed[..13]), golden);
        let again = MasterKey::from_secret(key.secret().clone()).unwrap();
        assert_eq!(again.decrypt(&SCOPE, &sealed).unwrap(), b"kept");
        assert!(MasterKey::from_secret(Secret::new([9; 31])).is_none());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}
