//! The engine's own tests on a kernel with cgroup v2 alone, in a virtual machine.
//!
//! The executables are the ones of the ordinary tests, under the paths they were built at.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::vm::{self, Machine};
use crate::{gate, root, say};

/// Test executables (package, target), what of them runs, and how many tests that is at least.
const SUITES: &[(&str, &str, &str, usize)] = &[
    ("selvedge-monitor", "containers", "", 6),
    ("selvedge-monitor", "network", "", 7),
    ("selvedge-monitor", "unpack", "", 2),
    ("engine", "engine", "embedded --skip power_cut", 14),
];

/// Boots the machine and runs every suite in it.
///
/// # Errors
/// If something cannot be fetched or built, if the machine hangs, or if a test fails.
pub(crate) fn run() -> Result<()> {
    let machine = Machine::new("cgroup2")?;
    let mut script = String::new();
    for suite in build()? {
        let debug = suite.executable.parent().and_then(Path::parent).context("no target folder")?;
        for binary in [&suite.executable, &debug.join("selvedge-monitor")] {
            machine.add_program(binary, binary)?;
        }
        machine.add(&suite.package, &suite.package)?;
        writeln!(
            script,
            "cd {} && {} --test-threads=2 {}",
            vm::quoted(&suite.package),
            vm::quoted(&suite.executable),
            suite.filter,
        )?;
    }
    let printed = machine.run(&script)?;
    judge(&printed, &machine.words())
}

/// An executable of tests and where it runs.
struct Suite {
    executable: PathBuf,
    package: PathBuf,
    filter: &'static str,
}

/// Builds the tests of the workspace, as the quick gate does, and finds the suites among them.
fn build() -> Result<Vec<Suite>> {
    gate::run(
        Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "selvedge-monitor"])
            .current_dir(root()),
    )?;
    let done = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--quiet", "--workspace", "--exclude", "blackbox"])
        .args(["--message-format", "json"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(done.status.success(), "the tests do not build");
    let printed = String::from_utf8(done.stdout).context("cargo printed no UTF-8")?;
    let messages: Vec<Value> =
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    SUITES
        .iter()
        .map(|&(package, target, filter, _)| {
            let package = root().join("crates").join(package);
            let executable = messages.iter().find_map(|message| {
                let text = |at: &str| message.pointer(at).and_then(Value::as_str);
                let ours = text("/manifest_path") == package.join("Cargo.toml").to_str()
                    && text("/target/name") == Some(target)
                    && message.pointer("/profile/test") == Some(&Value::Bool(true));
                ours.then(|| text("/executable").map(PathBuf::from)).flatten()
            });
            let executable = executable.with_context(|| format!("cargo built no {target}"))?;
            Ok(Suite { executable, package, filter })
        })
        .collect()
}

/// Every suite must have passed with at least its number of tests.
fn judge(printed: &str, words: &Path) -> Result<()> {
    let passed: Vec<usize> = printed.lines().filter_map(passed_tests).collect();
    let fewest: Vec<usize> = SUITES.iter().map(|&(.., fewest)| fewest).collect();
    let good = passed.len() == fewest.len()
        && passed.iter().zip(&fewest).all(|(passed, fewest)| passed >= fewest);
    if !good {
        Machine::show(printed);
        bail!(
            "on cgroup v2 {passed:?} tests passed of at least {fewest:?}; all words: {}",
            words.display()
        );
    }
    say(&format!("   {} tests passed on cgroup v2", passed.iter().sum::<usize>()));
    Ok(())
}

/// How many tests a line of the test runner says have passed, if none failed.
fn passed_tests(line: &str) -> Option<usize> {
    let rest = line.trim().strip_prefix("test result: ok. ")?;
    rest.split_once(" passed").and_then(|(count, _)| count.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_green_line_of_the_runner_counts() {
        let check = |line: &str, expected: Option<usize>| assert_eq!(passed_tests(line), expected);
        check("test result: ok. 22 passed; 0 failed; 0 ignored", Some(22));
        check("test result: ok. 0 passed; 0 failed\r", Some(0));
        check("test result: FAILED. 8 passed; 14 failed", None);
        check("test a ... ok", None);
    }

    #[test]
    fn a_machine_that_says_too_little_is_red() {
        let words = Path::new("/nowhere");
        let line = |count: usize| format!("test result: ok. {count} passed; 0 failed\n");
        let whole: String = SUITES.iter().map(|&(.., fewest)| line(fewest)).collect();
        judge(&whole, words).expect("all passed");
        judge(&line(6), words).expect_err("suites are missing");
        let fewer: String = SUITES.iter().map(|&(.., fewest)| line(fewest - 1)).collect();
        judge(&fewer, words).expect_err("tests are missing");
    }
}
