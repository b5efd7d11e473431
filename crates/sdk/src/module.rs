//! The handle of a module.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use model::feature::Feature;
use model::message::{MESSAGE_BYTES_MAX, Message};
use model::refusal::{Refusal, RefusalKind};
use model::twin::{TwinDocument, TwinPatch, Version};
use model::waist::{Answer, Completion, DeviceRequest, DeviceSession, Leave};
use model::world::World;
use net::client::{Kept, Link, MqttClient, Target};
use net::network::{Address, Network, SystemNetwork};
use net::tls::{self, TlsSetupError};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::desired::{Desired, join};
use crate::environment::{Environment, InvalidEnvironment};
use crate::input::{Inputs, UNSETTLED_MAX};
use crate::method::{Methods, WAITING_MAX};
use crate::pump::{self, Shared};
use crate::upkeep;
use crate::workload::{Workload, WorkloadError};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// A message whose body is `value` as JSON, and which says so.
///
/// # Errors
/// If `value` has no JSON, such as a map whose keys are no texts.
pub fn json_message(value: &impl Serialize) -> serde_json::Result<Message> {
    let mut message = Message { body: serde_json::to_vec(value)?.into(), ..Message::default() };
    // Without these two the hub cannot look into the body when it routes.
    message.system.content_type = Some("application/json".into());
    message.system.content_encoding = Some("utf-8".into());
    Ok(message)
}

/// Why a module cannot start.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The environment is not one of a module.
    #[error("this is no environment of a module")]
    Environment(#[from] InvalidEnvironment),
    /// The runtime did not say whom to trust.
    #[error("the runtime did not say whom to trust")]
    Workload(#[from] WorkloadError),
    /// What it said cannot be used.
    #[error("the trust bundle cannot be used")]
    Trust(#[source] TlsSetupError),
}

/// The outcome of one message that is on its way. Dropping it does not take the message back.
///
/// Gives `Ok` once the message is on the disk of the edge hub, else what [`Module::send`] gives.
#[derive(Debug)]
#[must_use = "only the receipt says whether the message arrived"]
pub struct Receipt(Completion);

impl Future for Receipt {
    type Output = Result<(), Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let no_answer = || Err(Refusal::new(RefusalKind::Internal, "no answer came"));
        self.0.poll_next(cx).map(|answer| answer.unwrap_or_else(no_answer).map(drop))
    }
}

/// A module and its session with the edge hub. Clones are the same module.
#[derive(Clone)]
pub struct Module {
    shared: Arc<Shared>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Module {
    /// The module that the edge runtime started, from its environment and workload interface.
    ///
    /// Returns without waiting for the edge hub: connecting goes on in the background, as
    /// often as it takes, and requests wait for it.
    ///
    /// # Errors
    /// [`ConnectError`]. A module ends then; the runtime starts it again.
    pub async fn from_environment() -> Result<Self, ConnectError> {
        let environment = Environment::parse(|name| std::env::var(name).ok())?;
        let world = net::world::system(tokio::runtime::Handle::current());
        Self::connect(environment, Arc::new(SystemNetwork), world).await
    }

    /// As [`Module::from_environment`], in a given environment and world.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        environment: Environment,
        network: Arc<dyn Network>,
        world: World,
    ) -> Result<Self, ConnectError> {
        let workload = Workload::new(environment.clone(), Arc::clone(&network), world.clone());
        let trust = workload.trust_bundle().await?;
        let tls = tls::Client::trusting(&trust).map_err(ConnectError::Trust)?;
        let identity = environment.identity();
        let target = Target {
            mqtt: Address::Tcp(environment.server_name.clone(), environment.port),
            https: None,
            tls: Some((tls, environment.server_name)),
            host: environment.hub_host,
        };
        let client = MqttClient::new(world.clone(), network, target);
        let Kept { session, link } = client.keep(identity, Arc::new(workload));
        Ok(Self::over(session, link, world))
    }

    /// A module over any session that outlives its connections, with news about them.
    pub fn over(
        session: Arc<dyn DeviceSession>,
        link: watch::Receiver<Link>,
        world: World,
    ) -> Self {
        let shared = Arc::new(Shared::new(session, world));
        shared.world.spawn(pump::run(Arc::clone(&shared)));
        shared.world.spawn(upkeep::run(Arc::clone(&shared), link));
        Self { shared }
    }

    /// Clock, chance and tasks of this process.
    pub fn world(&self) -> &World {
        &self.shared.world
    }

    /// Sends `message` by `output` and waits until it is on the disk of the edge hub. Waits
    /// through broken connections, for four minutes; then it may have been sent or not.
    ///
    /// Messages whose `send` was called one after the other on one task arrive in that order.
    ///
    /// # Errors
    /// `TooLarge` and `InvalidRequest` for a message that nobody takes; else the refusal of
    /// the edge hub. After `TimedOut` and `Unavailable` sending it again is right.
    pub async fn send(&self, output: &str, message: Message) -> Result<(), Refusal> {
        self.hand_over(output, message).await?.await
    }

    /// Hands `message` over for sending by `output` and waits only for room, so that many
    /// messages are on their way at once. The receipt says when it is on the disk of the edge
    /// hub; who does not ask it never learns of a refusal.
    ///
    /// Messages arrive in the order of these calls, those of [`Module::send`] included.
    ///
    /// # Errors
    /// `TooLarge` and `InvalidRequest` for a message that nobody takes.
    pub async fn hand_over(&self, output: &str, mut message: Message) -> Result<Receipt, Refusal> {
        if output.is_empty() {
            return Err(Refusal::new(RefusalKind::InvalidRequest, "an output has a name"));
        }
        if message.body.len() + message.properties.0.len() > MESSAGE_BYTES_MAX {
            let reason = format!("a message has at most {MESSAGE_BYTES_MAX} bytes");
            return Err(Refusal::new(RefusalKind::TooLarge, reason));
        }
        message.system.output_name = Some(output.into());
        let request = DeviceRequest::SendTelemetry(Box::new(message));
        Ok(Receipt(self.shared.hand_over(request).await))
    }

    /// Listens to all inputs. A later call takes over from an earlier one.
    pub fn inputs(&self) -> Inputs {
        let (sender, messages) = mpsc::channel(usize::from(UNSETTLED_MAX));
        let mut state = self.shared.state();
        if !state.closed {
            state.inputs = Some(sender);
        }
        drop(state);
        self.shared.want(Feature::Inputs);
        Inputs { messages }
    }

    /// Listens to direct methods. A later call takes over from an earlier one.
    pub fn methods(&self) -> Methods {
        let (sender, calls) = mpsc::channel(WAITING_MAX);
        let mut state = self.shared.state();
        if !state.closed {
            state.methods = Some(sender);
        }
        drop(state);
        self.shared.want(Feature::Methods);
        Methods { calls }
    }

    /// Listens to the desired properties.
    pub fn desired(&self) -> Desired {
        let state = self.shared.state();
        let mut receiver =
            state.desired.as_ref().map_or_else(|| watch::channel(None).1, watch::Sender::subscribe);
        drop(state);
        // What is known already is news for this listener.
        receiver.mark_changed();
        self.shared.want(Feature::DesiredChanges);
        Desired(receiver)
    }

    /// Reads the twin.
    ///
    /// # Errors
    /// The refusal of the edge hub; `TimedOut` if it was away for four minutes.
    pub async fn twin(&self) -> Result<TwinDocument, Refusal> {
        match self.shared.ask(DeviceRequest::ReadTwin).await? {
            Answer::Twin(twin) => Ok(*twin),
            _ => Err(Refusal::new(RefusalKind::Internal, "the answer is no twin")),
        }
    }

    /// Merges `patch` into the reported properties and gives their new version.
    ///
    /// # Errors
    /// As [`Module::twin`].
    pub async fn report(&self, patch: TwinPatch) -> Result<Version, Refusal> {
        let request = DeviceRequest::PatchReported { patch, if_version: None };
        match self.shared.ask(request).await? {
            Answer::Patched(version) => Ok(version),
            _ => Err(Refusal::new(RefusalKind::Internal, "the answer is no version")),
        }
    }

    /// Reports `patch` as soon as can be, however long the edge hub is away, without waiting.
    /// Patches that wait are joined into one. A patch that the edge hub finds wrong is logged
    /// and given up.
    pub fn report_soon(&self, patch: TwinPatch) {
        let mut state = self.shared.state();
        match &mut state.report {
            Some(due) => join(&mut due.0, patch.0),
            none => *none = Some(patch),
        }
        drop(state);
        self.shared.upkeep.notify_one();
    }

    /// Says goodbye and waits for that at most five seconds. What was not settled comes again;
    /// all listeners end.
    pub async fn close(&self) {
        let ended = self.shared.state().desired.as_ref().map(watch::Sender::subscribe);
        self.shared.session.close(Leave::Asked);
        let Some(mut ended) = ended else { return };
        // The news end with the session.
        let ended = async { while ended.changed().await.is_ok() {} };
        tokio::time::timeout(GOODBYE, ended).await.ok();
    }
}

#[cfg(test)]
mod tests;
