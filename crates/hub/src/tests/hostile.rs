//! Calls of strangers who send half of what they announce.

use std::io;
use std::time::Duration;

use api::proof::Proof;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use model::secret::Secret;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::{Machine, NAME, resource, token};
use crate::service::http::{CALLS_MAX, DEVICE_CALLS_MAX};

const LIFE: Duration = Duration::from_hours(1);

/// A body of which never anything comes.
fn half() -> Body {
    Body::from_stream(futures_util::stream::pending::<io::Result<Bytes>>())
}

fn request((method, path): (&str, &str), token: Option<&Secret>) -> Request<Body> {
    let mut request =
        Request::builder().method(method).uri(format!("https://{NAME}{}", super::versioned(path)));
    if let Some(token) = token {
        request = request.header("authorization", token.expose_str().unwrap());
    }
    request.body(half()).unwrap()
}

/// The status, unless the service waits for the body.
async fn asked(service: &Router, request: Request<Body>) -> Option<StatusCode> {
    let answer = timeout(Duration::from_secs(1), service.clone().oneshot(request)).await;
    answer.ok().map(|answer| answer.unwrap().status())
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_stranger_is_not_waited_for() {
    let machine = Machine::new();
    let r = machine.start(1);
    let device = r.device("d1").await;
    let signed = |resource: &str, policy: Option<&str>, key: &Secret| {
        token(&r.world(), resource, policy, key, LIFE)
    };
    let wrong = Secret::from("d3JvbmcgLSB3cm9uZyAtIHdyb25nIC0gd3Jvbmc=");
    let model::waist::Claim::Sas { token: of_device, .. } = device else { panic!("no token") };
    let service_key = r.hub.policy_key("service").unwrap();
    let check = async |what: &str, call: (&str, &str), token: Option<Secret>, wanted| {
        let mut request = request(call, token.as_ref());
        let proof = Proof::default();
        request.extensions_mut().insert(proof.clone());
        assert_eq!(asked(&r.service, request).await, wanted, "{what}");
        assert_eq!(proof.is_given(), wanted != Some(StatusCode::UNAUTHORIZED), "{what}");
    };
    let refused = Some(StatusCode::UNAUTHORIZED);
    let (put, own) = (("PUT", "/devices/d2"), ("PUT", "/devices/d1/modules/m"));
    check("no token", put, None, refused).await;
    check("a wrong key", put, Some(signed(NAME, Some("service"), &wrong)), refused).await;
    check("no such policy", put, Some(signed(NAME, Some("x"), &service_key)), refused).await;
    let other = signed("other.test", Some("service"), &service_key);
    check("another hub", put, Some(other), refused).await;
    let of_d2 = signed(&resource(&"d2".parse().unwrap()), None, &wrong);
    check("a device that is not there", ("PUT", "/devices/d2/modules/m"), Some(of_d2), refused)
        .await;
    let of_d1 = signed(&resource(&"d1".parse().unwrap()), None, &wrong);
    check("a device's wrong key", own, Some(of_d1), refused).await;
    check("a device elsewhere", ("PATCH", "/twins/d1"), Some(of_device.clone()), refused).await;
    check("a path of nobody", ("PUT", "/"), None, refused).await;
    // Whoever is proven is waited for.
    check("a device", own, Some(of_device), None).await;
    check("a policy", put, Some(signed(NAME, Some("service"), &service_key)), None).await;
}

#[tokio::test(start_paused = true)]
async fn half_requests_of_strangers_and_devices_shut_nobody_else_out() {
    let machine = Machine::new();
    let r = machine.start(1);
    let device = r.device("d1").await;
    let model::waist::Claim::Sas { token: of_device, .. } = device else { panic!("no token") };
    let over_tls = r.hub.service_over_tls(|_| None);
    for _ in 0..CALLS_MAX + 6 {
        // The one call without credentials that has a body.
        let exchange = request(("POST", "/api/v1/console/exchange"), None);
        let asking = over_tls.clone().oneshot(exchange);
        r.world.spawn(async move { drop(asking.await) });
    }
    let own = ("PUT", "/devices/d1/modules/m");
    for _ in 0..DEVICE_CALLS_MAX {
        let asking = r.service.clone().oneshot(request(own, Some(&of_device)));
        r.world.spawn(async move { drop(asking.await) });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let over = asked(&r.service, request(own, Some(&of_device))).await;
    assert_eq!(over, Some(StatusCode::TOO_MANY_REQUESTS), "DEVICE_CALLS_MAX is reached");
    let (status, answer) = r.call("GET", "/devices/d1", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) = r.call("PUT", "/devices/d2", json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}
