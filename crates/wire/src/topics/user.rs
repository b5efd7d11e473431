//! The MQTT user name: `{host}/{device}[/{module}]/?api-version=…&DeviceClientType=…`.

use std::fmt;

use model::id::IdentityId;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::InvalidTopic;

/// The API version we say as a client.
pub const API_VERSION: &str = "2021-04-12";

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
    /// Parses a user name. A missing query is tolerated, and so are unknown keys in it.
    ///
    /// # Errors
    /// [`InvalidTopic::UserName`].
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        let (path, query) = text.split_once("/?").unwrap_or((text, ""));
        let path = path.strip_suffix('/').unwrap_or(path);
        let (host, identity) = path.split_once('/').ok_or(InvalidTopic::UserName)?;
        if host.is_empty() {
            return Err(InvalidTopic::UserName);
        }
        let identity = identity.parse().map_err(|_| InvalidTopic::UserName)?;
        let mut user = Self::new(host, identity);
        for (key, value) in query.split('&').filter_map(|entry| entry.split_once('=')) {
            let value =
                percent_decode_str(value).decode_utf8().map_err(|_| InvalidTopic::UserName)?;
            match key {
                "api-version" => user.api_version = Some(value.into()),
                "DeviceClientType" => user.client_type = Some(value.into()),
                "model-id" => user.model_id = Some(value.into()),
                "auth-chain" => user.auth_chain = chain(&value)?,
                _ => {}
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
