//! Rules about words, names of files, and files that nobody reads.

use std::collections::{BTreeMap, BTreeSet};

/// Words that the house has another word for (house guide 1.5), and that word.
///
/// Only those are here that have no honest use beside it: `client`, `state` or `service` are
/// wrong for a device, a twin or a module, and right elsewhere; that is for readers to judge.
const WORDS: &[(&str, &str)] = &[
    ("shadow", "twin"),
    ("principal", "identity"),
    ("orchestrator", "edge agent"),
    ("supervisor", "edge agent"),
    ("broker", "edge hub, or router"),
    ("rollout", "deployment"),
    ("onboarding", "enrollment"),
    ("pod", "module"),
    ("whitelist", "list of what is allowed"),
    ("blacklist", "list of what is refused"),
];
/// Azure's literal names that hold such a word.
const LITERALS: &[&str] = &["mqttBroker"];
/// Ends of type names that say nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Util", "Utils", "Handler2", "Impl"];
/// A line with this, or the line above it, may use a word of the list; a reason follows.
const ALLOW: &str = "tidy: allow ";
/// Fewest words of a reason.
const REASON_WORDS_MIN: usize = 3;
/// Kinds of changes, as file names in `changelog.d` end.
const KINDS: &[&str] = &["added", "changed", "fixed"];
/// Longest text of one change, in bytes.
const CHANGE_BYTES_MAX: usize = 1500;

/// Finds words, names and channels that the house does not use.
pub(super) fn words(name: &str, text: &str, faults: &mut Vec<String>) {
    let mut allowed = "";
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{name}:{}", number + 1);
        let (above, here) = (allowed, reason(line));
        allowed = here.unwrap_or("");
        if here.is_some_and(|reason| reason.split_whitespace().count() < REASON_WORDS_MIN) {
            faults.push(format!("{}: an exception needs a reason", place()));
        }
        if here.is_some() || !above.is_empty() {
            continue;
        }
        let own = LITERALS.iter().fold(line.to_owned(), |own, name| own.replace(name, ""));
        let lower: Vec<String> = parts(&own).map(str::to_ascii_lowercase).collect();
        for (word, better) in WORDS {
            let plural = format!("{word}s");
            if lower.iter().any(|part| part == word || *part == plural) {
                faults.push(format!("{}: say {better}, not `{word}`", place()));
            }
        }
        if line.contains("fn get_") {
            faults.push(format!("{}: functions are verbs without `get_`", place()));
        }
        if line.contains("unbounded_channel") || line.contains("mpsc::unbounded") {
            faults.push(format!("{}: every queue has a limit", place()));
        }
        let declared = ["struct ", "enum ", "trait "]
            .iter()
            .find_map(|kind| line.trim_start().trim_start_matches("pub ").strip_prefix(kind));
        let type_name: String = declared
            .unwrap_or_default()
            .chars()
            .take_while(|sign| sign.is_alphanumeric())
            .collect();
        if EMPTY_NAMES.iter().any(|end| type_name.ends_with(end)) {
            faults.push(format!("{}: `{type_name}` says nothing; name what it is", place()));
        }
    }
}

fn reason(line: &str) -> Option<&str> {
    line.split_once(ALLOW).map(|(_, reason)| reason)
}

/// The words of a line: `deviceBroker`, `device_broker` and `DEVICE-BROKER` have two.
fn parts(line: &str) -> impl Iterator<Item = &str> {
    line.split(|sign: char| !sign.is_ascii_alphabetic()).flat_map(|run| {
        let mut rest = run;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let upper = |sign: char| sign.is_ascii_uppercase();
            let after = rest.char_indices().skip(1);
            // Where a new hump begins; a run of capitals is one word.
            let mut before = first;
            let cut = after.into_iter().find_map(|(at, sign)| {
                let begins = upper(sign) && !upper(before);
                before = sign;
                begins.then_some(at)
            });
            let (word, left) = rest.split_at_checked(cut.unwrap_or(rest.len()))?;
            rest = left;
            Some(word)
        })
    })
}

/// `changelog.d/<slug>.<kind>.md`, with a sentence or two.
pub(super) fn change(name: &str, text: &str, faults: &mut Vec<String>) {
    let Some(file) = name.strip_prefix("changelog.d/") else { return };
    let mut parts = file.split('.');
    let shape = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(slug), Some(kind), Some("md"), None) = shape else {
        faults.push(format!("{name}: changes are named <slug>.<{}>.md", KINDS.join("|")));
        return;
    };
    let plain = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '-';
    if slug.is_empty() || !slug.chars().all(plain) || !KINDS.contains(&kind) {
        faults.push(format!("{name}: changes are named <slug>.<{}>.md", KINDS.join("|")));
    }
    if text.trim().is_empty() || text.len() > CHANGE_BYTES_MAX {
        faults.push(format!("{name}: one or two sentences, at most {CHANGE_BYTES_MAX} bytes"));
    }
}

/// Sources that no `mod` line leads to.
pub(super) fn dead(sources: &BTreeMap<String, String>, faults: &mut Vec<String>) {
    let roots = ["lib.rs", "main.rs", "build.rs"];
    for name in sources.keys() {
        let Some((folder, file)) = name.rsplit_once('/') else { continue };
        let stem = file.trim_end_matches(".rs");
        let area = folder.rsplit('/').next().unwrap_or_default();
        let is_target = area == "bin"
            || (["tests", "benches", "examples"].contains(&area) && !folder.contains("/src/"));
        if roots.contains(&file) || is_target {
            continue;
        }
        let parents: BTreeSet<String> = roots
            .iter()
            .map(|root| format!("{folder}/{root}"))
            .chain([format!("{folder}.rs")])
            .collect();
        let is_named = parents.iter().filter_map(|parent| sources.get(parent)).any(|text| {
            let line = format!("mod {stem};");
            text.lines().any(|it| it.trim_end().ends_with(&line) && !it.trim().starts_with("//"))
                || text.contains(&format!("{file}\""))
        });
        if !is_named {
            faults.push(format!("{name}: no `mod {stem};` leads to it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_found_in_text_and_in_names() {
        let check = |line: &str, expected: usize| {
            let mut faults = Vec::new();
            words("x.rs", line, &mut faults);
            assert_eq!(faults.len(), expected, "{line}: {faults:?}");
        };
        check("// the device shadow", 1);
        check("struct ShadowCopy;", 1);
        check("let message_brokers = 1;", 1);
        check("\"BrokeredEndpoint\"", 0);
        check("// tidy: allow the word of a quoted page\n// the shadow", 0);
        check("// the shadow, tidy: allow it", 1);
        check("tripod, podium, PODS", 1);
        check("fn get_twin() {}", 1);
        check("pub struct TwinManager;", 1);
        check("struct Managers;", 0);
        check("tokio::sync::mpsc::unbounded_channel()", 1);
    }

    #[test]
    fn changes_have_names_that_never_collide_and_a_sentence() {
        let check = |name: &str, text: &str, expected: usize| {
            let mut faults = Vec::new();
            change(name, text, &mut faults);
            assert_eq!(faults.len(), expected, "{name}: {faults:?}");
        };
        check("changelog.d/twin-rules.fixed.md", "Fixed.", 0);
        check("changelog.d/twin-rules.md", "Fixed.", 1);
        check("changelog.d/Twin.fixed.md", "Fixed.", 1);
        check("changelog.d/twin.broken.md", "Fixed.", 1);
        check("changelog.d/twin.fixed.md", " ", 1);
        check("README.md", "", 0);
    }

    #[test]
    fn a_file_that_no_line_names_is_dead() {
        let files = [
            ("crates/a/src/lib.rs", "pub mod b;\n// mod gone;\n"),
            ("crates/a/src/b.rs", "pub(crate) mod c;\n"),
            ("crates/a/src/b/c.rs", ""),
            ("crates/a/src/gone.rs", ""),
            ("crates/a/tests/one.rs", ""),
            ("crates/a/tests/two/main.rs", "mod part;\n"),
            ("crates/a/tests/two/part.rs", ""),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let mut faults = Vec::new();
        dead(&files, &mut faults);
        assert_eq!(faults, ["crates/a/src/gone.rs: no `mod gone;` leads to it"]);
    }
}
