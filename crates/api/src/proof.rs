//! How a service tells the listener that whoever sent a request is proven.
//!
//! Before that a listener grants a connection little: a seat that it may take back, and a short
//! time for the body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An extension of each request, shared by all requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Proof(Arc<AtomicBool>);

impl Proof {
    /// Says that the caller is proven; it stays so for the connection.
    pub fn give(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether a caller was proven on this connection.
    pub fn is_given(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
