//! Direct methods through the service API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What POST `…/methods` takes.
///
/// SDKs send their caller's object as the body, so [`crate::tolerant`] reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvokeMethod {
    /// The method's name.
    pub method_name: String,
    /// Any JSON; `null` when left out.
    #[serde(default)]
    pub payload: Value,
    /// 5 to 300; 30 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_timeout_in_seconds: Option<u64>,
    /// 0 to 300; 0 when left out: the device must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_in_seconds: Option<u64>,
}

/// What the device answered. A newer hub may say more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodResult {
    /// The device's own status.
    pub status: i32,
    /// The device's own JSON; `null` when it sent none.
    pub payload: Value,
}

/// A page of a device's calls, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodCalls {
    /// The calls; fewer than asked for, even none, does not mean the end.
    pub calls: Vec<MethodCall>,
    /// What `before` goes on with; the end when it is null.
    pub next: Option<u64>,
}

/// One call that was made, without its payloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodCall {
    /// Its place in the change feed.
    pub id: u64,
    /// When it was answered or given up, RFC 3339.
    pub at: String,
    /// The module that was called; null for the device itself.
    pub module_id: Option<String>,
    /// The method.
    pub method: String,
    /// Who called: `policy NAME`, or `session ID (NAME)` for a browser.
    pub by: String,
    /// What the device answered; null if it did not.
    pub status: Option<i64>,
    /// Why there is no answer.
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
}
