//! Direct methods: a question from the cloud, an answer from the device.

use std::time::Duration;

use bytes::Bytes;

/// Longest method name, in characters. Source: edge hub, "direct methods".
pub const METHOD_NAME_LEN_MAX: usize = 100;
/// Largest payload of a question or an answer, in bytes. Source: IoT Hub quotas.
pub const METHOD_PAYLOAD_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of payload of the calls that wait in one session to be handed out; one alone may have
/// any.
pub const METHODS_WAITING_BYTES_MAX: usize = 512 * 1024;
/// Response time-outs that the service accepts.
pub const METHOD_RESPONSE_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_mins(5);
/// Response time-out when the caller names none.
pub const METHOD_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a device to connect.
pub const METHOD_CONNECT_TIMEOUT_MAX: Duration = Duration::from_mins(5);

/// Names one call of a method, so that its answer finds the way back. Unique per session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MethodCallId(pub u64);

/// The question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodRequest {
    /// The method's name, at most [`METHOD_NAME_LEN_MAX`] characters.
    pub name: String,
    /// JSON text; `null` when the caller sent nothing.
    pub payload: Bytes,
    /// How long the caller waits for the device's answer.
    pub response_timeout: Duration,
    /// How long the caller waits for the device to connect; zero means it must be there.
    pub connect_timeout: Duration,
}

/// The answer, as the device gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodResponse {
    /// The device's own status; any number, 404 and 500 included, is a successful call.
    pub status: i32,
    /// JSON text; empty when the device sent nothing.
    pub payload: Bytes,
}
