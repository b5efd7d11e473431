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
use net::network::{Address, Network};

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
    open: Mutex<BTreeMap<ModuleName, HttpServer>>,
}

impl Doors {
    pub(crate) fn new(network: Arc<dyn Network>, world: World) -> Self {
        Self { network, world, open: Mutex::new(BTreeMap::new()) }
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
            let server = serve(&*self.network, path, WORKLOAD_MODE, service, &self.world).await?;
            self.servers().insert(module.clone(), server);
            Ok(())
        })
    }

    fn close(&self, module: &ModuleName) {
        // A server that is dropped stops listening.
        self.servers().remove(module);
    }
}

/// Serves `service` on a Unix socket at `path` that `mode` says who may use.
pub(crate) async fn serve(
    network: &dyn Network,
    path: &Path,
    mode: u32,
    service: Router,
    world: &World,
) -> io::Result<HttpServer> {
    let incoming = network.listen(&Address::Unix(path.to_owned())).await?;
    set_mode(path, mode)?;
    Ok(HttpServer::start(incoming, None, service, world))
}

/// Says who may use `path`.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
