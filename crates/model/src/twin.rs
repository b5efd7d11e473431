//! Twins: the JSON document of a device or module, and the rules by which it changes.

use serde_json::{Map, Value};

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
