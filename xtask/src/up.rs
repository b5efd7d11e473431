//! `cargo xtask up`: the main job from one command.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{gate, image, release_dir, root, say};

/// Builds binaries and images, then becomes `selvedge up`.
pub(crate) fn up(args: &[String]) -> Result<()> {
    say("building the binaries (a few minutes the first time)");
    gate::build_release()?;
    image::pack_all(&root())?;
    let binary = release_dir()?.join("selvedge");
    let error = Command::new(&binary)
        .arg("up")
        .arg("--images")
        .arg(root().join("target/images"))
        .args(args)
        .exec();
    Err(error).with_context(|| format!("starting {}", binary.display())).or_else(|e| bail!("{e:#}"))
}
