//! The end of the agent when the modules are to end as well.

pub(crate) mod shell;
