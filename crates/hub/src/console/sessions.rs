//! One-time tokens, and the sessions that they open. Pure: time and chance come in.
//!
//! Only hashes are kept of what a browser or a link holds. Everything is in memory: a hub that
//! restarts signs everybody out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::secret::Secret;
use model::time::{Now, Tick, WallTime};
use model::world::Random;
use sha2::{Digest as _, Sha256};

/// How long a link works.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_mins(15);
/// Most links that wait; one more forgets the oldest.
pub(crate) const TOKENS_MAX: usize = 16;
/// How long a session lasts that nobody uses.
pub(crate) const SESSION_IDLE: Duration = Duration::from_hours(1);
/// How long a session lasts in any case.
pub(crate) const SESSION_LIFE: Duration = Duration::from_hours(12);
/// Most sessions; one more ends the one that was unused for longest.
pub(crate) const SESSIONS_MAX: usize = 256;
/// Most failed exchanges of one address in one [`FAILURES_WINDOW`].
pub(crate) const FAILURES_MAX: u32 = 10;
/// The span over which failures are counted.
pub(crate) const FAILURES_WINDOW: Duration = Duration::from_mins(1);
/// Most addresses whose failures are counted apart; the rest share one count.
const ADDRESSES_MAX: usize = 1024;
/// Longest name that a browser gives itself, in characters; the rest is cut off.
const USER_AGENT_CHARS_MAX: usize = 200;

/// The policy that made a link, by its place among the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PolicyIndex(pub(crate) usize);

/// The name of a session; no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(u64);

impl SessionId {
    /// Its text: 16 hex digits.
    pub(crate) fn text(self) -> String {
        format!("{:016x}", self.0)
    }

    /// Reads its text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| fits).map(Self)
    }
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) policy: PolicyIndex,
    pub(crate) csrf: Secret,
    pub(crate) created: Now,
    pub(crate) used: Now,
    pub(crate) user_agent: Option<String>,
    /// Of what the cookie holds behind the id.
    hash: Secret,
}

impl Session {
    /// When it ends unless it is used.
    pub(crate) fn idle_end(&self) -> WallTime {
        self.used.wall.after(SESSION_IDLE).min(self.end())
    }

    /// When it ends in any case.
    pub(crate) fn end(&self) -> WallTime {
        self.created.wall.after(SESSION_LIFE)
    }

    fn is_over(&self, now: Tick) -> bool {
        now >= self.created.tick.after(SESSION_LIFE) || now >= self.used.tick.after(SESSION_IDLE)
    }
}

/// Why an exchange did not open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeFault {
    /// No such token: used, expired, or never given.
    Unknown,
    /// Too many failures from there.
    TooMany,
}

/// What happened since the hub started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    pub(crate) limited: u64,
    /// Ended to make room.
    pub(crate) crowded_out: u64,
}

#[derive(Debug)]
struct Token {
    hash: Secret,
    policy: PolicyIndex,
    until: Tick,
}

/// All tokens and sessions of one hub.
#[derive(Debug, Default)]
pub(crate) struct SignIn {
    tokens: Vec<Token>,
    sessions: BTreeMap<SessionId, Session>,
    failures: BTreeMap<Option<IpAddr>, (Tick, u32)>,
    pub(crate) counts: Counts,
}

impl SignIn {
    /// Makes a token that opens one session with the rights of `policy`.
    pub(crate) fn issue(
        &mut self,
        policy: PolicyIndex,
        now: Now,
        random: &dyn Random,
    ) -> (Secret, WallTime) {
        self.tokens.retain(|token| now.tick < token.until);
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.remove(0);
        }
        let text = draw(random);
        let until = now.tick.after(TOKEN_LIFE);
        self.tokens.push(Token { hash: hash(text.expose()), policy, until });
        (text, now.wall.after(TOKEN_LIFE))
    }

    /// Trades `token` for a session; gives it and what the cookie must hold.
    pub(crate) fn exchange(
        &mut self,
        token: &Secret,
        from: (Option<IpAddr>, Option<&str>),
        now: Now,
        random: &dyn Random,
    ) -> Result<(Session, Secret), ExchangeFault> {
        let (address, user_agent) = from;
        if self.is_limited(address, now.tick) {
            self.counts.limited += 1;
            return Err(ExchangeFault::TooMany);
        }
        let wanted = hash(token.expose());
        self.tokens.retain(|token| now.tick < token.until);
        // Every hash is looked at, each in constant time.
        let found =
            self.tokens.iter().enumerate().fold(None, |found, (at, token)| {
                if token.hash == wanted { Some(at) } else { found }
            });
        let Some(at) = found else {
            self.counts.failed += 1;
            self.count_failure(address, now.tick);
            return Err(ExchangeFault::Unknown);
        };
        let policy = self.tokens.remove(at).policy;
        Ok(self.open(policy, user_agent, now, random))
    }

    fn open(
        &mut self,
        policy: PolicyIndex,
        user_agent: Option<&str>,
        now: Now,
        random: &dyn Random,
    ) -> (Session, Secret) {
        self.forget_ended(now.tick);
        while self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.values().min_by_key(|s| s.used.tick).map(|s| s.id);
            let Some(oldest) = oldest else { break };
            self.sessions.remove(&oldest);
            self.counts.crowded_out += 1;
        }
        let secret = draw(random);
        let session = Session {
            id: SessionId(random.number()),
            policy,
            csrf: draw(random),
            created: now,
            used: now,
            user_agent: user_agent.map(|text| text.chars().take(USER_AGENT_CHARS_MAX).collect()),
            hash: hash(secret.expose()),
        };
        self.counts.opened += 1;
        self.sessions.insert(session.id, session.clone());
        let secret = secret.expose_str().unwrap_or_default();
        let cookie = Secret::from(format!("{}.{secret}", session.id.text()));
        (session, cookie)
    }

    /// The session that `cookie` belongs to; it counts as used.
    pub(crate) fn check(&mut self, cookie: &str, now: Now) -> Option<Session> {
        let (id, secret) = cookie.split_once('.')?;
        let session = self.sessions.get_mut(&SessionId::parse(id)?)?;
        if session.is_over(now.tick) || session.hash != hash(secret.as_bytes()) {
            return None;
        }
        session.used = now;
        Some(session.clone())
    }

    /// Whether the session `id` still lasts; if so it counts as used.
    pub(crate) fn touch(&mut self, id: SessionId, now: Now) -> bool {
        match self.sessions.get_mut(&id) {
            Some(session) if !session.is_over(now.tick) => {
                session.used = now;
                true
            }
            _ => false,
        }
    }

    /// Ends the session `id`; `false` if there is none.
    pub(crate) fn end(&mut self, id: SessionId, now: Now) -> bool {
        self.forget_ended(now.tick);
        self.sessions.remove(&id).is_some()
    }

    /// Every session that lasts, oldest first.
    pub(crate) fn list(&mut self, now: Now) -> Vec<Session> {
        self.forget_ended(now.tick);
        let mut all: Vec<_> = self.sessions.values().cloned().collect();
        all.sort_by_key(|session| (session.created.tick, session.id));
        all
    }

    fn forget_ended(&mut self, now: Tick) {
        self.sessions.retain(|_, session| !session.is_over(now));
    }

    fn is_limited(&mut self, address: Option<IpAddr>, now: Tick) -> bool {
        self.failures.retain(|_, (from, _)| now.since(*from) < FAILURES_WINDOW);
        let count = self.failures.get(&self.counted_as(address));
        count.is_some_and(|(_, failures)| *failures >= FAILURES_MAX)
    }

    fn count_failure(&mut self, address: Option<IpAddr>, now: Tick) {
        let key = self.counted_as(address);
        self.failures.entry(key).or_insert((now, 0)).1 += 1;
    }

    /// An address of its own while there is room, else the shared count.
    fn counted_as(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        let room = self.failures.len() < ADDRESSES_MAX;
        address.filter(|_| room || self.failures.contains_key(&address))
    }
}

/// 256 bits of chance as text.
fn draw(random: &dyn Random) -> Secret {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    Secret::from(URL_SAFE_NO_PAD.encode(bytes))
}

fn hash(text: &[u8]) -> Secret {
    Secret::new(Sha256::digest(text).to_vec())
}

#[cfg(test)]
mod tests;
