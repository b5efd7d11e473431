//! The edge hub's router: takes messages of modules, keeps them until they arrived, hands them
//! to other modules and upstream.
//!
//! `routes.rs` reads the desired properties of `$edgeHub`, `record.rs` is the form of a message
//! on disk, `pump.rs` decides what goes upstream and when, `twins.rs` keeps copies for children.

pub mod pump;
pub mod record;
pub mod routes;
pub mod twins;
