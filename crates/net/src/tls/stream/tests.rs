use std::time::Duration;

use credentials::certificate::{Authority, Issued, Validity, client_verifier};
use model::time::WallTime;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tls::{Client, Server, ServerCertificate};
use crate::tls::{HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT};

struct Bench {
    authority: Authority,
    server: Server,
}

fn validity() -> Validity {
    let now = WallTime::parse_rfc3339("2025-01-01T00:00:00Z").unwrap();
    Validity { now, life: Duration::from_hours(24 * 365 * 50), serial: 1 }
}

fn bench() -> Bench {
    let authority = Authority::generate("root", validity()).unwrap();
    let Issued { chain, key_der, .. } =
        authority.issue_server("hub.test", &["hub.test"], validity()).unwrap();
    let certificate = ServerCertificate::new(&chain, &key_der).unwrap();
    Bench { authority, server: Server::new(certificate, client_verifier()).unwrap() }
}

/// Handshake over a pipe of `window` bytes.
async fn pair(bench: &Bench, client: &Client, window: usize) -> (Secured, Box<dyn ByteStream>) {
    let (near, far) = tokio::io::duplex(window);
    let (served, dialled) = tokio::join!(
        bench.server.accept(Box::new(far)),
        client.connect("hub.test", Box::new(near))
    );
    (served.unwrap(), dialled.unwrap())
}

async fn send_both_ways(mut there: Box<dyn ByteStream>, mut here: Box<dyn ByteStream>) {
    let body: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let expected = body.clone();
    let echo = async {
        let mut buffer = [0; 777];
        let mut total = 0;
        while total < 1_000_000 {
            let count = there.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0);
            there.write_all(&buffer[..count]).await.unwrap();
            total += count;
        }
        there.shutdown().await.unwrap();
    };
    let (mut reader, mut writer) = tokio::io::split(&mut here);
    let send = async {
        writer.write_all(&body).await.unwrap();
        writer.flush().await.unwrap();
    };
    let receive = async {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == expected, "what came back is not what was sent");
    };
    tokio::join!(echo, send, receive);
}

#[tokio::test]
async fn bytes_survive_pipes_of_any_width() {
    let bench = bench();
    let client = Client::trusting(bench.authority.to_pem()).unwrap();
    for window in [1000, 5000, 100_000] {
        let (served, dialled) = pair(&bench, &client, window).await;
        assert!(served.client_chain.is_none());
        send_both_ways(served.stream, dialled).await;
    }
}

#[tokio::test]
async fn a_client_certificate_reaches_the_server_and_nobody_has_to_show_one() {
    let bench = bench();
    let own = bench.authority.issue_client("d1", &[], validity()).unwrap();
    let client =
        Client::trusting_and_showing(bench.authority.to_pem(), &own.chain, &own.key_der).unwrap();
    let (served, dialled) = pair(&bench, &client, 4096).await;
    assert_eq!(served.client_chain.unwrap()[0], own.chain[0]);
    send_both_ways(served.stream, dialled).await;
}

fn client_machine(
    bench: &Bench,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Arc<ClientConfig>, ServerName<'static>) {
    let mut roots = RootCertStore::empty();
    roots.add(bench.authority.der().to_vec().into()).unwrap();
    let config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(config), ServerName::try_from("hub.test").unwrap())
}

/// Connects with both ends visible, and exchanges a byte so that tickets have arrived.
async fn open_pair(
    bench: &Bench,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
) -> (TlsStream<UnbufferedServerConnection>, TlsStream<UnbufferedClientConnection>) {
    let (near, far) = tokio::io::duplex(4096);
    let server = UnbufferedServerConnection::new(Arc::clone(&bench.server.config)).unwrap();
    let client = UnbufferedClientConnection::new(Arc::clone(config), name.clone()).unwrap();
    let far = shake(Box::new(far), server, HANDSHAKE_BYTES_MAX);
    let (there, here) = tokio::join!(far, shake(Box::new(near), client, usize::MAX));
    let (mut there, mut here) = (there.unwrap(), here.unwrap());
    for byte in [b"x", b"y"] {
        here.write_all(byte).await.unwrap();
        here.flush().await.unwrap();
        assert_eq!(there.read_u8().await.unwrap(), byte[0]);
        there.write_all(byte).await.unwrap();
        there.flush().await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), byte[0]);
    }
    (there, here)
}

#[tokio::test]
async fn both_versions_work_and_an_idle_stream_holds_no_buffer() {
    let bench = bench();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (config, name) = client_machine(&bench, &[version]);
        let (there, here) = open_pair(&bench, &config, &name).await;
        assert_eq!(there.machine.common().protocol_version(), Some(version.version));
        let held = |carry: &Vec<u8>, plain: &Vec<u8>, out: &Vec<u8>| {
            carry.capacity() + plain.capacity() + out.capacity()
        };
        assert_eq!(held(&there.carry, &there.plain, &there.out), 0);
        assert_eq!(held(&here.carry, &here.plain, &here.out), 0);
    }
}

#[tokio::test]
async fn a_returning_client_resumes_by_its_ticket() {
    let bench = bench();
    let (config, name) = client_machine(&bench, &[&rustls::version::TLS13]);
    let (first, _client) = open_pair(&bench, &config, &name).await;
    assert_eq!(first.machine.common().handshake_kind(), Some(HandshakeKind::Full));
    let (second, _client) = open_pair(&bench, &config, &name).await;
    assert_eq!(second.machine.common().handshake_kind(), Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let bench = bench();
    let stranger = Authority::generate("other", validity()).unwrap();
    let client = Client::trusting(stranger.to_pem()).unwrap();
    let (near, far) = tokio::io::duplex(4096);
    let (served, dialled) = tokio::join!(
        bench.server.accept(Box::new(far)),
        client.connect("hub.test", Box::new(near))
    );
    assert_eq!(dialled.err().unwrap().kind(), io::ErrorKind::InvalidData);
    // The server hears why from the alert, not from a broken pipe.
    assert_eq!(served.err().unwrap().kind(), io::ErrorKind::InvalidData);

    let (mut near, far) = tokio::io::duplex(4096);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let served = bench.server.accept(Box::new(far)).await;
    assert_eq!(served.err().unwrap().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let bench = bench();
    let (_near, far) = tokio::io::duplex(4096);
    let waited = tokio::time::timeout(Duration::from_hours(1), bench.server.accept(Box::new(far)));
    let served = waited.await.unwrap();
    assert_eq!(served.err().unwrap().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_certificate_is_swapped_under_a_running_listener() {
    let authority = Authority::generate("root", validity()).unwrap();
    let old = authority.issue_server("old.test", &["old.test"], validity()).unwrap();
    let new = authority.issue_server("hub.test", &["hub.test"], validity()).unwrap();
    let certificate = ServerCertificate::new(&old.chain, &old.key_der).unwrap();
    let server = Server::new(certificate.clone(), client_verifier()).unwrap();
    let bench = Bench { authority, server };
    certificate.replace(&new.chain, &new.key_der).unwrap();
    let client = Client::trusting(bench.authority.to_pem()).unwrap();
    let (served, dialled) = pair(&bench, &client, 4096).await;
    send_both_ways(served.stream, dialled).await;
}

#[tokio::test]
async fn a_forged_record_ends_the_stream_for_both_and_panics_nobody() {
    let bench = bench();
    let (config, name) = client_machine(&bench, &[&rustls::version::TLS13]);
    let (mut there, mut here) = open_pair(&bench, &config, &name).await;
    here.io.write_all(&[0x17, 3, 3, 0, 20]).await.unwrap();
    here.io.write_all(&[7; 20]).await.unwrap();
    for _ in 0..2 {
        let error = there.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    assert!(there.write_all(b"x").await.is_err());
    there.shutdown().await.unwrap();
    // The alert says that the peer found the record forged.
    assert!(here.read_u8().await.unwrap_err().to_string().contains("TLS"));
    assert!(here.shutdown().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_refused_after_its_bytes() {
    let bench = bench();
    let (mut near, far) = tokio::io::duplex(4096);
    let accepting = bench.server.accept(Box::new(far));
    let sending = async {
        // Records of a ClientHello that says to be 64 KiB long.
        let mut sent = 0;
        let mut record = vec![22, 3, 1, 4, 0, 1, 0, 0xff, 0xff];
        loop {
            record.resize(5 + 1024, 0);
            if near.write_all(&record).await.is_err() {
                return sent;
            }
            sent += record.len();
            record = vec![22, 3, 3, 4, 0];
        }
    };
    let (outcome, sent) = tokio::join!(accepting, sending);
    let error = outcome.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
    assert!((HANDSHAKE_BYTES_MAX - 2048..HANDSHAKE_BYTES_MAX + 8192).contains(&sent), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_drips_ends_in_time() {
    let bench = bench();
    let (mut near, far) = tokio::io::duplex(4096);
    let dripping = async {
        while near.write_all(&[22]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    #[expect(clippy::disallowed_methods, reason = "virtual time")]
    let begun = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(bench.server.accept(Box::new(far)), dripping);
    assert!(outcome.is_err());
    assert!(begun.elapsed() <= HANDSHAKE_TIMEOUT + Duration::from_secs(2));
}

/// A client that trusts `authority` and speaks only TLS 1.2 with `suites`.
async fn dial(
    bench: &Bench,
    authority: &Authority,
    suites: &[rustls::CipherSuite],
) -> Result<Option<rustls::CipherSuite>, (io::Error, io::Error)> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from(authority.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("hub.test").unwrap();
    let machine = UnbufferedClientConnection::new(Arc::new(config), name).unwrap();
    let (near, far) = tokio::io::duplex(4096);
    let (there, here) = tokio::join!(
        bench.server.accept(Box::new(far)),
        shake(Box::new(near), machine, usize::MAX)
    );
    match (there, here) {
        (Ok(_), Ok(client)) => {
            Ok(client.machine.common().negotiated_cipher_suite().map(|suite| suite.suite()))
        }
        (Err(there), Err(here)) => Err((there, here)),
        _ => panic!("one side alone is content"),
    }
}

#[tokio::test]
async fn whoever_reads_rsa_alone_is_shown_an_rsa_certificate_and_everybody_else_the_other() {
    use rustls::CipherSuite as S;
    let key = credentials::rsa_key::generate().unwrap();
    let root = Authority::with_key("RSA root", validity(), &key).unwrap();
    let rsa = root.issue_server_for(&key, "hub.test", &["hub.test"], validity()).unwrap();
    let bench = bench();
    let certificate = &bench.server.certificate;
    let (rsa_128, rsa_256) =
        (S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384);
    let ecdsa_128 = S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

    // Without one, the line in the log says why.
    let (there, _) = dial(&bench, &root, &[rsa_128]).await.unwrap_err();
    assert!(crate::tls::reason::of(&there).contains("no cipher suite in common"), "{there}");

    // While one is made, who needs it waits, and nobody else does.
    certificate.set_rsa_is_coming(crate::tls::RsaIsComing::Yes);
    assert_eq!(dial(&bench, &bench.authority, &[ecdsa_128]).await.unwrap(), Some(ecdsa_128));
    let wanted = [rsa_128];
    let waiting = dial(&bench, &root, &wanted);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "it waits for its certificate");
    certificate.replace_rsa(&rsa.chain, &rsa.key_der).unwrap();
    assert_eq!(waiting.await.unwrap(), Some(rsa_128));

    assert_eq!(dial(&bench, &root, &[rsa_256]).await.unwrap(), Some(rsa_256));
    let both = [rsa_128, ecdsa_128];
    assert_eq!(dial(&bench, &bench.authority, &both).await.unwrap(), Some(ecdsa_128));
    assert_eq!(dial(&bench, &bench.authority, &[ecdsa_128]).await.unwrap(), Some(ecdsa_128));
    // A client that trusts the other authority only says so, and the log tells it.
    let (there, _) = dial(&bench, &root, &[ecdsa_128]).await.unwrap_err();
    assert!(crate::tls::reason::of(&there).contains("does not take our certificate"), "{there}");
}

#[tokio::test]
async fn one_write_seals_so_much_and_the_next_waits_for_the_reader() {
    let bench = bench();
    let (config, name) = client_machine(&bench, &[&rustls::version::TLS13]);
    let (mut there, mut here) = open_pair(&bench, &config, &name).await;
    let page = vec![b'x'; 2 * WRITE_BYTES_MAX];
    assert_eq!(there.write(&page).await.unwrap(), WRITE_BYTES_MAX);
    // Beside the pipe, what one write sealed is all that waits for a peer that does not read.
    assert!(there.out.len() <= WRITE_BYTES_MAX + WRITE_BYTES_MAX / 16, "{}", there.out.len());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(&mut there).poll_write(&mut cx, &page).is_pending());
    let mut got = vec![0; WRITE_BYTES_MAX];
    let (read, flushed) = tokio::join!(here.read_exact(&mut got), there.flush());
    read.unwrap();
    flushed.unwrap();
    assert!(got == page[..WRITE_BYTES_MAX]);
}

/// Shows one certificate, whatever the library thinks of it.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What `openssl x509 -req -signkey` makes: version 1, no extension; certificate and key.
const VERSION_1: [&str; 2] =
    [include_str!("../testdata/v1-ecdsa.pem"), include_str!("../testdata/v1-rsa.pem")];

#[tokio::test]
async fn a_client_certificate_of_any_shape_proves_its_key_and_no_other() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let bench = bench();
    let rsa = credentials::rsa_key::generate().unwrap();
    let v3_rsa = Authority::with_key("device-1", validity(), &rsa).unwrap();
    let v3_rsa = format!("{}{}", v3_rsa.to_pem(), rsa.expose_str().unwrap());
    let v3 = bench.authority.issue_client("device-1", &[], validity()).unwrap();
    let v3 = format!("{}{}", v3.chain_pem, v3.key_pem.expose_str().unwrap());
    let stranger = bench.authority.issue_client("device-1", &[], validity()).unwrap();
    let stranger = stranger.key_pem.expose_str().unwrap();
    let check = async |certificate: &str, key: &str, proven: bool| {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let signer = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
            let shown = rustls::sign::CertifiedKey::new(vec![der.clone()], signer);
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(bench.authority.der().to_vec())).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_client_cert_resolver(Arc::new(Shows(Arc::new(shown))));
            let name = ServerName::try_from("hub.test").unwrap();
            let machine = UnbufferedClientConnection::new(Arc::new(config), name).unwrap();
            let (near, far) = tokio::io::duplex(4096);
            let client = shake(Box::new(near), machine, usize::MAX);
            let (there, _client) = tokio::join!(bench.server.accept(Box::new(far)), client);
            let seen = there.ok().and_then(|it| it.client_chain?.first().cloned());
            assert_eq!(seen.as_deref(), proven.then_some(&der[..]), "{version:?} {certificate}");
        }
    };
    for own in VERSION_1.into_iter().chain([v3.as_str(), v3_rsa.as_str()]) {
        check(own, own, true).await;
    }
    check(VERSION_1[0], stranger, false).await;
    check(&v3, stranger, false).await;
    check(VERSION_1[1], rsa.expose_str().unwrap(), false).await;
}
