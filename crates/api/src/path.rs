//! Paths of requests, decoded once at the door.

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Why a path cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PathFault {
    /// A segment is not UTF-8 after decoding.
    #[error("segment {0} of the path is not UTF-8")]
    NotUtf8(usize),
    /// A segment in the middle is empty.
    #[error("segment {0} of the path is empty")]
    Empty(usize),
}

/// The decoded segments of `path`; one trailing slash is ignored, for .NET and Node send one.
///
/// `+` stays a plus: in a path it never means a space.
///
/// # Errors
/// [`PathFault`] names the first segment that cannot be read, counted from 0.
pub fn segments(path: &str) -> Result<Vec<String>, PathFault> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split('/')
        .enumerate()
        .map(|(at, raw)| {
            if raw.is_empty() {
                return Err(PathFault::Empty(at));
            }
            match percent_decode_str(raw).decode_utf8() {
                Ok(text) => Ok(text.into_owned()),
                Err(_) => Err(PathFault::NotUtf8(at)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_decode_segment_by_segment() {
        let check = |path: &str, expected: Result<&[&str], PathFault>| {
            let got = segments(path);
            let got = got.as_ref().map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(got.map_err(|fault| *fault), expected.map(<[&str]>::to_vec), "{path}");
        };
        check("/devices/a%2Bb", Ok(&["devices", "a+b"]));
        check("/devices/a+b/", Ok(&["devices", "a+b"]));
        check("/devices/%24x/modules/$edgeAgent", Ok(&["devices", "$x", "modules", "$edgeAgent"]));
        check("/devices/a%2Fb", Ok(&["devices", "a/b"]));
        check("/", Ok(&[]));
        check("/devices//x", Err(PathFault::Empty(1)));
        check("/devices/%FF", Err(PathFault::NotUtf8(1)));
    }
}
