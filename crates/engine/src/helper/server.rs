//! The helper's side: blocking, one task per request.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::world::World;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::{
    Answer, Ask, CONNECTIONS_MAX, FRAME_BYTES_MAX, REQUESTS_MAX, Request, Response, VERSION,
};
use crate::backend::{Backend, LOOK_EVERY, fingerprint};
use crate::error::EngineError;
use crate::runtime::EngineResult;

/// How long a question for changes may stay open.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Serves `backend` on `socket` until the peer has closed it. Blocks; modules run on after it.
///
/// # Errors
/// When the peer breaks the protocol or the socket fails.
pub fn serve(socket: OwnedFd, backend: Arc<dyn Backend>, world: &World) -> io::Result<()> {
    let served = attend(UnixStream::from(socket), &backend, world);
    backend.leave();
    served
}

fn attend(mut reader: UnixStream, backend: &Arc<dyn Backend>, world: &World) -> io::Result<()> {
    let writer = Arc::new(Mutex::new(reader.try_clone()?));
    let busy = Arc::new(AtomicUsize::new(0));
    while let Some(frame) = read_frame(&mut reader)? {
        let request: Request = serde_json::from_slice(&frame)?;
        if request.version != VERSION {
            return Err(io::Error::other(format!("protocol version {}", request.version)));
        }
        if busy.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            busy.fetch_sub(1, Ordering::Relaxed);
            let message = "too many requests at once".to_owned();
            let answer = Err(EngineError::Unavailable { message });
            write_frame(&writer, &Response { id: request.id, answer })?;
            continue;
        }
        let (backend, writer, busy) = (Arc::clone(backend), Arc::clone(&writer), Arc::clone(&busy));
        world.spawner.offload(Box::new(move || {
            let answer = answer(backend.as_ref(), request.ask);
            busy.fetch_sub(1, Ordering::Relaxed);
            // A peer that is gone needs no answer; the reader learns of it by itself.
            write_frame(&writer, &Response { id: request.id, answer }).ok();
        }));
    }
    Ok(())
}

/// Serves `backend` to processes of the user `uid`, as the kernel says who they are; others find
/// their connection closed. Blocks until the listener is shut down; modules run on after it.
///
/// # Errors
/// When the listener fails.
pub fn serve_only(
    uid: u32,
    listener: UnixListener,
    backend: &Arc<dyn Backend>,
    world: &World,
) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            // Shut down, by whoever shares the listener.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        };
        let peer = getsockopt(&socket, PeerCredentials)?;
        if peer.uid() != uid {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "another user is refused");
            continue;
        }
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(pid = peer.pid(), "too many connections");
            continue;
        }
        let (backend, open, inner) = (Arc::clone(backend), Arc::clone(&open), world.clone());
        world.spawner.offload(Box::new(move || {
            if let Err(error) = attend(socket, &backend, &inner) {
                tracing::error!(%error, "a connection of the runtime ends");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        }));
    }
    backend.leave();
    Ok(())
}

fn answer(backend: &dyn Backend, ask: Ask) -> EngineResult<Answer> {
    match ask {
        Ask::Info => backend.info().map(Answer::Info),
        Ask::List => backend.list().map(Answer::Modules),
        Ask::Import(archive) => backend.import_image(&archive).map(Answer::Imported),
        Ask::Images => backend.images().map(Answer::Images),
        Ask::Prepare(image) => backend.prepare(&image).map(Answer::Image),
        Ask::Create(spec) => backend.create(&spec).map(Answer::Created),
        Ask::Start(name) => backend.start(&name).map(|()| Answer::Done),
        Ask::Stop { name, grace } => backend.stop(&name, grace).map(|()| Answer::Done),
        Ask::Remove(name) => backend.remove(&name).map(|()| Answer::Done),
        Ask::ReadLog { name, query, cursor } => {
            backend.read_log(&name, &query, cursor).map(Answer::Page)
        }
        Ask::Changed { seen } => Ok(Answer::Fingerprint(wait_for_change(backend, seen))),
    }
}

fn wait_for_change(backend: &dyn Backend, seen: u64) -> u64 {
    let looks = CHANGE_WAIT_MAX.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        let now = fingerprint(backend);
        if now != seen {
            return now;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    seen
}

fn read_frame(reader: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match reader.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = vec![0; len];
    reader.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn write_frame(writer: &Mutex<UnixStream>, response: &Response) -> io::Result<()> {
    let body = serde_json::to_vec(response)?;
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = len.to_be_bytes().to_vec();
    frame.extend(body);
    writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)
}
