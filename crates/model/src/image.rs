//! Names of images, in the form people write: `[registry[:port]/]path[:tag][@sha256:…]`. Pure.
//!
//! One rule for the hub that takes a deployment, the device that reads it and the engine that
//! looks for the image. Source: Docker, "image reference"; edge agent, `DockerConfig`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name, in bytes.
pub const IMAGE_BYTES_MAX: usize = 512;
/// Longest tag, in bytes.
const TAG_BYTES_MAX: usize = 128;
/// The tag that is meant where neither a tag nor a digest is named.
pub const TAG_DEFAULT: &str = "latest";
/// What the development engine runs is no image but a program of the machine.
const PROGRAM: &str = "process:/";

/// A name of an image, taken apart. `Display` gives it back, completed by [`TAG_DEFAULT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Registry and path, as written.
    pub name: Box<str>,
    /// The tag, if one was written.
    pub tag: Option<Box<str>>,
    /// `sha256:` and 64 hexadecimal digits, if written.
    pub digest: Option<Box<str>>,
}

/// Why a text is no name of an image.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidImage {
    /// Too long.
    #[error("an image's name has at most {IMAGE_BYTES_MAX} bytes")]
    Long,
    /// Behind `@` stands no digest.
    #[error("behind the @ of an image's name stands sha256: and 64 hexadecimal digits")]
    Digest,
    /// The tag is empty, too long, or has a sign that tags cannot have.
    #[error("{0:?} is no tag of an image")]
    Tag(String),
    /// More than one tag.
    #[error("{0:?} has more than one tag")]
    Tags(String),
    /// A part of the path is empty or has a sign that it cannot have.
    #[error("{0:?} is no part of an image's name: lower case letters, digits, and . _ - within")]
    Part(String),
}

impl FromStr for ImageName {
    type Err = InvalidImage;

    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        if text.len() > IMAGE_BYTES_MAX {
            return Err(InvalidImage::Long);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.into())),
            Some(_) => return Err(InvalidImage::Digest),
            None => (text, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let (parents, last) = match rest.rsplit_once('/') {
            Some((parents, last)) => (Some(parents), last),
            None => (None, rest),
        };
        let (path, tag) = match last.split_once(':') {
            Some((_, tag)) if tag.contains(':') => return Err(InvalidImage::Tags(text.into())),
            Some((path, tag)) => (path, Some(tag)),
            None => (last, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(InvalidImage::Tag(tag.into()));
        }
        let parts = parents.into_iter().flat_map(|all| all.split('/')).enumerate();
        for (place, part) in parts {
            if !(is_part(part) || place == 0 && is_registry(part)) {
                return Err(InvalidImage::Part(part.into()));
            }
        }
        // Docker wants lower case; what stands alone was always taken here in any.
        if !(is_part(path) || parents.is_none() && is_registry(path)) {
            return Err(InvalidImage::Part(path.into()));
        }
        let name = rest.strip_suffix(tag.unwrap_or_default()).unwrap_or(rest);
        let name = name.strip_suffix(':').unwrap_or(name);
        Ok(Self { name: name.into(), tag: tag.map(Into::into), digest })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (&self.tag, &self.digest) {
            (Some(tag), None) => write!(f, ":{tag}"),
            (Some(tag), Some(digest)) => write!(f, ":{tag}@{digest}"),
            (None, Some(digest)) => write!(f, "@{digest}"),
            (None, None) => write!(f, ":{TAG_DEFAULT}"),
        }
    }
}

/// `text` as it is compared and reported: two spellings of one image are one.
///
/// # Errors
/// [`InvalidImage`].
pub fn completed(text: &str) -> Result<Box<str>, InvalidImage> {
    if text.starts_with(PROGRAM) {
        return Ok(text.into());
    }
    text.parse::<ImageName>().map(|image| image.to_string().into())
}

/// `sha256:` and 64 hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_tag(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=TAG_BYTES_MAX).contains(&text.len()) && text.bytes().all(good)
}

fn is_part(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = |byte: u8| edge(byte) || b"._-".contains(&byte);
    text.bytes().next().is_some_and(edge) && text.bytes().all(good) && !text.contains("..")
}

/// A host, perhaps with a port.
fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "1"));
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    host.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && host.bytes().all(good)
        && !host.contains("..")
        && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_two_spellings_of_one_image_are_one() {
        let check = |text: &str, expected: &str| {
            assert_eq!(completed(text).as_deref(), Ok(expected));
            assert_eq!(completed(expected).as_deref(), Ok(expected));
        };
        let digest = format!("sha256:{}", "0a".repeat(32));
        check("x", "x:latest");
        check("x:latest", "x:latest");
        check("x:1.0-rc_1", "x:1.0-rc_1");
        check("a/b", "a/b:latest");
        check("localhost:5000/a/b", "localhost:5000/a/b:latest");
        check("localhost:5000/x:1", "localhost:5000/x:1");
        check("MyRegistry.azurecr.io/x", "MyRegistry.azurecr.io/x:latest");
        check("docker.io/library/x", "docker.io/library/x:latest");
        check(&format!("x@{digest}"), &format!("x@{digest}"));
        check(&format!("x:1@{digest}"), &format!("x:1@{digest}"));
        check("process:/usr/bin/it", "process:/usr/bin/it");
    }

    #[test]
    fn what_no_engine_could_find_is_refused_with_the_reason() {
        let check = |text: &str, expected: InvalidImage| {
            assert_eq!(text.parse::<ImageName>(), Err(expected), "{text}");
        };
        check("x:1:2", InvalidImage::Tags("x:1:2".into()));
        check("localhost:5000/x:1:2", InvalidImage::Tags("localhost:5000/x:1:2".into()));
        check("x::2", InvalidImage::Tags("x::2".into()));
        check("x:", InvalidImage::Tag(String::new()));
        check("x:ä", InvalidImage::Tag("ä".into()));
        check(&format!("x:{}", "t".repeat(TAG_BYTES_MAX + 1)), InvalidImage::Tag("t".repeat(129)));
        check("", InvalidImage::Part(String::new()));
        check(":1", InvalidImage::Part(String::new()));
        check("/a", InvalidImage::Part(String::new()));
        check("a//b", InvalidImage::Part(String::new()));
        check("a/../b", InvalidImage::Part("..".into()));
        check("a/Upper", InvalidImage::Part("Upper".into()));
        check("host:x/a", InvalidImage::Part("host:x".into()));
        check("a/b:1/c", InvalidImage::Part("b:1".into()));
        check("a@sha256:1", InvalidImage::Digest);
        check(&"x".repeat(IMAGE_BYTES_MAX + 1), InvalidImage::Long);
    }
}
