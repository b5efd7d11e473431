//! The waist, spoken as a client: MQTT to a hub or a router, HTTPS for module identities.
//!
//! [`MqttClient`] is the third implementer of `DeviceApi`: `open` makes one connection for one
//! identity, and when that breaks the session is over. [`MqttClient::keep`] gives a session that
//! outlives its connections: it dials again, proves itself again before its claim ends, and
//! sends again what has no answer yet.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use model::feature::FeatureSet;
use model::id::IdentityId;
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::waist::{Claim, ClaimSource, CloseReason, DeviceApi, Epoch, LinkKind, Opened};
use model::world::{Boxed, World};
use tokio::sync::watch;
use wire::mqtt::client::{Ending, Login, Options};

use crate::http_client::HttpClient;
use crate::limits::Count;
use crate::network::{Address, ByteStream, Network};
use crate::patience::{Patient, WRITE_PATIENCE};
use crate::tls;

mod backoff;
mod core;
mod driver;
mod https;
mod keep;
mod modules;
mod session;

use self::core::Core;
use driver::{Driver, Ended};
use modules::Modules;
use session::{ClientSession, Shared};

/// How often a client pings a silent server; a dead connection is noticed within twice this.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Longest wait for a connection and its handshakes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the hub or router is, and what it is called.
#[derive(Clone)]
pub struct Target {
    /// Where to dial for MQTT.
    pub mqtt: Address,
    /// Where to dial for HTTPS; without it, module operations are refused.
    pub https: Option<Address>,
    /// Whom to trust and the name the server must prove; none in simulations only.
    pub tls: Option<(tls::Client, Box<str>)>,
    /// The host name of the hub, as it stands in user names and tokens; behind a gateway this
    /// is not the name that the server proves.
    pub host: Box<str>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("mqtt", &self.mqtt)
            .field("https", &self.https)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// How the connection beneath a kept session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The first connection is being made.
    Connecting,
    /// The server has accepted the connection.
    Up {
        /// Whether it knew us from before.
        resumed: bool,
    },
    /// There is none; it is tried again until the session is closed.
    Down(Refusal),
}

/// A session that outlives its connections, and the news about them.
pub struct Kept {
    /// The session. It ends only when it is closed.
    pub session: Arc<dyn model::waist::DeviceSession>,
    /// The connection, as of now.
    pub link: watch::Receiver<Link>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("link", &*self.link.borrow()).finish_non_exhaustive()
    }
}

/// Speaks MQTT to one server, one connection for each identity.
#[derive(Clone)]
pub struct MqttClient {
    world: World,
    network: Arc<dyn Network>,
    target: Target,
    opens: Arc<AtomicU32>,
    /// Connections given up because the server took nothing.
    deaf: Arc<Count>,
}

impl fmt::Debug for MqttClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttClient").field("target", &self.target).finish_non_exhaustive()
    }
}

impl MqttClient {
    /// A client of the server at `target`.
    pub fn new(world: World, network: Arc<dyn Network>, target: Target) -> Self {
        Self { world, network, target, opens: Arc::default(), deaf: Arc::default() }
    }

    /// Starts a session of `identity` that reconnects by itself and gets its claims from
    /// `claims`. Returns at once; requests wait for the connection.
    pub fn keep(&self, identity: IdentityId, claims: Arc<dyn ClaimSource>) -> Kept {
        let (news, link) = watch::channel(Link::Connecting);
        let core = Core::kept(self.options(&identity, false), news);
        let shared = self.share(core, &identity);
        let session = ClientSession::new(identity, self.next_epoch(), Arc::clone(&shared));
        self.world.spawn(keep::run(self.clone(), shared, claims));
        Kept { session: Arc::new(session), link }
    }

    fn options(&self, identity: &IdentityId, clean: bool) -> Options {
        let mut options = Options::new(identity.clone(), &self.target.host);
        options.clean = clean;
        options.keep_alive = KEEP_ALIVE;
        options
    }

    fn share(&self, core: Core, identity: &IdentityId) -> Arc<Shared> {
        Arc::new(Shared::new(self.world.clone(), core, self.modules(identity)))
    }

    fn modules(&self, identity: &IdentityId) -> Option<Modules> {
        let address = self.target.https.clone()?;
        let (network, world) = (Arc::clone(&self.network), self.world.clone());
        let http = HttpClient::new(network, world, address, self.target.tls.clone());
        Some(Modules::new(http, self.target.host.clone(), identity.device_id()))
    }

    fn next_epoch(&self) -> Epoch {
        Epoch { incarnation: 0, counter: self.opens.fetch_add(1, Ordering::Relaxed) }
    }

    /// A stream to the server, secured.
    async fn dial(&self) -> io::Result<Box<dyn ByteStream>> {
        let dialled = async {
            let stream = self.network.dial(&self.target.mqtt).await?.stream;
            let patient = Patient::new(stream, WRITE_PATIENCE, Arc::clone(&self.deaf));
            let stream: Box<dyn ByteStream> = Box::new(patient);
            match &self.target.tls {
                None => Ok(stream),
                Some((tls, name)) => tls.connect(name, stream).await,
            }
        };
        let outcome = tokio::time::timeout(CONNECT_TIMEOUT, dialled).await;
        outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn open_mqtt(&self, claim: Claim, clean: bool) -> Result<Opened, Refusal> {
        let (identity, login) = login_of(&claim)?;
        let stream = self.dial().await.map_err(|error| unreachable_server(&error))?;
        let mut core = Core::single(self.options(&identity, clean));
        core.connect(self.world.now().tick, &login)?;
        let shared = self.share(core, &identity);
        if let Some(modules) = &shared.modules {
            modules.use_claim(&claim);
        }
        let mut driver = Driver::new(stream, Arc::clone(&shared), Tick::NEVER);
        let (resumed, features) = greeted(&mut driver, &shared).await?;
        let session = ClientSession::new(identity, self.next_epoch(), Arc::clone(&shared));
        self.world.spawn(async move {
            let ended = driver.await;
            tracing::debug!(?ended, "connection to the server ended");
            shared.lock().finish(CloseReason::Disconnected);
        });
        Ok(Opened { session: Arc::new(session), resumed, features, valid_until: None })
    }

    fn open_https(&self, claim: &Claim) -> Result<Opened, Refusal> {
        let Claim::Sas { identity, .. } = claim else {
            return Err(refuse("module operations need a shared access signature"));
        };
        let Some(modules) = self.modules(identity) else {
            return Err(refuse("this client has no address for HTTPS"));
        };
        modules.use_claim(claim);
        let (identity, epoch) = (identity.clone(), self.next_epoch());
        let session = https::HttpsSession::new(identity, epoch, self.world.clone(), modules);
        let features = FeatureSet::new();
        Ok(Opened { session: Arc::new(session), resumed: false, features, valid_until: None })
    }
}

impl DeviceApi for MqttClient {
    fn open(
        &self,
        claim: Claim,
        link: LinkKind,
        deadline: Tick,
    ) -> Boxed<'_, Result<Opened, Refusal>> {
        Box::pin(async move {
            let clean = match link {
                LinkKind::Mqtt { clean } => clean,
                LinkKind::Https => return self.open_https(&claim),
                LinkKind::Amqp | LinkKind::Local => {
                    return Err(refuse("this client speaks MQTT and HTTPS"));
                }
            };
            let span = deadline.since(self.world.now().tick).min(2 * CONNECT_TIMEOUT);
            let opened = tokio::time::timeout(span, self.open_mqtt(claim, clean)).await;
            opened.unwrap_or_else(|_| {
                Err(Refusal::new(RefusalKind::TimedOut, "the server did not answer in time"))
            })
        })
    }
}

/// Drives a fresh connection until the server has accepted it.
async fn greeted(driver: &mut Driver, shared: &Shared) -> Result<(bool, FeatureSet), Refusal> {
    poll_fn(|cx| {
        let ended = driver.poll_drive(cx);
        let core = shared.lock();
        if let Some(resumed) = core.accepted() {
            return Poll::Ready(Ok((resumed, core.features())));
        }
        ended.map(|ended| Err(ended.refusal()))
    })
    .await
}

/// Who connects, and with what. A certificate is shown by TLS, which was given it.
fn login_of(claim: &Claim) -> Result<(IdentityId, Login), Refusal> {
    match claim {
        Claim::Sas { identity, token } => {
            let password = Some(token.clone());
            Ok((identity.clone(), Login { password, ..Login::default() }))
        }
        Claim::Certificates { identity, .. } => Ok((identity.clone(), Login::default())),
        Claim::OnBehalfOf { identity, chain, actor_token } => {
            let (password, auth_chain) = (Some(actor_token.clone()), chain.to_vec());
            Ok((identity.clone(), Login { password, auth_chain, will: None }))
        }
        Claim::Peer { .. } => Err(refuse("a process is known on its own machine only")),
    }
}

fn refuse(reason: &'static str) -> Refusal {
    Refusal::new(RefusalKind::InvalidRequest, reason)
}

fn unreachable_server(error: &io::Error) -> Refusal {
    tracing::debug!(%error, "cannot reach the server");
    Refusal::new(RefusalKind::Unavailable, format!("the server cannot be reached: {error}"))
}

impl Ended {
    /// What to say to somebody who wanted a connection.
    fn refusal(self) -> Refusal {
        match self {
            Self::Told(Ending::Refused(refusal)) => refusal,
            Self::Told(Ending::Silent) => {
                Refusal::new(RefusalKind::TimedOut, "the server did not answer in time")
            }
            Self::Told(Ending::Protocol(fault)) => Refusal::new(
                RefusalKind::Unavailable,
                format!("the server does not speak MQTT: {fault}"),
            ),
            Self::Told(Ending::Asked) | Self::Left => {
                Refusal::new(RefusalKind::Unavailable, "the session was closed")
            }
            Self::Broken(error) => unreachable_server(&error),
        }
    }
}

#[cfg(test)]
mod tests;
