//! Simulated worlds, fixtures, and the suites that several implementers must pass.
//!
//! A leaf: it knows neither hub nor edge.

pub mod conformance;
