//! Shared access signatures. Source: IoT Hub, "Control access with shared access signatures".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::secret::Secret;
use model::time::WallTime;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use crate::host;
use crate::key::SymmetricKey;

/// Longest token that is read, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// How every token begins; a scheme of HTTP, so its letter case means nothing.
const SCHEME: &str = "SharedAccessSignature";
const FIELDS: [&str; 4] = ["sr", "sig", "se", "skn"];
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a text is no token. Never tells what the text was.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidToken {
    /// It does not start with `SharedAccessSignature `, or is too long.
    #[error("not a shared access signature")]
    Form,
    /// A field is missing, repeated or cannot be read.
    #[error("field {0:?} is missing, repeated or unreadable")]
    Field(&'static str),
}

/// A token, read but not yet proven.
#[derive(Clone, Debug)]
pub struct SasToken {
    // Raw, because clients encode differently and sign what they wrote.
    signed: Secret,
    signature: Secret,
    resource: Box<str>,
    expiry: WallTime,
    policy: Option<Box<str>>,
}

impl SasToken {
    /// Reads a token; fields come in any order and letter case, and unknown ones are ignored, as
    /// Azure does.
    ///
    /// # Errors
    /// [`InvalidToken`] says which field is at fault.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(InvalidToken::Form);
        }
        let (scheme, rest) = text.split_once(' ').ok_or(InvalidToken::Form)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(InvalidToken::Form);
        }
        let mut values: [Option<&str>; FIELDS.len()] = [None; FIELDS.len()];
        for field in rest.trim().split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').ok_or(InvalidToken::Form)?;
            let known = FIELDS.iter().zip(&mut values).find(|(f, _)| f.eq_ignore_ascii_case(name));
            if let Some((known, slot)) = known
                && slot.replace(value).is_some()
            {
                return Err(InvalidToken::Field(known));
            }
        }
        let [sr, sig, se, skn] = values;
        let sr = sr.ok_or(InvalidToken::Field("sr"))?;
        let se = se.ok_or(InvalidToken::Field("se"))?;
        let sig = decode(sig.ok_or(InvalidToken::Field("sig"))?, "sig")?;
        let sig = STANDARD.decode(sig).map_err(|_| InvalidToken::Field("sig"))?;
        let policy = decode(skn.unwrap_or_default(), "skn")?;
        Ok(Self {
            signed: Secret::from(format!("{sr}\n{se}")),
            signature: Secret::new(sig),
            resource: decode(sr, "sr")?.into(),
            expiry: expiry(se).ok_or(InvalidToken::Field("se"))?,
            policy: (!policy.is_empty()).then(|| policy.into()),
        })
    }

    /// Makes the text of a token over the plain `resource`.
    pub fn sign(
        resource: &str,
        policy: Option<&str>,
        expiry: WallTime,
        key: &SymmetricKey,
    ) -> Secret {
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let (sr, se) = (encode(resource), expiry.unix_seconds());
        let sig = encode(&STANDARD.encode(key.sign(format!("{sr}\n{se}").as_bytes())));
        let skn = policy.map(|name| format!("&skn={}", encode(name))).unwrap_or_default();
        Secret::from(format!("SharedAccessSignature sr={sr}&sig={sig}&se={se}{skn}"))
    }

    /// Whether `key` made it, in constant time.
    pub fn is_signed_by(&self, key: &SymmetricKey) -> bool {
        key.verify(self.signed.expose(), self.signature.expose())
    }

    /// Whether it covers `wanted` (`host/devices/d`): the host without case and port, then
    /// whole path segments, with case.
    ///
    /// .NET encodes an id once more before it encodes the whole, so that spelling of a segment
    /// counts too, but only under a key of the identity itself: whose token that is, its
    /// signature says. A policy's token is limited by nothing but its resource, and that has one
    /// meaning only. Old tools end a resource in `/api-version=…`, which limits nothing.
    pub fn covers(&self, wanted: &str) -> bool {
        let mut held: Vec<&str> =
            self.resource.split('/').filter(|part| !part.is_empty()).collect();
        let mut wanted = wanted.split('/');
        // Ids stand at even places after the host, so nothing at an odd one is an id.
        let is_version = |part: &str| part.trim_start_matches('?').starts_with("api-version=");
        if held.len().is_multiple_of(2) {
            held.pop_if(|last| is_version(last));
        }
        let mut held = held.into_iter();
        let (host, own) = (held.next().unwrap_or_default(), wanted.next().unwrap_or_default());
        host::is_same(host, own)
            && held.all(|part| wanted.next().is_some_and(|own| self.means(part, own)))
    }

    fn means(&self, part: &str, own: &str) -> bool {
        part == own || (self.policy.is_none() && is_encoded(part, own))
    }

    /// When it stops holding.
    pub fn expiry(&self) -> WallTime {
        self.expiry
    }

    /// The policy it names; an empty name counts as none.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }
}

/// The point in time that `se` names: seconds since 1970, also beyond 32 bits, also with a
/// fraction, which says nothing that a clock could keep.
fn expiry(text: &str) -> Option<WallTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // What has more digits than a number holds is later than every clock.
    let seconds = || whole.parse().unwrap_or(i64::MAX);
    (is_number(whole) && is_number(fraction)).then(|| WallTime::from_unix_seconds(seconds()))
}

/// Whether `text` is `plain` as an encoder writes it: escapes stand only for what needs one,
/// so that no escape of a letter or a digit makes one id pass for another.
fn is_encoded(text: &str, plain: &str) -> bool {
    let (mut text, mut plain) = (text.bytes(), plain.bytes());
    while let Some(byte) = text.next() {
        let meant = match byte {
            b'%' => escaped(&mut text).filter(|byte| !byte.is_ascii_alphanumeric()),
            _ => Some(byte),
        };
        if meant.is_none() || plain.next() != meant {
            return false;
        }
    }
    plain.next().is_none()
}

fn escaped(text: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(text.next()?).to_digit(16);
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high * 16 + low).ok()
}

fn decode(text: &str, field: &'static str) -> Result<String, InvalidToken> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| InvalidToken::Field(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_proven_on_its_raw_resource_in_any_order() {
        let key = SymmetricKey::parse("a2V5").unwrap();
        let raw = "Hub%2fdevices%2fd";
        let sig = STANDARD.encode(key.sign(format!("{raw}\n99").as_bytes()));
        let sig = utf8_percent_encode(&sig, ENCODED);
        let text = format!("SharedAccessSignature se=99&skn=&sig={sig}&sr={raw}");
        let token = SasToken::parse(&text).unwrap();
        assert!(token.is_signed_by(&key) && token.policy().is_none());
        assert!(!token.is_signed_by(&SymmetricKey::parse("b3RoZXI=").unwrap()));
        assert_eq!(token.expiry(), WallTime(99_000));
    }

    #[test]
    fn a_token_covers_whole_segments_below_its_resource() {
        let key = SymmetricKey::parse("a2V5").unwrap();
        let check = |held: &str, wanted: &str, expected: bool| {
            let text = SasToken::sign(held, Some("p"), WallTime(1000), &key);
            let token = SasToken::parse(text.expose_str().unwrap()).unwrap();
            assert!(token.is_signed_by(&key));
            assert_eq!(token.covers(wanted), expected, "{held} {wanted}");
        };
        check("HUB:8883/devices/d", "hub/devices/d/messages/events", true);
        check("hub", "hub/devices/d", true);
        check("hub/devices/d", "hub/devices/d2", false);
        check("hub/devices/d", "hub/devices/D", false);
        check("hub/devices/d/modules/m", "hub/devices/d", false);
        check("other/devices/d", "hub/devices/d", false);
    }

    #[test]
    fn broken_tokens_are_refused_by_field() {
        let check = |text: &str, expected| {
            assert_eq!(SasToken::parse(text).unwrap_err(), expected, "{text}");
        };
        check("Bearer x", InvalidToken::Form);
        check("SharedAccessSignature sr=h&se=1", InvalidToken::Field("sig"));
        check("SharedAccessSignature sr=h&sr=h", InvalidToken::Field("sr"));
        check("SharedAccessSignature sr=h&sig=YQ==&se=-1", InvalidToken::Field("se"));
        check("SharedAccessSignature sr=h&sig=YQ==&se=", InvalidToken::Field("se"));
        check("SharedAccessSignature sr=h&sig=YQ==&se=+1", InvalidToken::Field("se"));
        check("SharedAccessSignature sr=h&sig=YQ==&se=1.x", InvalidToken::Field("se"));
        check("SharedAccessSignature sr=h&sig=YQ==&x", InvalidToken::Form);
        check("SharedAccessSignature", InvalidToken::Form);
    }

    /// A token over `sr` exactly as written.
    fn raw(sr: &str, skn: &str) -> SasToken {
        let key = SymmetricKey::parse("a2V5").unwrap();
        let sig = STANDARD.encode(key.sign(format!("{sr}\n99").as_bytes()));
        let sig = utf8_percent_encode(&sig, ENCODED);
        let text = format!("SharedAccessSignature sr={sr}&sig={sig}&se=99&skn={skn}");
        let token = SasToken::parse(&text).unwrap();
        assert!(token.is_signed_by(&key), "{sr}");
        token
    }

    #[test]
    fn an_id_encoded_twice_is_the_same_id_and_no_other() {
        let check = |sr: &str, wanted: &str, expected: bool| {
            assert_eq!(raw(sr, "").covers(wanted), expected, "{sr} {wanted}");
        };
        let mac = "localhost/devices/AA:BB:CC:DD:EE:01";
        check("localhost%2Fdevices%2FAA%3ABB%3ACC%3ADD%3AEE%3A01", mac, true);
        check("localhost%2Fdevices%2FAA%253ABB%253ACC%253ADD%253AEE%253A01", mac, true);
        check("localhost%2fdevices%2fAA%253aBB%253aCC%253aDD%253aEE%253a01", mac, true);
        check("localhost%2Fdevices%2FAA%253ABB%253ACC%253ADD%253AEE%253A02", mac, false);
        let hub = "localhost/devices/edge-x/modules/$edgeHub";
        check("localhost%2Fdevices%2Fedge-x%2Fmodules%2F%2524edgeHub", hub, true);
        check("localhost%2Fdevices%2Fedge-x%2Fmodules%2F%24edgeHub", hub, true);
        check("localhost%2Fdevices%2Fedge-y%2Fmodules%2F%2524edgeHub", hub, false);
        // The slash that an id cannot have, escaped once, twice and three times.
        check("localhost%2Fdevices%2Fa%2Fb", "localhost/devices/a", false);
        check("localhost%2Fdevices%2Fa%252Fb", "localhost/devices/a", false);
        check("localhost%2Fdevices%2Fa%252Fb", "localhost/devices/b", false);
        check("localhost%2Fdevices%252Fa", "localhost/devices/a", false);
        check("localhost%2Fdevices%2Fd%252Fmodules%252Fm", "localhost/devices/d/modules/m", false);
        // No encoder escapes a letter; an id may hold a per cent sign of its own.
        check("localhost%2Fdevices%2F%2561", "localhost/devices/a", false);
        check("localhost%2Fdevices%2Fa%2541", "localhost/devices/a%41", true);
        check("localhost%2Fdevices%2Fa%2541", "localhost/devices/aA", false);
        check("localhost%2Fdevices%2Fa%252541", "localhost/devices/a%41", true);
        check("localhost%2Fdevices%2F50%25", "localhost/devices/50%", true);
        check("localhost%2Fdevices%2F50%2525", "localhost/devices/50%", true);
        check("localhost%2Fdevices%2F%253", "localhost/devices/3", false);
    }

    #[test]
    fn the_resource_of_a_policy_has_one_meaning() {
        let check = |sr: &str, wanted: &str, expected: bool| {
            assert_eq!(raw(sr, "device").covers(wanted), expected, "{sr} {wanted}");
        };
        check("h%2Fdevices%2Fa%3Ab", "h/devices/a:b", true);
        check("h%2Fdevices%2Fa%253Ab", "h/devices/a%3Ab", true);
        check("h%2Fdevices%2Fa%253Ab", "h/devices/a:b", false);
    }

    #[test]
    fn a_version_at_the_end_of_a_resource_limits_nothing_and_widens_nothing() {
        let check = |sr: &str, wanted: &str, expected: bool| {
            assert_eq!(raw(sr, "").covers(wanted), expected, "{sr} {wanted}");
        };
        check("h/devices/d/api-version=2016-11-14", "h/devices/d", true);
        check("h/devices/d/?api-version=2016-11-14", "h/devices/d", true);
        check("h/devices/d/api-version=2016-11-14", "h/devices/e", false);
        // Here it is the name of a device.
        check("h/devices/api-version=1", "h/devices/api-version=1", true);
        check("h/devices/api-version=1", "h/devices/d", false);
    }

    #[test]
    fn an_end_is_read_beyond_32_bits_and_with_a_fraction() {
        let check = |se: &str, expected: WallTime| {
            let text = format!("sharedaccesssignature SE={se}&sr=h&sig=YQ==&unknown=1");
            assert_eq!(SasToken::parse(&text).unwrap().expiry(), expected, "{se}");
        };
        check("4294967295", WallTime(4_294_967_295_000));
        check("4294967296", WallTime(4_294_967_296_000));
        check("253402300800", WallTime(253_402_300_800_000));
        check("1795427940000", WallTime(1_795_427_940_000_000));
        check("1795427940.5", WallTime(1_795_427_940_000));
        check("99999999999999999999", WallTime(i64::MAX));
    }

    #[test]
    fn a_token_may_be_as_long_as_its_limit_and_no_longer() {
        let key = SymmetricKey::parse("a2V5").unwrap();
        let of = |resource: usize| {
            let text = SasToken::sign(&"h".repeat(resource), None, WallTime(1000), &key);
            text.expose_str().unwrap().to_owned()
        };
        let spare = TOKEN_BYTES_MAX - of(0).len();
        assert_eq!(of(spare).len(), TOKEN_BYTES_MAX, "a signature has no + or / here");
        SasToken::parse(&of(spare)).unwrap();
        let long = format!("{}&skn={}", of(1), "p".repeat(TOKEN_BYTES_MAX));
        assert_eq!(SasToken::parse(&long).unwrap_err(), InvalidToken::Form);
    }
}
