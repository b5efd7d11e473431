use rustls::pki_types::UnixTime;

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

#[test]
fn an_authority_with_an_rsa_key_issues_for_an_rsa_key_and_keeps_it() {
    let key = crate::rsa_key::generate().unwrap();
    let made = Authority::with_key("root for RSA", validity(), &key).unwrap();
    let again = Authority::from_pem(made.to_pem(), &made.key_pem()).unwrap();
    let issued = again.issue_server_for(&key, "hub", &["hub.test"], validity()).unwrap();
    assert_eq!(issued.key_pem.expose_str().map(str::trim), key.expose_str().map(str::trim));
    let der = CertificateDer::from(&issued.chain[0][..]);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.signature_algorithm.algorithm.to_id_string(), "1.2.840.113549.1.1.11");
    let parsed = leaf.public_key().parsed().unwrap();
    assert_eq!(parsed.key_size(), crate::rsa_key::RSA_BITS);
    let roots = [webpki::anchor_from_trusted_cert(&CertificateDer::from(&made.der()[..]))
        .unwrap()
        .to_owned()];
    let cert = webpki::EndEntityCert::try_from(&der).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(NOW.0.unsigned_abs()));
    let usage = webpki::KeyUsage::server_auth();
    // With RSA alone, as a board that knows nothing else.
    let algorithms = [webpki::ring::RSA_PKCS1_2048_8192_SHA256];
    assert!(cert.verify_for_usage(&algorithms, &roots, &[], at, usage, None, None).is_ok());
}
