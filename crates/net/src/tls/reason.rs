//! Why a handshake failed, in words for whoever runs the server. Pure.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, Error as RustlsError, PeerIncompatible};

/// The reason behind `error`.
pub(super) fn of(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut {
        return "it did not finish in time".to_owned();
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<RustlsError>() {
            return of_tls(tls);
        }
        cause = inner.source();
    }
    error.to_string()
}

fn of_tls(error: &RustlsError) -> String {
    match error {
        RustlsError::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon,
        ) => "it offered no cipher suite in common (ECDHE with AES-GCM or ChaCha20 is spoken here)"
            .to_owned(),
        RustlsError::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
            "it offered no signature scheme in common".to_owned()
        }
        RustlsError::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled) => {
            "it offered no version in common (TLS 1.2 and 1.3 are spoken here)".to_owned()
        }
        RustlsError::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate),
        ) => format!("it does not take our certificate ({alert:?})"),
        other => other.to_string(),
    }
}
