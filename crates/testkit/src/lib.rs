//! Simulated worlds, fixtures, and the suites that several implementers must pass.
//!
//! A leaf: it knows neither hub nor edge. Start at [`world`] for a host whose time is virtual,
//! at [`conformance`] for what every implementer of the waist must do.

pub mod world;

pub mod conformance;
