//! Sockets and everything that touches them: listeners, TLS, connection tasks, clients.
//!
//! What it is: it drives the sessions of `wire` and the HTTP services of `hub` and `edge`.
//! What it is not: it proves nobody's identity, signs nothing and knows no rules; it collects
//! claims and hands them over the waist. Start reading at [`network`].

pub mod clock;

pub mod world;

pub mod network;

pub mod tls;

pub mod mqtt;

pub mod http;

pub mod http_client;

pub mod client;

pub mod descriptors;
pub mod limits;

mod alarm;

mod gate;
mod listener;
mod unproven;

mod patience;
pub use patience::WRITE_PATIENCE;
mod scratch;

#[cfg(test)]
mod testbed;
