//! An engine as it is written: blocking. [`Offloaded`] makes a [`ModuleRuntime`] of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use model::world::{Boxed, World};
use tokio::sync::{oneshot, watch};

use crate::error::EngineError;
use crate::log::{LogCursor, LogPage};
use crate::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogLine, LogQuery,
    LogStream, ModuleCreated, ModuleRuntime, ModuleSpec, ModuleState,
};

/// How often an engine is looked at for changes.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a follower of a log waits when there is nothing new.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// The operations of [`ModuleRuntime`], blocking. Calls for one module must not overlap; an
/// implementation answers `Conflict` or waits.
pub trait Backend: Send + Sync {
    /// See [`ModuleRuntime::info`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn info(&self) -> EngineResult<EngineInfo>;
    /// See [`ModuleRuntime::list`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn list(&self) -> EngineResult<Vec<ModuleState>>;
    /// See [`ModuleRuntime::import_image`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn import_image(&self, archive: &ImageArchive) -> EngineResult<ImageImported>;
    /// See [`ModuleRuntime::images`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn images(&self) -> EngineResult<Vec<ImageState>>;
    /// See [`ModuleRuntime::prepare`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn prepare(&self, image: &str) -> EngineResult<ImageState>;
    /// See [`ModuleRuntime::create`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn create(&self, spec: &ModuleSpec) -> EngineResult<ModuleCreated>;
    /// See [`ModuleRuntime::start`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn start(&self, name: &str) -> EngineResult<()>;
    /// See [`ModuleRuntime::stop`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn stop(&self, name: &str, grace: Duration) -> EngineResult<()>;
    /// See [`ModuleRuntime::remove`].
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn remove(&self, name: &str) -> EngineResult<()>;
    /// One page of a module's log.
    ///
    /// # Errors
    /// As in [`EngineError`].
    fn read_log(
        &self,
        name: &str,
        query: &LogQuery,
        cursor: Option<LogCursor>,
    ) -> EngineResult<LogPage>;

    /// Nobody is served any more: gives back what only a served engine needs. Modules run on.
    fn leave(&self) {}
}

/// A number that differs when some module's state does.
pub(crate) fn fingerprint(backend: &dyn Backend) -> u64 {
    let mut hash = DefaultHasher::new();
    match backend.list() {
        Ok(modules) => {
            for module in modules {
                (module.name, module.status as u8, module.exit_code).hash(&mut hash);
                (module.started_at, module.finished_at, module.pid).hash(&mut hash);
            }
        }
        Err(error) => error.to_string().hash(&mut hash),
    }
    hash.finish()
}

/// A backend whose calls run off the connection threads.
pub struct Offloaded<B: ?Sized> {
    backend: Arc<B>,
    world: World,
    /// One receiver for all callers, so that a change between two calls is not missed.
    changes: tokio::sync::Mutex<watch::Receiver<u64>>,
}

impl<B: Backend + 'static> Offloaded<B> {
    /// Starts looking at `backend` for changes, until this value is dropped.
    pub fn new(backend: Arc<B>, world: World) -> Self {
        let (sender, changes) = watch::channel(0);
        let weak = Arc::downgrade(&backend);
        world.spawn(look(weak, world.clone(), sender));
        Self { backend, world, changes: tokio::sync::Mutex::new(changes) }
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&B) -> EngineResult<T> + Send + 'static,
    ) -> Boxed<'static, EngineResult<T>> {
        offload(&self.world, Arc::clone(&self.backend), work)
    }
}

impl<B: ?Sized> std::fmt::Debug for Offloaded<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Offloaded")
    }
}

/// The work starts now, not when the future is first polled.
fn offload<B: Send + Sync + ?Sized + 'static, T: Send + 'static>(
    world: &World,
    backend: Arc<B>,
    work: impl FnOnce(&B) -> EngineResult<T> + Send + 'static,
) -> Boxed<'static, EngineResult<T>> {
    let (sender, receiver) = oneshot::channel();
    world.spawner.offload(Box::new(move || {
        sender.send(work(&backend)).ok(); // the caller may have gone
    }));
    Box::pin(async move {
        let gone = || EngineError::Unavailable { message: "the engine's task ended".to_owned() };
        receiver.await.map_err(|_| gone())?
    })
}

async fn look<B: Backend + 'static>(backend: Weak<B>, world: World, sender: watch::Sender<u64>) {
    while let Some(strong) = backend.upgrade() {
        if sender.is_closed() {
            return;
        }
        if let Ok(now) = offload(&world, strong, |backend| Ok(fingerprint(backend))).await {
            sender.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl<B: Backend + 'static> ModuleRuntime for Offloaded<B> {
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>> {
        self.run(Backend::info)
    }

    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>> {
        self.run(Backend::list)
    }

    fn import_image(&self, archive: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>> {
        self.run(move |backend| backend.import_image(&archive))
    }

    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>> {
        self.run(Backend::images)
    }

    fn prepare(&self, image: String) -> Boxed<'_, EngineResult<ImageState>> {
        self.run(move |backend| backend.prepare(&image))
    }

    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>> {
        self.run(move |backend| backend.create(&spec))
    }

    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        self.run(move |backend| backend.start(&name))
    }

    fn stop(&self, name: String, grace: Duration) -> Boxed<'_, EngineResult<()>> {
        self.run(move |backend| backend.stop(&name, grace))
    }

    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        self.run(move |backend| backend.remove(&name))
    }

    fn logs(&self, name: String, query: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>> {
        let (backend, world) = (Arc::clone(&self.backend), self.world.clone());
        let fetch = move |cursor| {
            let (name, query) = (name.clone(), query.clone());
            offload(&world, Arc::clone(&backend), move |backend: &B| {
                backend.read_log(&name, &query, cursor)
            })
        };
        Box::pin(PagedLog::open(Box::new(fetch)))
    }

    fn changed(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            let mut changes = self.changes.lock().await;
            // A looker that is gone means that nothing will be seen: never wake.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

type Fetch = Box<dyn Fn(Option<LogCursor>) -> Boxed<'static, EngineResult<LogPage>> + Send + Sync>;

/// A log read page by page.
pub(crate) struct PagedLog {
    fetch: Fetch,
    lines: std::vec::IntoIter<LogLine>,
    pending: Option<Boxed<'static, EngineResult<LogPage>>>,
}

impl PagedLog {
    /// Fetches the first page, so that an unknown module is an error here.
    pub(crate) async fn open(fetch: Fetch) -> EngineResult<Box<dyn LogStream>> {
        let first = fetch(None).await?;
        let mut log = Self { fetch, lines: Vec::new().into_iter(), pending: None };
        log.take(first);
        Ok(Box::new(log))
    }

    fn take(&mut self, page: LogPage) {
        self.lines = page.lines.into_iter();
        if page.done {
            return;
        }
        let cursor = page.cursor;
        self.pending = Some(if page.end { pause(cursor) } else { (self.fetch)(cursor) });
    }
}

/// An empty page after a while, so that the next one is asked for only then.
fn pause(cursor: Option<LogCursor>) -> Boxed<'static, EngineResult<LogPage>> {
    Box::pin(async move {
        tokio::time::sleep(FOLLOW_EVERY).await;
        Ok(LogPage { lines: Vec::new(), cursor, end: false, done: false })
    })
}

impl LogStream for PagedLog {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<EngineResult<LogLine>>> {
        loop {
            if let Some(line) = self.lines.next() {
                return Poll::Ready(Some(Ok(line)));
            }
            let Some(pending) = &mut self.pending else { return Poll::Ready(None) };
            let Poll::Ready(page) = pending.as_mut().poll(cx) else { return Poll::Pending };
            self.pending = None;
            match page {
                Ok(page) => self.take(page),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}
