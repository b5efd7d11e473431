//! Who is who on this device: module identities with their keys, the device CA, certificates.
//!
//! `key_store.rs` and `rsa.rs` keep private keys in files, `shell.rs` asks the hub for module identities.

pub mod key_store;
mod rsa;
pub(crate) mod shell;
