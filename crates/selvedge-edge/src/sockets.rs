//! Unix sockets of this device: one per module for the workload, one for the operator.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use edge::workload::WorkloadSockets;
use model::id::ModuleName;
use model::world::{Boxed, World};
use net::http::HttpServer;
use net::limits::{SeatLimits, Watch};
use net::network::{Address, Incoming, Network};

/// Everybody inside the module may use its socket; nobody outside reaches its folder.
const WORKLOAD_MODE: u32 = 0o666;
/// A module enters its own folder as whichever user it runs as.
const MODULE_FOLDER_MODE: u32 = 0o755;
/// The folder above: only this user, so that no other user finds a module's socket.
const SOCKETS_FOLDER_MODE: u32 = 0o700;

/// Serves the workload interface of every module on its own socket.
pub(crate) struct Doors {
    network: Arc<dyn Network>,
    world: World,
    seats: SeatLimits,
    open: Mutex<BTreeMap<ModuleName, HttpServer>>,
}

impl Doors {
    /// Each socket has `seats`.
    pub(crate) fn new(network: Arc<dyn Network>, world: World, seats: SeatLimits) -> Self {
        Self { network, world, seats, open: Mutex::new(BTreeMap::new()) }
    }

    /// The module and the counters of each open socket.
    pub(crate) fn watches(&self) -> Vec<(ModuleName, Watch)> {
        self.servers().iter().map(|(module, server)| (module.clone(), server.watch())).collect()
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<ModuleName, HttpServer>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkloadSockets for Doors {
    fn open<'a>(
        &'a self,
        module: &'a ModuleName,
        path: &'a Path,
        service: Router,
    ) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            let folder = path.parent().unwrap_or(path);
            fs::create_dir_all(folder)?;
            if let Some(above) = folder.parent() {
                set_mode(above, SOCKETS_FOLDER_MODE)?;
            }
            set_mode(folder, MODULE_FOLDER_MODE)?;
            let incoming = listen(&*self.network, path, WORKLOAD_MODE).await?;
            let server = HttpServer::start_within(self.seats, incoming, None, service, &self.world);
            self.servers().insert(module.clone(), server);
            Ok(())
        })
    }

    fn close(&self, module: &ModuleName) {
        // A server that is dropped stops listening.
        self.servers().remove(module);
    }
}

/// Listens on a Unix socket at `path` that `mode` says who may use.
pub(crate) async fn listen(
    network: &dyn Network,
    path: &Path,
    mode: u32,
) -> io::Result<Box<dyn Incoming>> {
    let incoming = network.listen(&Address::Unix(path.to_owned())).await?;
    set_mode(path, mode)?;
    Ok(incoming)
}

/// Says who may use `path`.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
