//! Handlers of the workload interface: parse, call, map.
//!
//! | operation | what |
//! |---|---|
//! | `GET /modules` | the modules of this device |
//! | `GET /trust-bundle` | certificates that modules trust |
//! | `POST /modules/{m}/genid/{g}/sign` | HMAC-SHA256 with the module's key |
//! | `POST /modules/{m}/genid/{g}/encrypt`, `/decrypt` | under a key of the module's own |
//! | `POST /modules/{m}/genid/{g}/certificate/server` | a server certificate of the device CA |
//! | `POST /modules/{m}/genid/{g}/certificate/identity` | a client certificate, also without `/genid/{g}` |
//!
//! Who asks is known by the socket: each module has its own, in a folder that only it can see.
//! Source: `edgelet/api/workloadVersion_*.yaml` of Azure IoT Edge.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use credentials::certificate::Issued;
use credentials::cipher::Scope;
use credentials::key::SymmetricKey;
use credentials::key_store::{KeyStore, LeafRequest, Purpose, UseKeyError};
use model::id::ModuleName;
use model::time::WallTime;
use serde_json::{Value, json};

use super::shapes::{self, InvalidRequest, Sealing};
use crate::status::ModuleStatus;

/// Largest request, in bytes: room for the largest twin with its tags, encoded.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// What the runtime knows and keeps for its modules.
pub trait ModuleSecrets: Send + Sync {
    /// The generation of its identity and the key it signs with; none before the identity
    /// is known.
    fn signing_key(&self, module: &ModuleName) -> Option<(Box<str>, SymmetricKey)>;

    /// Certificates that modules trust, PEM.
    fn trust_bundle(&self) -> String;

    /// The keys of this device.
    fn keys(&self) -> &dyn KeyStore;

    /// The name of `module` as the hub knows it: `azureiot://hub/devices/d/modules/m`.
    fn identity(&self, module: &ModuleName) -> String;

    /// Every module that is desired or there.
    fn modules(&self) -> Vec<ModuleStatus>;
}

/// The interface of `module`, to be served on its socket only.
pub fn router(module: ModuleName, secrets: Arc<dyn ModuleSecrets>) -> Router {
    let own = |operation: &str| format!("/modules/{{module}}/genid/{{generation}}/{operation}");
    Router::new()
        .route("/modules", get(modules))
        .route("/trust-bundle", get(trust_bundle))
        .route(&own("sign"), post(sign))
        .route(&own("encrypt"), post(encrypt))
        .route(&own("decrypt"), post(decrypt))
        .route(&own("certificate/server"), post(server_certificate))
        .route(&own("certificate/identity"), post(identity_certificate))
        .route("/modules/{module}/certificate/identity", post(own_identity_certificate))
        .fallback(async || failed(StatusCode::NOT_FOUND, "there is no such operation"))
        .method_not_allowed_fallback(async || {
            failed(StatusCode::METHOD_NOT_ALLOWED, "the operation has another method")
        })
        .layer(from_fn(versioned))
        .layer(from_fn(whole))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::new(Workload { module, secrets }))
}

struct Workload {
    module: ModuleName,
    secrets: Arc<dyn ModuleSecrets>,
}

type Place = Path<(String, String)>;
type Asked = Result<Bytes, BytesRejection>;

/// Why an operation was not done.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        failed(self.0, &self.1)
    }
}

impl From<InvalidRequest> for Failed {
    fn from(refused: InvalidRequest) -> Self {
        Self(StatusCode::BAD_REQUEST, refused.to_string())
    }
}

impl From<UseKeyError> for Failed {
    fn from(refused: UseKeyError) -> Self {
        let status = match refused {
            UseKeyError::Past(_) | UseKeyError::Decrypt(_) | UseKeyError::Certificate(_) => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, refused.to_string())
    }
}

impl From<BytesRejection> for Failed {
    fn from(refused: BytesRejection) -> Self {
        let words = if refused.status() == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the request has more than {REQUEST_BYTES_MAX} bytes")
        } else {
            refused.body_text()
        };
        Self(refused.status(), words)
    }
}

impl Workload {
    fn is_own(&self, module: &str) -> Result<(), Failed> {
        if module == self.module.as_str() {
            return Ok(());
        }
        Err(Failed(StatusCode::FORBIDDEN, "this socket belongs to another module".to_owned()))
    }

    /// The key of this socket's module, if `module` and `generation` are its own.
    fn key(&self, module: &str, generation: &str) -> Result<SymmetricKey, Failed> {
        self.is_own(module)?;
        let absent = |words: &str| Failed(StatusCode::NOT_FOUND, words.to_owned());
        let known = self.secrets.signing_key(&self.module);
        let (known, key) = known.ok_or_else(|| absent("the module has no identity yet"))?;
        if generation == &*known {
            Ok(key)
        } else {
            Err(absent("the identity has another generation by now"))
        }
    }

    fn identity_certificate(&self, body: Asked) -> Result<Response, Failed> {
        let until = shapes::identity(&body?)?;
        let name = self.secrets.identity(&self.module);
        // A name longer than a subject may be is left to the alternative name.
        let common_name: String =
            self.module.as_str().chars().take(shapes::COMMON_NAME_CHARS_MAX).collect();
        let issued = self.secrets.keys().issue(&LeafRequest {
            purpose: Purpose::Client,
            common_name: &common_name,
            names: &[&name],
            until,
        })?;
        certificate(&issued)
    }
}

/// Reads the request to its end before anything is answered: a refusal that comes earlier closes
/// the connection under a client that still writes its body, which then never sees the reason.
async fn whole(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match to_bytes(body, REQUEST_BYTES_MAX).await {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(_) => failed(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the request broke off or has more than {REQUEST_BYTES_MAX} bytes"),
        ),
    }
}

/// Lets only requests pass that name a version.
async fn versioned(request: Request, next: Next) -> Response {
    match shapes::check_version(request.uri().query()) {
        Ok(()) => next.run(request).await,
        Err(refused) => Failed::from(refused).into_response(),
    }
}

// Bodies are read as bytes: the Python SDK sends no JSON content type.
async fn sign(
    State(workload): State<Arc<Workload>>,
    Path((module, generation)): Place,
    body: Asked,
) -> Result<Response, Failed> {
    let key = workload.key(&module, &generation)?;
    let data = shapes::sign(&body?)?;
    Ok(said(StatusCode::OK, json!({ "digest": STANDARD.encode(key.sign(&data)) })))
}

async fn encrypt(
    State(workload): State<Arc<Workload>>,
    Path((module, generation)): Place,
    body: Asked,
) -> Result<Response, Failed> {
    workload.key(&module, &generation)?;
    let Sealing { bytes, vector } = shapes::encrypt(&body?)?;
    let scope = Scope { module: &module, generation: &generation, vector: &vector };
    let sealed = workload.secrets.keys().encrypt(&scope, &bytes)?;
    Ok(said(StatusCode::OK, json!({ "ciphertext": STANDARD.encode(sealed) })))
}

async fn decrypt(
    State(workload): State<Arc<Workload>>,
    Path((module, generation)): Place,
    body: Asked,
) -> Result<Response, Failed> {
    workload.key(&module, &generation)?;
    let Sealing { bytes, vector } = shapes::decrypt(&body?)?;
    let scope = Scope { module: &module, generation: &generation, vector: &vector };
    let plain = workload.secrets.keys().decrypt(&scope, &bytes)?;
    Ok(said(StatusCode::OK, json!({ "plaintext": STANDARD.encode(plain) })))
}

async fn server_certificate(
    State(workload): State<Arc<Workload>>,
    Path((module, generation)): Place,
    body: Asked,
) -> Result<Response, Failed> {
    workload.key(&module, &generation)?;
    let request = shapes::server(&body?)?;
    let label = shapes::label(&module);
    let mut names = vec![request.common_name.as_str()];
    if !label.is_empty() && label != request.common_name {
        names.push(&label);
    }
    let issued = workload.secrets.keys().issue(&LeafRequest {
        purpose: Purpose::Server,
        common_name: &request.common_name,
        names: &names,
        until: request.until,
    })?;
    certificate(&issued)
}

async fn identity_certificate(
    State(workload): State<Arc<Workload>>,
    Path((module, generation)): Place,
    body: Asked,
) -> Result<Response, Failed> {
    workload.key(&module, &generation)?;
    workload.identity_certificate(body)
}

async fn own_identity_certificate(
    State(workload): State<Arc<Workload>>,
    Path(module): Path<String>,
    body: Asked,
) -> Result<Response, Failed> {
    workload.is_own(&module)?;
    workload.identity_certificate(body)
}

async fn trust_bundle(State(workload): State<Arc<Workload>>) -> Response {
    said(StatusCode::OK, json!({ "certificate": workload.secrets.trust_bundle() }))
}

async fn modules(State(workload): State<Arc<Workload>>) -> Response {
    let all = workload.secrets.modules();
    said(StatusCode::OK, json!({ "modules": all.iter().map(details).collect::<Vec<_>>() }))
}

/// What one module may know of another: variables are not told, they hold secrets.
fn details(module: &ModuleStatus) -> Value {
    let time = |ms: Option<i64>| ms.map(|ms| WallTime(ms).to_string());
    let exit = module
        .exit_code
        .map(|code| json!({ "exitTime": time(module.exited_ms), "statusCode": code.to_string() }));
    json!({
        "id": module.name,
        "name": module.name,
        "type": "docker",
        "config": { "settings": { "image": module.image }, "env": [] },
        "status": {
            "startTime": time(module.started_ms),
            "exitStatus": exit,
            "runtimeStatus": { "status": module.actual, "description": module.words },
        },
    })
}

fn certificate(issued: &Issued) -> Result<Response, Failed> {
    let key = issued.key_pem.expose_str().ok_or_else(|| {
        let words = "the key that was made is no text".to_owned();
        Failed(StatusCode::INTERNAL_SERVER_ERROR, words)
    })?;
    let body = json!({
        "privateKey": { "type": "key", "bytes": key },
        "certificate": issued.chain_pem,
        "expiration": issued.expires.to_string(),
    });
    Ok(said(StatusCode::CREATED, body))
}

fn said(status: StatusCode, body: Value) -> Response {
    (status, axum::Json(body)).into_response()
}

fn failed(status: StatusCode, words: &str) -> Response {
    said(status, json!({ "message": words }))
}

#[cfg(test)]
mod tests;
