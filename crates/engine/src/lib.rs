//! Where modules run.
//!
//! [`runtime::ModuleRuntime`] is the seam: plain data in, plain data out, so that the code behind
//! it may live in another process with other rights. Behind it stand the embedded engine
//! (containers without a daemon) and the process engine (development only).

pub mod backend;
pub mod bundle;
pub mod create_options;
pub mod embedded;
pub mod error;
mod files;
pub mod helper;
pub mod image;
pub mod log;
pub mod network;
pub mod process;
pub mod runtime;
#[cfg(test)]
mod sys;
