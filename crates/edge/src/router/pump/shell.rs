//! The task that sends upstream: asks [`Pump`] what to do, and does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use journal::log::{Budget, LaneId, Position};
use journal::queue::Delivery;
use model::id::IdentityId;
use model::message::Message;
use model::names::UPSTREAM;
use model::planted;
use model::refusal::RefusalKind;
use model::time::Tick;
use model::waist::{
    BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, Batch, Completion, DeviceRequest, DeviceSession, Full,
};
use model::world::{Boxed, World};
use tracing::{debug, warn};

use super::{FETCH_BYTES, Fate, Pump, Step};
use crate::router::record;
use crate::router::shell::{Core, Counters, count};
use crate::upstream::REQUEST_WAIT;
use crate::upstream::shell::{told, until};

/// How long one sender's full session may hold up the others.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// The wait after a read of the journal that failed.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// A record in flight.
#[derive(Clone, Copy)]
struct Place {
    lane: LaneId,
    position: Position,
    bytes: usize,
}

/// What became of the records of one batch.
struct Answered {
    sender: IdentityId,
    each: Vec<(Place, Option<RefusalKind>)>,
}

struct Sending {
    core: Arc<Core>,
    pump: Pump,
    outstanding: FuturesUnordered<Boxed<'static, Answered>>,
}

/// Sends until the runtime stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut stopped = core.stopped.clone();
    let mut ups = core.links.ups();
    let mut sending = Sending { pump: Pump::new(), outstanding: FuturesUnordered::new(), core };
    loop {
        let now = sending.core.world.now();
        let mut wake = None;
        match sending.pump.poll(now) {
            Step::Fetch(records) => {
                sending.fetch(records).await;
                continue;
            }
            // What is still on its way would be sent twice.
            Step::Rewind if sending.outstanding.is_empty() => {
                sending.rewind().await;
                continue;
            }
            Step::WaitUntil(at) => wake = Some(at),
            Step::Rewind | Step::Wait => {}
        }
        tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            up = ups.changed() => if up.is_ok() {
                sending.pump.handle_upstream_back(sending.core.world.now());
            },
            // Bounded by what is in flight, so the others get their turn.
            Some(answered) = sending.outstanding.next() => sending.handle(answered).await,
            () = sending.core.upstream_work.notified() => sending.pump.handle_work(),
            () = until(wake, now.tick) => {}
        }
    }
    // Late answers still move the cursors; what is not answered is sent again by the next start.
    sending.pump.handle_stop();
}

impl Sending {
    async fn fetch(&mut self, records: usize) {
        let budget = Budget { records, bytes: FETCH_BYTES };
        let found = self.core.on_queue(move |queue, now_ms| {
            let lanes = queue.lanes(UPSTREAM);
            queue.next(&lanes, budget, now_ms)
        });
        match found.await {
            Some(Ok(Some(delivery))) => {
                let bytes = delivery.records.iter().map(|record| record.payload.len()).sum();
                self.pump.handle_fetched(delivery.records.len(), bytes);
                self.send(delivery).await;
            }
            Some(Ok(None)) => self.pump.handle_fetched(0, 0),
            Some(Err(error)) => {
                warn!(%error, endpoint = UPSTREAM, "journal not read");
                tokio::time::sleep(READ_PAUSE).await;
            }
            // The journal is closed: the end follows.
            None => self.pump.handle_stop(),
        }
    }

    async fn rewind(&mut self) {
        let rewound = self.core.on_queue(|queue, _| {
            for lane in queue.lanes(UPSTREAM) {
                queue.rewind(lane);
            }
        });
        match rewound.await {
            Some(()) => self.pump.handle_rewound(),
            None => self.pump.handle_stop(),
        }
    }

    async fn send(&mut self, delivery: Delivery) {
        let lane = delivery.lane;
        let mut senders: BTreeMap<IdentityId, Vec<(Place, Message)>> = BTreeMap::new();
        let mut lost = Vec::new();
        for stored in delivery.records {
            let bytes = stored.payload.len();
            let place = Place { lane, position: stored.position, bytes };
            match record::decode(stored.payload) {
                Ok((sender, message)) => {
                    senders.entry(sender).or_default().push((place, message));
                }
                Err(error) => {
                    warn!(%error, "a stored message was passed over");
                    lost.push(place);
                }
            }
        }
        count(&self.core.counters.dropped_damaged, lost.len() as u64);
        self.give_up(lost).await;
        for (sender, messages) in senders {
            self.send_of(&sender, messages).await;
        }
    }

    async fn send_of(&mut self, sender: &IdentityId, messages: Vec<(Place, Message)>) {
        if !self.core.has_keys(sender) {
            warn!(module_id = %sender, count = messages.len(), "messages of a removed module");
            let counters = &self.core.counters;
            count(&counters.dropped_no_sender, messages.len() as u64);
            self.give_up(messages.into_iter().map(|(place, _)| place).collect()).await;
            return;
        }
        let mut rest = messages.into_iter().peekable();
        while rest.peek().is_some() && self.pump.may_send(sender) {
            let (mut places, mut batch, mut bytes) = (Vec::new(), Batch::default(), 0);
            while let Some((_, message)) = rest.peek() {
                bytes += message.body.len() + message.properties.0.len();
                let full = batch.0.len() == BATCH_REQUESTS_MAX || bytes > BATCH_BYTES_MAX;
                if full && !batch.0.is_empty() {
                    break;
                }
                let Some((place, message)) = rest.next() else { break };
                places.push(place);
                batch.0.push(DeviceRequest::SendTelemetry(Box::new(bare(message))));
            }
            self.submit(sender, places, batch).await;
        }
    }

    async fn submit(&mut self, sender: &IdentityId, places: Vec<Place>, batch: Batch) {
        let link = self.core.links.link(sender);
        if let Some(keys) = sender.module_name().and_then(|name| self.core.keys(&name)) {
            link.set_key(keys.primary);
        }
        let world = self.core.world.clone();
        let deadline = world.now().tick.after(REQUEST_WAIT);
        let mut accepted = None;
        if let Some(session) = link.session() {
            if !self.pump.handle_sending(sender, session.epoch(), world.now()) {
                debug!(module_id = %sender, "waits for what its older session owes");
                return;
            }
            accepted = offer(&*session, batch, deadline).await;
            if accepted.is_none() {
                self.pump.handle_batch_over(sender);
            }
        }
        let Some(completion) = accepted else {
            let now = world.now();
            let refusal = Some(RefusalKind::Unavailable);
            self.pump.handle_answer((sender, 0), refusal, now, world.random.number());
            return;
        };
        // Planted: the cursor moves when a message is sent, not when it arrived.
        if planted::is("cursor_before_upstream_ack") {
            self.acknowledge(places.clone(), |_| ()).await;
        }
        let sender = sender.clone();
        self.outstanding.push(Box::pin(answers(world, sender, places, completion, deadline)));
    }

    /// Done with, though they never arrived.
    async fn give_up(&mut self, places: Vec<Place>) {
        if places.is_empty() {
            return;
        }
        let bytes = places.iter().map(|place| place.bytes).sum();
        self.pump.handle_given_up(places.len(), bytes);
        self.acknowledge(places, |_| ()).await;
    }

    async fn handle(&mut self, answered: Answered) {
        let Answered { sender, each } = answered;
        self.pump.handle_batch_over(&sender);
        let mut done = Vec::with_capacity(each.len());
        let (mut arrived, mut poison) = (Vec::with_capacity(each.len()), 0);
        for (place, refusal) in each {
            let (now, chance) = (self.core.world.now(), self.core.world.random.number());
            match self.pump.handle_answer((&sender, place.bytes), refusal, now, chance) {
                Fate::Arrived => {
                    arrived.push(place.lane);
                    done.push(place);
                }
                Fate::Poison => {
                    poison += 1;
                    done.push(place);
                }
                Fate::Again => debug!(module_id = %sender, ?refusal, "message is sent again"),
            }
        }
        if poison > 0 {
            warn!(module_id = %sender, count = poison, "messages the hub will never take");
        }
        let counted = move |counters: &Counters| {
            for lane in &arrived {
                counters.tally.handle_sent(*lane);
            }
            count(&counters.sent_upstream, arrived.len() as u64);
            count(&counters.dropped_poison, poison);
        };
        self.acknowledge(done, counted).await;
    }

    /// They leave the queue and are counted in one moment, so that who looks sees each once.
    async fn acknowledge(
        &mut self,
        places: Vec<Place>,
        counted: impl FnOnce(&Counters) + Send + 'static,
    ) {
        if places.is_empty() {
            return;
        }
        let counters = Arc::clone(&self.core.counters);
        let acknowledged = self.core.on_queue(move |queue, _| {
            for place in &places {
                queue.acknowledge(place.lane, place.position);
            }
            counted(&counters);
        });
        if acknowledged.await.is_none() {
            debug!("acknowledgements came after the journal was closed");
        }
    }
}

/// Submits, waiting a bounded time for room.
async fn offer(
    session: &dyn DeviceSession,
    mut batch: Batch,
    deadline: Tick,
) -> Option<Completion> {
    let offering = async {
        loop {
            match session.submit(batch, deadline) {
                Ok(completion) => return completion,
                Err(Full(back)) => batch = back,
            }
            std::future::poll_fn(|cx| session.poll_ready(cx)).await;
        }
    };
    tokio::time::timeout(ROOM_WAIT, offering).await.ok()
}

async fn answers(
    world: World,
    sender: IdentityId,
    places: Vec<Place>,
    mut completion: Completion,
    deadline: Tick,
) -> Answered {
    let mut each = Vec::with_capacity(places.len());
    for place in places {
        let left = deadline.since(world.now().tick);
        let refusal = match tokio::time::timeout(left, completion.next()).await {
            Ok(Some(Ok(_))) => None,
            Ok(Some(Err(refusal))) => Some(refusal.kind),
            Ok(None) => Some(RefusalKind::Internal),
            Err(_) => Some(RefusalKind::TimedOut),
        };
        each.push((place, refusal));
    }
    Answered { sender, each }
}

/// The hub stamps the sender itself, from the session.
fn bare(mut message: Message) -> Message {
    message.system.connection_device_id = None;
    message.system.connection_module_id = None;
    message.system.connection_generation_id = None;
    message.system.connection_auth_method = None;
    message
}
