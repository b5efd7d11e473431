//! The web console: built from `console/src`, checked, and tried in a real browser.
//!
//! `cargo build` never needs Node: what Vite builds is committed under `console/dist`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{gate, release_dir, root};

/// The oldest Node that builds the console: major and minor.
const NODE_MIN: (u32, u32) = (20, 19);

/// Builds `console/dist` anew; `--check` only says whether it is what the sources give, and
/// `--browser` tries it in Chromium against the built hub.
pub(crate) fn run(args: &[String]) -> Result<()> {
    match args {
        [] => {
            install()?;
            npm(&["run", "--silent", "build"])
        }
        [flag] if flag == "--check" => check(),
        [flag] if flag == "--browser" => in_browser(),
        _ => bail!("`cargo xtask console` takes nothing, --check or --browser"),
    }
}

/// Types, unit tests, licences, and that `dist` is what the sources give.
pub(crate) fn check() -> Result<()> {
    install()?;
    npm(&["run", "--silent", "check"])?;
    node(&["scripts/pack.mjs", "--check"])
}

/// The console in Chromium against the built hub.
pub(crate) fn in_browser() -> Result<()> {
    install()?;
    let mut command = Command::new("node");
    command.arg("e2e/run.mjs").env("SELVEDGE_BIN", release_dir()?);
    gate::run(command.current_dir(folder()))
}

fn folder() -> PathBuf {
    root().join("console")
}

/// The pinned packages, if the lock file changed since they were installed. Install scripts do
/// not run: `.npmrc` says so.
fn install() -> Result<()> {
    let version = gate::output("node", &["--version"]).with_context(|| {
        format!("the console needs Node {}.{} or newer", NODE_MIN.0, NODE_MIN.1)
    })?;
    ensure!(
        is_new_enough(version.trim()),
        "Node {} is too old for the console; it needs {}.{} or newer",
        version.trim(),
        NODE_MIN.0,
        NODE_MIN.1
    );
    let stamp = folder().join("node_modules/.installed");
    let wanted = read(&folder().join("package-lock.json"))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    npm(&["ci", "--silent"])?;
    std::fs::write(&stamp, wanted).context("noting what was installed")
}

/// Whether `v20.20.2` is at least [`NODE_MIN`].
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= NODE_MIN,
        _ => false,
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn npm(args: &[&str]) -> Result<()> {
    gate::run(Command::new("npm").args(args).current_dir(folder()))
}

fn node(args: &[&str]) -> Result<()> {
    gate::run(Command::new("node").args(args).current_dir(folder()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_compared_by_numbers() {
        for (version, fits) in
            [("v20.19.0", true), ("v20.20.2", true), ("v22.1.0", true), ("v20.9.0", false)]
        {
            assert_eq!(is_new_enough(version), fits, "{version}");
        }
        assert!(!is_new_enough("v18.20.4"));
        assert!(!is_new_enough("nonsense"));
    }
}
