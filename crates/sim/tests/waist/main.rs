//! The suite of the waist over everybody who implements it, on one virtual clock: the client
//! over the hub, the router over the hub, and each over the other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod house;
mod kept;
mod outward;
mod suite;
