//! Carries events from the session to whoever waits for them.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::feature::Feature;
use model::refusal::Refusal;
use model::time::Tick;
use model::twin::TwinPatch;
use model::waist::{
    Answer, Batch, Completion, Credit, DeviceEvent, DeviceRequest, DeviceSession, Full,
};
use model::world::World;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};

use crate::desired::{Copy, DesiredProperties, Need};
use crate::input::{Input, UNSETTLED_MAX};
use crate::method::{MethodCall, STATUS_BUSY, STATUS_UNKNOWN};

/// How long an answer may take, broken connections included. What Azure's SDKs allow.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);

/// What the handle of a module and its tasks share.
pub(crate) struct Shared {
    pub(crate) session: Arc<dyn DeviceSession>,
    pub(crate) world: World,
    /// Something is to be done by the pump: credit or listeners changed.
    pub(crate) pump: Notify,
    /// Something is to be done by the upkeep.
    pub(crate) upkeep: Notify,
    pub(crate) state: Mutex<State>,
    /// Whose turn it is to hand over a request.
    turn: tokio::sync::Mutex<()>,
    unsettled: AtomicU16,
}

/// What changes.
pub(crate) struct State {
    /// Features that somebody listens to.
    pub(crate) wanted: Vec<Feature>,
    pub(crate) inputs: Option<mpsc::Sender<Input>>,
    pub(crate) methods: Option<mpsc::Sender<MethodCall>>,
    pub(crate) copy: Copy,
    /// The copy is to be read.
    pub(crate) read: bool,
    /// What is to be reported when there is time.
    pub(crate) report: Option<TwinPatch>,
    /// Gone once the module is closed, so that listeners learn of it.
    pub(crate) desired: Option<watch::Sender<Option<Arc<DesiredProperties>>>>,
    pub(crate) closed: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("identity", self.session.identity()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(session: Arc<dyn DeviceSession>, world: World) -> Self {
        let (desired, _) = watch::channel(None);
        let state = State {
            wanted: Vec::new(),
            inputs: None,
            methods: None,
            copy: Copy::default(),
            read: false,
            report: None,
            desired: Some(desired),
            closed: false,
        };
        Self {
            session,
            world,
            pump: Notify::new(),
            upkeep: Notify::new(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            unsettled: AtomicU16::new(0),
        }
    }

    /// The lock is held for a few lines at a time and never while waiting.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn deadline(&self) -> Tick {
        self.world.now().tick.after(PATIENCE)
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, request: DeviceRequest) -> Result<Answer, Refusal> {
        self.hand_over(request).await.only().await
    }

    /// Hands a request to the session in its turn, waiting for room, but not for the answer.
    pub(crate) async fn hand_over(&self, request: DeviceRequest) -> Completion {
        let deadline = self.deadline();
        let mut batch = Batch::from(request);
        // One at a time: requests go in the order in which they came, and a session without
        // room wakes only the one that asked last.
        let _turn = self.turn.lock().await;
        loop {
            match self.session.submit(batch, deadline) {
                Ok(completion) => return completion,
                Err(Full(back)) => batch = back,
            }
            poll_fn(|cx| self.session.poll_ready(cx)).await;
        }
    }

    /// Asks without caring for the answer. Without room nothing is asked: what is told this
    /// way is told by silence, too, only later.
    pub(crate) fn tell(&self, request: DeviceRequest) {
        self.session.submit(Batch::from(request), self.deadline()).map(drop).ok();
    }

    pub(crate) fn want(&self, feature: Feature) {
        let mut state = self.state();
        if !state.wanted.contains(&feature) {
            state.wanted.push(feature);
        }
        drop(state);
        self.upkeep.notify_one();
        self.pump.notify_one();
    }

    pub(crate) fn took_input(&self) {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn left_input(&self) {
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
        self.pump.notify_one();
    }

    /// Room for inputs; none while nobody listens.
    fn credit(&self) -> Credit {
        let listened = self.state().inputs.as_ref().is_some_and(|inputs| !inputs.is_closed());
        let room = UNSETTLED_MAX.saturating_sub(self.unsettled.load(Ordering::Relaxed));
        Credit::of_messages(if listened { room } else { 0 })
    }

    /// Acts on what the copy of the desired properties says it needs.
    pub(crate) fn follow(&self, state: &mut State, need: Need) {
        match need {
            Need::Nothing => {}
            Need::Tell => {
                if let Some(desired) = &state.desired {
                    desired.send_replace(state.copy.held().cloned().map(Arc::new));
                }
            }
            Need::Read => {
                state.read = true;
                self.upkeep.notify_one();
            }
        }
    }

    fn end(&self) {
        let mut state = self.state();
        state.closed = true;
        state.desired = None;
        let channels = (state.inputs.take(), state.methods.take());
        drop(state);
        drop(channels);
        self.upkeep.notify_one();
    }
}

/// Runs until the session is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let credit = shared.credit();
        let event = tokio::select! {
            biased;
            () = shared.pump.notified() => continue,
            event = poll_fn(|cx| shared.session.poll_event(cx, credit)) => event,
        };
        match event {
            DeviceEvent::Desired { patch, version } => {
                let mut state = shared.state();
                let need = state.copy.handle_change(patch, version);
                shared.follow(&mut state, need);
            }
            DeviceEvent::Method { call, request, .. } => {
                if let Some(call) = MethodCall::new(call, request, Arc::clone(&shared)) {
                    offer(&shared, call);
                }
            }
            DeviceEvent::Message(delivery) => {
                let input = Input::new(*delivery, Arc::clone(&shared));
                let inputs = shared.state().inputs.clone();
                // The credit leaves room; if the listener has just gone, the message is
                // abandoned by being dropped.
                if let Some(inputs) = inputs {
                    inputs.try_send(input).ok();
                }
            }
            DeviceEvent::Closed(reason) => {
                tracing::debug!(?reason, "session is over");
                return shared.end();
            }
        }
    }
}

/// Hands a call to the module, or answers it when the module cannot.
fn offer(shared: &Shared, call: MethodCall) {
    let methods = shared.state().methods.clone();
    let refused = match methods {
        Some(methods) => methods.try_send(call).err(),
        None => Some(TrySendError::Closed(call)),
    };
    match refused {
        None => {}
        Some(TrySendError::Full(call)) => {
            call.answer_aside(STATUS_BUSY, "too many calls wait for the module");
        }
        Some(TrySendError::Closed(call)) => {
            call.answer_aside(STATUS_UNKNOWN, "the module listens to no methods");
        }
    }
}
