//! What survives a cut.
