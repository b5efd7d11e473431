//! Direct methods through the service API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What POST `…/methods` takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

/// What the device answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MethodResult {
    /// The device's own status.
    pub status: i32,
    /// The device's own JSON; `null` when it sent none.
    pub payload: Value,
}
