//! The management interface: what the device's operator asks on a Unix socket of their own.

pub(crate) mod http;
