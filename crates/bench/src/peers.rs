//! Which peers there are.

use std::process::{Command, Stdio};

/// The first line that `program` prints about itself.
fn says(program: &str, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    let text = if done.stdout.is_empty() { done.stderr } else { done.stdout };
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

fn told(name: &str, words: Option<String>) -> String {
    words.unwrap_or_else(|| format!("{name} (not installed)"))
}

/// mosquitto and its version.
pub(crate) fn mosquitto() -> String {
    // `-h` prints the version and, ending with 3, how it is used.
    told("mosquitto", says("mosquitto", &["-h"]))
}

/// runc and its version.
pub(crate) fn runc() -> String {
    told("runc", says("runc", &["--version"]))
}

/// Docker and containerd and their versions.
pub(crate) fn docker() -> String {
    let docker = told("dockerd", says("dockerd", &["--version"]));
    format!("{docker}; {}", told("containerd", says("containerd", &["--version"])))
}
