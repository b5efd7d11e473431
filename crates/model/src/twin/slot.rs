//! Several changes of desired properties as one notification.

use serde_json::{Map, Value};

use super::patch::{compose, difference};
use super::{TwinPatch, Version};

/// One accepted change of desired properties, with what was before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredChange {
    /// A patch that leads from one to the other, nulls kept.
    pub patch: Map<String, Value>,
    /// The section before.
    pub before: Map<String, Value>,
    /// The section after.
    pub after: Map<String, Value>,
    /// The version after.
    pub version: Version,
}

/// The coalescing slot of a session.
#[derive(Debug)]
pub struct DesiredSlot {
    patch: Map<String, Value>,
    before: Map<String, Value>,
    version: Version,
}

impl DesiredSlot {
    /// A slot that holds one change.
    pub fn new(change: DesiredChange) -> Self {
        Self { patch: change.patch, before: change.before, version: change.version }
    }

    /// Takes one more change in.
    ///
    /// Where two merge patches have no common patch (a key deleted, then given an object), the
    /// difference between what the device knows and what is wanted now takes their place.
    pub fn add(&mut self, change: DesiredChange) {
        self.version = self.version.max(change.version);
        self.patch = compose(&self.patch, &change.patch)
            .unwrap_or_else(|| difference(&self.before, &change.after));
    }

    /// What the device is told.
    pub fn into_event(self) -> (TwinPatch, Version) {
        (TwinPatch(self.patch), self.version)
    }
}
