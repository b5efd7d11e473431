//! What a commit does to open sessions.

use std::sync::Arc;

use model::feature::FeatureSet;
use model::twin::slot::DesiredChange;

use super::shell::Shared;
use super::state::FeatureMask;
use crate::registry::Ordinal;

/// Applied by the writer after the commit, in the order of the operations.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The session becomes the identity's own; an older one is taken over.
    Attach(Arc<Shared>),
    /// The identity may not go on: deleted, disabled, or other credentials.
    Revoke(Ordinal),
    /// The subscriptions of its durable session are these.
    Features(Ordinal, FeatureMask),
    /// The subscriptions that live no longer than this session are these.
    Held(Arc<Shared>, FeatureSet),
    /// The slice of activity that was on its way is in the tables.
    ActivityWritten,
    /// Its desired properties changed.
    Desired(Ordinal, Box<DesiredChange>),
}
