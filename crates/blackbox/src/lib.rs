//! What the black-box tests in `tests/` share: built binaries as processes, a TCP proxy that
//! cuts, stock clients in Python, and waiting with deadlines.
//!
//! The tests know nothing of the product's crates. They see command lines, files that are
//! documented for users, and bytes on sockets. Only `bin/sender` is a module like any other,
//! on `sdk`, and its image is packed by `engine`.

pub mod edge;
pub mod hub;
pub mod image;
pub mod oracle;
pub mod place;
pub mod process;
pub mod proxy;
pub mod script;
pub mod seed;
pub mod trace;
pub mod up;
pub mod wait;
