//! The workload interface: what a module's SDK asks on the module's own Unix socket.
//!
//! `shapes.rs` reads requests, `http.rs` has the handlers. One router per module: whoever
//! reaches the socket of a module may sign as that module only.

pub mod http;
pub mod shapes;

use std::io;
use std::path::Path;

use model::id::ModuleName;
use model::world::Boxed;

/// Where the binary opens the sockets of modules; this crate opens none itself.
pub trait WorkloadSockets: Send + Sync {
    /// Serves `service` on a Unix socket at `path` from now on, making its folder if need be.
    /// Called before the module starts, and once for a module that runs already.
    fn open<'a>(
        &'a self,
        module: &'a ModuleName,
        path: &'a Path,
        service: axum::Router,
    ) -> Boxed<'a, io::Result<()>>;

    /// The module is gone: its socket closes.
    fn close(&self, module: &ModuleName);
}
