//! Per-device deployments and the answer that names every fault.

use serde::{Deserialize, Serialize};

use crate::router::RouteState;

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
    /// Where in the text that was sent, if it stands there.
    #[serde(default, flatten)]
    pub place: Option<Place>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Its first line, from 1.
    pub line: u32,
    /// Its first column, in characters from 1.
    pub column: u32,
    /// The line behind its end.
    pub end_line: u32,
    /// The column behind its end.
    pub end_column: u32,
    /// Its begin in UTF-16 code units from 0, as editors in browsers count.
    pub from: u32,
    /// Its end in UTF-16 code units.
    pub to: u32,
}

/// What is said of a content that is not applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// Whether it could be applied.
    pub valid: bool,
    /// Everything that is wrong with it.
    pub faults: Vec<ContentFault>,
    /// What is said in it and has no effect.
    pub notices: Vec<ContentFault>,
    /// Its routes as they are understood; wrong ones are left out.
    pub routes: Vec<RoutePreview>,
    /// The modules it names besides the system's; empty when it is wrong.
    pub modules: Vec<String>,
}

/// A route as it is understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutePreview {
    /// Its parts.
    #[serde(flatten)]
    pub state: RouteState,
    /// Its text.
    pub route: String,
}
