//! Reported patches that wait for the hub, in as few patches as say the same.

use serde_json::{Map, Value};

use super::TwinPatch;
use super::limits::object_bytes;
use super::patch::{apply, compose};
use crate::planted;

/// Patches that wait, oldest first. Sending all of them once more after some were taken changes
/// nothing, so a lost answer costs only the repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingPatches(Vec<TwinPatch>);

impl PendingPatches {
    /// Patches kept earlier, oldest first.
    pub fn from_parts(parts: Vec<TwinPatch>) -> Self {
        Self(parts)
    }

    /// The patches, oldest first.
    pub fn parts(&self) -> &[TwinPatch] {
        &self.0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a later patch; it becomes one with the last where one patch can say both.
    pub fn add(&mut self, patch: &TwinPatch) {
        if patch.0.is_empty() {
            return;
        }
        match self.0.last_mut().and_then(|last| Some((compose(&last.0, &patch.0)?, last))) {
            // Planted: of two values the older one wins.
            Some((_, last)) if planted::is("older_reported_wins") => {
                last.0 = compose(&patch.0, &last.0).unwrap_or_default();
            }
            Some((both, last)) => last.0 = both,
            None => self.0.push(patch.clone()),
        }
    }

    /// Merges all of them into `target`.
    pub fn apply_to(&self, target: &mut Map<String, Value>) {
        self.0.iter().for_each(|patch| apply(target, &patch.0));
    }

    /// How much of the limits of a twin they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|patch| object_bytes(&patch.0)).sum()
    }

    /// All of them were taken.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
