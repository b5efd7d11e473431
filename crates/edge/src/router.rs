//! The edge hub's router: takes messages of modules, keeps them until they arrived, hands them
//! to other modules and upstream.
//!
//! `record.rs` is the form of a message on disk, `pump.rs` decides what goes upstream and when,
//! `twins.rs` keeps copies for children. What `$edgeHub` desires is read by
//! [`model::router_plan`].

pub mod pump;
pub mod record;
pub mod twins;
