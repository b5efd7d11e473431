//! The runtime's side: any number of requests at once over one socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::world::{Boxed, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use super::{Answer, Ask, FRAME_BYTES_MAX, Request, Response, VERSION};
use crate::backend::PagedLog;
use crate::error::EngineError;
use crate::runtime::{
    EngineInfo, EngineResult, ImageArchive, ImageImported, ImageState, LogQuery, LogStream,
    ModuleCreated, ModuleRuntime, ModuleSpec, ModuleState,
};

/// Who waits for which answer; `None` once the helper is gone.
type Waiting = Mutex<Option<BTreeMap<u64, oneshot::Sender<EngineResult<Answer>>>>>;

struct Link {
    writer: AsyncMutex<OwnedWriteHalf>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

/// An engine in the helper process.
pub struct HelperClient {
    link: Arc<Link>,
    looking: AsyncMutex<Looking>,
    world: World,
}

/// What `changed` knows from call to call.
#[derive(Default)]
struct Looking {
    /// The last state that a caller was told of.
    seen: u64,
    /// The question that is open. A caller that goes away leaves it to the next: the helper
    /// would go on with it anyway, and with many of them has room for nothing else.
    open: Option<Boxed<'static, EngineResult<u64>>>,
}

impl std::fmt::Debug for HelperClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HelperClient")
    }
}

fn gone() -> EngineError {
    EngineError::Unavailable { message: "the engine helper is gone".to_owned() }
}

/// Speaks to the helper at the other end of `socket`. Needs a tokio runtime around it.
///
/// # Errors
/// When the socket is not usable.
pub fn connect(socket: OwnedFd, world: World) -> io::Result<HelperClient> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    let (reader, writer) = UnixStream::from_std(stream)?.into_split();
    let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(BTreeMap::new())));
    let receiver = Arc::clone(&waiting);
    world.spawn(async move {
        if let Err(error) = receive(reader, &receiver).await {
            tracing::error!(%error, "the engine helper cannot be read");
        }
        // Dropping the senders tells everybody who waits.
        receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    });
    let writer = AsyncMutex::new(writer);
    let link = Arc::new(Link { writer, waiting, next: AtomicU64::new(1) });
    Ok(HelperClient { link, looking: AsyncMutex::default(), world })
}

async fn receive(mut reader: OwnedReadHalf, waiting: &Waiting) -> io::Result<()> {
    loop {
        let len = match reader.read_u32().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            len => usize::try_from(len?).unwrap_or(usize::MAX),
        };
        if len > FRAME_BYTES_MAX {
            return Err(io::Error::other("a frame is too long"));
        }
        let mut frame = vec![0; len];
        reader.read_exact(&mut frame).await?;
        let response: Response = serde_json::from_slice(&frame)?;
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.as_mut().and_then(|all| all.remove(&response.id)) {
            sender.send(response.answer).ok(); // the caller may have gone
        }
    }
}

impl Link {
    async fn ask(&self, ask: Ask) -> EngineResult<Answer> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&Request { version: VERSION, id, ask })
            .map_err(|error| EngineError::system("writing a request", error))?;
        let len = u32::try_from(body.len()).map_err(|_| gone())?;
        let mut frame = len.to_be_bytes().to_vec();
        frame.extend(body);
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .ok_or_else(gone)?
            .insert(id, sender);
        self.writer.lock().await.write_all(&frame).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }
}

impl HelperClient {
    /// Whether the helper has closed the connection; it answers nothing any more.
    pub fn is_gone(&self) -> bool {
        self.link.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Asks in a task of its own: a caller that goes away must not leave half a frame behind.
    fn ask<T: 'static>(
        &self,
        ask: Ask,
        take: impl FnOnce(Answer) -> Option<T> + Send + 'static,
    ) -> Boxed<'static, EngineResult<T>> {
        let (sender, receiver) = oneshot::channel();
        let link = Arc::clone(&self.link);
        self.world.spawn(async move {
            sender.send(link.ask(ask).await).ok(); // the caller may have gone
        });
        Box::pin(async move {
            let answer = receiver.await.map_err(|_| gone())??;
            let message = "the helper's answer does not fit the question".to_owned();
            take(answer).ok_or(EngineError::Unavailable { message })
        })
    }

    fn done(&self, ask: Ask) -> Boxed<'static, EngineResult<()>> {
        self.ask(ask, |answer| matches!(answer, Answer::Done).then_some(()))
    }
}

macro_rules! take {
    ($variant:ident) => {
        |answer| match answer {
            Answer::$variant(value) => Some(value),
            _ => None,
        }
    };
}

impl ModuleRuntime for HelperClient {
    fn info(&self) -> Boxed<'_, EngineResult<EngineInfo>> {
        self.ask(Ask::Info, take!(Info))
    }

    fn list(&self) -> Boxed<'_, EngineResult<Vec<ModuleState>>> {
        self.ask(Ask::List, take!(Modules))
    }

    fn import_image(&self, archive: ImageArchive) -> Boxed<'_, EngineResult<ImageImported>> {
        self.ask(Ask::Import(archive), take!(Imported))
    }

    fn images(&self) -> Boxed<'_, EngineResult<Vec<ImageState>>> {
        self.ask(Ask::Images, take!(Images))
    }

    fn prepare(&self, image: String) -> Boxed<'_, EngineResult<ImageState>> {
        self.ask(Ask::Prepare(image), take!(Image))
    }

    fn create(&self, spec: ModuleSpec) -> Boxed<'_, EngineResult<ModuleCreated>> {
        self.ask(Ask::Create(spec), take!(Created))
    }

    fn start(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        self.done(Ask::Start(name))
    }

    fn stop(&self, name: String, grace: Duration) -> Boxed<'_, EngineResult<()>> {
        self.done(Ask::Stop { name, grace })
    }

    fn remove(&self, name: String) -> Boxed<'_, EngineResult<()>> {
        self.done(Ask::Remove(name))
    }

    fn logs(&self, name: String, query: LogQuery) -> Boxed<'_, EngineResult<Box<dyn LogStream>>> {
        let link = Arc::clone(&self.link);
        let world = self.world.clone();
        let fetch = move |cursor| {
            let client = Self {
                link: Arc::clone(&link),
                looking: AsyncMutex::default(),
                world: world.clone(),
            };
            let ask = Ask::ReadLog { name: name.clone(), query: query.clone(), cursor };
            client.ask(ask, take!(Page))
        };
        Box::pin(PagedLog::open(Box::new(fetch)))
    }

    fn changed(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            let mut looking = self.looking.lock().await;
            loop {
                let seen = looking.seen;
                let ask = || self.ask(Ask::Changed { seen }, take!(Fingerprint));
                let answer = looking.open.get_or_insert_with(ask).await;
                looking.open = None;
                match answer {
                    Ok(now) if now == seen => {}
                    Ok(now) => {
                        looking.seen = now;
                        return;
                    }
                    // The caller's next request tells what is wrong.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        return;
                    }
                }
            }
        })
    }
}
