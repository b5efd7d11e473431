//! For authors of modules in Rust: inputs, outputs, twin and methods of one module.

pub mod property;

pub use model::message::{Message, PropertyBag, SystemProperties};
pub use model::time::{Now, Tick, WallTime};
pub use model::twin::{TwinDocument, TwinPatch, Version};
