//! Azure's literal names, as they stand on the wire and in documents; the only place for them.

/// The module identity of the edge agent.
pub const EDGE_AGENT: &str = "$edgeAgent";
/// The module identity of the edge hub.
pub const EDGE_HUB: &str = "$edgeHub";
/// The sink of a route that leads to the hub or the parent.
pub const UPSTREAM: &str = "$upstream";
/// The version counter inside each twin section.
pub const VERSION: &str = "$version";
/// The timestamps beside a twin section, as the service sees them.
pub const METADATA: &str = "$metadata";
