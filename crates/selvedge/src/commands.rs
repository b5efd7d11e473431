//! The commands, one file each: read arguments, ask the service API, print.

pub(crate) mod console;
pub(crate) mod device;
pub(crate) mod edge;
pub(crate) mod hub;
pub(crate) mod method;
pub(crate) mod monitor;
pub(crate) mod twin;
pub(crate) mod up;
