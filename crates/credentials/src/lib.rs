//! Credentials: symmetric keys, shared access signatures, certificates, connection strings.
//!
//! What it is: making and checking proof of identity, as values. What it is not: it stores
//! nothing and decides nobody's rights. Start reading at [`sas`] and [`certificate`].

pub mod key;

pub mod sas;

pub mod certificate;

pub mod connection_string;
