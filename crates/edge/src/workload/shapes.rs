//! Requests of the workload interface, read and checked; and what names its certificates carry.
//! Pure.
//!
//! Source: `edgelet/api/workloadVersion_*.yaml` of Azure IoT Edge.
//! SDKs fill these bodies, and Azure's daemon leaves aside what it does not know in them: so do we.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::time::WallTime;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Versions of the interface that clients may name. They differ in nothing that is served here.
pub const API_VERSIONS: &[&str] = &[
    "2018-06-28",
    "2018-12-30",
    "2019-01-30",
    "2019-10-22",
    "2019-11-05",
    "2020-07-07",
    "2020-10-10",
    "2021-05-11",
    "2021-12-07",
    "2022-08-03",
];
/// Longest initialisation vector, in bytes.
pub const VECTOR_BYTES_MAX: usize = 256;
/// Longest common name of a certificate, in characters. Source: X.520.
pub const COMMON_NAME_CHARS_MAX: usize = 64;
/// Longest label of a DNS name, in characters. Source: RFC 1035.
const LABEL_CHARS_MAX: usize = 63;

/// Why a request is refused before anything is done; the text goes to the module.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidRequest {
    /// No version, or one that is not known.
    #[error("{0}")]
    ApiVersion(String),
    /// Not the JSON it should be.
    #[error("the body is not as the operation wants it: {0}")]
    Json(String),
    /// A field has a value nobody can use.
    #[error("{field}: {words}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong.
        words: String,
    },
}

fn wrong(field: &'static str, words: impl Into<String>) -> InvalidRequest {
    InvalidRequest::Field { field, words: words.into() }
}

/// Checks the query of a request, which must name a version.
///
/// # Errors
/// [`InvalidRequest::ApiVersion`], naming those that are known.
pub fn check_version(query: Option<&str>) -> Result<(), InvalidRequest> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| *name == "api-version").map(|(_, version)| version);
    let known = API_VERSIONS.join(", ");
    let words = match named.next() {
        None => format!("api-version is not in the query; known are {known}"),
        Some(version) if API_VERSIONS.contains(&version) => return Ok(()),
        Some(version) => format!("api-version {version:?} is not known; known are {known}"),
    };
    Err(InvalidRequest::ApiVersion(words))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidRequest> {
    serde_json::from_slice(body).map_err(|error| InvalidRequest::Json(error.to_string()))
}

fn decoded(field: &'static str, text: &str) -> Result<Vec<u8>, InvalidRequest> {
    STANDARD.decode(text).map_err(|_| wrong(field, "is not base64"))
}

fn vector(text: &str) -> Result<Vec<u8>, InvalidRequest> {
    const FIELD: &str = "initializationVector";
    let bytes = decoded(FIELD, text)?;
    match bytes.len() {
        0 => Err(wrong(FIELD, "is empty")),
        length if length > VECTOR_BYTES_MAX => {
            Err(wrong(FIELD, format!("has {length} bytes; at most {VECTOR_BYTES_MAX}")))
        }
        _ => Ok(bytes),
    }
}

#[derive(Deserialize)]
struct SignBody {
    #[serde(rename = "keyId")]
    key_id: String,
    algo: String,
    data: String,
}

/// The bytes that `…/sign` is to sign.
///
/// # Errors
/// [`InvalidRequest`].
pub fn sign(body: &[u8]) -> Result<Vec<u8>, InvalidRequest> {
    let read: SignBody = parse(body)?;
    if read.key_id != "primary" {
        return Err(wrong("keyId", format!("{:?} is unknown; known is primary", read.key_id)));
    }
    if read.algo != "HMACSHA256" {
        return Err(wrong("algo", format!("{:?} is unknown; known is HMACSHA256", read.algo)));
    }
    decoded("data", &read.data)
}

#[derive(Deserialize)]
struct EncryptBody {
    plaintext: String,
    #[serde(rename = "initializationVector")]
    vector: String,
}

#[derive(Deserialize)]
struct DecryptBody {
    ciphertext: String,
    #[serde(rename = "initializationVector")]
    vector: String,
}

/// Bytes to encrypt or decrypt, and the vector they go with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealing {
    /// Plaintext or ciphertext.
    pub bytes: Vec<u8>,
    /// The initialisation vector.
    pub vector: Vec<u8>,
}

/// What `…/encrypt` is to encrypt.
///
/// # Errors
/// [`InvalidRequest`].
pub fn encrypt(body: &[u8]) -> Result<Sealing, InvalidRequest> {
    let read: EncryptBody = parse(body)?;
    Ok(Sealing { bytes: decoded("plaintext", &read.plaintext)?, vector: vector(&read.vector)? })
}

/// What `…/decrypt` is to decrypt.
///
/// # Errors
/// [`InvalidRequest`].
pub fn decrypt(body: &[u8]) -> Result<Sealing, InvalidRequest> {
    let read: DecryptBody = parse(body)?;
    Ok(Sealing { bytes: decoded("ciphertext", &read.ciphertext)?, vector: vector(&read.vector)? })
}

#[derive(Deserialize)]
struct ServerBody {
    #[serde(rename = "commonName")]
    common_name: String,
    expiration: Option<String>,
}

#[derive(Default, Deserialize)]
struct IdentityBody {
    expiration: Option<String>,
}

/// A server certificate that a module asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRequest {
    /// A DNS name or an address.
    pub common_name: String,
    /// Until when it is to hold, if that was said.
    pub until: Option<WallTime>,
}

/// What `…/certificate/server` asks for.
///
/// # Errors
/// [`InvalidRequest`].
pub fn server(body: &[u8]) -> Result<ServerRequest, InvalidRequest> {
    let read: ServerBody = parse(body)?;
    let name = &read.common_name;
    let length = name.chars().count();
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() {
        return Err(wrong("commonName", "is empty"));
    }
    if length > COMMON_NAME_CHARS_MAX {
        let words = format!("has {length} characters; at most {COMMON_NAME_CHARS_MAX}");
        return Err(wrong("commonName", words));
    }
    if name.parse::<IpAddr>().is_err() && !name.chars().all(is_host) {
        return Err(wrong("commonName", format!("{name:?} is neither a DNS name nor an address")));
    }
    Ok(ServerRequest { until: time(read.expiration)?, common_name: read.common_name })
}

/// Until when `…/certificate/identity` asks for a certificate, if it says so; its body may be
/// empty.
///
/// # Errors
/// [`InvalidRequest`].
pub fn identity(body: &[u8]) -> Result<Option<WallTime>, InvalidRequest> {
    let read: IdentityBody = if body.is_empty() { IdentityBody::default() } else { parse(body)? };
    time(read.expiration)
}

fn time(text: Option<String>) -> Result<Option<WallTime>, InvalidRequest> {
    let Some(text) = text else { return Ok(None) };
    let read = WallTime::parse_rfc3339(&text);
    read.map(Some).ok_or_else(|| {
        wrong("expiration", format!("{text:?} is no time such as 2026-11-23T10:00:00Z"))
    })
}

/// A module's name as one label of a DNS name: lower case, without what a label cannot hold.
/// Empty if nothing is left.
///
/// Source: Azure IoT Edge, which puts it into every server certificate of a module.
pub fn label(module: &str) -> String {
    let lower = module.to_ascii_lowercase();
    let kept: String = lower
        .trim_start_matches(|c: char| !c.is_ascii_lowercase())
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
        .take(LABEL_CHARS_MAX)
        .collect();
    kept.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_version_azure_had_is_taken_and_no_other() {
        let check = |query: Option<&str>, expected: &str| {
            let said =
                check_version(query).map_or_else(|error| error.to_string(), |()| "ok".into());
            assert!(said.starts_with(expected), "{query:?}: {said}");
        };
        for version in API_VERSIONS {
            check(Some(&format!("api-version={version}")), "ok");
        }
        check(Some("x=1&api-version=2020-07-07"), "ok");
        check(None, "api-version is not in the query; known are 2018-06-28,");
        check(Some("api-version"), "api-version is not in the query");
        check(Some("api-version="), "api-version \"\" is not known");
        check(Some("api-version=2017-01-01"), "api-version \"2017-01-01\" is not known");
        check(Some("api-version=2017-01-01&api-version=2018-06-28"), "api-version \"2017");
    }

    #[test]
    fn what_a_newer_sdk_adds_to_a_body_is_left_aside() {
        let signed = json!({ "keyId": "primary", "algo": "HMACSHA256", "data": "eA==", "x": 1 });
        assert_eq!(sign(signed.to_string().as_bytes()), Ok(b"x".to_vec()));
        let sealed = json!({ "plaintext": "eA==", "initializationVector": "aXY=", "x": {} });
        assert!(encrypt(sealed.to_string().as_bytes()).is_ok());
        let sealed = json!({ "ciphertext": "eA==", "initializationVector": "aXY=", "x": {} });
        assert!(decrypt(sealed.to_string().as_bytes()).is_ok());
        let wanted = json!({ "commonName": "m", "preferredUsages": ["serverAuth"] });
        assert!(server(wanted.to_string().as_bytes()).is_ok());
        assert_eq!(identity(json!({ "usages": [] }).to_string().as_bytes()), Ok(None));
    }

    #[test]
    fn a_bad_body_is_refused_with_the_field_at_fault() {
        type Read = fn(&[u8]) -> Result<(), InvalidRequest>;
        let sign: Read = |body| sign(body).map(drop);
        let encrypt: Read = |body| encrypt(body).map(drop);
        let decrypt: Read = |body| decrypt(body).map(drop);
        let server: Read = |body| server(body).map(drop);
        let identity: Read = |body| identity(body).map(drop);
        let long = "A".repeat(VECTOR_BYTES_MAX.div_ceil(3) * 4);
        for (read, body, words) in [
            (sign, json!(7), "the body is not as"),
            (sign, json!({ "keyId": "primary", "algo": "HMACSHA256" }), "missing field `data`"),
            (sign, json!({ "keyId": "k", "algo": "HMACSHA256", "data": "" }), "keyId: \"k\" is"),
            (sign, json!({ "keyId": "primary", "algo": "SHA1", "data": "" }), "algo: \"SHA1\""),
            (
                sign,
                json!({ "keyId": "primary", "algo": "HMACSHA256", "data": "*" }),
                "data: is not base64",
            ),
            (encrypt, json!({ "plaintext": "" }), "missing field `initializationVector`"),
            (encrypt, json!({ "plaintext": "", "initializationVector": "" }), "is empty"),
            (
                encrypt,
                json!({ "plaintext": "", "initializationVector": long }),
                "has 258 bytes; at most 256",
            ),
            (encrypt, json!({ "plaintext": "?", "initializationVector": "aXY=" }), "plaintext: is"),
            (decrypt, json!({ "plaintext": "", "initializationVector": "aXY=" }), "missing field"),
            (
                decrypt,
                json!({ "ciphertext": "a", "initializationVector": "aXY=" }),
                "ciphertext: is not base64",
            ),
            (server, json!({ "expiration": "x" }), "missing field `commonName`"),
            (server, json!({ "commonName": "" }), "commonName: is empty"),
            (server, json!({ "commonName": "a b" }), "neither a DNS name nor an address"),
            (
                server,
                json!({ "commonName": "x".repeat(COMMON_NAME_CHARS_MAX + 1) }),
                "has 65 characters; at most 64",
            ),
            (server, json!({ "commonName": "a", "expiration": "soon" }), "expiration: \"soon\""),
            (identity, json!({ "expiration": 7 }), "invalid type"),
        ] {
            let said = read(body.to_string().as_bytes()).unwrap_err().to_string();
            assert!(said.contains(words), "{body}: {said}");
        }
        assert_eq!(super::identity(b""), Ok(None));
    }

    #[test]
    fn names_and_addresses_may_be_asked_for() {
        let check = |name: &str| {
            let read = server(json!({ "commonName": name }).to_string().as_bytes());
            assert_eq!(read.unwrap().common_name, name);
        };
        check("gateway");
        check(&"x".repeat(COMMON_NAME_CHARS_MAX));
        check("Gateway.example.com");
        check("10.0.0.7");
        check("fe80::1");
        let body = json!({ "commonName": "a", "expiration": "2026-11-23T10:00:00Z" });
        let read = server(body.to_string().as_bytes()).unwrap();
        assert_eq!(read.until, WallTime::parse_rfc3339("2026-11-23T10:00:00Z"));
    }

    #[test]
    fn a_modules_name_becomes_a_label() {
        let check = |module: &str, expected: &str| assert_eq!(label(module), expected, "{module}");
        check("$edgeHub", "edgehub");
        check("My_Module.2-x-", "mymodule2-x");
        check("9lives", "lives");
        check("_", "");
        check(&"a".repeat(LABEL_CHARS_MAX + 7), &"a".repeat(LABEL_CHARS_MAX));
    }
}
