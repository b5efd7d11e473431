//! The engine helper: a child process that runs containers, started again when it dies.
//!
//! The socket pair is the child's standard input, so no descriptor number has to be agreed on.
//! Modules outlive the helper; a new one adopts them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use engine::backend::Backend;
use engine::embedded::{EmbeddedEngine, EmbeddedSettings};
use engine::helper::{HelperClient, connect, serve};
use engine::network::Subnet;
use engine::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogQuery, LogStream,
    ModuleCreated, ModuleRuntime, ModuleSpec, ModuleState,
};
use model::world::{Boxed, World};
use tracing::{error, info};

/// How often it is looked whether the helper lives.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The wait before a helper that could not be started is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The helper's own `main`: serves the engine on standard input until the runtime is gone.
pub(crate) fn serve_on_stdin(settings: EmbeddedSettings, world: &World) -> Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let engine = EmbeddedEngine::open(settings).context("the embedded engine does not start")?;
    let engine: Arc<dyn Backend> = Arc::new(engine);
    serve(socket, engine, world).context("the runtime cannot be served")
}

/// The helper of this moment.
pub(crate) struct Helper {
    client: RwLock<Arc<HelperClient>>,
    start: Start,
    world: World,
}

struct Start {
    root: PathBuf,
    monitor: PathBuf,
    network: Option<Subnet>,
}

impl Start {
    fn child(&self) -> Result<(Child, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair().context("a socket pair")?;
        let program = std::env::current_exe().context("this program")?;
        let mut command = Command::new(program);
        command.arg("engine").arg("--root").arg(&self.root).arg("--monitor").arg(&self.monitor);
        if let Some(network) = self.network {
            command.arg("--network").arg(network.to_string());
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        // A signal from the terminal is for the runtime, which then closes the socket.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("cannot start the engine helper")?;
        Ok((child, OwnedFd::from(ours)))
    }
}

impl Helper {
    /// Starts the helper and the task that watches it.
    pub(crate) fn start(
        root: &Path,
        monitor: &Path,
        network: Option<Subnet>,
        world: &World,
    ) -> Result<Arc<Self>> {
        let start = Start { root: root.to_owned(), monitor: monitor.to_owned(), network };
        let (child, socket) = start.child()?;
        let client = connect(socket, world.clone()).context("the engine helper's socket")?;
        let client = RwLock::new(Arc::new(client));
        let helper = Arc::new(Self { client, start, world: world.clone() });
        world.spawn(watch(Arc::clone(&helper), child));
        Ok(helper)
    }

    fn client(&self) -> Arc<HelperClient> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn again(&self) -> Result<Child> {
        let (child, socket) = self.start.child()?;
        let client = connect(socket, self.world.clone()).context("the engine helper's socket")?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
        Ok(child)
    }
}

async fn watch(helper: Arc<Helper>, mut child: Child) {
    loop {
        match child.try_wait() {
            Ok(None) => tokio::time::sleep(LOOK_EVERY).await,
            ended => {
                error!(?ended, "the engine helper ended; modules run on");
                child = loop {
                    match helper.again() {
                        Ok(child) => break child,
                        Err(error) => {
                            error!(error = format!("{error:#}"), "no engine helper");
                            tokio::time::sleep(AGAIN_AFTER).await;
                        }
                    }
                };
                info!("a new engine helper runs");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

impl ModuleRuntime for Helper {
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>> {
        Box::pin(async { self.client().info().await })
    }

    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>> {
        Box::pin(async { self.client().list().await })
    }

    fn import_image(&self, archive: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>> {
        Box::pin(async { self.client().import_image(archive).await })
    }

    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>> {
        Box::pin(async { self.client().images().await })
    }

    fn prepare(&self, image: String) -> Boxed<'_, EngineResult<ImageState>> {
        Box::pin(async { self.client().prepare(image).await })
    }

    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>> {
        Box::pin(async { self.client().create(spec).await })
    }

    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        Box::pin(async { self.client().start(name).await })
    }

    fn stop(&self, name: String, grace: Duration) -> Boxed<'_, EngineResult<()>> {
        Box::pin(async move { self.client().stop(name, grace).await })
    }

    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        Box::pin(async { self.client().remove(name).await })
    }

    fn logs(&self, name: String, query: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>> {
        Box::pin(async { self.client().logs(name, query).await })
    }

    fn changed(&self) -> Boxed<'_, ()> {
        Box::pin(async { self.client().changed().await })
    }
}
