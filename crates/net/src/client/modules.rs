//! Module identities over HTTPS, with the device's own token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use api::error::{ERROR_CODE_HEADER, ErrorBody};
use api::registry::Module;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use model::id::{DeviceId, ModuleName};
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::Tick;
use model::waist::{Answer, Batch, Claim, DeviceRequest, ModuleIdentity, ModuleOperation};
use model::world::World;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::from_slice;

use super::core::Aside;
use crate::http_client::{HttpClient, HttpClientError, read_whole};

/// Most operations under way at once.
const OPERATIONS_MAX: usize = 16;
/// Longest wait for one answer.
const PATIENCE_MAX: Duration = Duration::from_mins(1);
/// What a path segment keeps as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) struct Modules {
    http: HttpClient,
    host: Box<str>,
    device: DeviceId,
    token: Mutex<Option<Secret>>,
    running: Mutex<Running>,
}

/// How many operations are under way, and who waits for that to change.
#[derive(Default)]
struct Running {
    count: usize,
    room: Option<Waker>,
}

impl Modules {
    pub(super) fn new(http: HttpClient, host: Box<str>, device: DeviceId) -> Self {
        let (token, running) = (Mutex::new(None), Mutex::default());
        Self { http, host, device, token, running }
    }

    /// Requests from now on carry this claim's token.
    pub(super) fn use_claim(&self, claim: &Claim) {
        if let Claim::Sas { token, .. } = claim {
            let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
            *held = Some(token.clone());
        }
    }

    /// Carries `aside` out beside the caller.
    pub(super) fn start(modules: &Arc<Self>, world: &World, aside: Aside, deadline: Tick) {
        let modules = Arc::clone(modules);
        let patience = deadline.since(world.now().tick).min(PATIENCE_MAX);
        modules.running().count += 1;
        world.spawn(async move {
            let Aside { operation, slot } = aside;
            slot.fill(modules.run(operation, patience).await);
            let mut running = modules.running();
            running.count -= 1;
            running.room.take().into_iter().for_each(Waker::wake);
        });
    }

    /// Ready when nothing is under way, so that whatever was refused fits.
    pub(super) fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        let mut running = self.running();
        if running.count == 0 {
            return Poll::Ready(());
        }
        running.room = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether `batch` fits: all of it, or as the only one.
    pub(super) fn has_room(&self, batch: &Batch) -> bool {
        let wanted = batch.0.iter().filter(|one| matches!(one, DeviceRequest::Modules(_))).count();
        let count = self.running().count;
        wanted == 0 || count == 0 || count + wanted <= OPERATIONS_MAX
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, operation: ModuleOperation, patience: Duration) -> Result<Answer, Refusal> {
        match operation {
            ModuleOperation::List => {
                let body = self.ask(Method::GET, None, None, patience).await?;
                let all: Vec<Module> = from_slice(&body).map_err(|_| unreadable())?;
                let all = all.into_iter().map(identity_of).collect::<Result<_, _>>()?;
                Ok(Answer::Modules(all))
            }
            ModuleOperation::Ensure { name, managed_by } => {
                let made = self.create(&name, &managed_by, patience).await;
                let body = match made {
                    Err(refusal) if refusal.kind == RefusalKind::AlreadyExists => {
                        self.ask(Method::GET, Some(&name), None, patience).await?
                    }
                    made => made?,
                };
                let module: Module = from_slice(&body).map_err(|_| unreadable())?;
                Ok(Answer::Modules(vec![identity_of(module)?]))
            }
            ModuleOperation::Delete { name } => {
                match self.ask(Method::DELETE, Some(&name), None, patience).await {
                    Err(refusal) if refusal.kind == RefusalKind::ModuleNotFound => {}
                    done => drop(done?),
                }
                Ok(Answer::Accepted)
            }
        }
    }

    async fn create(
        &self,
        name: &ModuleName,
        managed_by: &str,
        patience: Duration,
    ) -> Result<Bytes, Refusal> {
        let module = Module {
            device_id: Some(self.device.to_string()),
            module_id: Some(name.to_string()),
            managed_by: Some(managed_by.to_owned()),
            ..Module::default()
        };
        let body = serde_json::to_vec(&module).map_err(|_| unreadable())?;
        self.ask(Method::PUT, Some(name), Some(body), patience).await
    }

    async fn ask(
        &self,
        method: Method,
        name: Option<&ModuleName>,
        body: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Bytes, Refusal> {
        let request = self.request(method, name, body)?;
        let answer = self.http.send(request, patience).await.map_err(not_reached)?;
        let status = answer.status();
        let code = answer.headers().get(ERROR_CODE_HEADER);
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or_default().to_owned();
        let body = read_whole(answer.into_body(), patience).await.map_err(not_reached)?;
        if status.is_success() { Ok(body) } else { Err(refusal_of(status, &code, &body)) }
    }

    fn request(
        &self,
        method: Method,
        name: Option<&ModuleName>,
        body: Option<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, Refusal> {
        let device = utf8_percent_encode(self.device.as_str(), SEGMENT);
        let tail = name.map(|name| format!("/{}", utf8_percent_encode(name.as_str(), SEGMENT)));
        let version = wire::topics::user::API_VERSION;
        let path =
            format!("/devices/{device}/modules{}?api-version={version}", tail.unwrap_or_default());
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let token = token.as_ref().and_then(Secret::expose_str).unwrap_or_default();
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &*self.host)
            .header(header::AUTHORIZATION, token)
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|_| {
                Refusal::new(RefusalKind::InvalidRequest, "the token cannot stand in a header")
            })
    }
}

fn identity_of(module: Module) -> Result<ModuleIdentity, Refusal> {
    let name = module.module_id.unwrap_or_default();
    let keys = module.authentication.and_then(|how| how.symmetric_key).unwrap_or_default();
    Ok(ModuleIdentity {
        name: name.parse().map_err(|_| unreadable())?,
        generation_id: module.generation_id.unwrap_or_default().into(),
        managed_by: module.managed_by.unwrap_or_default().into(),
        primary_key: keys.primary_key.map(|key| key.0),
        secondary_key: keys.secondary_key.map(|key| key.0),
    })
}

fn unreadable() -> Refusal {
    Refusal::new(RefusalKind::Internal, "the hub's answer about modules cannot be read")
}

fn not_reached(error: HttpClientError) -> Refusal {
    let kind = match error {
        HttpClientError::Connect { .. } => RefusalKind::Unavailable,
        HttpClientError::Broken(_) | HttpClientError::TimedOut(_) => RefusalKind::TimedOut,
    };
    Refusal::new(kind, error.to_string())
}

fn refusal_of(status: StatusCode, code: &str, body: &[u8]) -> Refusal {
    let kind = match status.as_u16() {
        400 => RefusalKind::InvalidRequest,
        401 => RefusalKind::Unauthenticated,
        403 => RefusalKind::Forbidden,
        404 if code.contains("Module") => RefusalKind::ModuleNotFound,
        404 if code.contains("Device") => RefusalKind::DeviceNotFound,
        404 => RefusalKind::NotFound,
        409 => RefusalKind::AlreadyExists,
        412 => RefusalKind::PreconditionFailed,
        413 => RefusalKind::TooLarge,
        429 => RefusalKind::Throttled,
        503 => RefusalKind::Unavailable,
        504 => RefusalKind::TimedOut,
        _ => RefusalKind::Internal,
    };
    let said = from_slice::<ErrorBody>(body).map(|body| body.message);
    Refusal::new(kind, said.unwrap_or_else(|_| format!("the hub answered {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_become_refusals() {
        let check = |status: u16, code: &str, expected: RefusalKind| {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal_of(status, code, b"").kind, expected, "{status} {code}");
        };
        check(404, "ModuleNotFound", RefusalKind::ModuleNotFound);
        check(404, "DeviceNotFound", RefusalKind::DeviceNotFound);
        check(404, "", RefusalKind::NotFound);
        check(409, "ModuleAlreadyExistsOnDevice", RefusalKind::AlreadyExists);
        check(401, "IotHubUnauthorizedAccess", RefusalKind::Unauthenticated);
        check(500, "", RefusalKind::Internal);
    }
}
