//! Every named limit of what ships has a test that names it, or stands in a list that only
//! shrinks.
//!
//! A limit is a constant whose name ends as [`ENDS`] says. A test that reaches it names it, so
//! that whoever changes the number changes what is tested; a test that repeats the number by
//! hand tests yesterday's limit.

use std::collections::{BTreeMap, BTreeSet};

/// What the names of limits end with.
const ENDS: &[&str] = &["_MAX", "_LIMIT", "_TIMEOUT"];
/// Crates that ship.
const SHIPPED: &[&str] = &[
    "crates/api",
    "crates/credentials",
    "crates/edge",
    "crates/engine",
    "crates/hub",
    "crates/journal",
    "crates/model",
    "crates/net",
    "crates/sdk",
    "crates/selvedge",
    "crates/selvedge-edge",
    "crates/selvedge-monitor",
    "crates/wire",
    "modules/anomaly",
    "modules/host-sensor",
];
/// Limits that no test names, one `crate NAME` a line.
const UNTESTED: &str = include_str!("../../untested-limits.txt");
/// Lines of [`UNTESTED`]; lowered with it, never raised.
const UNTESTED_MAX: usize = 69;

/// Finds limits that no test names, and lines of the list that are no longer true.
pub(super) fn untested(texts: &BTreeMap<String, String>, faults: &mut Vec<String>) {
    let listed: BTreeSet<&str> = UNTESTED.lines().filter(|line| !line.is_empty()).collect();
    if listed.len() > UNTESTED_MAX {
        faults.push(format!(
            "xtask/untested-limits.txt: {} limits; at most {UNTESTED_MAX}",
            listed.len()
        ));
    }
    judge(&unnamed(texts), &listed, faults);
}

fn judge(unnamed: &BTreeSet<String>, listed: &BTreeSet<&str>, faults: &mut Vec<String>) {
    for limit in unnamed.iter().filter(|limit| !listed.contains(limit.as_str())) {
        faults.push(format!("{limit}: no test of its crate names this limit and reaches it"));
    }
    for line in listed.iter().filter(|line| !unnamed.contains(**line)) {
        faults.push(format!(
            "xtask/untested-limits.txt: `{line}` is named by a test or is gone; take the line \
             out"
        ));
    }
}

/// The limits that no test names.
fn unnamed(texts: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut limits: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, text) in texts {
        // A fuzzer of its own workspace ships nothing.
        let Some(package) = package(name).filter(|_| !name.contains("/fuzz/")) else { continue };
        let (code, tests) = split(name, text);
        named.entry(package).or_default().extend(words(tests));
        for (other, limits) in imported(tests) {
            let owner = SHIPPED.iter().find(|it| it.ends_with(&format!("/{other}")));
            named.entry(owner.copied().unwrap_or(package)).or_default().extend(limits);
        }
        if SHIPPED.contains(&package) {
            for limit in code.lines().filter_map(declared) {
                limits.entry(limit.to_owned()).or_default().insert(package);
            }
        }
    }
    let mut found = BTreeSet::new();
    for (limit, packages) in &limits {
        // A name that one crate alone has may be named by the tests of others.
        let anywhere = packages.len() == 1 && named.values().any(|words| words.contains(&**limit));
        for package in packages {
            let own = named.get(package).is_some_and(|words| words.contains(&**limit));
            if !own && !anywhere {
                let (_, short) = package.split_once('/').unwrap_or_default();
                found.insert(format!("{short} {limit}"));
            }
        }
    }
    found
}

/// `crates/hub` of `crates/hub/src/twins.rs`.
fn package(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("crates/").or_else(|| name.strip_prefix("modules/"))?;
    let end = name.len() - rest.len() + rest.find('/')?;
    name.get(..end)
}

/// What of a file ships, and what of it tests.
fn split<'a>(name: &str, text: &'a str) -> (&'a str, &'a str) {
    let all = name.contains("/tests/") || name.ends_with("tests.rs");
    let all = all || ["crates/sim/", "crates/blackbox/"].iter().any(|it| name.starts_with(it));
    if all {
        return ("", text);
    }
    let begins = text.match_indices("\n#[cfg(test)]\nmod ").map(|(at, _)| at);
    // `mod tests;` leads to another file; `mod tests {` is the rest of this one.
    let inline = begins.into_iter().find(|at| {
        text.get(*at..).and_then(|rest| rest.lines().nth(2)).is_some_and(|it| it.ends_with('{'))
    });
    text.split_at_checked(inline.unwrap_or(text.len())).unwrap_or((text, ""))
}

/// The name of the limit that a line declares.
fn declared(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("const ")?;
    let visible = before.trim();
    if !visible.is_empty() && !visible.starts_with("pub") {
        return None;
    }
    let (name, _) = rest.split_once(':')?;
    let upper = |sign: char| sign.is_ascii_uppercase() || sign.is_ascii_digit() || sign == '_';
    (name.chars().all(upper) && ENDS.iter().any(|end| name.ends_with(end))).then_some(name)
}

/// Limits that a test takes from another crate by name, `model::waist::{BATCH_BYTES_MAX}`.
fn imported(tests: &str) -> impl Iterator<Item = (String, Vec<&str>)> {
    tests.split(';').filter_map(|line| {
        let line = line.trim_start();
        let path = line.strip_prefix("use ")?;
        let (other, _) = path.split_once("::")?;
        Some((other.replace('_', "-"), words(path).collect()))
    })
}

/// All words of a text but those of its comments.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_'))
        .filter(|word| ENDS.iter().any(|end| word.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_limit_is_tested_where_a_test_of_its_crate_names_it() {
        let limit = "pub(crate) const ROWS_MAX: usize = 5;\n";
        let check = |files: &[(&str, &str)], expected: &[&str]| {
            let mut all = vec![("crates/hub/src/a.rs", limit)];
            all.extend(files);
            let found = unnamed(&texts(&all));
            assert!(found.iter().eq(expected), "{files:?}: {found:?}");
        };
        check(&[], &["hub ROWS_MAX"]);
        check(&[("crates/hub/src/a/tests.rs", "    fill(ROWS_MAX + 1);\n")], &[]);
        check(&[("crates/hub/src/a/tests.rs", "    // ROWS_MAX\n")], &["hub ROWS_MAX"]);
        check(&[("crates/hub/src/b.rs", "\n#[cfg(test)]\nmod tests {\n    f(ROWS_MAX)\n}\n")], &[]);
        check(&[("crates/hub/src/b.rs", "fn f() { g(ROWS_MAX) }\n")], &["hub ROWS_MAX"]);
        check(&[("crates/sim/tests/x.rs", "    f(hub::ROWS_MAX);\n")], &[]);
        check(&[("crates/hub/src/a/tests.rs", "    f(SOME_ROWS_MAX);\n")], &["hub ROWS_MAX"]);
        // Another crate's limit of that name is another limit.
        let other = ("crates/net/src/a.rs", limit);
        check(&[other, ("crates/net/src/tests.rs", "    f(ROWS_MAX);\n")], &["hub ROWS_MAX"]);
        check(&[other], &["hub ROWS_MAX", "net ROWS_MAX"]);
    }

    #[test]
    fn constants_are_limits_by_their_names() {
        let check = |line: &str, expected: Option<&str>| assert_eq!(declared(line), expected);
        check("const ROWS_MAX: usize = 5;", Some("ROWS_MAX"));
        check("    pub(super) const BODY_TIMEOUT: Duration = X;", Some("BODY_TIMEOUT"));
        check("pub const ROWS: usize = 5;", None);
        check("/// const ROWS_MAX: usize", None);
        check("let x = ROWS_MAX;", None);
    }

    #[test]
    fn the_list_holds_what_is_true_and_nothing_else() {
        let check = |unnamed: &[&str], listed: &[&str], expected: usize| {
            let mut faults = Vec::new();
            let unnamed = unnamed.iter().map(|it| (*it).to_owned()).collect();
            judge(&unnamed, &listed.iter().copied().collect(), &mut faults);
            assert_eq!(faults.len(), expected, "{faults:?}");
        };
        check(&["hub A_MAX"], &["hub A_MAX"], 0);
        check(&["hub A_MAX"], &[], 1);
        check(&[], &["hub A_MAX"], 1);
    }
}
