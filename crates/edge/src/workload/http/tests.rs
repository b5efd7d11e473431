//! The interface as a module's client sees it, over the real keys in files.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use credentials::certificate::Leaf;
use credentials::sas::SasToken;
use http_body_util::BodyExt as _;
use testkit::world::{Host, START};
use tower::ServiceExt as _;

use super::*;
use crate::identity::key_store::{FileKeyStore, LEAF_LIFE};
use crate::settings::EdgeCa;

struct Known(FileKeyStore);

impl ModuleSecrets for Known {
    fn signing_key(&self, module: &ModuleName) -> Option<(Box<str>, SymmetricKey)> {
        let key = SymmetricKey::parse("a2V5").unwrap();
        matches!(module.as_str(), "m" | "o" | "$edgeHub").then(|| ("g1".into(), key))
    }

    fn trust_bundle(&self) -> String {
        self.0.authority().to_owned()
    }

    fn keys(&self) -> &dyn KeyStore {
        &self.0
    }

    fn identity(&self, module: &ModuleName) -> String {
        format!("azureiot://hub/devices/d/modules/{module}")
    }

    fn modules(&self) -> Vec<ModuleStatus> {
        let m = ModuleStatus {
            name: "m".to_owned(),
            image: "img:1".to_owned(),
            actual: "running".to_owned(),
            started_ms: Some(0),
            ..ModuleStatus::default()
        };
        let ended = ModuleStatus { exit_code: Some(3), exited_ms: Some(1000), ..m.clone() };
        vec![m, ended]
    }
}

struct Bench {
    secrets: Arc<dyn ModuleSecrets>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Arc::new(Known(keys(folder.path(), &Host::new(7))));
        Self { secrets, folder }
    }

    async fn ask(&self, socket: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
        let path = if path.contains('?') {
            path.to_owned()
        } else {
            format!("{path}?api-version=2020-07-07")
        };
        let request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let router = router(socket.parse().unwrap(), Arc::clone(&self.secrets));
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn post(&self, socket: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask(socket, "POST", path, &body.to_string()).await
    }
}

fn keys(folder: &std::path::Path, host: &Host) -> FileKeyStore {
    let made = EdgeCa::Made { days: 365 };
    FileKeyStore::open(folder, &made, &"d".parse().unwrap(), &host.world()).unwrap()
}

fn sign_body(data: &str) -> Value {
    json!({ "keyId": "primary", "algo": "HMACSHA256", "data": STANDARD.encode(data) })
}

#[tokio::test(start_paused = true)]
async fn a_signature_makes_a_token_that_proves_the_module() {
    let bench = Bench::new();
    let signed = "hub.local%2Fdevices%2Fd%2Fmodules%2F%24edgeHub\n99";
    let path = "/modules/%24edgeHub/genid/g1/sign?api-version=2018-06-28";
    let (status, answer) = bench.post("$edgeHub", path, sign_body(signed)).await;
    assert_eq!(status, 200);
    let digest = answer["digest"].as_str().unwrap();
    let sig = digest.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let sr = signed.strip_suffix("\n99").unwrap();
    let token = SasToken::parse(&format!("SharedAccessSignature sr={sr}&sig={sig}&se=99")).unwrap();
    assert!(token.is_signed_by(&SymmetricKey::parse("a2V5").unwrap()));
}

#[tokio::test(start_paused = true)]
async fn only_the_module_of_the_socket_decrypts_what_it_encrypted_also_after_a_restart() {
    let mut bench = Bench::new();
    let iv = STANDARD.encode("the same each time");
    let (plain, iv) = (STANDARD.encode("größe 💧"), iv.as_str());
    let body = json!({ "plaintext": plain, "initializationVector": iv });
    let (status, first) = bench.post("m", "/modules/m/genid/g1/encrypt", body.clone()).await;
    assert_eq!(status, 200, "{first}");
    let (_, second) = bench.post("m", "/modules/m/genid/g1/encrypt", body).await;
    assert_ne!(first, second, "the same text must not be seen to be the same");

    // Another process on the same folder.
    bench.secrets = Arc::new(Known(keys(bench.folder.path(), &Host::new(8))));
    let decrypt =
        |vector: &str| json!({ "ciphertext": first["ciphertext"], "initializationVector": vector });
    let (status, answer) = bench.post("m", "/modules/m/genid/g1/decrypt", decrypt(iv)).await;
    assert_eq!((status, answer), (200, json!({ "plaintext": plain })));
    for (socket, path, vector, status) in [
        ("m", "/modules/m/genid/g1/decrypt", "b3RoZXI=", 400),
        ("o", "/modules/o/genid/g1/decrypt", iv, 400),
        ("o", "/modules/m/genid/g1/decrypt", iv, 403),
        ("m", "/modules/m/genid/g2/decrypt", iv, 404),
    ] {
        let (found, answer) = bench.post(socket, path, decrypt(vector)).await;
        assert_eq!(found, status, "{socket} {path} {answer}");
        assert!(answer["plaintext"].is_null() && answer["message"].is_string(), "{answer}");
    }
}

/// The leaf of an answer, read and as DER.
fn certificate(answer: &Value) -> (Leaf, Vec<u8>) {
    let chain = answer["certificate"].as_str().unwrap();
    let body = chain.split("-----END CERTIFICATE-----").next().unwrap();
    let body = body.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap();
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).unwrap();
    (Leaf::parse(&der).unwrap(), der)
}

fn holds(der: &[u8], text: &str) -> bool {
    der.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_server_certificate_names_host_and_module_and_holds_as_long_as_asked_or_allowed() {
    let bench = Bench::new();
    let path = "/modules/%24edgeHub/genid/g1/certificate/server";
    let day = std::time::Duration::from_hours(24);
    for (asked, expected) in [
        (Some(START.after(day)), START.after(day)),
        (Some(START.after(day * 1000)), START.after(LEAF_LIFE)),
        (None, START.after(LEAF_LIFE)),
    ] {
        let expiration = asked.map(|at| at.to_string());
        let body = json!({ "commonName": "gateway.example", "expiration": expiration });
        let (status, answer) = bench.post("$edgeHub", path, body).await;
        assert_eq!(status, 201, "{answer}");
        let (leaf, der) = certificate(&answer);
        assert_eq!(leaf.common_name.as_deref(), Some("gateway.example"));
        assert_eq!(leaf.not_after, expected);
        assert_eq!(answer["expiration"], expected.to_string());
        assert!(holds(&der, "edgehub"), "the module's name is an alternative name");
        assert_eq!(answer["privateKey"]["type"], "key");
        let key = answer["privateKey"]["bytes"].as_str().unwrap();
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key}");
        let chain = answer["certificate"].as_str().unwrap();
        assert!(chain.ends_with(&bench.secrets.trust_bundle()), "the device CA ends the chain");
    }
    let past = json!({ "commonName": "g", "expiration": "2026-11-23T11:59:00Z" });
    let (status, answer) = bench.post("$edgeHub", path, past).await;
    assert_eq!((status, answer["message"].as_str().unwrap().contains("is past")), (400, true));
}

#[tokio::test(start_paused = true)]
async fn an_identity_certificate_carries_the_name_at_the_hub_with_and_without_a_generation() {
    let bench = Bench::new();
    for path in ["/modules/m/certificate/identity", "/modules/m/genid/g1/certificate/identity"] {
        let (status, answer) = bench.ask("m", "POST", path, "").await;
        assert_eq!(status, 201, "{answer}");
        let (leaf, der) = certificate(&answer);
        assert_eq!(leaf.common_name.as_deref(), Some("m"));
        assert!(holds(&der, "azureiot://hub/devices/d/modules/m"));
    }
    let (status, _) = bench.ask("o", "POST", "/modules/m/certificate/identity", "").await;
    assert_eq!(status, 403);
}

#[tokio::test(start_paused = true)]
async fn trust_bundle_and_modules_are_given_and_no_variable_of_another_module() {
    let bench = Bench::new();
    let (status, answer) = bench.ask("m", "GET", "/trust-bundle", "").await;
    assert_eq!(
        (status, answer["certificate"].as_str().unwrap()),
        (200, &*bench.secrets.trust_bundle())
    );
    let (status, answer) = bench.ask("m", "GET", "/modules", "").await;
    let expected = |exit: Value| {
        json!({
            "id": "m", "name": "m", "type": "docker",
            "config": { "settings": { "image": "img:1" }, "env": [] },
            "status": {
                "startTime": "1970-01-01T00:00:00.000Z", "exitStatus": exit,
                "runtimeStatus": { "status": "running", "description": "" },
            },
        })
    };
    let ended = json!({ "exitTime": "1970-01-01T00:00:01.000Z", "statusCode": "3" });
    let modules = [expected(Value::Null), expected(ended)];
    assert_eq!((status, answer), (200, json!({ "modules": modules })));
}

#[tokio::test(start_paused = true)]
async fn what_a_module_may_not_ask_is_refused_with_a_reason() {
    let bench = Bench::new();
    let path = "/modules/m/genid/g1/sign";
    let sign = sign_body("x").to_string();
    let large = format!("{{\"data\":\"{}\"}}", "A".repeat(REQUEST_BYTES_MAX));
    for (socket, method, path, body, status, words) in [
        ("o", "POST", path, &*sign, 403, "another module"),
        ("n", "POST", "/modules/n/genid/g1/sign", &sign, 404, "no identity yet"),
        ("m", "POST", "/modules/m/genid/g2/sign", &sign, 404, "another generation"),
        ("m", "POST", path, "{", 400, "not as the operation wants it"),
        ("m", "POST", path, &large, 413, "more than 262144 bytes"),
        ("m", "GET", path, "", 405, "another method"),
        ("m", "POST", "/elsewhere", "", 404, "no such operation"),
        ("m", "GET", "/trust-bundle?", "", 400, "api-version is not in the query"),
        ("m", "GET", "/trust-bundle?api-version=1999-01-01", "", 400, "is not known"),
        ("m", "POST", "/modules/m/genid/g1/certificate/server", "", 400, "not as the operation"),
        ("m", "POST", "/modules/m/genid/g1/encrypt", "[]", 400, "not as the operation"),
    ] {
        let (code, answer) = bench.ask(socket, method, path, body).await;
        assert_eq!(code, status, "{method} {path} {answer}");
        assert!(answer["message"].as_str().unwrap().contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_comes_after_the_whole_request_was_read() {
    let bench = Bench::new();
    for (method, path) in [
        ("POST", "/modules/m/genid/g1/sign?api-version=1999-01-01"),
        ("POST", "/nowhere?api-version=2020-07-07"),
        ("POST", "/trust-bundle?api-version=2020-07-07"),
    ] {
        let read = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&read);
        let parts = futures_util::stream::iter([Ok::<_, std::io::Error>("{"), Ok("}")]);
        let parts = futures_util::StreamExt::chain(
            parts,
            futures_util::stream::once(async move {
                end.store(true, Ordering::Relaxed);
                Ok("")
            }),
        );
        let request =
            Request::builder().method(method).uri(path).body(Body::from_stream(parts)).unwrap();
        let router = router("m".parse().unwrap(), Arc::clone(&bench.secrets));
        let answer = router.oneshot(request).await.unwrap();
        assert!(answer.status().is_client_error(), "{path}");
        assert!(read.load(Ordering::Relaxed), "{path}");
    }
}
