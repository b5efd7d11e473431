//! Rules about the tree that the compiler does not check.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{gate, papers, planted, say};

mod limits;
mod tree;

/// Longest source file, in lines; test files are not counted.
const FILE_LINES_MAX: usize = 800;
/// Largest file in the tree that is not a lock file, in bytes.
const BLOB_BYTES_MAX: u64 = 512 * 1024;

/// Which rooms a room may use (house guide 1.3). Anything else fails.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("journal", &[]),
    ("wire", &["model"]),
    ("api", &["model"]),
    ("credentials", &["model"]),
    ("net", &["model", "wire", "api"]),
    ("engine", &["model"]),
    ("sdk", &["model", "net", "credentials"]),
    ("hub", &["model", "api", "credentials", "journal"]),
    ("edge", &["model", "api", "credentials", "journal", "engine"]),
    ("testkit", &["model", "journal", "engine"]),
    ("selvedge", &["model", "api", "credentials", "journal", "net", "hub"]),
    ("selvedge-edge", &["model", "api", "credentials", "journal", "net", "edge", "engine"]),
    ("selvedge-monitor", &[]),
    ("host-sensor", &["sdk"]),
    ("anomaly", &["sdk"]),
    ("blackbox", &["engine", "sdk"]),
    ("xtask", &[]),
];
/// Rooms that know all others.
const MAY_USE_ALL: &[&str] = &["sim", "bench"];
/// What only tests of a room may use besides.
const DEV_MAY_USE: &[(&str, &[&str])] = &[
    ("api", &["testkit"]),
    ("engine", &["testkit"]),
    ("hub", &["testkit"]),
    ("edge", &["testkit"]),
    ("selvedge", &["testkit"]),
    ("net", &["credentials"]),
];
/// Rooms without a runtime.
const NO_TOKIO: &[&str] = &["model", "journal", "wire", "api", "credentials", "selvedge-monitor"];
/// Licences that dependencies may offer; one of an OR suffices.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "MIT-0",
    "CDLA-Permissive-2.0",
];
/// Crates whose licence text was read by a person: `pathrs` (MPL-2.0, file-level, used
/// unmodified) and `rust-criu` (MIT by its LICENSE file; its manifest says nothing). Both
/// come with `libcontainer`.
const LICENCES_READ: &[&str] = &["pathrs", "rust-criu"];
/// Crates in two versions because of others; this list may only shrink.
const DOUBLED: &str = include_str!("../doubled.txt");
/// Files of a pure area that may hold effects.
const EFFECT_FILES: &[&str] = &["shell.rs", "http.rs", "main.rs"];

/// Checks all rules and prints what is wrong.
pub(crate) fn report(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    sources(root, &mut faults)?;
    let metadata = metadata()?;
    rooms(&metadata, &mut faults);
    packages(&metadata, &mut faults);
    for fault in &faults {
        say(fault);
    }
    match faults.len() {
        0 => Ok(()),
        count => bail!("{count} rules about the tree are broken"),
    }
}

fn sources(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let listed = gate::output(
        "git",
        &[
            "-C",
            &root.display().to_string(),
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )?;
    let mut texts = BTreeMap::new();
    for name in listed.lines() {
        let path = root.join(name);
        let Ok(meta) = fs::metadata(&path) else { continue };
        if meta.len() > BLOB_BYTES_MAX && name != "Cargo.lock" {
            faults.push(format!("{name}: {} bytes; at most {BLOB_BYTES_MAX}", meta.len()));
        }
        if Path::new(name).extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
            source(name, &text, faults);
            texts.insert(name.to_owned(), text);
        }
        if name.starts_with("changelog.d/") {
            tree::change(name, &fs::read_to_string(&path)?, faults);
        }
        if name.ends_with("Cargo.toml") && name != "Cargo.toml" {
            let text = fs::read_to_string(&path)?;
            if !text.contains("[lints]\nworkspace = true") && !text.contains("[lints.") {
                faults.push(format!("{name}: says nothing about lints"));
            }
        }
    }
    tree::dead(&texts, faults);
    planted::names(&texts, faults);
    limits::untested(&texts, faults);
    papers::check(root, &texts, faults)
}

fn source(name: &str, text: &str, faults: &mut Vec<String>) {
    let test_file = name.contains("/tests/") || name.ends_with("tests.rs");
    let lines = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().lines().count();
    if lines > FILE_LINES_MAX && !test_file {
        faults.push(format!("{name}: {lines} lines; at most {FILE_LINES_MAX}"));
    }
    if name.ends_with("/mod.rs") {
        faults.push(format!("{name}: areas are `area.rs` beside `area/`"));
    }
    if name.starts_with("xtask/") {
        return;
    }
    tree::words(name, text, faults);
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{name}:{}", number + 1);
        for word in ["FIXME", "XXX:", "#[ignore"] {
            if line.contains(word) {
                faults.push(format!("{}: `{word}` was left behind", place()));
            }
        }
        if line.contains("todo!(") || line.contains("unimplemented!(") {
            faults.push(format!("{}: unfinished", place()));
        }
    }
    effects(name, text, test_file, faults);
}

/// In `hub` and `edge`, waiting happens only in the named files.
fn effects(name: &str, text: &str, test_file: bool, faults: &mut Vec<String>) {
    let pure_area = name.starts_with("crates/hub/src/") || name.starts_with("crates/edge/src/");
    let file = name.rsplit('/').next().unwrap_or_default();
    let named = EFFECT_FILES.contains(&file) || name.contains("/storage/") || test_file;
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    if pure_area && !named && (code.contains(".await") || code.contains("tokio::")) {
        faults.push(format!("{name}: waits or uses tokio; move that into shell.rs or http.rs"));
    }
}

fn metadata() -> Result<Value> {
    let text = gate::output(env!("CARGO"), &["metadata", "--format-version", "1", "--locked"])?;
    serde_json::from_str(&text).context("cargo metadata is no JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn rooms(metadata: &Value, faults: &mut Vec<String>) {
    let ours: Vec<&Value> = items(metadata, "packages")
        .filter(|package| package.get("source") == Some(&Value::Null))
        .collect();
    let names: Vec<&str> = ours.iter().map(|package| text(package, "name")).collect();
    for package in &ours {
        let name = text(package, "name");
        let allowed = MAY_USE.iter().find(|(room, _)| *room == name).map(|(_, list)| *list);
        let Some(allowed) =
            allowed.or_else(|| MAY_USE_ALL.contains(&name).then_some(names.as_slice()))
        else {
            faults.push(format!("{name}: a new room needs a line in xtask's table"));
            continue;
        };
        let dev =
            DEV_MAY_USE.iter().find(|(room, _)| *room == name).map_or(&[][..], |(_, list)| list);
        for dependency in items(package, "dependencies") {
            let used = text(dependency, "name");
            let for_tests = text(dependency, "kind") == "dev";
            if names.contains(&used)
                && !allowed.contains(&used)
                && !(for_tests && dev.contains(&used))
            {
                faults.push(format!("{name}: may not use {used}"));
            }
            if used == "tokio" && !for_tests && NO_TOKIO.contains(&name) {
                faults.push(format!("{name}: may not use tokio"));
            }
        }
    }
}

fn packages(metadata: &Value, faults: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in items(metadata, "packages") {
        let name = text(package, "name");
        versions.entry(name).or_default().push(text(package, "version"));
        let source = text(package, "source");
        if !source.is_empty() && !source.starts_with("registry+") {
            faults.push(format!("{name}: comes from {source}; only the registry is allowed"));
        }
        if !source.is_empty()
            && !LICENCES_READ.contains(&name)
            && !licence_fits(text(package, "license"))
        {
            faults
                .push(format!("{name}: licence `{}` is not on the list", text(package, "license")));
        }
        if ["openssl", "native-tls", "aws-lc-rs"].contains(&name) {
            faults.push(format!("{name}: one TLS stack only, rustls with ring"));
        }
    }
    for (name, list) in versions.iter().filter(|(_, list)| list.len() > 1) {
        if !DOUBLED.lines().any(|line| line == *name) {
            faults.push(format!(
                "{name}: in versions {}; not on the list of doubles",
                list.join(", ")
            ));
        }
    }
}

/// Whether an SPDX expression can be met from the list: every AND part by some OR choice.
fn licence_fits(expression: &str) -> bool {
    let clean = expression.replace('/', " OR ").replace(['(', ')'], "");
    !clean.is_empty()
        && clean
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

/// The path of a file that the rules name; kept so that a moved file is noticed.
#[cfg(test)]
fn here(file: &str) -> std::path::PathBuf {
    crate::root().join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_fits_when_every_part_offers_a_choice_on_the_list() {
        let check = |expression: &str, expected| {
            assert_eq!(licence_fits(expression), expected, "{expression}");
        };
        check("MIT OR Apache-2.0", true);
        check("MIT/Apache-2.0", true);
        check("GPL-3.0", false);
        check("MIT AND GPL-3.0", false);
        check("Apache-2.0 AND ISC", true);
        check("(MIT OR GPL-2.0) AND Unicode-3.0", true);
        check("", false);
    }

    #[test]
    fn sources_are_judged_by_name_and_content() {
        let check = |name: &str, text: &str, expected: usize| {
            let mut faults = Vec::new();
            source(name, text, &mut faults);
            assert_eq!(faults.len(), expected, "{name}: {faults:?}");
        };
        check("crates/hub/src/twins.rs", "fn f() {}\n", 0);
        check("crates/hub/src/twins.rs", "async fn f() { g().await }\n", 1);
        check("crates/hub/src/twins/shell.rs", "async fn f() { g().await }\n", 0);
        check("crates/net/src/mod.rs", "", 1);
        check("crates/net/src/x.rs", &"\n".repeat(801), 1);
        check("crates/net/src/x.rs", "todo!()", 1);
    }

    #[test]
    fn the_tree_has_what_the_rules_name() {
        assert!(here("xtask/doubled.txt").is_file() && here(".ci/run").is_file());
    }
}
