//! The clients on Azure's SDKs for Java: packages from Maven Central, classes below `target`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{gate, root};

/// What compiles and runs them, from Debian's own archive.
pub(crate) const DEBIAN_PACKAGES: &[(&str, &str)] =
    &[("javac", "default-jdk-headless"), ("mvn", "maven")];

/// Fetches the packages that `pom.xml` pins and compiles the clients, if either changed since.
pub(crate) fn install() -> Result<()> {
    let (folder, target) = (root().join("crates/blackbox/java"), root().join("target/java"));
    let sources = sources(&folder.join("src"))?;
    let mut wanted = read(&folder.join("pom.xml"))?;
    for source in &sources {
        wanted.push_str(&read(source)?);
    }
    let stamp = target.join("installed.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    let (lib, classes) = (target.join("lib"), target.join("classes"));
    for old in [&lib, &classes] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("emptying {}", old.display()))?;
        }
    }
    std::fs::create_dir_all(&classes).context("making target/java")?;
    let mut fetch = Command::new("mvn");
    fetch.args(["-q", "-B", "dependency:copy-dependencies"]).current_dir(&folder);
    gate::run(fetch.arg(format!("-DoutputDirectory={}", lib.display())))?;
    let mut compile = Command::new("javac");
    compile.args(["-nowarn", "-cp"]).arg(lib.join("*")).arg("-d").arg(&classes);
    gate::run(compile.args(&sources))?;
    std::fs::write(&stamp, wanted).context("noting what was installed")
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().with_context(|| format!("reading {}", folder.display()))?;
    let mut all = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
