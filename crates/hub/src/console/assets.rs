//! The console's files: which one a path means, in which encoding, and the headers it gets.
//!
//! Names are stable and the content's SHA-256 is the `ETag`, so a browser asks each time and is
//! mostly answered "not modified". The headers are as strict as the console allows.

use std::borrow::Cow;

use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue};
use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};

/// The built console as it was when the hub was built; empty if it was not built.
#[derive(RustEmbed)]
#[folder = "../../console/dist"]
#[allow_missing = true]
struct Built;

/// Scripts and workers only from our own files; styles also inline, for the component library
/// sets positions and sizes that way; nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; \
    manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page for a hub that was built without its console. It needs no script and no style file.
pub(crate) const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <title>Selvedge</title><h1>The console is not built</h1>\
    <p>This hub was built without the console's files. Its API works.</p>\
    <p>With Node 20: <code>cargo xtask console</code>, then build the hub again; or start it \
    with <code>--console-dir console/dist</code>.</p></html>\n";

/// A file, as it lies or compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asset {
    pub(crate) content: Cow<'static, [u8]>,
    /// Of this content, quoted.
    pub(crate) etag: String,
    pub(crate) kind: &'static str,
    pub(crate) encoding: Option<&'static str>,
}

/// The names to look for, best first: the encodings that `accepted` allows, then the file.
pub(crate) fn candidates(name: &str, accepted: &str) -> Vec<(String, Option<&'static str>)> {
    let allowed = |wanted: &str| {
        accepted.split(',').any(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let named = pieces.next().is_some_and(|coding| coding.eq_ignore_ascii_case(wanted));
            let refused = pieces.any(|piece| {
                piece.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
            });
            named && !refused
        })
    };
    let mut all = Vec::new();
    if allowed("br") {
        all.push((format!("{name}.br"), Some("br")));
    }
    if allowed("gzip") {
        all.push((format!("{name}.gz"), Some("gzip")));
    }
    all.push((name.to_owned(), None));
    all
}

/// The embedded file `name` in the best encoding.
pub(crate) fn embedded(name: &str, accepted: &str) -> Option<Asset> {
    candidates(name, accepted).into_iter().find_map(|(file, encoding)| {
        let found = Built::get(&file)?;
        let etag = etag(&found.metadata.sha256_hash());
        Some(Asset { content: found.data, etag, kind: kind(name), encoding })
    })
}

/// A file that was read from a folder.
pub(crate) fn read(name: &str, content: Vec<u8>, encoding: Option<&'static str>) -> Asset {
    let etag = etag(&Sha256::digest(&content));
    Asset { content: Cow::Owned(content), etag, kind: kind(name), encoding }
}

/// The file that `path` below `/console/` means: itself, or the page for a view's address.
/// `None` for what no file can be called.
///
/// A device may have a dot in its name, so only what lies at the top or in `assets/` is a file.
pub(crate) fn file_of(path: &str) -> Option<&str> {
    let path = path.trim_end_matches('/');
    let plain = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && !segment.contains(['\\', ':'])
            && !segment.chars().any(char::is_control)
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_file = path.starts_with("assets/") || !path.contains('/') && last.contains('.');
    if is_file { path.split('/').all(plain).then_some(path) } else { Some(PAGE) }
}

/// The page of every view.
pub(crate) const PAGE: &str = "index.html";

/// Whether the browser has this content already.
pub(crate) fn is_known(asset: &Asset, headers: &HeaderMap) -> bool {
    let held = headers.get(http::header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    held.is_some_and(|held| {
        held.split(',').any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.trim_start_matches("W/") == asset.etag
        })
    })
}

/// The headers of `asset`.
pub(crate) fn dress(asset: &Asset, headers: &mut HeaderMap) {
    harden(headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(value) = HeaderValue::try_from(asset.etag.as_str()) {
        headers.insert(ETAG, value);
    }
    if let Some(encoding) = asset.encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
}

/// What every page of the console says to the browser.
pub(crate) fn harden(headers: &mut HeaderMap) {
    let all: [(HeaderName, &'static str); 6] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn etag(hash: &[u8]) -> String {
    let hash: &[u8; 16] = hash.first_chunk().expect("SHA-256 has 32 bytes");
    format!("\"{:032x}\"", u128::from_be_bytes(*hash))
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_lead_to_the_page_and_files_to_themselves() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(file_of(path), expected, "{path}");
        };
        check("", Some(PAGE));
        check("devices", Some(PAGE));
        check("devices/pump-1/twin/", Some(PAGE));
        check("devices/pump.v2", Some(PAGE));
        check("index.html", Some(PAGE));
        check("favicon.svg", Some("favicon.svg"));
        check("assets/index.js", Some("assets/index.js"));
        check("assets/fonts/a.woff2", Some("assets/fonts/a.woff2"));
        check("../secret.pem", Some(PAGE));
        check("assets/../../secret.pem", None);
        check("/etc/pass.wd", Some(PAGE));
        check("assets/.hidden.js", None);
        check("assets//a.js", None);
        check("a\\b.js", None);
    }

    #[test]
    fn the_best_encoding_that_is_accepted_comes_first() {
        let check = |accepted: &str, expected: &[&str]| {
            let names: Vec<_> = candidates("a.js", accepted).into_iter().map(|(n, _)| n).collect();
            assert_eq!(names, expected, "{accepted}");
        };
        check("", &["a.js"]);
        check("gzip, deflate, br, zstd", &["a.js.br", "a.js.gz", "a.js"]);
        check("gzip", &["a.js.gz", "a.js"]);
        check("br;q=0, gzip;q=0.5", &["a.js.gz", "a.js"]);
        check("identity", &["a.js"]);
    }

    #[test]
    fn a_known_tag_is_recognised_in_all_its_forms() {
        let asset = read("a.js", b"x".to_vec(), None);
        let check = |held: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::IF_NONE_MATCH, HeaderValue::try_from(held).unwrap());
            assert_eq!(is_known(&asset, &headers), expected, "{held}");
        };
        check(&asset.etag, true);
        check(&format!("W/{}, \"other\"", asset.etag), true);
        check("*", true);
        check("\"other\"", false);
    }
}
