//! The web console: built from `console/src`, checked, and tried in a real browser.
//!
//! `cargo build` never needs Node: what Vite builds is committed under `console/dist`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{gate, node, release_dir, root};

/// Builds `console/dist` anew; `--check` only says whether it is what the sources give, and
/// `--browser` tries it in Chromium against the built hub.
pub(crate) fn run(args: &[String]) -> Result<()> {
    match args {
        [] => {
            node::install(&folder())?;
            npm(&["run", "--silent", "build"])
        }
        [flag] if flag == "--check" => check(),
        [flag] if flag == "--browser" => in_browser(),
        _ => bail!("`cargo xtask console` takes nothing, --check or --browser"),
    }
}

/// Types, unit tests, licences, and that `dist` is what the sources give.
pub(crate) fn check() -> Result<()> {
    node::install(&folder())?;
    npm(&["run", "--silent", "check"])?;
    node(&["scripts/pack.mjs", "--check"])
}

/// The console in Chromium against the built hub.
pub(crate) fn in_browser() -> Result<()> {
    node::install(&folder())?;
    let mut command = node::tool("node", &folder())?;
    command.arg("e2e/run.mjs").env("SELVEDGE_BIN", release_dir()?);
    gate::run(&mut command)
}

fn folder() -> PathBuf {
    root().join("console")
}

fn npm(args: &[&str]) -> Result<()> {
    gate::run(node::tool("npm", &folder())?.args(args))
}

fn node(args: &[&str]) -> Result<()> {
    gate::run(node::tool("node", &folder())?.args(args))
}
