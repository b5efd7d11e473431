//! Shared access signatures. Source: IoT Hub, "Control access with shared access signatures".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::secret::Secret;
use model::time::WallTime;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use crate::key::SymmetricKey;

/// Longest token that is read, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a text is no token. Never tells what the text was.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidToken {
    /// It does not start with `SharedAccessSignature `, or is too long.
    #[error("not a shared access signature")]
    Form,
    /// A field is missing, repeated, unknown or cannot be read.
    #[error("field {0:?} is missing, repeated, unknown or unreadable")]
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
    /// Reads a token; fields come in any order.
    ///
    /// # Errors
    /// [`InvalidToken`] says which field is at fault.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let rest = text.strip_prefix("SharedAccessSignature ").ok_or(InvalidToken::Form)?;
        if text.len() > TOKEN_BYTES_MAX {
            return Err(InvalidToken::Form);
        }
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in rest.split('&') {
            let (name, value) = field.split_once('=').ok_or(InvalidToken::Form)?;
            let (slot, known) = match name {
                "sr" => (&mut sr, "sr"),
                "sig" => (&mut sig, "sig"),
                "se" => (&mut se, "se"),
                "skn" => (&mut skn, "skn"),
                _ => return Err(InvalidToken::Field("other")),
            };
            if slot.replace(value).is_some() {
                return Err(InvalidToken::Field(known));
            }
        }
        let sr = sr.ok_or(InvalidToken::Field("sr"))?;
        let se = se.ok_or(InvalidToken::Field("se"))?;
        let seconds: u32 = se.parse().map_err(|_| InvalidToken::Field("se"))?;
        let sig = decode(sig.ok_or(InvalidToken::Field("sig"))?, "sig")?;
        let sig = STANDARD.decode(sig).map_err(|_| InvalidToken::Field("sig"))?;
        let policy = decode(skn.unwrap_or_default(), "skn")?;
        Ok(Self {
            signed: Secret::from(format!("{sr}\n{se}")),
            signature: Secret::new(sig),
            resource: decode(sr, "sr")?.into(),
            expiry: WallTime::from_unix_seconds(i64::from(seconds)),
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
    pub fn covers(&self, wanted: &str) -> bool {
        let (mut held, mut wanted) = (self.resource.split('/'), wanted.split('/'));
        let host = |text: Option<&str>| {
            text.and_then(|it| it.split(':').next()).unwrap_or_default().to_ascii_lowercase()
        };
        host(held.next()) == host(wanted.next())
            && held.filter(|part| !part.is_empty()).all(|part| wanted.next() == Some(part))
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
        check("SharedAccessSignature sr=h&x=1", InvalidToken::Field("other"));
    }
}
