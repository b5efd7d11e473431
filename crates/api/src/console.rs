//! Sign-in to the web console: one-time links and the sessions they open. Ours.
//!
//! What comes in denies unknown fields: only our own console and command line fill these
//! shapes, and a wish about a session that is not understood must not open one.

use serde::{Deserialize, Serialize};

use crate::Key;

/// The header that repeats a session's token on every call that changes something.
pub const CSRF_HEADER: &str = "x-selvedge-csrf";
/// Where a sign-in link leads; the token follows in the fragment, which is never sent.
pub const SIGN_IN_PATH: &str = "/console/sign-in#token=";

/// Asks for a sign-in link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LinkWanted {
    /// The policy whose rights the session gets; the caller's own when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// A sign-in link that works once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The token alone.
    pub token: Key,
    /// Path and fragment, to be put behind the hub's address.
    pub path: Key,
    /// The policy whose rights the session gets.
    pub policy: String,
    /// Until when it works, RFC 3339.
    pub expires_time: String,
}

/// Trades a one-time token for a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exchange {
    /// The token from the link.
    pub token: Key,
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// Its name, no secret.
    pub id: String,
    /// The policy whose rights it has.
    pub policy: String,
    /// Those rights: `registryRead`, `registryWrite`, `service`, `device`.
    pub rights: Vec<String>,
    /// When it was opened, RFC 3339.
    pub created_time: String,
    /// When it was last used, RFC 3339.
    pub last_used_time: String,
    /// When it ends unless it is used, RFC 3339.
    pub idle_expires_time: String,
    /// When it ends in any case, RFC 3339.
    pub expires_time: String,
    /// Whether it is the caller's own.
    pub current: bool,
    /// What the browser called itself.
    pub user_agent: Option<String>,
}

/// The caller's own session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// What is known of it.
    #[serde(flatten)]
    pub info: SessionInfo,
    /// What [`CSRF_HEADER`] must hold.
    pub csrf_token: Key,
    /// Whose console it is.
    pub hub: HubInfo,
}

/// A hub, for a page's title.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HubInfo {
    /// Its own host name.
    pub host_name: String,
    /// The version that runs.
    pub version: String,
}

/// All sessions, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// One entry each.
    pub sessions: Vec<SessionInfo>,
}
