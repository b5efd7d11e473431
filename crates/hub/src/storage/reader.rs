//! The reader: looks that never wait for the writer.

use std::fmt;
use std::sync::Arc;

use model::refusal::{Refusal, RefusalKind};
use model::time::Now;
use model::world::{Turn, Worker, World};
use rusqlite::Connection;
use tokio::sync::oneshot;
use tracing::error;

use super::inbox::{Inbox, NotTaken};
use super::writer::{settle, too_many};

type Look = Box<dyn FnOnce(&Connection) + Send>;

/// Looks per turn.
const TURN_LOOKS_MAX: usize = 64;

/// The handle of the reader.
#[derive(Clone)]
pub(crate) struct Reader {
    inbox: Arc<Inbox<Look>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    /// Starts the worker on its own connection.
    pub(crate) fn start(world: &World, db: Connection) -> Self {
        let inbox = Arc::new(Inbox::new());
        let worker = ReaderWorker { db, inbox: Arc::clone(&inbox), looks: Vec::new() };
        inbox.set_waker(world.spawner.start("hub-reader", Box::new(worker)));
        Self { inbox }
    }

    /// Looks at everything that is committed now.
    pub(crate) async fn look<T, F>(&self, look: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, reply) = oneshot::channel();
        let job: Look = Box::new(move |db| {
            let result = look(db).map_err(|cause| {
                error!(error = %cause, "tables not read");
                Refusal::new(RefusalKind::Unavailable, "the hub could not read")
            });
            // Nobody may be waiting any more.
            answer.send(result).ok();
        });
        if let Err(NotTaken::Full(_)) = self.inbox.push(job) {
            return Err(too_many());
        }
        // A job that was not taken has dropped its sender, which `settle` reads as "stopping".
        settle(reply).await
    }

    /// Finishes what is queued, then ends the worker.
    pub(crate) fn close(&self) {
        self.inbox.close();
    }
}

struct ReaderWorker {
    db: Connection,
    inbox: Arc<Inbox<Look>>,
    looks: Vec<Look>,
}

impl Worker for ReaderWorker {
    fn turn(&mut self, _: Now) -> Turn {
        let last = self.inbox.drain(TURN_LOOKS_MAX, &mut self.looks);
        for look in self.looks.drain(..) {
            look(&self.db);
        }
        match (last, self.inbox.is_empty()) {
            (true, _) => Turn::Finished,
            (false, true) => Turn::Idle,
            (false, false) => Turn::Again,
        }
    }
}
