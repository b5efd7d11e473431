//! Who may speak to this device's router, checked here and now, without asking upstream. Pure.
//!
//! Modules prove themselves by tokens signed with their own keys; they have them signed by the
//! workload interface. Keys come from the hub with the module identities and are kept, so a
//! device that starts offline still knows its modules.

use std::collections::BTreeMap;

use credentials::key::SymmetricKey;
use credentials::renewal::Lifetime;
use credentials::sas::SasToken;
use credentials::skew::{self, Untimely};
use model::id::{DeviceId, IdentityId, ModuleName};
use model::refusal::{Refusal, RefusalKind};
use model::time::WallTime;
use model::waist::Claim;

/// The keys of one module identity; either proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleKeys {
    /// Changes when the identity is deleted and made again.
    pub generation_id: Box<str>,
    /// The key that the workload interface signs with.
    pub primary: SymmetricKey,
    /// A second one, if the hub gave it.
    pub secondary: Option<SymmetricKey>,
}

/// Everybody who may open a session with the router.
#[derive(Clone, Debug)]
pub struct Access {
    /// This device.
    pub device: DeviceId,
    /// Host names that a token's resource may carry: the hub's and this device's own.
    pub hosts: Vec<Box<str>>,
    /// The modules there are.
    pub modules: BTreeMap<ModuleName, ModuleKeys>,
}

/// Somebody proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Who.
    pub identity: IdentityId,
    /// Until when the claim holds.
    pub valid_until: WallTime,
    /// The generation of the identity.
    pub generation_id: Box<str>,
}

/// A claim that proves nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What the caller hears: never whether the module exists or the token is bad.
    pub refusal: Refusal,
    /// What only the log may know: everything else was right.
    pub untimely: Option<Untimely>,
}

impl From<Untimely> for Denied {
    fn from(untimely: Untimely) -> Self {
        Self { refusal: nobody(), untimely: Some(untimely) }
    }
}

impl Access {
    /// Checks `claim`.
    ///
    /// # Errors
    /// [`Denied`], always `Unauthenticated`.
    pub fn check(&self, claim: &Claim, now: WallTime) -> Result<Proven, Denied> {
        let stranger = || Denied { refusal: nobody(), untimely: None };
        match claim {
            Claim::Sas { identity, token } => {
                let token = token.expose_str().and_then(|text| SasToken::parse(text.trim()).ok());
                let token = token.ok_or_else(stranger)?;
                let proven = self.check_token(identity, &token).ok_or_else(stranger)?;
                let from = WallTime(i64::MIN);
                skew::check(Lifetime { from, until: token.expiry() }, now)?;
                Ok(proven)
            }
            // Certificates, children of gateways and bare sockets prove nothing here yet.
            Claim::Certificates { .. } | Claim::OnBehalfOf { .. } | Claim::Peer { .. } => {
                Err(stranger())
            }
        }
    }

    /// Whom `token` proves while it holds.
    fn check_token(&self, identity: &IdentityId, token: &SasToken) -> Option<Proven> {
        let name = identity.module_name()?;
        let keys = self.modules.get(&name)?;
        let signed = token.is_signed_by(&keys.primary)
            || keys.secondary.as_ref().is_some_and(|key| token.is_signed_by(key));
        let covers = self
            .hosts
            .iter()
            .any(|host| token.covers(&format!("{host}/devices/{}/modules/{name}", self.device)));
        // A policy's name has no meaning on a device.
        let is_own = identity.device_id() == self.device && token.policy().is_none();
        (signed && covers && is_own).then(|| Proven {
            identity: identity.clone(),
            valid_until: skew::end_of_grace(token.expiry()),
            generation_id: keys.generation_id.clone(),
        })
    }
}

fn nobody() -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, "the credentials prove no module of this device")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use credentials::skew::CLOCK_SKEW;

    use super::*;

    const NOW: WallTime = WallTime(1_000_000_000);

    fn key(text: &str) -> SymmetricKey {
        SymmetricKey::parse(text).unwrap()
    }

    fn access() -> Access {
        let keys = ModuleKeys {
            generation_id: "g1".into(),
            primary: key("a2V5"),
            secondary: Some(key("b3RoZXI=")),
        };
        Access {
            device: "d".parse().unwrap(),
            hosts: vec!["hub.local".into(), "gateway".into()],
            modules: BTreeMap::from([("m".parse().unwrap(), keys)]),
        }
    }

    fn check(identity: &str, resource: &str, with: &str, seconds: i64, proven: bool) {
        let expiry = WallTime::from_unix_seconds(NOW.unix_seconds() + seconds);
        let token = SasToken::sign(resource, None, expiry, &key(with));
        let claim = Claim::Sas { identity: identity.parse().unwrap(), token };
        let found = access().check(&claim, NOW);
        assert_eq!(found.is_ok(), proven, "{identity} {resource} {found:?}");
        if let Ok(found) = found {
            assert_eq!(found.valid_until, expiry.after(CLOCK_SKEW));
        }
    }

    #[test]
    fn a_module_is_proven_by_a_token_of_either_key_for_its_own_resource() {
        check("d/m", "hub.local/devices/d/modules/m", "a2V5", 60, true);
        check("d/m", "hub.local/devices/d/modules/m", "b3RoZXI=", 60, true);
        check("d/m", "GATEWAY:8883/devices/d/modules/m", "a2V5", 60, true);
        check("d/m", "hub.local/devices/d/modules/m", "a2V5", -200, true);
    }

    #[test]
    fn nobody_else_is_and_all_hear_the_same() {
        check("d/m", "hub.local/devices/d/modules/m", "eHh4", 60, false);
        check("d/m", "hub.local/devices/d/modules/n", "a2V5", 60, false);
        check("d/m", "elsewhere/devices/d/modules/m", "a2V5", 60, false);
        check("d/m", "hub.local/devices/d/modules/m", "a2V5", -301, false);
        check("d/n", "hub.local/devices/d/modules/n", "a2V5", 60, false);
        check("e/m", "hub.local/devices/d/modules/m", "a2V5", 60, false);
        check("d", "hub.local/devices/d", "a2V5", 60, false);
        let claim = Claim::Sas { identity: "d/m".parse().unwrap(), token: "rubbish".into() };
        let said = access().check(&claim, NOW).unwrap_err();
        assert_eq!(said.refusal, nobody());
    }

    #[test]
    fn the_router_has_the_tolerance_of_the_hub_and_tells_the_log_what_it_lacked() {
        let check = |seconds: i64, key_text: &str, expected: Option<u64>| {
            let expiry = WallTime::from_unix_seconds(NOW.unix_seconds() + seconds);
            let resource = "hub.local/devices/d/modules/m";
            let token = SasToken::sign(resource, None, expiry, &key(key_text));
            let claim = Claim::Sas { identity: "d/m".parse().unwrap(), token };
            let untimely = access().check(&claim, NOW).err().and_then(|denied| denied.untimely);
            let expected = expected.map(|ago| Untimely::Ended(Duration::from_secs(ago)));
            assert_eq!(untimely, expected, "{seconds}");
        };
        check(60, "a2V5", None);
        check(0, "a2V5", None);
        check(-240, "a2V5", None);
        check(-330, "a2V5", Some(330));
        check(-86_400, "a2V5", Some(86_400));
        // A stranger's token is no matter of clocks.
        check(-330, "eHh4", None);
    }

    #[test]
    fn a_module_is_proven_by_an_audience_encoded_once_or_twice() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let check = |sr: &str, proven: bool| {
            let sig = STANDARD.encode(key("a2V5").sign(format!("{sr}\n2000000000").as_bytes()));
            let sig = sig.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            let token = format!("SharedAccessSignature sr={sr}&sig={sig}&se=2000000000");
            let mut access = access();
            let keys = access.modules.values().next().unwrap().clone();
            access.modules.insert("$m:1".parse().unwrap(), keys);
            let claim = Claim::Sas { identity: "d/$m:1".parse().unwrap(), token: token.into() };
            assert_eq!(access.check(&claim, NOW).is_ok(), proven, "{sr}");
        };
        check("hub.local%2Fdevices%2Fd%2Fmodules%2F%24m%3A1", true);
        check("hub.local%2Fdevices%2Fd%2Fmodules%2F%2524m%253A1", true);
        check("hub.local%2Fdevices%2Fd%2Fmodules%2F%2524m%253A2", false);
        check("hub.local%2Fdevices%2Fd%252Fmodules%252F%2524m%253A1", false);
    }

    #[test]
    fn a_policy_has_no_meaning_on_a_device() {
        let expiry = NOW.after(Duration::from_mins(1));
        let token = SasToken::sign(
            "hub.local/devices/d/modules/m",
            Some("iothubowner"),
            expiry,
            &key("a2V5"),
        );
        let claim = Claim::Sas { identity: "d/m".parse().unwrap(), token };
        assert!(access().check(&claim, NOW).is_err());
    }
}
