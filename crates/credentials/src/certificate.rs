//! Certificates: an authority of our own, what it issues, and what a leaf says.
//!
//! All keys are ECDSA P-256. Times and serial numbers are arguments; only the key pairs are
//! drawn here, from the operating system, because that is where the signature library insists.

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
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName as AuthorityName;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

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
        let key = key.expose_str().ok_or(CertificateError::Pem)?;
        let key = KeyPair::from_pem(key).map_err(|_| CertificateError::Pem)?;
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
        self.issue(common_name, names, ExtendedKeyUsagePurpose::ServerAuth, validity)
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
        self.issue(common_name, names, ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    fn issue(
        &self,
        common_name: &str,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        let expires = validity.now.after(validity.life).min(self.life.until);
        let validity = Validity { life: expires.since(validity.now), ..validity };
        let mut params = params(common_name, names, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(&key, &self.issuer).map_err(CertificateError::Make)?;
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

/// Offers client certificates but demands none, and lets TLS prove possession of the key.
/// Whose certificate it is, is decided later, when the identity is known.
pub fn client_verifier() -> Arc<dyn ClientCertVerifier> {
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(Offered { algorithms: provider.signature_verification_algorithms })
}

#[derive(Debug)]
struct Offered {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Offered {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[AuthorityName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Leaf::parse(leaf).map_err(|_| rustls::CertificateError::BadEncoding)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const NOW: WallTime = WallTime(1_795_427_940_000);

    fn validity() -> Validity {
        Validity { now: NOW, life: DAY, serial: u64::MAX }
    }

    #[test]
    fn what_an_authority_issues_chains_to_it_also_after_reading_it_back() {
        let made = Authority::generate("root of test", validity()).unwrap();
        let again = Authority::from_pem(made.to_pem(), &made.key_pem()).unwrap();
        let issued = again.issue_server("hub", &["localhost", "127.0.0.1"], validity()).unwrap();

        let roots = [webpki::anchor_from_trusted_cert(&CertificateDer::from(&made.der()[..]))
            .unwrap()
            .to_owned()];
        let leaf = CertificateDer::from(&issued.chain[0][..]);
        let cert = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let verify = |at: WallTime| {
            cert.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &roots,
                &[],
                UnixTime::since_unix_epoch(Duration::from_millis(at.0.unsigned_abs())),
                webpki::KeyUsage::server_auth(),
                None,
                None,
            )
            .is_ok()
        };
        assert!(verify(NOW));
        assert!(!verify(NOW.after(2 * DAY)));
        let name = |text| rustls::pki_types::ServerName::try_from(text).unwrap();
        assert!(cert.verify_is_valid_for_subject_name(&name("127.0.0.1")).is_ok());
        assert!(cert.verify_is_valid_for_subject_name(&name("elsewhere")).is_err());
    }

    #[test]
    fn a_leaf_tells_its_name_its_life_and_its_thumbprints() {
        let root = Authority::generate("root", validity()).unwrap();
        let issued = root.issue_client("device-1", &[], validity()).unwrap();
        let leaf = Leaf::parse(&issued.chain[0]).unwrap();
        assert_eq!(leaf.common_name.as_deref(), Some("device-1"));
        assert_eq!(leaf.not_after, NOW.after(DAY));
        assert_eq!((leaf.thumbprint_sha1.len(), leaf.thumbprint_sha256.len()), (40, 64));
        assert!(leaf.has_thumbprint(&leaf.thumbprint_sha256.to_uppercase()));
        assert!(!leaf.has_thumbprint("00"));
        assert!(matches!(Leaf::parse(b"no"), Err(CertificateError::Der)));
    }

    #[test]
    fn nothing_outlives_the_authority_that_issued_it() {
        let root = Authority::generate("root", validity()).unwrap();
        assert_eq!(root.life().until, NOW.after(DAY));
        let long = Validity { life: 9 * DAY, ..validity() };
        let issued = root.issue_client("c", &["azureiot://hub/devices/d"], long).unwrap();
        assert_eq!(issued.expires, NOW.after(DAY));
        let leaf = Leaf::parse(&issued.chain[0]).unwrap();
        assert_eq!(leaf.life().until, NOW.after(DAY));
        let again = Authority::from_pem(root.to_pem(), &root.key_pem()).unwrap();
        assert_eq!(again.life(), root.life());
    }

    #[test]
    fn what_cannot_stand_in_a_certificate_is_refused() {
        let root = Authority::generate("root", validity()).unwrap();
        let check = |name: &str| {
            assert!(root.issue_server("x", &[name], validity()).is_err(), "{name:?}");
        };
        check("");
        check("größe.example");
        check("a b");
        let late = Validity { now: WallTime(i64::MAX), ..validity() };
        assert!(matches!(Authority::generate("r", late), Err(CertificateError::Time(_))));
        assert!(matches!(Authority::from_pem("x", &Secret::from("y")), Err(CertificateError::Pem)));
    }
}
