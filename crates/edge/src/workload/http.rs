//! Handlers of the workload interface: parse, call, map.
//!
//! Source: `edgelet/api/workloadVersion_*.yaml` of Azure IoT Edge; every `api-version` is taken.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use credentials::key::SymmetricKey;
use model::id::ModuleName;
use serde::Deserialize;
use serde_json::json;

/// Largest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// What is known about the module whose socket this is.
pub trait ModuleSecrets: Send + Sync {
    /// The generation of its identity and the key it signs with; none before the identity
    /// is known.
    fn signing_key(&self, module: &ModuleName) -> Option<(Box<str>, SymmetricKey)>;

    /// Certificates that modules trust, PEM.
    fn trust_bundle(&self) -> String;
}

/// The interface of `module`, to be served on its socket only.
pub fn router(module: ModuleName, secrets: Arc<dyn ModuleSecrets>) -> Router {
    Router::new()
        .route("/modules/{module}/genid/{generation}/sign", post(sign))
        .route("/trust-bundle", get(trust_bundle))
        .fallback(async || failed(StatusCode::NOT_FOUND, "there is no such operation"))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::new(Workload { module, secrets }))
}

struct Workload {
    module: ModuleName,
    secrets: Arc<dyn ModuleSecrets>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignRequest {
    #[serde(rename = "keyId")]
    key_id: String,
    algo: String,
    data: String,
}

// The body is read as bytes: the Python SDK sends no JSON content type.
async fn sign(
    State(workload): State<Arc<Workload>>,
    Path((module, generation)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    if module != workload.module.as_str() {
        return failed(StatusCode::FORBIDDEN, "this socket belongs to another module");
    }
    let Some((known, key)) = workload.secrets.signing_key(&workload.module) else {
        return failed(StatusCode::NOT_FOUND, "the module has no identity yet");
    };
    if generation != *known {
        return failed(StatusCode::NOT_FOUND, "the identity has another generation by now");
    }
    let request: SignRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return failed(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if request.key_id != "primary" || request.algo != "HMACSHA256" {
        return failed(StatusCode::BAD_REQUEST, "known are keyId primary and algo HMACSHA256");
    }
    match STANDARD.decode(request.data) {
        Ok(data) => {
            axum::Json(json!({ "digest": STANDARD.encode(key.sign(&data)) })).into_response()
        }
        Err(_) => failed(StatusCode::BAD_REQUEST, "data is not base64"),
    }
}

async fn trust_bundle(State(workload): State<Arc<Workload>>) -> Response {
    axum::Json(json!({ "certificate": workload.secrets.trust_bundle() })).into_response()
}

fn failed(status: StatusCode, words: &str) -> Response {
    (status, axum::Json(json!({ "message": words }))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use credentials::sas::SasToken;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    struct Known;

    impl ModuleSecrets for Known {
        fn signing_key(&self, module: &ModuleName) -> Option<(Box<str>, SymmetricKey)> {
            let key = SymmetricKey::parse("a2V5").unwrap();
            matches!(module.as_str(), "m" | "$edgeHub").then(|| ("g1".into(), key))
        }

        fn trust_bundle(&self) -> String {
            "PEM".to_owned()
        }
    }

    async fn ask(socket: &str, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let router = router(socket.parse().unwrap(), Arc::new(Known));
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn sign_body(data: &str) -> String {
        json!({ "keyId": "primary", "algo": "HMACSHA256", "data": STANDARD.encode(data) })
            .to_string()
    }

    #[tokio::test]
    async fn a_signature_makes_a_token_that_proves_the_module() {
        let signed = "hub.local%2Fdevices%2Fd%2Fmodules%2F%24edgeHub\n99";
        let path = "/modules/%24edgeHub/genid/g1/sign?api-version=2018-06-28";
        let (status, answer) = ask("$edgeHub", "POST", path, &sign_body(signed)).await;
        assert_eq!(status, 200);
        let digest = answer["digest"].as_str().unwrap();
        let sig = digest.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let sr = signed.strip_suffix("\n99").unwrap();
        let token =
            SasToken::parse(&format!("SharedAccessSignature sr={sr}&sig={sig}&se=99")).unwrap();
        assert!(token.is_signed_by(&SymmetricKey::parse("a2V5").unwrap()));
    }

    #[tokio::test]
    async fn the_trust_bundle_is_given_under_every_version() {
        let (status, answer) = ask("m", "GET", "/trust-bundle?api-version=2022-08-03", "").await;
        assert_eq!((status, answer), (200, json!({ "certificate": "PEM" })));
    }

    #[tokio::test]
    async fn what_a_module_may_not_ask_is_refused_with_a_reason() {
        let path = "/modules/m/genid/g1/sign";
        for (socket, path, body, status, words) in [
            ("n", path, sign_body("x"), 403, "another module"),
            ("n", "/modules/n/genid/g1/sign", sign_body("x"), 404, "no identity yet"),
            ("m", "/modules/m/genid/g2/sign", sign_body("x"), 404, "another generation"),
            ("m", path, "{".to_owned(), 400, "EOF"),
            ("m", path, r#"{"keyId":"primary","algo":"SHA1","data":""}"#.to_owned(), 400, "algo"),
            ("m", path, r#"{"keyId":"x","algo":"HMACSHA256","data":""}"#.to_owned(), 400, "keyId"),
            (
                "m",
                path,
                r#"{"keyId":"primary","algo":"HMACSHA256","data":"*"}"#.to_owned(),
                400,
                "base64",
            ),
            (
                "m",
                path,
                r#"{"keyId":"primary","algo":"HMACSHA256","x":1}"#.to_owned(),
                400,
                "unknown field",
            ),
            ("m", "/elsewhere", String::new(), 404, "no such operation"),
        ] {
            let (code, answer) = ask(socket, "POST", path, &body).await;
            assert_eq!(code, status, "{path} {body}");
            assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
        }
    }
}
