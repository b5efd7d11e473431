//! Image references, in the form people write: `name[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use crate::error::EngineError;
use crate::image::digest::Digest;

/// Longest reference, in bytes.
const REFERENCE_BYTES_MAX: usize = 512;

/// A parsed reference. `docker.io/` and `library/` are dropped, a missing tag is `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    name: String,
    tag: String,
    digest: Option<Digest>,
}

impl Reference {
    /// The name without tag and digest, as `registry/path`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest the writer insists on.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `name:tag`: what images are stored under.
    pub fn tagged(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let refuse = |why: &str| EngineError::image(format!("image reference {text:?} {why}"));
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(EngineError::image(format!(
                "image reference is longer than {REFERENCE_BYTES_MAX} bytes"
            )));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let colon = rest.rfind(':').filter(|colon| *colon >= last);
        let (name, tag) = match colon.and_then(|colon| rest.split_at_checked(colon)) {
            Some((name, tag)) => (name, tag.trim_start_matches(':')),
            None => (rest, "latest"),
        };
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let tag_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(tag_good) {
            return Err(refuse("has a bad tag"));
        }
        let mut parts = name.split('/').enumerate();
        let good = parts.all(|(place, part)| component_is_good(part, place == 0));
        if !good {
            return Err(refuse("has a bad name"));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned(), digest })
    }
}

fn component_is_good(part: &str, first: bool) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || b"._-".contains(&byte)
            || (first && (byte == b':' || byte.is_ascii_uppercase()))
    };
    part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && part.bytes().all(allowed)
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed_and_bad_ones_refused() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), want);
        };
        check("alpine", "alpine:latest");
        check("docker.io/library/alpine:3", "alpine:3");
        check("localhost:5000/a/b", "localhost:5000/a/b:latest");
        check("localhost:5000/a/b:1.2-x", "localhost:5000/a/b:1.2-x");
        let pinned = format!("mcr.microsoft.com/a:1@sha256:{}", "0".repeat(64));
        check(&pinned, &pinned);
        for bad in ["", ":1", "a:", "a/../b", "UP/low er", "a//b", "a@sha256:1", "/a", "a:b/"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
