//! Per-device deployments and the answer that names every fault.

use serde::{Deserialize, Serialize};

/// One fault of a content; all of them come in one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContentFault {
    /// A short constant name of the kind of fault.
    pub code: String,
    /// The module or `$edgeAgent`/`$edgeHub` section it is in, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Where in the content, as a JSON pointer or route name with position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong, in words.
    pub message: String,
}
