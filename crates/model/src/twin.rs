//! Twins: the JSON document of a device or module, and the rules by which it changes.
//!
//! The rules are here and nowhere else: [`patch`] says what a merge patch does, [`limits`] what
//! a twin may hold, [`section`] how versions and timestamps move, [`slot`] how several changes
//! become one notification, [`pending`] how reported patches wait. Hub and router both use
//! them, and one table of cases checks them.

use serde_json::{Map, Value};

pub mod limits;
pub mod patch;
pub mod pending;
pub mod section;
pub mod slot;

/// Counts the accepted changes of one section of a twin. Azure counts from 1, so 0 means
/// "never written".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A JSON merge patch for one section: nulls delete, objects merge, all else replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinPatch(pub Map<String, Value>);

/// The two sections of a twin that its owner sees; `$version` is kept apart from the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinDocument {
    /// What the cloud wants.
    pub desired: Map<String, Value>,
    /// The version of `desired`.
    pub desired_version: Version,
    /// What the device says.
    pub reported: Map<String, Value>,
    /// The version of `reported`.
    pub reported_version: Version,
}

#[cfg(test)]
mod tests;
