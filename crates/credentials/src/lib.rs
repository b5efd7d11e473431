//! Credentials: symmetric keys, shared access signatures, certificates, connection strings.
//!
//! What it is: making and checking proof of identity, as values, and when to renew it. What it
//! is not: it stores nothing and decides nobody's rights; who keeps keys implements
//! [`key_store::KeyStore`]. Start reading at [`sas`] and [`certificate`].

pub mod key;

pub mod sas;

pub mod certificate;

pub mod connection_string;

pub mod host;

pub mod cipher;

pub mod key_store;

pub mod renewal;

pub mod rsa_key;

pub mod skew;
