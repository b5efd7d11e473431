//! The first words of a client, read before it is answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::server::{Acceptor, ClientHello};
use rustls::{CipherSuite, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::network::ByteStream;

/// Most bytes that are read for a hello: one record.
const HELLO_BYTES_MAX: usize = 16 * 1024;
/// How much is read at a time.
const CHUNK_BYTES: usize = 1024;

/// What a client said first.
pub(super) struct Hello {
    /// All that was read; the handshake begins with it.
    pub(super) bytes: Vec<u8>,
    /// It can read no certificate but one with an RSA key.
    pub(super) needs_rsa: bool,
}

impl Hello {
    /// `stream` as if nothing had been read from it.
    pub(super) fn replayed(self, stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
        Box::new(Replayed { bytes: self.bytes, stream })
    }
}

/// A stream with what was read from it too early.
struct Replayed {
    bytes: Vec<u8>,
    stream: Box<dyn ByteStream>,
}

impl AsyncRead for Replayed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.bytes.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        let count = this.bytes.len().min(into.remaining());
        into.put_slice(this.bytes.get(..count).unwrap_or_default());
        this.bytes = this.bytes.split_off(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Reads until the hello is whole, is none, or is too long; what then follows is for the
/// handshake to judge.
pub(super) async fn read(stream: &mut Box<dyn ByteStream>) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    while bytes.len() < HELLO_BYTES_MAX {
        let begun = bytes.len();
        bytes.resize(begun + CHUNK_BYTES, 0);
        let count = stream.read(bytes.get_mut(begun..).unwrap_or_default()).await?;
        bytes.truncate(begun + count);
        if count == 0 {
            break;
        }
        let mut fresh = bytes.get(begun..).unwrap_or_default();
        while !fresh.is_empty() && acceptor.read_tls(&mut fresh)? > 0 {}
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(said)) => {
                return Ok(Hello { needs_rsa: needs_rsa(&said.client_hello()), bytes });
            }
            Err(_) => break,
        }
    }
    Ok(Hello { bytes, needs_rsa: false })
}

fn needs_rsa(hello: &ClientHello<'_>) -> bool {
    let ecdsa = hello.signature_schemes().contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
    // A suite of TLS 1.3 says nothing of keys.
    let suite = hello.cipher_suites().iter().any(|suite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        )
    });
    !(ecdsa && suite)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_hello_without_end_is_read_up_to_its_limit_and_handed_on_whole() {
        let (mut near, far) = tokio::io::duplex(4096);
        let mut far: Box<dyn ByteStream> = Box::new(far);
        let sending = async {
            // Records of a hello that says to be 64 KiB long.
            let mut record = vec![22, 3, 1, 4, 0, 1, 0, 0xff, 0xff];
            let mut sent = Vec::new();
            while sent.len() < 2 * HELLO_BYTES_MAX {
                record.resize(5 + 1024, 0);
                sent.extend_from_slice(&record);
                if near.write_all(&record).await.is_err() {
                    break;
                }
                record = vec![22, 3, 3, 4, 0];
            }
            sent
        };
        let reading = async {
            let hello = read(&mut far).await.unwrap();
            assert!(!hello.needs_rsa);
            let most = HELLO_BYTES_MAX..HELLO_BYTES_MAX + CHUNK_BYTES;
            assert!(most.contains(&hello.bytes.len()), "{}", hello.bytes.len());
            let mut again = hello.replayed(far);
            let mut all = vec![0; HELLO_BYTES_MAX + 2 * CHUNK_BYTES];
            again.read_exact(&mut all).await.unwrap();
            all
        };
        let (sent, got) = tokio::join!(sending, reading);
        assert!(sent.starts_with(&got), "nothing is lost between what was read and what follows");
    }
}
