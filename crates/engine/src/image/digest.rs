//! SHA-256 digests as the OCI writes them, and readers that compute them on the way.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::EngineError;

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Box<str>);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).as_slice())
    }

    /// The 64 digits without the algorithm; safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0
    }

    fn from_hash(hash: &[u8]) -> Self {
        use fmt::Write as _;
        let hex = hash.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").ok(); // a String takes everything
            text
        });
        Self(hex.into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| EngineError::image(format!("digest {text:?} is not sha256")))?;
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 64 || !hex.bytes().all(digit) {
            return Err(EngineError::image(format!("digest {text:?} is malformed")));
        }
        Ok(Self(hex.into()))
    }
}

impl TryFrom<String> for Digest {
    type Error = EngineError;

    fn try_from(text: String) -> Result<Self, EngineError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Hashes and counts what is read through it, and refuses more than a limit.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Sha256::new(), count: 0, limit }
    }

    /// Reads to the end, so that the digest covers everything.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(|_| ())
    }

    /// Digest and number of the bytes read so far.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::from_hash(self.hash.finalize().as_slice()), self.count)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..len).unwrap_or_default());
        self.count += u64::try_from(len).unwrap_or(u64::MAX);
        if self.count > self.limit {
            return Err(io::Error::other(format!("more than {} bytes", self.limit)));
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_digests_parse() {
        let hex = "a".repeat(64);
        assert_eq!(format!("sha256:{hex}").parse::<Digest>().unwrap().hex(), hex);
        let upper = format!("sha256:{}", "A".repeat(64));
        for bad in ["", "sha256:", "sha256:../../etc/passwd", "md5:aa", hex.as_str(), &upper] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reader_past_its_limit_fails_and_a_drained_one_knows_its_digest() {
        let mut reader = HashingReader::new(&b"hello"[..], 5);
        reader.drain().unwrap();
        assert_eq!(reader.finish(), (Digest::of(b"hello"), 5));
        assert!(HashingReader::new(&b"hello!"[..], 5).drain().is_err());
    }
}
