//! The edge hub's router: takes messages of modules, keeps them until they arrived, hands them
//! to other modules and upstream.
//!
//! What `$edgeHub` desires is read by [`model::router_plan`]. `dispatch.rs` knows which lanes a
//! message goes to, `record.rs` is the form of a message on disk, `pump.rs` decides what goes
//! upstream and when, `twins.rs` keeps copies for children, `clients.rs` knows who is connected
//! since when. `shell.rs` joins them: it owns the
//! journal and answers the waist; `session/shell.rs` is one open module, `pump/shell.rs` the
//! task that sends upstream.

pub mod pump;
pub mod record;
pub mod twins;

pub(crate) mod clients;
pub(crate) mod dispatch;
pub(crate) mod metrics;
pub(crate) mod session;
pub(crate) mod shell;
