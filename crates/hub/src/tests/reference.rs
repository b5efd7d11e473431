//! Etags and versions against a small reference, over random sequences of writes.

use http::StatusCode;
use model::refusal::RefusalKind;
use model::time::Tick;
use model::twin::{TwinPatch, Version};
use model::waist::{Answer, DeviceRequest, LinkKind, ask};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Machine;

#[derive(Clone, Debug)]
enum Write {
    /// By the service: PUT instead of PATCH, which sections, and the etag of how many service
    /// writes ago (`None` sends no header).
    Service { put: bool, tags: bool, desired: bool, etag_age: Option<usize> },
    /// By the device, demanding the version of so many patches ago.
    Device { version_age: Option<u64> },
}

fn write() -> impl Strategy<Value = Write> {
    let age = || proptest::option::of(0..3_usize);
    prop_oneof![
        (any::<bool>(), any::<bool>(), any::<bool>(), age()).prop_map(
            |(put, tags, desired, etag_age)| Write::Service { put, tags, desired, etag_age }
        ),
        proptest::option::of(0..3_u64).prop_map(|version_age| Write::Device { version_age }),
    ]
}

/// What must be true of the twin.
#[derive(Debug)]
struct Reference {
    etags: Vec<String>,
    tags: Map<String, Value>,
    desired: Map<String, Value>,
    desired_version: u64,
    reported_version: u64,
}

impl Reference {
    fn put(section: &mut Map<String, Value>, put: bool, sent: Option<(&str, usize)>) -> bool {
        if put {
            section.clear();
        }
        if let Some((key, value)) = sent {
            section.insert(key.to_owned(), json!(value));
        }
        put || sent.is_some()
    }
}

async fn run(writes: Vec<Write>) {
    let machine = Machine::new();
    let r = machine.start(1);
    let claim = r.device("d1").await;
    let link = LinkKind::Mqtt { clean: true };
    let session = r.api.open(claim, link, Tick::NEVER).await.unwrap().session;
    let (_, twin) = r.call("GET", "/twins/d1", Value::Null).await;
    let mut expected = Reference {
        etags: vec![twin["etag"].as_str().unwrap().to_owned()],
        tags: Map::new(),
        desired: Map::new(),
        desired_version: 1,
        reported_version: 1,
    };
    for (at, write) in writes.into_iter().enumerate() {
        match write {
            Write::Service { put, tags, desired, etag_age } => {
                let key = format!("k{}", at % 3);
                let mut body = json!({});
                if tags {
                    body["tags"] = json!({ &key: at });
                }
                if desired {
                    body["properties"] = json!({ "desired": { &key: at } });
                }
                let age = etag_age.filter(|age| *age < expected.etags.len());
                let etag = age.map(|age| expected.etags[expected.etags.len() - 1 - age].clone());
                let method = if put { "PUT" } else { "PATCH" };
                let header = etag.map(|etag| format!("\"{etag}\""));
                let call = (method, "/twins/d1");
                let (status, twin) = r.call_as("service", call, header.as_deref(), body).await;
                if age.is_some_and(|age| age > 0) {
                    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
                    continue;
                }
                assert_eq!(status, StatusCode::OK, "{twin}");
                Reference::put(&mut expected.tags, put, tags.then_some((&key, at)));
                let sent = desired.then_some((key.as_str(), at));
                if Reference::put(&mut expected.desired, put, sent) {
                    expected.desired_version += 1;
                }
                expected.etags.push(twin["etag"].as_str().unwrap().to_owned());
            }
            Write::Device { version_age } => {
                let age = version_age.filter(|age| *age < expected.reported_version);
                let patch = TwinPatch(Map::from_iter([("n".to_owned(), json!(at))]));
                let if_version = age.map(|age| Version(expected.reported_version - age));
                let request = DeviceRequest::PatchReported { patch, if_version };
                let answer = ask(&*session, request, Tick::NEVER).await;
                if age.is_some_and(|age| age > 0) {
                    assert_eq!(answer.unwrap_err().kind, RefusalKind::PreconditionFailed);
                } else {
                    expected.reported_version += 1;
                    assert_eq!(answer, Ok(Answer::Patched(Version(expected.reported_version))));
                }
            }
        }
        let (_, twin) = r.call("GET", "/twins/d1", Value::Null).await;
        let mut desired = twin["properties"]["desired"].as_object().unwrap().clone();
        assert_eq!(desired.shift_remove("$version"), Some(json!(expected.desired_version)));
        desired.shift_remove("$metadata");
        assert_eq!((&desired, &twin["tags"]), (&expected.desired, &json!(expected.tags)));
        assert_eq!(twin["properties"]["reported"]["$version"], expected.reported_version);
        assert_eq!(twin["etag"].as_str(), expected.etags.last().map(String::as_str));
    }
    let mut unique = expected.etags.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), expected.etags.len(), "an etag never comes twice");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn etags_and_versions_follow_the_reference(writes in proptest::collection::vec(write(), 1..20)) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(run(writes));
    }
}
