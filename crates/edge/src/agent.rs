//! The edge agent: makes the modules of this device run as the cloud desires.
//!
//! `plan.rs` decides, `restart.rs` knows when to try again, `report.rs` says how it went,
//! `methods.rs` reads what the cloud asks of `$edgeAgent`. All of it is pure; the loop that
//! acts on a plan is not written yet.

pub mod methods;
pub mod plan;
pub mod report;
pub mod restart;
