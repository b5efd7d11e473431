//! Who may do what: claims of devices, policies of services. Pure but for `shell.rs`, default
//! deny.
//!
//! Signatures are compared in constant time. A refusal never says what was wrong; only the log
//! is told when it was nothing but the time.

pub(crate) mod shell;

use bytes::Bytes;
use credentials::certificate::Leaf;
use credentials::host;
use credentials::key::SymmetricKey;
use credentials::renewal::Lifetime;
use credentials::sas::SasToken;
use credentials::skew::{self, Untimely};
use model::id::IdentityId;
use model::refusal::{Refusal, RefusalKind};
use model::secret::Secret;
use model::time::WallTime;
use model::waist::Claim;

use crate::registry::{Auth, Entry};

/// What a policy allows; one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    /// Any policy will do.
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const REGISTRY_READ: Self = Self(1);
    pub(crate) const REGISTRY_WRITE: Self = Self(2);
    pub(crate) const SERVICE: Self = Self(4);
    pub(crate) const DEVICE: Self = Self(8);
    pub(crate) const ALL: Self = Self(15);

    /// Both these rights and `others`.
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// What is allowed, by name.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("registryRead", Self::REGISTRY_READ),
            ("registryWrite", Self::REGISTRY_WRITE),
            ("service", Self::SERVICE),
            ("device", Self::DEVICE),
        ];
        all.into_iter().filter(move |(_, right)| self.allow(*right)).map(|(name, _)| name)
    }

    /// Whether every right of `wanted` is held.
    pub(crate) fn allow(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// The policies of a new hub. Source: IoT Hub, "Control access", built-in policies.
pub(crate) const POLICIES: [(&str, Rights); 5] = [
    ("iothubowner", Rights(15)),
    ("service", Rights(4)),
    ("device", Rights(8)),
    ("registryRead", Rights(1)),
    ("registryReadWrite", Rights(3)),
];

/// Name and rights of the policy at `at`; nothing is allowed beyond the last.
pub(crate) fn policy(at: usize) -> (&'static str, Rights) {
    POLICIES.get(at).copied().unwrap_or(("", Rights::NONE))
}

/// Names of this hub and the keys of its policies.
#[derive(Debug)]
pub(crate) struct Access {
    /// Lower case, without port.
    pub(crate) hosts: Vec<String>,
    /// By the order of [`POLICIES`]: base64 keys.
    pub(crate) keys: Vec<Secret>,
}

/// A proof that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    /// What the caller hears.
    pub(crate) refusal: Refusal,
    /// What the log may know besides: everything else was right.
    pub(crate) untimely: Option<Untimely>,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, untimely: None }
    }
}

impl From<Untimely> for Denied {
    fn from(untimely: Untimely) -> Self {
        Self { refusal: refused(), untimely: Some(untimely) }
    }
}

/// A proven claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proven {
    /// When it stops holding.
    pub(crate) valid_until: Option<WallTime>,
    /// How it was proven.
    pub(crate) method: Method,
}

// The texts stand in stored messages by their places in `telemetry::METHODS`.
pub(crate) const BY_DEVICE_KEY: &str = r#"{"scope":"device","type":"sas","issuer":"iothub"}"#;
pub(crate) const BY_MODULE_KEY: &str = r#"{"scope":"module","type":"sas","issuer":"iothub"}"#;
pub(crate) const BY_THUMBPRINT: &str =
    r#"{"scope":"device","type":"x509Certificate","issuer":"external"}"#;
pub(crate) const BY_POLICY: &str = r#"{"scope":"hub","type":"sas","issuer":"iothub"}"#;

/// How a claim was proven; one byte in every open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// A token by a key of the device.
    DeviceKey,
    /// A token by a key of the module.
    ModuleKey,
    /// A certificate that the registry knows.
    Thumbprint,
    /// A token by a key of a policy.
    Policy,
}

impl Method {
    /// Azure's text for `connectionAuthMethod`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::DeviceKey => BY_DEVICE_KEY,
            Self::ModuleKey => BY_MODULE_KEY,
            Self::Thumbprint => BY_THUMBPRINT,
            Self::Policy => BY_POLICY,
        }
    }
}

impl Access {
    /// The identity that `claim` speaks of, if this hub takes such claims.
    pub(crate) fn subject(claim: &Claim) -> Result<&IdentityId, Refusal> {
        match claim {
            Claim::Sas { identity, .. } | Claim::Certificates { identity, .. } => Ok(identity),
            Claim::OnBehalfOf { .. } | Claim::Peer { .. } => Err(refused()),
        }
    }

    /// Proves `claim` against the entry of its subject and the device it is on.
    pub(crate) fn check_claim(
        &self,
        claim: &Claim,
        entry: &Entry,
        device: &Entry,
        now: WallTime,
    ) -> Result<Proven, Denied> {
        match claim {
            Claim::Sas { identity, token } if *identity == entry.identity => {
                self.check_token(&read(token)?, entry, device, now)
            }
            Claim::Certificates { identity, chain } if *identity == entry.identity => {
                prove_leaf(chain, entry, device, now)
            }
            _ => Err(refused().into()),
        }
    }

    /// Proves `token` against `entry` and the device it is on; its time comes last, for who it
    /// is may then be told.
    pub(crate) fn check_token(
        &self,
        token: &SasToken,
        entry: &Entry,
        device: &Entry,
        now: WallTime,
    ) -> Result<Proven, Denied> {
        let identity = &entry.identity;
        if !entry.enabled || !device.enabled || !self.covers_device(token, identity) {
            return Err(refused().into());
        }
        let method = if let Some(policy) = token.policy() {
            self.prove_policy(token, policy, Rights::DEVICE)?;
            Method::Policy
        } else {
            let Auth::Sas { primary, secondary } = &entry.auth else {
                return Err(refused().into());
            };
            if !(signed_by(token, primary) | signed_by(token, secondary)) {
                return Err(refused().into());
            }
            if identity.is_module() { Method::ModuleKey } else { Method::DeviceKey }
        };
        skew::check(life(token), now)?;
        Ok(Proven { valid_until: Some(skew::end_of_grace(token.expiry())), method })
    }

    /// The rights of a service's token; `path` is what it asks for.
    pub(crate) fn check_service(
        &self,
        token: &SasToken,
        path: &str,
        wanted: Rights,
        now: WallTime,
    ) -> Result<(), Denied> {
        let policy = token.policy().ok_or_else(refused)?;
        if !self.covers(token, path) {
            return Err(refused().into());
        }
        let allowed = self.prove_policy(token, policy, wanted);
        if allowed.is_ok() || allowed.as_ref().is_err_and(|no| no.kind == RefusalKind::Forbidden) {
            skew::check(life(token), now)?;
        }
        Ok(allowed?)
    }

    fn prove_policy(&self, token: &SasToken, policy: &str, wanted: Rights) -> Result<(), Refusal> {
        let at = POLICIES.iter().position(|(name, _)| *name == policy).ok_or_else(refused)?;
        let key = self.keys.get(at).ok_or_else(refused)?;
        if !signed_by(token, key) {
            return Err(refused());
        }
        let (_, rights) = POLICIES.get(at).ok_or_else(refused)?;
        if rights.allow(wanted) {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::Forbidden, "the policy does not allow this"))
    }

    /// Whether `host`, with or without a port, is one of the hub's names.
    pub(crate) fn is_our_host(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| host::is_same(own, host))
    }

    fn covers_device(&self, token: &SasToken, identity: &IdentityId) -> bool {
        let path = match identity.module_str() {
            None => format!("devices/{}", identity.device_str()),
            Some(module) => format!("devices/{}/modules/{module}", identity.device_str()),
        };
        self.covers(token, &path)
    }

    /// Whether the token's resource is this hub and a prefix of `path` by whole segments.
    fn covers(&self, token: &SasToken, path: &str) -> bool {
        self.hosts.iter().any(|host| token.covers(&format!("{host}/{path}")))
    }
}

/// Proves a self-signed certificate by its thumbprint. TLS proved possession of its key.
fn prove_leaf(
    chain: &[Bytes],
    entry: &Entry,
    device: &Entry,
    now: WallTime,
) -> Result<Proven, Denied> {
    let Auth::SelfSigned { primary, secondary } = &entry.auth else {
        return Err(refused().into());
    };
    let leaf = chain.first().and_then(|der| Leaf::parse(der).ok()).ok_or_else(refused)?;
    let known = [primary, secondary].into_iter().flatten();
    let fits = known.fold(false, |fits, thumbprint| fits | leaf.has_thumbprint(thumbprint));
    if !fits || !entry.enabled || !device.enabled {
        return Err(refused().into());
    }
    skew::check(leaf.life(), now)?;
    let valid_until = Some(skew::end_of_grace(leaf.not_after));
    Ok(Proven { valid_until, method: Method::Thumbprint })
}

/// A token does not say since when it holds.
fn life(token: &SasToken) -> Lifetime {
    Lifetime { from: WallTime(i64::MIN), until: token.expiry() }
}

/// Reads a token.
pub(crate) fn read(text: &Secret) -> Result<SasToken, Refusal> {
    let text = text.expose_str().ok_or_else(refused)?;
    SasToken::parse(text.trim()).map_err(|_| refused())
}

/// Whether `key`, base64, made the signature of `token`.
fn signed_by(token: &SasToken, key: &Secret) -> bool {
    let key = key.expose_str().and_then(|text| SymmetricKey::parse(text).ok());
    key.is_some_and(|key| token.is_signed_by(&key))
}

/// The one answer to every failed proof.
pub(crate) fn refused() -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, "the credentials are not accepted")
}

#[cfg(test)]
mod tests;
