//! The wire: bytes of a protocol on one side, the requests and events of the waist on the other.
//!
//! What it is: MQTT 3.1.1 as sans-IO sessions ([`mqtt::server::Session`], [`mqtt::client::Session`])
//! with our own codec, and the translation of topics ([`topics`]).
//! What it is not: it opens no socket, reads no clock and checks no credential.
//! Start reading at [`mqtt::server`].

pub mod mqtt;
pub mod topics;
