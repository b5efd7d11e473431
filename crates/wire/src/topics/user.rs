//! The MQTT user name: `{host}/{device}[/{module}]/?api-version=…&DeviceClientType=…`.

use model::id::IdentityId;

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
