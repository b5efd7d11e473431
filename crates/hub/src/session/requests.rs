//! What each request of a batch becomes: a record of the journal, an operation on the tables,
//! or an answer at once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use journal::worker::Chain;
use model::id::IdentityId;
use model::message::{Message, PropertyBag};
use model::method::MethodRequest;
use model::names::{EDGE_AGENT, EDGE_HUB};
use model::refusal::{Refusal, RefusalKind};
use model::time::Tick;
use model::twin::limits;
use model::waist::{
    Answer, BATCH_REQUESTS_MAX, Batch, Completion, DeviceRequest, Full, ModuleIdentity,
    ModuleOperation,
};
use tracing::debug;

use super::answers::{BatchAnswers, Landing, Made, Source};
use super::shell::{AnswerRoom, HubSession, Permit, Shared};
use crate::access::refused;
use crate::registry::{Auth, Entry, IfMatch};
use crate::storage::feed::Cause;
use crate::storage::writer::{Fault, Writing, pair};
use crate::storage::{identities, rows, twins};
use crate::telemetry;

/// The property that marks a will. Source: IoT Hub, "MQTT: using the will".
const WILL: &[u8] = b"iothub-MessageType=Will";

/// What a request takes while it waits besides what it carries: its job, its reply, its places
/// in the queues.
const REQUEST_BYTES: usize = 512;

/// Bytes that `batch` holds until it is answered.
pub(crate) fn bytes_of(batch: &Batch) -> u32 {
    let sum: usize = batch
        .0
        .iter()
        .map(|request| match request {
            DeviceRequest::SendTelemetry(message) => telemetry::size_of(message),
            DeviceRequest::PatchReported { patch, .. } => {
                limits::object_bytes(&patch.0) + REQUEST_BYTES
            }
            DeviceRequest::AnswerMethod { response, .. } => response.payload.len(),
            DeviceRequest::InvokeMethod { request, .. } => request.payload.len() + REQUEST_BYTES,
            DeviceRequest::Subscribe(features) => {
                features.iter().map(|one| one.filter.len() + 64).sum::<usize>() + REQUEST_BYTES
            }
            DeviceRequest::Unsubscribe(filters) => {
                filters.iter().map(|one| one.len() + 64).sum::<usize>() + REQUEST_BYTES
            }
            DeviceRequest::AnnounceModel(model) => model.as_str().len() + REQUEST_BYTES,
            _ => REQUEST_BYTES,
        })
        .sum();
    u32::try_from(sum).unwrap_or(u32::MAX)
}

/// How many answers to `batch` have a weight, of about [`model::waist::ANSWER_BYTES`] each.
pub(crate) fn heavy_answers_of(batch: &Batch) -> u16 {
    let heavy = |request: &&DeviceRequest| {
        matches!(request, DeviceRequest::ReadTwin | DeviceRequest::InvokeMethod { .. })
    };
    u16::try_from(batch.0.iter().filter(heavy).count()).unwrap_or(u16::MAX)
}

/// Marks `message` as a will.
pub(crate) fn mark_will(message: &mut Message) {
    let held = &message.properties.0;
    let mut bag = BytesMut::with_capacity(held.len() + WILL.len() + 1);
    bag.put_slice(held);
    if !held.is_empty() {
        bag.put_u8(b'&');
    }
    bag.put_slice(WILL);
    message.properties = PropertyBag(bag.freeze());
}

/// The record of `message`, stamped with who proved to have sent it.
pub(crate) fn record(sender: &Shared, message: &Message) -> Bytes {
    let sender = telemetry::Sender {
        identity: &sender.identity,
        generation_id: &sender.generation_id,
        method: sender.method.as_str(),
    };
    telemetry::encode(message, sender)
}

impl HubSession {
    /// Enqueues everything of `batch`, or nothing; its telemetry as a link of `chain`.
    pub(super) fn enqueue(
        &self,
        (batch, chain): (Batch, Chain),
        (permit, room): (&Arc<Permit>, Option<Arc<AnswerRoom>>),
        deadline: Tick,
    ) -> Result<Completion, Full> {
        if batch.0.len() > BATCH_REQUESTS_MAX {
            let large = Refusal::new(RefusalKind::TooLarge, "a batch has at most 256 requests");
            let answers = batch.0.iter().map(|_| Err(large.clone())).collect();
            return Ok(Completion::ready(answers));
        }
        // Telemetry first, for only the journal can be full; the batch is still whole then.
        let records: Vec<Bytes> = batch
            .0
            .iter()
            .filter_map(|request| match request {
                DeviceRequest::SendTelemetry(message) if message.check_size().is_ok() => {
                    Some(record(&self.shared, message))
                }
                _ => None,
            })
            .collect();
        let mut landing = None;
        if !records.is_empty() {
            let link = (self.shared.identity.device_str(), &chain);
            let Some(reply) = self.core.telemetry.submit(link, records, Arc::clone(permit)) else {
                return Err(Full(batch));
            };
            landing = Some(Landing { reply, session: Arc::clone(&self.shared), chain });
        }
        let sources: VecDeque<_> =
            batch.0.into_iter().map(|one| self.source(one, permit, deadline)).collect();
        Ok(Completion::new(BatchAnswers::new(sources, landing, room)))
    }

    fn source(&self, request: DeviceRequest, permit: &Arc<Permit>, deadline: Tick) -> Source {
        let ord = self.shared.ord;
        match request {
            DeviceRequest::SendTelemetry(message) => match message.check_size() {
                Ok(()) => Source::Telemetry,
                Err(refusal) => Source::Known(Err(refusal)),
            },
            DeviceRequest::ReadTwin => {
                let answers = Arc::clone(&self.core.answers);
                self.table(permit, deadline, move |w| {
                    let twin = Answer::Twin(Box::new(twins::read(w, ord)?));
                    Ok(Made::weighed(twin, &answers)?)
                })
            }
            DeviceRequest::PatchReported { patch, if_version } => {
                let identity = self.shared.identity.clone();
                self.table(permit, deadline, move |w| {
                    let version = twins::patch_reported(w, (ord, &identity), &patch, if_version)?;
                    Ok(Made::light(Answer::Patched(version)))
                })
            }
            DeviceRequest::Subscribe(features) => {
                let session = Arc::clone(&self.shared);
                self.table(permit, deadline, move |w| {
                    let granted = twins::subscribe(w, &session, &features)?;
                    Ok(Made::light(Answer::Subscribed(granted)))
                })
            }
            DeviceRequest::Unsubscribe(filters) => {
                let session = Arc::clone(&self.shared);
                self.table(permit, deadline, move |w| {
                    twins::unsubscribe(w, &session, &filters)?;
                    Ok(Made::light(Answer::Accepted))
                })
            }
            DeviceRequest::AnswerMethod { call, response } => {
                if !self.core.calls.handle_answer(ord, call, response) {
                    debug!(call = call.0, "nobody waits for this answer");
                }
                Source::Known(Ok(Answer::Accepted))
            }
            DeviceRequest::InvokeMethod { target, request } => self.invoke(target, request, permit),
            DeviceRequest::Modules(operation) => self.modules(operation, permit, deadline),
            DeviceRequest::AnnounceModel(model) => {
                let identity = self.shared.identity.clone();
                self.table(permit, deadline, move |w| {
                    twins::announce_model(w, (ord, &identity), &model)?;
                    Ok(Made::light(Answer::Accepted))
                })
            }
            DeviceRequest::Settle { .. } | DeviceRequest::PullMessage { .. } => {
                let reason = "this hub keeps no messages for devices";
                Source::Known(Err(Refusal::new(RefusalKind::InvalidRequest, reason)))
            }
        }
    }

    fn table(
        &self,
        permit: &Arc<Permit>,
        deadline: Tick,
        operation: impl FnOnce(&mut Writing<'_>) -> Result<Made, Fault> + Send + 'static,
    ) -> Source {
        // A session that is not in the map of connections is not told of a revocation.
        let unowned = (!self.owned).then(|| self.shared.identity.clone());
        let ord = self.shared.ord;
        let operation = move |w: &mut Writing<'_>| {
            if let Some(identity) = unowned {
                let entry = rows::entry(w.db, &identity)?;
                if !entry.is_some_and(|entry| entry.ord == ord && entry.enabled) {
                    return Err(refused().into());
                }
            }
            operation(w)
        };
        Source::Reply(self.core.tables.submit_held(deadline, Arc::clone(permit), operation))
    }

    fn modules(&self, operation: ModuleOperation, permit: &Arc<Permit>, deadline: Tick) -> Source {
        let device = self.shared.identity.device_id();
        let may = matches!(self.shared.identity.module_str(), None | Some(EDGE_AGENT | EDGE_HUB));
        if !may {
            let reason = "only the device and its edge runtime work on its modules";
            return Source::Known(Err(Refusal::new(RefusalKind::Forbidden, reason)));
        }
        let answers = Arc::clone(&self.core.answers);
        self.table(permit, deadline, move |w| match operation {
            ModuleOperation::List => {
                let all = rows::modules(w.db, &device)?;
                let all = Answer::Modules(all.into_iter().map(to_module).collect());
                Ok(Made::weighed(all, &answers)?)
            }
            ModuleOperation::Ensure { name, managed_by } => {
                let entry =
                    identities::ensure_module(w, &device, &name, managed_by, Cause::Device)?;
                Ok(Made::light(Answer::Modules(vec![to_module(entry)])))
            }
            ModuleOperation::Delete { name } => {
                let identity = IdentityId::module(&device, &name);
                if rows::entry(w.db, &identity)?.is_some() {
                    identities::delete(w, &identity, &IfMatch::Any, Cause::Device)?;
                }
                Ok(Made::light(Answer::Accepted))
            }
        })
    }

    fn invoke(&self, target: IdentityId, request: MethodRequest, permit: &Arc<Permit>) -> Source {
        if target.device_str() != self.shared.identity.device_str() {
            let reason = "a module calls methods on its own device only";
            return Source::Known(Err(Refusal::new(RefusalKind::Forbidden, reason)));
        }
        let core = Arc::clone(&self.core);
        let (answer, reply) = pair();
        let (permit, answers) = (Arc::clone(permit), Arc::clone(&self.core.answers));
        let found = self.core.tables.submit_held(Tick::NEVER, Arc::clone(&permit), move |w| {
            identities::find(w, &target).map(|entry| entry.ord)
        });
        super::shell::spawn_invoke(&core, found, request, move |result| {
            // Nobody may be waiting any more.
            answer.send(result.and_then(|it| Made::weighed(Answer::Method(it), &answers))).ok();
            drop(permit);
        });
        Source::Reply(reply)
    }
}

fn to_module(entry: Entry) -> ModuleIdentity {
    let (primary_key, secondary_key) = match entry.auth {
        Auth::Sas { primary, secondary } => (Some(primary), Some(secondary)),
        Auth::SelfSigned { .. } | Auth::None => (None, None),
    };
    let name = entry.identity.module_name().expect("the table of modules holds modules");
    ModuleIdentity {
        name,
        generation_id: entry.generation_id,
        managed_by: entry.managed_by,
        primary_key,
        secondary_key,
    }
}
