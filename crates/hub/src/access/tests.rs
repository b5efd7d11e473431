use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use credentials::certificate::{Authority, Validity};
use credentials::skew::CLOCK_SKEW;

use super::*;
use crate::registry::{Etag, Ordinal};

fn key(name: &str) -> Secret {
    STANDARD.encode(format!("{name:-<32}")).into()
}

fn token(resource: &str, signer: &str, policy: Option<&str>, expiry: i64) -> SasToken {
    let key = SymmetricKey::parse(key(signer).expose_str().unwrap()).unwrap();
    let expiry = WallTime::from_unix_seconds(expiry);
    read(&SasToken::sign(resource, policy, expiry, &key)).unwrap()
}

fn access() -> Access {
    let keys = POLICIES.iter().map(|(name, _)| key(name)).collect();
    Access { hosts: vec!["hub.test".into()], keys }
}

#[test]
fn a_resource_covers_by_host_and_whole_segments() {
    let check = |resource: &str, path: &str, expected: bool| {
        let token = token(resource, "service", Some("service"), 100);
        assert_eq!(access().covers(&token, path), expected, "{resource} {path}");
    };
    check("hub.test", "devices/d1", true);
    check("HUB.test:8883/devices/d1", "devices/d1", true);
    check("hub.test/devices/d1", "devices/d1/modules/m", true);
    check("hub.test/devices/d", "devices/d1", false);
    check("hub.test/devices/D1", "devices/d1", false);
    check("hub.test/devices/d1/modules/m", "devices/d1", false);
    check("other.test", "devices/d1", false);
}

#[test]
fn every_policy_has_its_rights_and_no_others() {
    let check = |policy: &str, wanted: Rights, expected: bool| {
        let token = token("hub.test", policy, Some(policy), 100);
        let got = access().check_service(&token, "devices/d1", wanted, WallTime(0));
        assert_eq!(got.is_ok(), expected, "{policy} {wanted:?}");
    };
    check("iothubowner", Rights::REGISTRY_WRITE, true);
    check("iothubowner", Rights::SERVICE, true);
    check("service", Rights::SERVICE, true);
    check("service", Rights::REGISTRY_READ, false);
    check("registryRead", Rights::REGISTRY_READ, true);
    check("registryRead", Rights::REGISTRY_WRITE, false);
    check("registryReadWrite", Rights::REGISTRY_READ, true);
    check("device", Rights::SERVICE, false);
    check("unknown", Rights::REGISTRY_READ, false);
}

/// What everything is checked at.
const NOW: WallTime = WallTime(1_795_427_940_000);

fn entry(identity: &str, auth: Auth) -> Entry {
    Entry {
        ord: Ordinal(1),
        identity: identity.parse().unwrap(),
        generation_id: "1".into(),
        etag: Etag(1),
        enabled: true,
        status_reason: None,
        status_updated: NOW,
        auth,
        iot_edge: false,
        managed_by: "".into(),
    }
}

fn keys() -> Auth {
    Auth::Sas { primary: key("one"), secondary: key("two") }
}

/// Ends at this many seconds from now, and what that is: taken, or ended so long ago.
const ENDS: [(i64, Option<u64>); 7] = [
    (60, None),
    (0, None),
    (-60, None),
    (-240, None),
    (-299, None),
    (-330, Some(330)),
    (-86_400, Some(86_400)),
];

fn ended(seconds: Option<u64>) -> Option<Untimely> {
    seconds.map(|ago| Untimely::Ended(Duration::from_secs(ago)))
}

#[test]
fn a_token_is_taken_five_minutes_past_its_end_by_devices_and_services_alike() {
    for (end, expected) in ENDS {
        let expiry = NOW.unix_seconds() + end;
        let device = token("hub.test/devices/d1", "two", None, expiry);
        let d1 = entry("d1", keys());
        let proven = access().check_token(&device, &d1, &d1, NOW);
        let untimely = proven.as_ref().err().and_then(|denied| denied.untimely);
        assert_eq!((proven.is_ok(), untimely), (expected.is_none(), ended(expected)), "{end}");
        if let Ok(proven) = proven {
            let grace = WallTime::from_unix_seconds(expiry).after(CLOCK_SKEW);
            assert_eq!(proven.valid_until, Some(grace), "{end}");
        }
        let policy = token("hub.test", "service", Some("service"), expiry);
        let allowed = access().check_service(&policy, "twins/d1", Rights::SERVICE, NOW);
        assert_eq!(allowed.err().map(|denied| denied.untimely), expected.map(|_| ended(expected)));
        // A stranger learns nothing of clocks, and neither does the log.
        let forged = token("hub.test/devices/d1", "other", None, expiry);
        let denied = access().check_token(&forged, &d1, &d1, NOW).unwrap_err();
        assert_eq!((denied.refusal, denied.untimely), (refused(), None), "{end}");
    }
    let wrong = token("hub.test", "device", Some("service"), NOW.unix_seconds() + 60);
    assert!(access().check_service(&wrong, "twins/d1", Rights::SERVICE, NOW).is_err());
}

#[test]
fn who_lacks_a_right_hears_of_the_right_only_while_the_token_holds() {
    for (end, expected) in ENDS {
        let expiry = NOW.unix_seconds() + end;
        let token = token("hub.test", "service", Some("service"), expiry);
        let denied = access().check_service(&token, "devices/d1", Rights::REGISTRY_READ, NOW);
        let kind = denied.unwrap_err().refusal.kind;
        let wanted = expected.map_or(RefusalKind::Forbidden, |_| RefusalKind::Unauthenticated);
        assert_eq!(kind, wanted, "{end}");
    }
}

#[test]
fn a_certificate_is_taken_five_minutes_before_and_past_its_life() {
    const LIFE: Duration = Duration::from_hours(1);
    let check = |made: i64, expected: Option<Untimely>| {
        let now = WallTime(NOW.0 + made * 1000);
        let validity = Validity { now, life: LIFE, serial: 7 };
        let der = Authority::generate("d1", validity).unwrap().der().clone();
        let print = Leaf::parse(&der).unwrap().thumbprint_sha256;
        let d1 = entry("d1", Auth::SelfSigned { primary: Some(print.into()), secondary: None });
        let claim = Claim::Certificates { identity: d1.identity.clone(), chain: [der].into() };
        let proven = access().check_claim(&claim, &d1, &d1, NOW);
        assert_eq!(proven.clone().err().and_then(|denied| denied.untimely), expected, "{made}");
        if let Ok(proven) = proven {
            assert_eq!(proven.valid_until, Some(now.after(LIFE).after(CLOCK_SKEW)));
        }
    };
    // Each begins CLOCK_SKEW before it is made.
    check(0, None);
    check(600, None);
    check(601, Some(Untimely::NotBegun(Duration::from_secs(301))));
    check(-3600, None);
    check(-3600 - 299, None);
    check(-3600 - 330, Some(Untimely::Ended(Duration::from_secs(330))));
}

#[test]
fn an_audience_encoded_twice_proves_the_same_identity_and_no_other() {
    let check = |identity: &str, sr: &str, expected: bool| {
        let signer = SymmetricKey::parse(key("one").expose_str().unwrap()).unwrap();
        let expiry = NOW.unix_seconds() + 60;
        let sig = STANDARD.encode(signer.sign(format!("{sr}\n{expiry}").as_bytes()));
        let sig = sig.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let token = format!("SharedAccessSignature sr={sr}&sig={sig}&se={expiry}");
        let (entry, device) = (entry(identity, keys()), entry("edge-x", keys()));
        let device = if entry.identity.is_module() { &device } else { &entry };
        let claim = Claim::Sas { identity: entry.identity.clone(), token: token.into() };
        let proven = access().check_claim(&claim, &entry, device, NOW);
        assert_eq!(proven.is_ok(), expected, "{identity} {sr}");
    };
    let mac = "AA:BB:CC:DD:EE:01";
    check(mac, "hub.test%2Fdevices%2FAA%3ABB%3ACC%3ADD%3AEE%3A01", true);
    check(mac, "hub.test%2Fdevices%2FAA%253ABB%253ACC%253ADD%253AEE%253A01", true);
    check(mac, "hub.test%2Fdevices%2FAA%253ABB%253ACC%253ADD%253AEE%253A02", false);
    check("edge-x/$edgeHub", "hub.test%2Fdevices%2Fedge-x%2Fmodules%2F%2524edgeHub", true);
    check("edge-x/$edgeHub", "hub.test%2Fdevices%2Fedge-x%252Fmodules%252F%2524edgeHub", false);
    check("a", "hub.test%2Fdevices%2Fa%252Fb", false);
    check("b", "hub.test%2Fdevices%2Fa%252Fb", false);
    check("d1", "hub.test%2Fdevices%2Fd1%2Fapi-version%3D2016-11-14", true);
}

#[test]
fn a_host_is_ours_by_its_whole_name() {
    let access = Access { hosts: vec!["hub.test".into(), "::1".into()], keys: Vec::new() };
    let check = |host: &str, expected: bool| {
        assert_eq!(access.is_our_host(host), expected, "{host}");
    };
    check("HUB.test:8443", true);
    check("[::1]:8443", true);
    check("[::2]:8443", false);
    check("hub.test.evil", false);
}
