//! Images on this device: references, archives, and the store of unpacked layers.
//!
//! A layer is one folder named by its `DiffID`, in the form overlayfs wants for a lower folder.
//! Archives are hostile input handled as root: every digest is checked before a name appears.

pub mod archive;
pub mod digest;
pub mod import;
pub mod reference;
pub mod source;
pub mod store;
pub mod unpack;
