//! The words under which a device is found: of its id, its flags and its tags. Pure.
//!
//! | word | stands for |
//! |---|---|
//! | `i` + 6 hex digits | three bytes of the id that follow each other, in lower case |
//! | `e0`, `e1` | disabled, enabled |
//! | `g0`, `g1` | no edge device, an edge device |
//! | `p` + 16 hex digits | a path in the tags |
//! | `v` + 16 hex digits | a path in the tags and the text of the scalar there |
//!
//! A device that a search means has all the words of the search. The reverse does not hold: what
//! is found is examined. The words are on disk: another form needs a migration.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Bytes of the id in one word; a shorter part has no word.
const PART_BYTES: usize = 3;

/// All words of one device, separated by spaces.
pub(crate) fn of_device(
    id: &str,
    (enabled, edge): (bool, bool),
    tags: &Map<String, Value>,
) -> String {
    let mut words: BTreeSet<String> = parts(&id.to_ascii_lowercase()).collect();
    words.insert(flag('e', enabled));
    words.insert(flag('g', edge));
    of_tags(&mut Vec::new(), tags, &mut words);
    let mut text = String::new();
    for word in words {
        text.push_str(&word);
        text.push(' ');
    }
    text
}

/// The words of every id that contains `part`, which is in lower case.
pub(crate) fn parts(part: &str) -> impl Iterator<Item = String> {
    part.as_bytes().windows(PART_BYTES).map(|window| {
        window.iter().fold("i".to_owned(), |mut word, byte| {
            // Writing to a string cannot fail.
            write!(word, "{byte:02x}").ok();
            word
        })
    })
}

/// The word of a flag.
pub(crate) fn flag(name: char, value: bool) -> String {
    format!("{name}{}", u8::from(value))
}

/// The word of devices that have something at `path`.
pub(crate) fn path<S: AsRef<str>>(path: &[S]) -> String {
    format!("p{:016x}", hash(path.iter().map(AsRef::as_ref), None))
}

/// The word of devices that have a scalar with the text `value` at `path`.
pub(crate) fn value<S: AsRef<str>>(path: &[S], value: &str) -> String {
    format!("v{:016x}", hash(path.iter().map(AsRef::as_ref), Some(value)))
}

fn of_tags<'t>(at: &mut Vec<&'t str>, tags: &'t Map<String, Value>, words: &mut BTreeSet<String>) {
    for (name, held) in tags {
        at.push(name);
        words.insert(path(at));
        match held {
            Value::Object(inner) => of_tags(at, inner, words),
            Value::Array(_) => {}
            Value::String(text) => {
                words.insert(value(at, text));
            }
            scalar => {
                words.insert(value(at, &scalar.to_string()));
            }
        }
        at.pop();
    }
}

/// FNV-1a over the names, each ended by a byte that no text holds, and over the value.
fn hash<'a>(path: impl Iterator<Item = &'a str>, value: Option<&str>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let text = |hash: u64, text: &str| step(text.bytes().fold(hash, step), 0xff);
    let path = path.fold(0xcbf2_9ce4_8422_2325, text);
    value.map_or(path, |value| text(path, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fleet::Standing;
    use crate::fleet::search::Search;

    #[test]
    fn the_words_on_disk_stay_what_they_are() {
        let tags = json!({"site": {"floor": 3}, "line": "a"});
        let words = of_device("Ab-1", (true, false), tags.as_object().unwrap());
        assert_eq!(
            words,
            "e1 g0 i61622d i622d31 p4884d94edcf87f23 p5ce47da9f1d5e068 pfa93e10ccbedf730 \
             v4eb8b45420fb8edc vb9cbfabc992b94d2 "
        );
    }

    fn tags() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            "[ab]{0,2}".prop_map(Value::from),
            (0..3).prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
            Just(json!(["a"])),
        ];
        let object = leaf.prop_recursive(3, 8, 3, |inner| {
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::btree_map("[ab]", object, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_device_that_a_search_means_has_all_its_words(
            id in "[abA-B.:-]{1,8}",
            (enabled, edge) in (any::<bool>(), any::<bool>()),
            tags in tags(),
            part in "[abA-B.:-]{0,5}",
            condition in "[ab](\\.[ab]){0,2}(=([ab]{0,2}|[0-2]|true|null))?",
            (status, iot_edge) in (0_u8..3, 0_u8..3),
        ) {
            let mut parameters = vec![("search", part.as_str()), ("tag", condition.as_str())];
            parameters.extend([("status", "enabled"), ("status", "disabled")].get(usize::from(status)));
            parameters.extend([("edge", "true"), ("edge", "false")].get(usize::from(iot_edge)));
            let tags = tags.as_object().unwrap();
            let text = of_device(&id, (enabled, edge), tags);
            let held: BTreeSet<&str> = text.split(' ').collect();
            for parameters in [&parameters[..], &parameters[..1]] {
                let search = Search::parse(parameters.iter().copied()).unwrap();
                let fits = search.fits(&id, (enabled, edge), || Standing::Stale)
                    && search.fits_tags(tags);
                if fits {
                    for word in search.words() {
                        prop_assert!(held.contains(word.as_str()), "{word} of {search:?}");
                    }
                }
            }
        }
    }
}
