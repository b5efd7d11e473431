//! The sessions of a running hub, and who is told when one ends.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::secret::Secret;
use model::time::{Now, WallTime};
use model::world::Random;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::sessions::{ExchangeFault, PolicyIndex, Session, SessionId, SignIn};
use crate::access::Access;

/// The console's door.
#[derive(Debug)]
pub(crate) struct Console {
    /// Where the files are read instead of from the hub itself.
    pub(crate) folder: Option<PathBuf>,
    /// The cookie's name: `__Host-` keeps it to this host and to TLS, the rest keeps the cookies
    /// of two hubs on one host apart.
    pub(crate) cookie: String,
    inner: Mutex<SignIn>,
    ended: watch::Sender<u64>,
}

impl Console {
    /// A door that nobody has passed.
    pub(crate) fn new(folder: Option<PathBuf>, access: &Access) -> Self {
        let key = access.keys.first().map(Secret::expose).unwrap_or_default();
        let hash = Sha256::new().chain_update("selvedge console cookie").chain_update(key);
        let hash: [u8; 32] = hash.finalize().into();
        let name = u32::from_be_bytes(*hash.first_chunk().expect("SHA-256 has 32 bytes"));
        let cookie = format!("__Host-selvedge-{name:08x}");
        Self { folder, cookie, inner: Mutex::default(), ended: watch::Sender::new(0) }
    }

    /// Makes a one-time token.
    pub(crate) fn issue(
        &self,
        policy: PolicyIndex,
        now: Now,
        random: &dyn Random,
    ) -> (Secret, WallTime) {
        self.lock().issue(policy, now, random)
    }

    /// Trades a token for a session.
    pub(crate) fn exchange(
        &self,
        token: &Secret,
        from: (Option<IpAddr>, Option<&str>),
        now: Now,
        random: &dyn Random,
    ) -> Result<(Session, Secret), ExchangeFault> {
        let outcome = self.lock().exchange(token, from, now, random);
        match &outcome {
            Ok((session, _)) => {
                tracing::info!(session = session.id.text(), "console session opened");
                // Somebody may have been crowded out.
                self.tell();
            }
            Err(fault) => tracing::warn!(?fault, "console sign-in refused"),
        }
        outcome
    }

    /// The session of a cookie's value.
    pub(crate) fn check(&self, cookie: &str, now: Now) -> Option<Session> {
        self.lock().check(cookie, now)
    }

    /// Whether the session still lasts; if so it counts as used.
    pub(crate) fn touch(&self, id: SessionId, now: Now) -> bool {
        self.lock().touch(id, now)
    }

    /// Ends a session.
    pub(crate) fn end(&self, id: SessionId, now: Now) -> bool {
        let was = self.lock().end(id, now);
        if was {
            tracing::info!(session = id.text(), "console session ended");
            self.tell();
        }
        was
    }

    /// All sessions.
    pub(crate) fn list(&self, now: Now) -> Vec<Session> {
        self.lock().list(now)
    }

    /// Changes whenever a session may have ended before its time.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    fn tell(&self) {
        self.ended.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, SignIn> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
