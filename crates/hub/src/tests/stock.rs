//! What stock clients and people's scripts send, and what they must be answered.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::service::code;
use super::{Machine, NAME, Running, token};
/// One request as it stands on the wire.
#[derive(Clone, Default)]
pub(super) struct Sent<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: Value,
}

impl<'a> Sent<'a> {
    pub(super) fn new(method: &'a str, target: &'a str) -> Self {
        Self { method, target, ..Self::default() }
    }

    pub(super) fn body(self, body: &Value) -> Self {
        Self { body: body.clone(), ..self }
    }

    pub(super) fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// The answer to a request that nothing is added to but the owner's token.
pub(super) async fn ask(r: &Running, sent: Sent<'_>) -> (u16, HeaderMap, Value) {
    let key = r.hub.policy_key("iothubowner").unwrap();
    let token = token(&r.world(), NAME, Some("iothubowner"), &key, Duration::from_hours(1));
    let mut sent = sent;
    let text = token.expose_str().unwrap();
    if !sent.headers.iter().any(|(name, _)| *name == "authorization") {
        sent.headers.push(("authorization", text));
    }
    let mut request =
        Request::builder().method(sent.method).uri(format!("https://{NAME}{}", sent.target));
    for (name, value) in sent.headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, *value);
    }
    let body = if sent.body.is_null() { Body::empty() } else { Body::from(sent.body.to_string()) };
    let response = r.service.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn expect(r: &Running, sent: Sent<'_>, expected: (u16, &str)) -> Value {
    let (status, _, answer) = ask(r, sent.clone()).await;
    let shown = (sent.method, sent.target, sent.body);
    assert_eq!((status, code(&answer)), expected, "{shown:?}: {answer}");
    answer
}

const DEVICE: &str = "/devices/device1?api-version=2021-04-12";
const MODULE: &str = "/devices/device1/modules/module1?api-version=2021-04-12";
const TWIN: &str = "/twins/device1?api-version=2021-04-12";
const MODULE_TWIN: &str = "/twins/device1/modules/module1?api-version=2021-04-12";

#[tokio::test(start_paused = true)]
async fn the_registry_takes_what_stock_clients_write() {
    let machine = Machine::new();
    let r = machine.start(1);
    let never = "0001-12-30T00:00:00";
    let keys = json!({"primaryKey": "MTExMTExMTExMTExMTExMQ==",
        "secondaryKey": "MjIyMjIyMjIyMjIyMjIyMg=="});
    let by_java = json!({"etag": "", "deviceId": "device1", "generationId": "",
        "status": "Enabled", "statusUpdatedTime": never, "connectionState": "Disconnected",
        "connectionStateUpdatedTime": never, "lastActivityTime": never,
        "cloudToDeviceMessageCount": 0,
        "authentication": {"symmetricKey": keys, "type": "sas"}, "parentScopes": []});
    let made = expect(&r, Sent::new("PUT", DEVICE).body(&by_java), (200, "")).await;
    assert_eq!(made["status"], "enabled");
    assert_eq!(made["authentication"]["symmetricKey"], keys);
    let prints = json!({"primaryThumbprint": "0123456789abcdef0123456789abcdef01234567",
        "secondaryThumbprint": "89abcdef0123456789abcdef0123456789abcdef"});
    let by_print = json!({"deviceId": "device2", "status": "Enabled", "parentScopes": [],
        "authentication": {"x509Thumbprint": prints, "type": "selfSigned"}});
    let second = Sent::new("PUT", "/devices/device2?api-version=2021-04-12");
    let made = expect(&r, second.body(&by_print), (200, "")).await;
    assert_eq!(made["authentication"]["type"], "selfSigned");
    let module = json!({"etag": "", "deviceId": "device1", "moduleId": "module1",
        "generationId": "", "connectionState": "Disconnected",
        "connectionStateUpdatedTime": never, "lastActivityTime": never,
        "cloudToDeviceMessageCount": 0,
        "authentication": {"symmetricKey": keys, "type": "sas"}, "managedBy": "",
        "parentScopes": []});
    expect(&r, Sent::new("PUT", MODULE).body(&module), (200, "")).await;
    let off = json!({"deviceId": "device1", "status": "Disabled", "parentScopes": [],
        "authentication": {"symmetricKey": keys, "type": "sas"}});
    let update = Sent::new("PUT", DEVICE).header("if-match", "*").body(&off);
    assert_eq!(expect(&r, update, (200, "")).await["status"], "disabled");
}

#[tokio::test(start_paused = true)]
async fn a_device_body_is_read_in_any_letter_case_and_what_is_not_known_is_left() {
    let machine = Machine::new();
    let r = machine.start(1);
    let check = async |body: Value, expected: (u16, &str)| {
        let (status, _, _) = ask(&r, Sent::new("DELETE", DEVICE)).await;
        assert!(matches!(status, 204 | 404));
        expect(&r, Sent::new("PUT", DEVICE).body(&body), expected).await
    };
    let plain = json!({"deviceId": "device1", "status": "disabled",
        "connectionString": "HostName=h;DeviceId=device1;SharedAccessKey=k"});
    assert_eq!(check(plain, (200, "")).await["status"], "disabled");
    for status in ["disabled", "Disabled", "DISABLED"] {
        assert_eq!(check(json!({"status": status}), (200, "")).await["status"], "disabled");
    }
    // A name in another letter case means the same thing: left aside, the device would be open.
    assert_eq!(check(json!({"Status": "disabled"}), (200, "")).await["status"], "disabled");
    for kind in ["None", "none", "NONE"] {
        let made = check(json!({"authentication": {"type": kind}}), (200, "")).await;
        assert_eq!(made["authentication"]["type"], "none");
    }
    let nested = json!({"authentication": {"type": "SAS", "x": 1, "symmetricKey": {"y": 2}},
        "capabilities": {"IotEdge": true, "z": 3}, "attributes": {"a": 1}, "stauts": "enabled"});
    let made = check(nested, (200, "")).await;
    assert_eq!(made["capabilities"]["iotEdge"], true);
    assert!(made["authentication"]["symmetricKey"]["primaryKey"].is_string());
    let equal = "MTExMTExMTExMTExMTExMQ==";
    let same = json!({"primaryKey": equal, "secondaryKey": equal});
    let made = check(json!({"authentication": {"symmetricKey": same}}), (200, "")).await;
    assert_eq!(made["authentication"]["symmetricKey"], same);
    // What means nothing, or two things, stays refused.
    check(json!({"status": "off"}), (400, "IotHubFormatError")).await;
    check(json!({"status": "enabled", "Status": "disabled"}), (400, "IotHubFormatError")).await;
    check(json!({"authentication": {"type": "password"}}), (400, "IotHubFormatError")).await;
    check(json!([]), (400, "IotHubFormatError")).await;
}

fn twin_of_java(tags: &Value, desired: &Value) -> Value {
    json!({"deviceId": null, "moduleId": null, "generationId": null, "etag": null,
        "version": null, "status": null, "statusReason": null, "statusUpdatedTime": null,
        "connectionState": null, "connectionStateUpdatedTime": null,
        "cloudToDeviceMessageCount": null, "lastActivityTime": null, "capabilities": null,
        "modelId": null, "tags": tags, "properties": {"desired": desired},
        "configurations": null})
}

#[tokio::test(start_paused = true)]
async fn a_post_that_says_it_is_a_patch_merges_a_twin() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("device1").await;
    expect(&r, Sent::new("PUT", MODULE).body(&json!({})), (200, "")).await;
    let start = json!({"tags": {"keep": 1}, "properties": {"desired": {"x": 1}}});
    for twin in [TWIN, MODULE_TWIN] {
        expect(&r, Sent::new("PATCH", twin).body(&start), (200, "")).await;
    }
    let merge = twin_of_java(&json!({}), &json!({"n": {"d": 1.5, "l": [1, 2]}}));
    let post = |target| Sent::new("POST", target).header("x-http-method-override", "PATCH");
    let twin = expect(&r, post(TWIN).body(&merge), (200, "")).await;
    assert_eq!(twin["tags"], json!({"keep": 1}));
    assert_eq!(twin["properties"]["desired"]["x"], 1);
    assert_eq!(twin["properties"]["desired"]["n"], json!({"d": 1.5, "l": [1, 2]}));
    let merge = twin_of_java(&json!({"t": "v"}), &json!({}));
    let twin = expect(&r, post(MODULE_TWIN).body(&merge), (200, "")).await;
    assert_eq!(twin["tags"], json!({"keep": 1, "t": "v"}));
    let whole = twin_of_java(&json!({"only": 1}), &json!({}));
    let twin = expect(&r, Sent::new("PUT", TWIN).body(&whole), (200, "")).await;
    assert_eq!(twin["tags"], json!({"only": 1}));
    assert!(twin["properties"]["desired"].get("x").is_none());
    expect(&r, Sent::new("POST", TWIN).body(&merge), (405, "MethodNotAllowed")).await;
    for other in ["PUT", "DELETE", "GET", "nonsense"] {
        let sent = Sent::new("POST", TWIN).header("x-http-method-override", other).body(&merge);
        expect(&r, sent, (405, "MethodNotAllowed")).await;
    }
    let name = json!({"desiredProperties": {"a": 1}});
    expect(&r, post(TWIN).body(&name), (400, "IotHubFormatError")).await;
}

#[tokio::test(start_paused = true)]
async fn a_method_call_may_carry_what_nobody_knows() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("device1").await;
    let call = Sent::new("POST", "/twins/device1/methods?api-version=2021-04-12");
    let check = async |body: Value, status: u16| {
        let (got, _, answer) = ask(&r, call.clone().body(&body)).await;
        assert_eq!(got, status, "{body}: {answer}");
        answer
    };
    let by_node = json!({"methodName": "writeLine", "payload": "a line", "timeoutInSeconds": 30,
        "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 0});
    // The device is away: the call was understood and went as far as that.
    let answer = check(by_node, 404).await;
    let inner: Value = serde_json::from_str(answer["Message"].as_str().unwrap()).unwrap();
    assert_eq!(inner["errorCode"], 404_103);
    check(json!({"MethodName": "writeLine", "Payload": {"Unknown": 1}}), 404).await;
    check(json!({"payload": 1}), 400).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_names_a_version_of_the_service_api() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("device1").await;
    let wrong = (400, "InvalidProtocolVersion");
    for (method, target, expected) in [
        ("GET", "/devices/device1", wrong),
        ("GET", "/devices/device1?api-version=", wrong),
        ("GET", "/devices/device1?api-version", wrong),
        ("GET", "/twins/device1?api-version=1.0", wrong),
        ("GET", "/twins/device1?api-version=2021-4-12", wrong),
        ("GET", "/twins/device1?api-version=2021-13-12", wrong),
        ("GET", "/twins/device1?api-version=2021-04-12-beta", wrong),
        ("POST", "/twins/device1/methods", wrong),
        ("DELETE", "/devices/device1", wrong),
        ("PUT", "/devices/device2", wrong),
        ("GET", "/twins/device1?api-version=2016-11-14", (200, "")),
        ("GET", "/twins/device1?api-version=2020-05-31-preview", (200, "")),
        ("GET", "/twins/device1?API-Version=2099-12-31", (200, "")),
        ("GET", "/api/v1/overview", (200, "")),
    ] {
        let answer = expect(&r, Sent::new(method, target), expected).await;
        if expected == wrong {
            assert_eq!(answer["Message"], "ErrorCode:InvalidProtocolVersion;BadRequest");
            let tracking = answer["ExceptionMessage"].as_str().unwrap();
            assert!(tracking.starts_with("Tracking ID:"), "{tracking}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_generous_number_of_devices_counts_as_the_most_there_may_be() {
    let machine = Machine::new();
    let r = machine.start(1);
    let check = async |target: &str, expected: Result<usize, u16>| {
        let (status, _, answer) = ask(&r, Sent::new("GET", target)).await;
        let got = answer.as_array().map(Vec::len).ok_or(status);
        assert_eq!(got, expected, "{target}: {answer}");
    };
    check("/devices?top=5000&api-version=2021-04-12", Ok(0)).await;
    for name in ["device1", "device2", "device3"] {
        r.device(name).await;
    }
    check("/devices?top=5000&api-version=2021-04-12", Ok(3)).await;
    check("/devices/?top=100000&api-version=2019-10-01", Ok(3)).await;
    check("/devices?top=99999999999999999999999&api-version=2019-10-01", Ok(3)).await;
    check("/devices?top=2&api-version=2021-04-12", Ok(2)).await;
    check("/devices?Top=2&api-version=2021-04-12", Ok(2)).await;
    check("/devices?top=0&api-version=2021-04-12", Err(400)).await;
    check("/devices?top=-1&api-version=2021-04-12", Err(400)).await;
    check("/devices?top=x&api-version=2021-04-12", Err(400)).await;
    for n in 4..=api::registry::LIST_TOP_MAX + 1 {
        r.device(&format!("device{n}")).await;
    }
    check("/devices?top=1001&api-version=2021-04-12", Ok(api::registry::LIST_TOP_MAX)).await;
    check("/devices?api-version=2021-04-12", Ok(api::registry::LIST_TOP_MAX)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_offered_says_so_to_whoever_asks_with_whatever_key() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("device1").await;
    let device_token = "SharedAccessSignature sr=hub.test%2Fdevices%2Fdevice1&sig=x&se=9999999999";
    for (method, target) in [
        ("GET", "/$iothub/websocket?iothub-no-client-cert=true"),
        ("POST", "/devices/device1/messages/events?api-version=2020-03-13"),
        ("GET", "/devices/device1/messages/devicebound?api-version=2020-03-13"),
        ("POST", "/devices/device1/files?api-version=2020-03-13"),
        ("POST", "/devices/device1/files/notifications?api-version=2020-03-13"),
        ("PUT", "/0ne0001/registrations/device1/register?api-version=2019-03-31"),
        ("POST", "/devices/query?api-version=2021-04-12"),
    ] {
        for token in [device_token, ""] {
            let sent = Sent::new(method, target).header("authorization", token);
            let (status, headers, answer) = ask(&r, sent).await;
            let got = (status, code(&answer));
            assert_eq!(got, (501, "FeatureNotSupported"), "{method} {target}: {answer}");
            assert_eq!(headers["iothub-errorcode"], "FeatureNotSupported");
        }
    }
    // What is offered still asks for keys.
    for target in ["/devices/device1?api-version=2021-04-12", "/nothing"] {
        let sent = Sent::new("GET", target).header("authorization", device_token);
        assert_eq!(ask(&r, sent).await.0, 401, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_nobody_knows_is_left_under_azures_paths_and_refused_under_ours() {
    let machine = Machine::new();
    let r = machine.start(1);
    r.device("device1").await;
    for (target, status) in [
        ("/devices/device1?x=1&api-version=2021-04-12", 200),
        ("/devices?api-version=2021-04-12&maxCount=5", 200),
        ("/twins/device1?api-version=2021-04-12&timeout=60", 200),
        ("/statistics/devices?api-version=2021-04-12&y", 200),
        ("/api/v1/devices?limit=1", 400),
    ] {
        let (got, _, answer) = ask(&r, Sent::new("GET", target)).await;
        assert_eq!(got, status, "{target}: {answer}");
    }
}
