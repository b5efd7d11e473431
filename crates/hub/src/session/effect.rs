//! What a commit does to open sessions.

use std::sync::Arc;

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
    /// Its subscriptions are these.
    Features(Ordinal, FeatureMask),
    /// Its desired properties changed.
    Desired(Ordinal, Box<DesiredChange>),
}
