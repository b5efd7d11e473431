//! What the black-box tests in `tests/` share: built binaries as processes, a TCP proxy that
//! cuts, stock clients in Python, and waiting with deadlines.
//!
//! The tests know nothing of the product's crates. They see command lines, files that are
//! documented for users, and bytes on sockets.

pub mod edge;
pub mod hub;
pub mod place;
pub mod proxy;
pub mod python;
pub mod seed;
pub mod trace;
pub mod wait;
