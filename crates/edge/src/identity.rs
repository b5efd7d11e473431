//! Who is who on this device: module identities with their keys, the device CA, certificates.
//!
//! `key_store.rs` keeps private keys in files, `shell.rs` asks the hub for module identities.

pub mod key_store;
pub(crate) mod shell;
