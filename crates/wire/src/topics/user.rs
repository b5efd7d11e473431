//! The MQTT user name: `{host}/{device}[/{module}]/?api-version=…&DeviceClientType=…`.

use std::borrow::Cow;
use std::fmt;

use model::id::IdentityId;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::InvalidTopic;

/// The API version we say as a client.
pub const API_VERSION: &str = "2021-04-12";

const VERSION: &str = "api-version";
const CLIENT_TYPE: &str = "DeviceClientType";
const MODEL_ID: &str = "model-id";
const AUTH_CHAIN: &str = "auth-chain";
const KEYS: [&str; 4] = [VERSION, CLIENT_TYPE, MODEL_ID, AUTH_CHAIN];

/// What a client says about itself in the user name of its CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    /// The hub it means to speak to, as written: any case, maybe with a port.
    pub host: Box<str>,
    /// Who it is.
    pub identity: IdentityId,
    /// `api-version`, if it said one; every value is accepted.
    pub api_version: Option<Box<str>>,
    /// `DeviceClientType`: library and version, for people.
    pub client_type: Option<Box<str>>,
    /// `model-id`: the plug-and-play model.
    pub model_id: Option<Box<str>>,
    /// `auth-chain`: identities from the child up to the gateway that speaks for it.
    pub auth_chain: Vec<IdentityId>,
}

impl UserName {
    /// Parses a user name. A missing query is tolerated, and so are unknown keys in it, and the
    /// form that Azure's documentation asked for until 2018: the query without its `?`, its
    /// parts divided by `/` or `&`.
    ///
    /// # Errors
    /// [`InvalidTopic::UserName`].
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        let (host, path) = text.split_once('/').ok_or(InvalidTopic::UserName)?;
        if host.is_empty() {
            return Err(InvalidTopic::UserName);
        }
        let (identity, query) = split(path).ok_or(InvalidTopic::UserName)?;
        let identity = identity.parse().map_err(|_| InvalidTopic::UserName)?;
        let mut user = Self::new(host, identity);
        for (key, value) in query.split('&').filter_map(|entry| entry.split_once('=')) {
            // What only people read is no reason to turn anybody away.
            let value = percent_decode_str(value).decode_utf8_lossy();
            match KEYS.iter().find(|known| known.eq_ignore_ascii_case(key)) {
                Some(&VERSION) => user.api_version = Some(value.into()),
                Some(&CLIENT_TYPE) => user.client_type = Some(value.into()),
                Some(&MODEL_ID) => user.model_id = Some(value.into()),
                Some(_) => user.auth_chain = chain(&value)?,
                None => {}
            }
        }
        Ok(user)
    }

    /// A user name with nothing in its query.
    pub fn new(host: &str, identity: IdentityId) -> Self {
        let (api_version, client_type, model_id) = (None, None, None);
        Self {
            host: host.into(),
            identity,
            api_version,
            client_type,
            model_id,
            auth_chain: Vec::new(),
        }
    }
}

/// Identity and query of what follows the host; the query with `&` between its parts.
fn split(path: &str) -> Option<(&str, Cow<'_, str>)> {
    let (device, rest) = path.split_once('/').unwrap_or((path, ""));
    if let Some(query) = query(rest) {
        return Some((device, query));
    }
    let (module, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let identity = path.get(..device.len() + 1 + module.len())?;
    Some((identity, query(rest)?))
}

/// `text` as a query, if it is one and not the name of a module.
fn query(text: &str) -> Option<Cow<'_, str>> {
    if text.is_empty() {
        return Some(Cow::Borrowed(""));
    }
    // Whoever writes a query with its `?` means what stands before it to be a name.
    if text.contains("/?") {
        return None;
    }
    if let Some(query) = text.strip_prefix('?') {
        return (query.is_empty() || query.contains('=')).then_some(Cow::Borrowed(query));
    }
    let starts = |key: &str| text.strip_prefix(key).is_some_and(|rest| rest.starts_with('='));
    if !KEYS.iter().any(|key| starts(key)) {
        return None;
    }
    let divided = KEYS
        .iter()
        .fold(text.to_owned(), |text, key| text.replace(&format!("/{key}="), &format!("&{key}=")));
    Some(Cow::Owned(divided))
}

fn chain(text: &str) -> Result<Vec<IdentityId>, InvalidTopic> {
    let parts = text.split(';').filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|_| InvalidTopic::UserName)).collect()
}

impl fmt::Display for UserName {
    /// As a CONNECT carries it; ids are not encoded, the query is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let version = self.api_version.as_deref().unwrap_or(API_VERSION);
        write!(f, "{}/{}/?api-version={version}", self.host, self.identity)?;
        if let Some(client_type) = &self.client_type {
            write!(f, "&DeviceClientType={}", encoded(client_type))?;
        }
        if let Some(model_id) = &self.model_id {
            write!(f, "&model-id={}", encoded(model_id))?;
        }
        if !self.auth_chain.is_empty() {
            let chain: Vec<_> = self.auth_chain.iter().map(IdentityId::as_str).collect();
            write!(f, "&auth-chain={}", encoded(&chain.join(";")))?;
        }
        Ok(())
    }
}
