//! The edge agent: makes the modules of this device run as the cloud desires.
//!
//! `plan.rs` decides, `restart.rs` knows when to try again, `spec.rs` says what the engine is
//! to make, `report.rs` says how it went, `methods.rs` reads what the cloud asks of
//! `$edgeAgent`, `logs.rs` shapes logs. All of it is pure; `shell.rs` is the loop that acts.

pub mod methods;
pub mod plan;
pub mod report;
pub mod restart;

pub(crate) mod logs;
pub(crate) mod shell;
pub(crate) mod spec;
pub(crate) mod stop;
