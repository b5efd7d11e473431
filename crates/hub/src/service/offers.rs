//! What Azure's hub offers and this one does not.
//!
//! Such a call is answered before anybody proves anything: devices sign with keys that open no
//! service call, and 401 would send people to search for a mistake in their keys. Pure.

use api::error::{ApiError, ErrorCode};
use http::Method;

const WEBSOCKET: &str = "MQTT and AMQP over WebSocket are not offered by this hub; \
    connect with MQTT over TLS, port 8883";
const DEVICE_HTTPS: &str = "messages of devices over HTTPS are not offered by this hub; \
    connect with MQTT over TLS, port 8883";
const UPLOADS: &str = "file uploads are not offered by this hub";
const PROVISIONING: &str = "this hub is no device provisioning service; \
    register devices with the service API";
const QUERIES: &str = "queries are not offered by this hub; GET /devices lists the devices";
const BULK: &str = "bulk operations are not offered by this hub; send one call per device";
const KEYS: &str = "regenerating keys is not offered by this hub; \
    PUT the identity with new keys instead";
const TO_DEVICES: &str = "cloud-to-device messages are not offered by this hub; \
    direct methods and desired properties are";
const CONFIGURATIONS: &str = "configurations for many devices are not offered by this hub; \
    POST /devices/{id}/applyConfigurationContent sets the modules of one device";
const JOBS: &str = "jobs are not offered by this hub; send one call per device";
const DIGITAL_TWINS: &str = "digital twins are not offered by this hub; use /twins/{id}";
const GATEWAYS: &str = "gateways above a device are not offered by this hub";

/// The refusal of a call whose feature is not offered; `None` for every other call.
pub(super) fn refuse(method: &Method, path: &[&str]) -> Option<ApiError> {
    // Clients differ in the case of these names: `deviceBound`, `devicebound`.
    let path: Vec<String> = path.iter().map(|name| name.to_ascii_lowercase()).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let words = match path.as_slice() {
        ["devices", ..] => of_devices(method, &path),
        // What a hub has, whatever the identities below are called.
        ["twins" | "statistics" | "api" | "console", ..] => None,
        ["$iothub" | "$servicebus", "websocket", ..] => Some(WEBSOCKET),
        ["configurations", ..] => Some(CONFIGURATIONS),
        ["jobs", ..] => Some(JOBS),
        ["digitaltwins", ..] => Some(DIGITAL_TWINS),
        ["messages", "servicebound", "filenotifications", ..] => Some(UPLOADS),
        ["messages", "servicebound" | "devicebound", ..] => Some(TO_DEVICES),
        ["enrollments" | "enrollmentgroups" | "registrations", ..]
        | [_, "registrations", _, ..] => Some(PROVISIONING),
        _ => None,
    };
    words.map(|words| ApiError::new(ErrorCode::FeatureNotSupported, words))
}

/// `path` begins with `devices`. An identity may be called `query` or `messages`.
fn of_devices(method: &Method, path: &[&str]) -> Option<&'static str> {
    match path {
        ["devices"] if *method == Method::POST => Some(BULK),
        ["devices", "query"] if *method == Method::POST => Some(QUERIES),
        ["devices", "keys", "regenerate"] => Some(KEYS),
        ["devices", _, "modules", _, rest @ ..] | ["devices", _, rest @ ..] => match rest {
            ["messages", "events" | "devicebound", ..] => Some(DEVICE_HTTPS),
            ["files", ..] => Some(UPLOADS),
            ["commands"] => Some(TO_DEVICES),
            [
                "devicesandmodulesintargetdevicescope"
                | "getdeviceandmoduleonbehalfof"
                | "putmoduleonbehalfof"
                | "getmoduleonbehalfof"
                | "getmodulesontargetdevice"
                | "deletemoduleonbehalfof",
            ] => Some(GATEWAYS),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_offered_is_known_by_its_path_and_nothing_else_is_caught() {
        let check = |method: &str, path: &str, expected: Option<&str>| {
            let segments = api::segments(path).unwrap();
            let names: Vec<&str> = segments.iter().map(String::as_str).collect();
            let method: Method = method.parse().unwrap();
            let got = refuse(&method, &names).map(|error| error.reason);
            assert_eq!(got.as_deref(), expected, "{method} {path}");
        };
        for (method, path, words) in [
            ("GET", "/$iothub/websocket", WEBSOCKET),
            ("GET", "/$iothub/websocket/", WEBSOCKET),
            ("GET", "/$servicebus/websocket", WEBSOCKET),
            ("POST", "/devices/d/messages/events", DEVICE_HTTPS),
            ("POST", "/devices/d/modules/m/messages/events", DEVICE_HTTPS),
            ("GET", "/devices/d/messages/deviceBound", DEVICE_HTTPS),
            ("DELETE", "/devices/d/messages/devicebound/t", DEVICE_HTTPS),
            ("POST", "/devices/d/messages/devicebound/t/abandon", DEVICE_HTTPS),
            ("POST", "/devices/d/files", UPLOADS),
            ("POST", "/devices/d/files/", UPLOADS),
            ("POST", "/devices/d/files/notifications/c", UPLOADS),
            ("GET", "/messages/serviceBound/filenotifications", UPLOADS),
            ("GET", "/messages/serviceBound/feedback", TO_DEVICES),
            ("DELETE", "/devices/d/commands", TO_DEVICES),
            ("POST", "/devices", BULK),
            ("POST", "/devices/query", QUERIES),
            ("POST", "/devices/keys/regenerate", KEYS),
            ("GET", "/configurations", CONFIGURATIONS),
            ("PUT", "/configurations/c", CONFIGURATIONS),
            ("PUT", "/jobs/v2/j", JOBS),
            ("POST", "/jobs/create", JOBS),
            ("GET", "/digitaltwins/d", DIGITAL_TWINS),
            ("PUT", "/0ne0001/registrations/r/register", PROVISIONING),
            ("GET", "/0ne0001/registrations/r/operations/o", PROVISIONING),
            ("PUT", "/enrollments/e", PROVISIONING),
            ("POST", "/enrollmentGroups/query", PROVISIONING),
            ("POST", "/devices/e/modules/$edgeHub/getDeviceAndModuleOnBehalfOf", GATEWAYS),
        ] {
            check(method, path, Some(words));
        }
        for (method, path) in [
            ("GET", "/devices"),
            ("GET", "/devices/query"),
            ("PUT", "/devices/query"),
            ("DELETE", "/devices/keys"),
            ("GET", "/devices/messages/modules/files"),
            ("GET", "/devices/registrations/modules/commands"),
            ("PUT", "/devices/d/modules/messages"),
            ("POST", "/devices/d/applyConfigurationContent"),
            ("GET", "/twins/registrations/modules/m"),
            ("GET", "/statistics/devices"),
            ("GET", "/api/v1/devices/jobs"),
            ("GET", "/nothing"),
        ] {
            check(method, path, None);
        }
    }
}
