//! Image references, in the form people write: `name[:tag][@digest]`. What is a name of an image
//! is [`model::image`]'s to say, as it is for the hub; here two names of one image become one.

use std::fmt;
use std::str::FromStr;

use model::image::{ImageName, TAG_DEFAULT};

use crate::error::EngineError;
use crate::image::digest::Digest;

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
        let image: ImageName = text
            .parse()
            .map_err(|why| EngineError::image(format!("image reference {text:?}: {why}")))?;
        let name = image.name.strip_prefix("docker.io/").unwrap_or(&image.name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        let tag = image.tag.as_deref().unwrap_or(TAG_DEFAULT);
        let digest = image.digest.as_deref().map(str::parse).transpose()?;
        Ok(Self { name: name.to_owned(), tag: tag.to_owned(), digest })
    }
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
        for bad in
            ["", ":1", "a:", "a/../b", "UP/low er", "a//b", "a@sha256:1", "/a", "a:b/", "a:1:2"]
        {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
