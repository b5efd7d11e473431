//! Simulated worlds, fixtures, and the suites that several implementers must pass.
//!
//! A leaf: it knows neither hub nor edge. Start at [`world`] for a host whose time is virtual,
//! at [`engine`] for modules that are no processes, at [`conformance`] for what every
//! implementer of the waist must do, at [`shape`] for golden files of messages, at [`cases`] for
//! tables that several rooms are held against.

pub mod chance;

pub mod world;

pub mod engine;

pub mod conformance;

pub mod shape;

pub mod cases;

pub mod messages;
