//! The engine helper: a process with root's rights that runs containers. Its end, and the
//! runtime's.
//!
//! The launcher owns the listening socket, so the runtime can connect while no helper lives; it
//! is served when the next one has started.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use engine::backend::Backend;
use engine::embedded::EmbeddedEngine;
use engine::error::EngineError;
use engine::helper::{HelperClient, connect, serve_only};
use engine::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogQuery, LogStream,
    ModuleCreated, ModuleRuntime, ModuleSpec, ModuleState,
};
use model::world::{Boxed, World};
use serde_json::json;
use tokio::sync::Mutex;
use tracing::info;

use crate::{EngineArgs, privilege};

/// Where people and tests learn which process helps; in the engine's folder.
const NOTE: &str = "helper.json";

/// The helper's own `main`: serves the engine on the listener that is its standard input, until
/// the launcher is gone.
pub(crate) fn run(args: EngineArgs, world: &World) -> Result<()> {
    privilege::end_with(args.launcher)?;
    let listener = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let uid = args.uid;
    let settings = args.settings();
    let note = settings.root.join(NOTE);
    let engine = EmbeddedEngine::open(settings).context("the embedded engine does not start")?;
    let engine: Arc<dyn Backend> = Arc::new(engine);
    let fresh = note.with_extension("new");
    std::fs::write(&fresh, json!({"pid": std::process::id()}).to_string())
        .and_then(|()| std::fs::rename(&fresh, &note))
        .with_context(|| format!("cannot write {}", note.display()))?;
    info!("the engine helper serves");
    serve_only(uid, listener.into(), &engine, world).context("the runtime cannot be served")
}

/// The helper as the runtime sees it: whichever lives at the moment.
pub(crate) struct Helper {
    socket: PathBuf,
    client: Mutex<Option<Arc<HelperClient>>>,
    world: World,
}

impl Helper {
    /// The helper that serves at `socket`.
    pub(crate) fn at(socket: PathBuf, world: &World) -> Arc<Self> {
        Arc::new(Self { socket, client: Mutex::new(None), world: world.clone() })
    }

    /// The connection, made afresh after the helper died. The listener takes it at once, so
    /// nobody waits here.
    async fn client(&self) -> EngineResult<Arc<HelperClient>> {
        let mut client = self.client.lock().await;
        if let Some(living) = client.as_ref().filter(|client| !client.is_gone()) {
            return Ok(Arc::clone(living));
        }
        let gone = |error: std::io::Error| EngineError::Unavailable {
            message: format!("{}: {error}", self.socket.display()),
        };
        let socket = UnixStream::connect(&self.socket).map_err(gone)?;
        let fresh = Arc::new(connect(socket.into(), self.world.clone()).map_err(gone)?);
        *client = Some(Arc::clone(&fresh));
        Ok(fresh)
    }
}

impl ModuleRuntime for Helper {
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>> {
        Box::pin(async { self.client().await?.info().await })
    }

    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>> {
        Box::pin(async { self.client().await?.list().await })
    }

    fn import_image(&self, archive: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>> {
        Box::pin(async { self.client().await?.import_image(archive).await })
    }

    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>> {
        Box::pin(async { self.client().await?.images().await })
    }

    fn prepare(&self, image: String) -> Boxed<'_, EngineResult<ImageState>> {
        Box::pin(async { self.client().await?.prepare(image).await })
    }

    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>> {
        Box::pin(async { self.client().await?.create(spec).await })
    }

    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        Box::pin(async { self.client().await?.start(name).await })
    }

    fn stop(&self, name: String, grace: Duration) -> Boxed<'_, EngineResult<()>> {
        Box::pin(async move { self.client().await?.stop(name, grace).await })
    }

    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        Box::pin(async { self.client().await?.remove(name).await })
    }

    fn logs(&self, name: String, query: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>> {
        Box::pin(async { self.client().await?.logs(name, query).await })
    }

    fn changed(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            match self.client().await {
                Ok(client) => client.changed().await,
                // Without a launcher this process is about to end.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        })
    }
}
