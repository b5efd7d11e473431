//! Twins through the service API. Their rules are `model::twin`, their rows `storage::twins`.

pub(crate) mod http;
