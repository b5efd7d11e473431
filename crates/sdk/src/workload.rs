//! The workload interface as a module asks it, and the tokens made with its help.
//!
//! The module never holds its key: it has the runtime sign. Source: `edgelet/api`,
//! `workloadVersion_*.yaml`, of Azure IoT Edge.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::waist::{Claim, ClaimSource, FreshClaim};
use model::world::{Boxed, World};
use net::http_client::{HttpClient, HttpClientError, read_whole};
use net::network::Network;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use thiserror::Error;

use crate::environment::Environment;

/// How long one answer of the runtime may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a token holds; what all SDKs of Azure take.
pub const TOKEN_LIFE: Duration = Duration::from_hours(1);
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why the runtime did not help.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// It could not be asked.
    #[error("cannot ask the workload interface")]
    Ask(#[from] HttpClientError),
    /// It said no.
    #[error("the workload interface refused with {status}: {words}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// Its words.
        words: String,
    },
    /// It said something that makes no sense.
    #[error("the answer of the workload interface has no usable {0:?}")]
    Answer(&'static str),
}

/// The workload interface of one module.
#[derive(Clone)]
pub struct Workload {
    client: HttpClient,
    world: World,
    environment: Environment,
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Workload {
    /// The interface that `environment` names. Connects at each question.
    pub fn new(environment: Environment, network: Arc<dyn Network>, world: World) -> Self {
        let address = environment.workload.clone();
        let client = HttpClient::new(network, world.clone(), address, None);
        Self { client, world, environment }
    }

    /// The certificates to trust, PEM.
    ///
    /// # Errors
    /// [`WorkloadError`]; trying again may help, the runtime may be starting.
    pub async fn trust_bundle(&self) -> Result<String, WorkloadError> {
        let answer = self.ask("GET", "/trust-bundle", Bytes::new()).await?;
        text(&answer, "certificate").map(str::to_owned)
    }

    /// The HMAC-SHA256 of `data` with the module's key, base64.
    ///
    /// # Errors
    /// [`WorkloadError`]; `Refused` with 404 if the identity is gone or made anew.
    pub async fn sign(&self, data: &str) -> Result<Secret, WorkloadError> {
        let path = format!(
            "/modules/{}/genid/{}/sign",
            encoded(self.environment.module.as_str()),
            encoded(&self.environment.generation_id)
        );
        let question =
            json!({ "keyId": "primary", "algo": "HMACSHA256", "data": STANDARD.encode(data) });
        let answer = self.ask("POST", &path, question.to_string().into()).await?;
        text(&answer, "digest").map(Secret::from)
    }

    async fn ask(&self, method: &str, path: &str, body: Bytes) -> Result<Value, WorkloadError> {
        let version = encoded(&self.environment.api_version);
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?api-version={version}"))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("all parts are encoded");
        let answer = self.client.send(request, PATIENCE).await?;
        let status = answer.status();
        let body = read_whole(answer.into_body(), PATIENCE).await?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        let words = text(&value, "message").unwrap_or("no words").to_owned();
        Err(WorkloadError::Refused { status, words })
    }

    async fn token(&self) -> Result<FreshClaim, WorkloadError> {
        let identity = self.environment.identity();
        let Environment { hub_host, device, module, .. } = &self.environment;
        let resource = encoded(&format!("{hub_host}/devices/{device}/modules/{module}"));
        let valid_until = self.world.now().wall.after(TOKEN_LIFE);
        let expiry = valid_until.unix_seconds();
        let digest = self.sign(&format!("{resource}\n{expiry}")).await?;
        let digest = encoded(digest.expose_str().unwrap_or_default());
        let token = format!("SharedAccessSignature sr={resource}&sig={digest}&se={expiry}");
        let claim = Claim::Sas { identity, token: Secret::from(token) };
        Ok(FreshClaim { claim, valid_until })
    }
}

impl ClaimSource for Workload {
    fn claim(&self) -> Boxed<'_, Result<FreshClaim, Refusal>> {
        Box::pin(async {
            self.token().await.map_err(|error| {
                let reason =
                    format!("no token from the runtime: {}", crate::process::chain(&error));
                Refusal::new(RefusalKind::Unavailable, reason)
            })
        })
    }
}

// A newer runtime may say more than we know; that is no fault.
fn text<'v>(answer: &'v Value, name: &'static str) -> Result<&'v str, WorkloadError> {
    answer.get(name).and_then(Value::as_str).ok_or(WorkloadError::Answer(name))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Path;
    use axum::http::Uri;
    use axum::routing::{get, post};
    use credentials::key::SymmetricKey;
    use credentials::sas::SasToken;
    use net::http::HttpServer;
    use net::network::{Address, SystemNetwork};

    use super::*;

    fn key() -> SymmetricKey {
        SymmetricKey::parse("a2V5").unwrap()
    }

    async fn sign(
        Path((module, generation)): Path<(String, String)>,
        uri: Uri,
        body: Bytes,
    ) -> (StatusCode, axum::Json<Value>) {
        assert_eq!(uri.query(), Some("api-version=2018-06-28"));
        let question: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&question["keyId"], &question["algo"]),
            (&json!("primary"), &json!("HMACSHA256"))
        );
        if (&*module, &*generation) != ("$m#", "g/1") {
            return (StatusCode::NOT_FOUND, axum::Json(json!({ "message": "unknown here" })));
        }
        let data = STANDARD.decode(question["data"].as_str().unwrap()).unwrap();
        let digest = STANDARD.encode(key().sign(&data));
        (StatusCode::OK, axum::Json(json!({ "digest": digest, "new": 1 })))
    }

    struct Runtime {
        _folder: tempfile::TempDir,
        _server: HttpServer,
        environment: Environment,
        world: World,
    }

    async fn runtime() -> Runtime {
        let world = net::world::system(tokio::runtime::Handle::current());
        let folder = tempfile::tempdir().unwrap();
        let workload = Address::Unix(folder.path().join("w.sock"));
        let router = Router::new()
            .route("/modules/{module}/genid/{generation}/sign", post(sign))
            .route("/trust-bundle", get(async || axum::Json(json!({ "certificate": "PEM" }))));
        let incoming = SystemNetwork.listen(&workload).await.unwrap();
        let server = HttpServer::start(incoming, None, router, &world);
        let environment = Environment {
            workload,
            api_version: "2018-06-28".into(),
            device: "d".parse().unwrap(),
            module: "$edgeHub".parse().unwrap(),
            generation_id: "g/1".into(),
            hub_host: "hub.example".into(),
            server_name: "edge".into(),
            port: 8883,
        };
        Runtime { _folder: folder, _server: server, environment, world }
    }

    fn workload(runtime: &Runtime, module: &str) -> Workload {
        let module = module.parse().unwrap();
        let environment = Environment { module, ..runtime.environment.clone() };
        Workload::new(environment, Arc::new(SystemNetwork), runtime.world.clone())
    }

    #[tokio::test]
    async fn the_runtime_gives_the_trust_bundle() {
        let runtime = runtime().await;
        assert_eq!(workload(&runtime, "m").trust_bundle().await.unwrap(), "PEM");
    }

    #[tokio::test]
    async fn a_token_signed_by_the_runtime_proves_the_module_for_an_hour() {
        let runtime = runtime().await;
        let error = workload(&runtime, "other").claim().await.unwrap_err();
        assert_eq!(error.kind, RefusalKind::Unavailable);
        assert!(error.reason.contains("404 Not Found: unknown here"), "{error}");

        let before = runtime.world.now().wall;
        let fresh = workload(&runtime, "$m#").claim().await.unwrap();
        let Claim::Sas { identity, token } = fresh.claim else { panic!("not a token") };
        assert_eq!(identity.as_str(), "d/$m#");
        let token = SasToken::parse(token.expose_str().unwrap()).unwrap();
        assert!(token.is_signed_by(&key()));
        assert!(token.covers("hub.example/devices/d/modules/$m#"));
        assert_eq!(token.expiry().unix_seconds(), fresh.valid_until.unix_seconds());
        assert!(fresh.valid_until.since(before) >= TOKEN_LIFE);
    }

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_an_error_with_its_cause() {
        let mut runtime = runtime().await;
        runtime.environment.workload = Address::Unix("/nonexistent/w.sock".into());
        let error = workload(&runtime, "m").trust_bundle().await.unwrap_err();
        assert!(matches!(error, WorkloadError::Ask(HttpClientError::Connect { .. })));
        assert!(crate::process::chain(&error).contains("/nonexistent/w.sock"));
    }
}
