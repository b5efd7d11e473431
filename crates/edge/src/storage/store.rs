//! The file `edge.db`: facts by area and name, each a JSON value.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::commit::{CommitFault, CommitFaults, CommitStage};
use model::world::World;
use rusqlite::{Connection, params};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;

use super::schema::{self, VERSION};

/// Why a fact could not be read or kept.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// `SQLite` said so.
    #[error("the file of facts cannot be used")]
    Sqlite(#[from] rusqlite::Error),
    /// Written by another version of this program.
    #[error(
        "the file of facts has version {0}, this program knows up to {VERSION}; \
         start the newer program"
    )]
    Version(i64),
    /// Written by another program.
    #[error("the file is not one of a device's facts")]
    Foreign,
    /// A value in it is not what was written.
    #[error("a fact of {area} is damaged")]
    Damaged {
        /// Its area.
        area: &'static str,
    },
    /// The work was dropped, because the process is ending.
    #[error("the file of facts is closed")]
    Closed,
}

/// Which owner's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// Single facts of the process, such as its incarnation.
    Process,
    /// Twin copies with what waits to be reported, by identity.
    Twins,
    /// Subscriptions of persistent sessions, by module.
    Sessions,
    /// Keys of module identities, by module.
    Keys,
    /// The last good desired properties, of `$edgeAgent` and `$edgeHub`.
    LastGood,
    /// Restart counts, by module.
    Restarts,
}

impl Area {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Twins => "twins",
            Self::Sessions => "sessions",
            Self::Keys => "keys",
            Self::LastGood => "lastGood",
            Self::Restarts => "restarts",
        }
    }
}

/// The open file. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    file: Arc<Mutex<File>>,
    world: World,
}

type Told = oneshot::Sender<Result<(), StoreError>>;

#[derive(Debug)]
struct File {
    db: Connection,
    faults: Arc<dyn CommitFaults>,
    /// Whom nobody answers, once the power is gone; a simulator's world only.
    cut: Option<Vec<Told>>,
}

/// Why a fact was not written.
enum Broken {
    Cut,
    Store(StoreError),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Opens or makes the file at `path`.
    pub(crate) fn open(
        path: &Path,
        world: &World,
        faults: Arc<dyn CommitFaults>,
    ) -> Result<Self, StoreError> {
        let mut db = Connection::open(path)?;
        schema::prepare(&mut db)?;
        let file = Arc::new(Mutex::new(File { db, faults, cut: None }));
        Ok(Self { file, world: world.clone() })
    }

    /// All facts of `area`, by name; for the start, when nobody waits for anything else.
    pub(crate) fn all(&self, area: Area) -> Result<Vec<(String, Value)>, StoreError> {
        let file = lock(&self.file);
        let mut select =
            file.db.prepare("SELECT name, value FROM fact WHERE area = ?1 ORDER BY name")?;
        let rows = select.query_map([area.as_str()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        rows.map(|row| {
            let (name, text) = row?;
            let value = serde_json::from_str(&text)
                .map_err(|_| StoreError::Damaged { area: area.as_str() })?;
            Ok((name, value))
        })
        .collect()
    }

    /// Writes a fact now, on this thread; for the start only.
    pub(crate) fn put_now(&self, area: Area, name: &str, value: &Value) -> Result<(), StoreError> {
        lock(&self.file).put(area, name, Some(value)).map_err(|broken| match broken {
            Broken::Cut => StoreError::Closed,
            Broken::Store(error) => error,
        })
    }

    /// Writes what `make` gives, or removes the fact if it gives none; durable when it returns.
    /// `make` runs when the write's turn comes, so the newest value always wins.
    pub(crate) async fn save(
        &self,
        area: Area,
        name: &str,
        make: impl FnOnce() -> Option<Value> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (told, done) = oneshot::channel();
        let (file, name) = (Arc::clone(&self.file), name.to_owned());
        self.world.spawner.offload(Box::new(move || {
            lock(&file).save(area, &name, make, told);
        }));
        done.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl File {
    fn save(&mut self, area: Area, name: &str, make: impl FnOnce() -> Option<Value>, told: Told) {
        if let Some(unanswered) = &mut self.cut {
            return unanswered.push(told);
        }
        let outcome = match self.put(area, name, make().as_ref()) {
            Ok(()) => Ok(()),
            Err(Broken::Store(error)) => Err(error),
            Err(Broken::Cut) => return self.cut = Some(vec![told]),
        };
        // Nobody waits any more; it is written all the same.
        told.send(outcome).ok();
    }

    fn put(&mut self, area: Area, name: &str, value: Option<&Value>) -> Result<(), Broken> {
        let all = self.db.transaction()?;
        match value {
            Some(value) => all.execute(
                "INSERT OR REPLACE INTO fact (area, name, value) VALUES (?1, ?2, ?3)",
                params![area.as_str(), name, value.to_string()],
            )?,
            None => all.execute(
                "DELETE FROM fact WHERE area = ?1 AND name = ?2",
                params![area.as_str(), name],
            )?,
        };
        match self.faults.strike(CommitStage::Before) {
            CommitFault::None => {}
            CommitFault::Cut => return Err(Broken::Cut),
            CommitFault::Fail => {
                let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
                return Err(rusqlite::Error::SqliteFailure(full, None).into());
            }
        }
        all.commit()?;
        match self.faults.strike(CommitStage::After) {
            CommitFault::Cut => Err(Broken::Cut),
            CommitFault::None | CommitFault::Fail => Ok(()),
        }
    }
}

fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
