//! For authors of modules in Rust: inputs, outputs, twin and methods of one module.
//!
//! What it is: [`Module::from_environment`] reads what an IoT Edge runtime tells its modules,
//! proves the module by the workload interface, and keeps a session with the edge hub that
//! survives broken connections. [`process::run`] is the frame of a module's `main`.
//! What it is not: a device client (it knows no connection strings), nor a place for rules.
//! Start reading at [`Module`].
//!
//! Delivery is at least once in both directions: what [`Module::send`] has answered is on the
//! disk of the edge hub, and an input that was not completed comes again.

mod module;
pub use module::{ConnectError, Module, Receipt, json_message};

pub mod input;
pub mod method;

pub mod desired;
pub mod property;

pub mod environment;
pub mod workload;

pub mod process;

mod pump;
mod upkeep;

pub use model::message::{Message, PropertyBag, SystemProperties};
pub use model::refusal::{Refusal, RefusalKind};
pub use model::time::{Now, Tick, WallTime};
pub use model::twin::{TwinDocument, TwinPatch, Version};
pub use model::world::World;
