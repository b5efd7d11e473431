//! Which devices a search means. Pure.

use std::collections::BTreeSet;

use api::error::{ApiError, ErrorCode};
use serde_json::{Map, Value};

use super::{Standing, words};

/// Longest text of a search, in bytes.
const SEARCH_BYTES_MAX: usize = 128;
/// Most conditions on tags.
const TAGS_MAX: usize = 8;
/// Longest condition on a tag, in bytes.
const TAG_BYTES_MAX: usize = 512;

/// What is looked for; everything that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Search {
    /// A part of the id, in lower case.
    part: String,
    enabled: Option<bool>,
    edge: Option<bool>,
    standing: Option<Wanted>,
    tags: Vec<TagCondition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Connected,
    Disconnected,
    Stale,
    NeverSeen,
}

/// `path=value`, or `path` alone for "is there".
#[derive(Clone, Debug, PartialEq, Eq)]
struct TagCondition {
    path: Vec<String>,
    value: Option<String>,
}

impl Search {
    /// Reads the parameters `search`, `tag`, `status`, `connection`, `edge`; others are not ours.
    ///
    /// # Errors
    /// Which parameter is wrong, and what it may be.
    pub(crate) fn parse<'a>(
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ApiError> {
        let mut search = Self::default();
        for (name, value) in parameters {
            match (name, value) {
                ("search", text) if text.len() > SEARCH_BYTES_MAX => {
                    return Err(bad(&format!("`search` has at most {SEARCH_BYTES_MAX} bytes")));
                }
                ("search", text) => search.part = text.to_ascii_lowercase(),
                ("status", "enabled") => search.enabled = Some(true),
                ("status", "disabled") => search.enabled = Some(false),
                ("status", _) => return Err(bad("`status` must be enabled or disabled")),
                ("edge", "true") => search.edge = Some(true),
                ("edge", "false") => search.edge = Some(false),
                ("edge", _) => return Err(bad("`edge` must be true or false")),
                ("connection", text) => search.standing = Some(connection(text)?),
                ("tag", text) => search.tags.push(tag(text)?),
                _ => {}
            }
        }
        if search.tags.len() > TAGS_MAX {
            return Err(bad(&format!("at most {TAGS_MAX} `tag` may be given")));
        }
        Ok(search)
    }

    /// Whether tags must be read to decide.
    pub(crate) fn needs_tags(&self) -> bool {
        !self.tags.is_empty()
    }

    /// The words of every device that is meant; see `words`.
    pub(crate) fn words(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = words::parts(&self.part).collect();
        all.extend(self.enabled.map(|enabled| words::flag('e', enabled)));
        all.extend(self.edge.map(|edge| words::flag('g', edge)));
        all.extend(self.tags.iter().map(|condition| match &condition.value {
            Some(value) => words::value(&condition.path, value),
            None => words::path(&condition.path),
        }));
        all
    }

    /// Whether an id alone can fit.
    pub(crate) fn fits_id(&self, id: &str) -> bool {
        contains(id, &self.part)
    }

    /// Whether only stale devices are meant.
    pub(crate) fn is_stale_only(&self) -> bool {
        self.standing == Some(Wanted::Stale)
    }

    /// Whether only connected devices are meant.
    pub(crate) fn is_connected_only(&self) -> bool {
        self.standing == Some(Wanted::Connected)
    }

    /// Whether the id and the row's own facts fit; `standing` is asked for last.
    pub(crate) fn fits(
        &self,
        id: &str,
        (enabled, edge): (bool, bool),
        standing: impl FnOnce() -> Standing,
    ) -> bool {
        self.enabled.is_none_or(|wanted| wanted == enabled)
            && self.edge.is_none_or(|wanted| wanted == edge)
            && contains(id, &self.part)
            && self.standing.is_none_or(|wanted| match (wanted, standing()) {
                (Wanted::Connected, Standing::Connected)
                | (Wanted::Stale, Standing::Stale)
                | (Wanted::NeverSeen, Standing::NeverSeen) => true,
                (Wanted::Disconnected, standing) => standing != Standing::Connected,
                _ => false,
            })
    }

    /// Whether the tags fit.
    pub(crate) fn fits_tags(&self, tags: &Map<String, Value>) -> bool {
        self.tags.iter().all(|condition| condition.holds(tags))
    }
}

impl TagCondition {
    fn holds(&self, tags: &Map<String, Value>) -> bool {
        let mut path = self.path.iter();
        let first = path.next().and_then(|name| tags.get(name));
        let found = path.fold(first, |at, name| at.and_then(|value| value.get(name)));
        match (found, &self.value) {
            (Some(_), None) => true,
            (Some(Value::String(text)), Some(wanted)) => text == wanted,
            (Some(Value::Object(_) | Value::Array(_)) | None, _) => false,
            (Some(scalar), Some(wanted)) => {
                let text = scalar.to_string();
                text == *wanted
            }
        }
    }
}

/// Whether `id` contains `part`, which is in lower case, without regard to case.
fn contains(id: &str, part: &str) -> bool {
    part.is_empty()
        || id
            .as_bytes()
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

fn connection(text: &str) -> Result<Wanted, ApiError> {
    match text {
        "connected" => Ok(Wanted::Connected),
        "disconnected" => Ok(Wanted::Disconnected),
        "stale" => Ok(Wanted::Stale),
        "neverSeen" => Ok(Wanted::NeverSeen),
        _ => Err(bad("`connection` must be connected, disconnected, stale or neverSeen")),
    }
}

fn tag(text: &str) -> Result<TagCondition, ApiError> {
    if text.len() > TAG_BYTES_MAX {
        return Err(bad(&format!("a `tag` has at most {TAG_BYTES_MAX} bytes")));
    }
    let (path, value) = match text.split_once('=') {
        Some((path, value)) => (path, Some(value.to_owned())),
        None => (text, None),
    };
    let path = path.trim();
    let path = path.strip_prefix("tags.").unwrap_or(path);
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(bad("a `tag` must be path=value, such as site=paris or site.floor=2"));
    }
    Ok(TagCondition { path, value })
}

fn bad(words: &str) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn search(parameters: &[(&str, &str)]) -> Result<Search, ApiError> {
        Search::parse(parameters.iter().copied())
    }

    #[test]
    fn any_part_of_an_id_is_found_without_regard_to_case() {
        let check = |part: &str, expected: bool| {
            let search = search(&[("search", part)]).unwrap();
            let fits = search.fits("Pump-17.North", (true, false), || Standing::Stale);
            assert_eq!(fits, expected, "{part}");
        };
        check("", true);
        check("pump", true);
        check("17.n", true);
        check("NORTH", true);
        check("pump-17.north-2", false);
        check("south", false);
    }

    #[test]
    fn every_condition_must_hold() {
        let check = |parameters: &[(&str, &str)], standing: Standing, expected: bool| {
            let search = search(parameters).unwrap();
            let fits = search.fits("d", (true, false), || standing);
            assert_eq!(fits, expected, "{parameters:?}");
        };
        check(&[("status", "enabled")], Standing::Connected, true);
        check(&[("status", "disabled")], Standing::Connected, false);
        check(&[("edge", "true")], Standing::Connected, false);
        check(&[("connection", "connected")], Standing::Connected, true);
        check(&[("connection", "disconnected")], Standing::Stale, true);
        check(&[("connection", "disconnected")], Standing::Connected, false);
        check(&[("connection", "neverSeen")], Standing::Stale, false);
        check(&[("edge", "false"), ("connection", "stale")], Standing::Stale, true);
    }

    #[test]
    fn tags_are_found_by_path_and_compared_as_text() {
        let tags = json!({"site": "paris", "place": {"floor": 3, "open": true}, "none": null});
        let check = |condition: &str, expected: bool| {
            let search = search(&[("tag", condition)]).unwrap();
            assert_eq!(search.fits_tags(tags.as_object().unwrap()), expected, "{condition}");
        };
        check("site=paris", true);
        check("tags.site=paris", true);
        check("site=par", false);
        check("site", true);
        check("place.floor=3", true);
        check("place.floor=3.0", false);
        check("place.open=true", true);
        check("place", true);
        check("place=x", false);
        check("none=null", true);
        check("absent", false);
        check("site=", false);
    }

    #[test]
    fn wrong_parameters_are_refused_with_what_they_may_be() {
        let check = |parameters: &[(&str, &str)], words: &str| {
            let error = search(parameters).unwrap_err();
            assert!(error.reason.contains(words), "{error:?}");
        };
        check(&[("status", "on")], "enabled or disabled");
        check(&[("edge", "1")], "true or false");
        check(&[("connection", "up")], "neverSeen");
        check(&[("tag", "a..b=1")], "path=value");
        check(&[("tag", "")], "path=value");
        let many = [("tag", "a"); TAGS_MAX + 1];
        check(&many, &format!("at most {TAGS_MAX}"));
        search(&[("tag", "a"); TAGS_MAX]).unwrap();
        let long = "x".repeat(SEARCH_BYTES_MAX + 1);
        check(&[("search", &long)], &format!("at most {SEARCH_BYTES_MAX}"));
        search(&[("search", &"x".repeat(SEARCH_BYTES_MAX))]).unwrap();
        let long = "x".repeat(TAG_BYTES_MAX + 1);
        check(&[("tag", &long)], &format!("at most {TAG_BYTES_MAX}"));
        search(&[("tag", &"x".repeat(TAG_BYTES_MAX))]).unwrap();
    }
}
