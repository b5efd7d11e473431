//! Certificates: an authority of our own, what it issues, and what a leaf says.
//!
//! Keys are ECDSA P-256, or RSA for peers that know nothing else. Times and serial numbers are
//! arguments; only the key pairs are drawn here, from the operating system, because that is where
//! the signature library insists.

mod client;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::secret::Secret;
use model::time::WallTime;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::client::client_verifier;
use crate::renewal::Lifetime;
use crate::skew::CLOCK_SKEW;

/// A certificate is valid this much before it is made, for peers whose clock is behind and which
/// know no tolerance of their own.
pub const BACKDATED: Duration = CLOCK_SKEW;

/// Why a certificate was not made or not read.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A subject name cannot stand in a certificate.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// A point in time is outside of what certificates can say.
    #[error("{0} is no time for a certificate")]
    Time(WallTime),
    /// The library refused.
    #[error("the certificate could not be made")]
    Make(#[source] rcgen::Error),
    /// The text is no PEM certificate with its key.
    #[error("the text holds no usable certificate and key")]
    Pem,
    /// The bytes are no X.509 certificate.
    #[error("the bytes are no X.509 certificate")]
    Der,
}

/// How long something is valid, and under which number.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// When it is made; it holds from [`BACKDATED`] earlier.
    pub now: WallTime,
    /// How long it holds from `now`.
    pub life: Duration,
    /// Its serial number, random.
    pub serial: u64,
}

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Bytes,
    life: Lifetime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// Makes a self-signed authority that may issue leaves but no further authorities.
    ///
    /// # Errors
    /// [`CertificateError`] if the name or a time cannot stand in a certificate.
    pub fn generate(common_name: &str, validity: Validity) -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        Self::self_signed(common_name, validity, key)
    }

    /// As [`Authority::generate`], with `key` (PKCS#8 PEM).
    ///
    /// # Errors
    /// As [`Authority::generate`]; [`CertificateError::Pem`] if `key` is none.
    pub fn with_key(
        common_name: &str,
        validity: Validity,
        key: &Secret,
    ) -> Result<Self, CertificateError> {
        Self::self_signed(common_name, validity, key_pair(key)?)
    }

    fn self_signed(
        common_name: &str,
        validity: Validity,
        key: KeyPair,
    ) -> Result<Self, CertificateError> {
        let mut params = params(common_name, &[], validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = params.self_signed(&key).map_err(CertificateError::Make)?;
        let (pem, der) = (made.pem(), Bytes::copy_from_slice(made.der()));
        let life = Leaf::parse(&der)?.life();
        Ok(Self { issuer: Issuer::new(params, key), pem, der, life })
    }

    /// Reads an authority back from what [`Authority::to_pem`] and [`Authority::key_pem`] gave.
    ///
    /// # Errors
    /// [`CertificateError::Pem`] if either text is not what it should be.
    pub fn from_pem(certificate: &str, key: &Secret) -> Result<Self, CertificateError> {
        let key = key_pair(key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| CertificateError::Pem)?;
        let issuer =
            Issuer::from_ca_cert_pem(certificate, key).map_err(|_| CertificateError::Pem)?;
        let der = Bytes::copy_from_slice(&der);
        let life = Leaf::parse(&der)?.life();
        Ok(Self { issuer, pem: certificate.to_owned(), der, life })
    }

    /// From when until when it holds itself; what it issues holds no longer.
    pub fn life(&self) -> Lifetime {
        self.life
    }

    /// The certificate, PEM: what others must trust.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// The certificate, DER.
    pub fn der(&self) -> &Bytes {
        &self.der
    }

    /// The private key, PEM (PKCS#8).
    pub fn key_pem(&self) -> Secret {
        Secret::from(self.issuer.key().serialize_pem())
    }

    /// Issues a server certificate for `names`, each a DNS name, an IP address or a URI.
    ///
    /// # Errors
    /// [`CertificateError`] if a name or a time cannot stand in a certificate.
    pub fn issue_server(
        &self,
        common_name: &str,
        names: &[&str],
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        self.issue((common_name, names), ExtendedKeyUsagePurpose::ServerAuth, validity, &key)
    }

    /// As [`Authority::issue_server`], for `key` (PKCS#8 PEM), which stays the caller's.
    ///
    /// # Errors
    /// As [`Authority::issue_server`]; [`CertificateError::Pem`] if `key` is none.
    pub fn issue_server_for(
        &self,
        key: &Secret,
        common_name: &str,
        names: &[&str],
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let key = key_pair(key)?;
        self.issue((common_name, names), ExtendedKeyUsagePurpose::ServerAuth, validity, &key)
    }

    /// Issues a client certificate.
    ///
    /// # Errors
    /// As [`Authority::issue_server`].
    pub fn issue_client(
        &self,
        common_name: &str,
        names: &[&str],
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        self.issue((common_name, names), ExtendedKeyUsagePurpose::ClientAuth, validity, &key)
    }

    fn issue(
        &self,
        (common_name, names): (&str, &[&str]),
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
        key: &KeyPair,
    ) -> Result<Issued, CertificateError> {
        let expires = validity.now.after(validity.life).min(self.life.until);
        let validity = Validity { life: expires.since(validity.now), ..validity };
        let mut params = params(common_name, names, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(key, &self.issuer).map_err(CertificateError::Make)?;
        Ok(Issued {
            chain: [Bytes::copy_from_slice(made.der()), self.der.clone()].into(),
            chain_pem: format!("{}{}", made.pem(), self.pem),
            key_der: Secret::new(key.serialize_der()),
            key_pem: Secret::from(key.serialize_pem()),
            expires,
        })
    }
}

/// A leaf certificate with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// DER, leaf first, then the authority.
    pub chain: Arc<[Bytes]>,
    /// The same as PEM text.
    pub chain_pem: String,
    /// The private key, PKCS#8 DER.
    pub key_der: Secret,
    /// The private key, PKCS#8 PEM.
    pub key_pem: Secret,
    /// When it stops being valid.
    pub expires: WallTime,
}

fn key_pair(pem: &Secret) -> Result<KeyPair, CertificateError> {
    let pem = pem.expose_str().ok_or(CertificateError::Pem)?;
    KeyPair::from_pem(pem).map_err(|_| CertificateError::Pem)
}

fn params(
    common_name: &str,
    names: &[&str],
    validity: Validity,
) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    for name in names {
        params.subject_alt_names.push(alt_name(name)?);
    }
    params.not_before = at(WallTime(validity.now.0 - backdated_millis()))?;
    params.not_after = at(validity.now.after(validity.life))?;
    params.serial_number = Some(SerialNumber::from(validity.serial >> 1));
    Ok(params)
}

fn backdated_millis() -> i64 {
    i64::try_from(BACKDATED.as_millis()).unwrap_or(0)
}

fn alt_name(name: &str) -> Result<SanType, CertificateError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let usable = !name.is_empty() && !name.contains(char::is_whitespace);
    let text = Ia5String::try_from(name.to_owned()).ok().filter(|_| usable);
    let kind = if name.contains("://") { SanType::URI } else { SanType::DnsName };
    text.map(kind).ok_or_else(|| CertificateError::Name(name.to_owned()))
}

fn at(wall: WallTime) -> Result<OffsetDateTime, CertificateError> {
    OffsetDateTime::from_unix_timestamp(wall.unix_seconds())
        .ok()
        .filter(|stamp| (1950..=9999).contains(&stamp.year()))
        .ok_or(CertificateError::Time(wall))
}

/// What a presented leaf says about itself; nothing of it is proven by reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The common name of the subject, if there is exactly one.
    pub common_name: Option<String>,
    /// SHA-1 of the DER, lower-case hex.
    pub thumbprint_sha1: String,
    /// SHA-256 of the DER, lower-case hex.
    pub thumbprint_sha256: String,
    /// Valid from.
    pub not_before: WallTime,
    /// Valid until.
    pub not_after: WallTime,
}

impl Leaf {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// [`CertificateError::Der`] if it is none.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, read) = X509Certificate::from_der(der).map_err(|_| CertificateError::Der)?;
        let mut names = read.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let common_name = names.next().map(str::to_owned).filter(|_| names.next().is_none());
        Ok(Self {
            common_name,
            thumbprint_sha1: hex(&digest::SHA1_FOR_LEGACY_USE_ONLY, der),
            thumbprint_sha256: hex(&digest::SHA256, der),
            not_before: WallTime::from_unix_seconds(read.validity().not_before.timestamp()),
            not_after: WallTime::from_unix_seconds(read.validity().not_after.timestamp()),
        })
    }

    /// From when until when it holds.
    pub fn life(&self) -> Lifetime {
        Lifetime { from: self.not_before, until: self.not_after }
    }

    /// Whether `thumbprint` (SHA-1 or SHA-256, any case, colons allowed) is this leaf's.
    pub fn has_thumbprint(&self, thumbprint: &str) -> bool {
        let clean = thumbprint.replace(':', "").to_ascii_lowercase();
        clean == self.thumbprint_sha1 || clean == self.thumbprint_sha256
    }
}

fn hex(algorithm: &'static digest::Algorithm, der: &[u8]) -> String {
    use std::fmt::Write;
    digest::digest(algorithm, der).as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests;
