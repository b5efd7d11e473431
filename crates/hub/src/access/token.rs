//! Shared access signatures, read and checked.
//!
//! The order of fields is free. The signature covers `sr` exactly as received, still encoded:
//! SDKs differ in `%2F` and `%2f`, and some do not encode at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::secret::Secret;
use model::time::WallTime;
use percent_encoding::percent_decode_str;
use ring::hmac;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
const SCHEME: &str = "SharedAccessSignature ";

/// A token, not yet proven.
#[derive(Debug)]
pub(crate) struct Token {
    /// `sr`, decoded.
    pub(crate) resource: String,
    /// `se`.
    pub(crate) expiry: WallTime,
    /// `skn`, if it is not empty.
    pub(crate) policy: Option<String>,
    signed: String,
    signature: Vec<u8>,
}

impl Token {
    /// Reads a token; `None` if it is none.
    pub(crate) fn parse(text: &Secret) -> Option<Self> {
        let text = text.expose_str().filter(|text| text.len() <= TOKEN_BYTES_MAX)?;
        let (mut resource, mut signature, mut expiry, mut policy) = (None, None, None, None);
        for field in text.trim().strip_prefix(SCHEME)?.split('&') {
            let (name, value) = field.split_once('=')?;
            let slot = match name {
                "sr" => &mut resource,
                "sig" => &mut signature,
                "se" => &mut expiry,
                "skn" => &mut policy,
                _ => return None,
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
        let (resource, expiry) = (resource?, expiry?);
        let decode = |raw: &str| percent_decode_str(raw).decode_utf8().ok().map(String::from);
        Some(Self {
            signed: format!("{resource}\n{expiry}"),
            resource: decode(resource)?,
            expiry: WallTime::from_unix_seconds(expiry.parse().ok()?),
            policy: policy.and_then(decode).filter(|name| !name.is_empty()),
            signature: STANDARD.decode(decode(signature?)?).ok()?,
        })
    }

    /// Whether `key`, base64, made the signature. Takes the same time for any signature.
    pub(crate) fn signed_by(&self, key: &Secret) -> bool {
        let Ok(key) = STANDARD.decode(key.expose()) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        hmac::verify(&key, self.signed.as_bytes(), &self.signature).is_ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    /// A key made of `name`.
    pub(crate) fn key(name: &str) -> Secret {
        Secret::from(STANDARD.encode(format!("{name:-<32}")))
    }

    /// A token signed with the key of `name`.
    pub(crate) fn made(resource: &str, name: &str, policy: Option<&str>, expiry: i64) -> Secret {
        signed(resource, &key(name), policy, expiry)
    }

    /// A token signed with `key`.
    pub(crate) fn signed(resource: &str, key: &Secret, policy: Option<&str>, expiry: i64) -> Secret {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(key.expose()).unwrap());
        let tag = hmac::sign(&key, format!("{}\n{expiry}", encode(resource)).as_bytes());
        let signature = encode(&STANDARD.encode(tag));
        let policy = policy.map(|name| format!("&skn={name}")).unwrap_or_default();
        let resource = encode(resource);
        format!("{SCHEME}sr={resource}&sig={signature}&se={expiry}{policy}").into()
    }

    #[test]
    fn a_token_is_read_in_any_order_and_signed_as_received() {
        let check = |text: &str, ok: bool| {
            assert_eq!(Token::parse(&Secret::from(text)).is_some(), ok, "{text}");
        };
        check("SharedAccessSignature sig=AA%3D%3D&se=5&sr=h", true);
        check("SharedAccessSignature sr=h&sig=AA%3D%3D&se=5&skn=", true);
        check("SharedAccessSignature sr=h&sig=AA%3D%3D&se=soon", false);
        check("SharedAccessSignature sr=h&sr=i&sig=AA%3D%3D&se=5", false);
        check("SharedAccessSignature sr=h&sig=AA%3D%3D", false);
        check("Bearer sr=h&sig=AA%3D%3D&se=5", false);
        let token = Token::parse(&made("h/devices/a+b", "k", None, 5)).unwrap();
        assert_eq!(token.resource, "h/devices/a+b");
        assert!(token.signed_by(&key("k")) && !token.signed_by(&key("other")));
    }
}
