//! From a module's specification to an OCI bundle.

pub mod capabilities;
