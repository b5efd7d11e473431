//! Credentials: symmetric keys and shared access signatures, made and checked.
//!
//! Absent so far: certificates, connection strings, renewal and key stores.

pub mod key;
pub mod sas;
