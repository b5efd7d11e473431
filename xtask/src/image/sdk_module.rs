//! A module on the unmodified Azure SDK for Python, as an image: Debian's Python, what pip
//! installs, and the script of the test. The two lower layers need the network; they are made
//! once and kept until their recipe changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Entry, MODULE_USER, archive, digest, tar_of};
use crate::gate::run;
use crate::say;

/// The image's name.
const REFERENCE: &str = "selvedge/sdk-module:test";
/// The Debian release inside, whatever runs outside.
const SUITE: &str = "bookworm";
/// Debian packages inside, with what they depend on.
const PACKAGES: &str = "python3-minimal,libpython3-stdlib";
/// What Debian's packages bring and no module reads.
const UNREAD: &str = r#"cd "$1"/usr/share && rm -rf doc man locale info lintian"#;
/// Where every Python of Debian looks for packages.
const SITE: &str = "usr/lib/python3/dist-packages/";
/// Where the script lies in the image.
const SCRIPT: &str = "usr/bin/module.py";
/// Raised when the way the layers are made changes.
const RECIPE: u32 = 1;

/// Packs `target/images/sdk-module.tar`, if it is not there already.
pub(super) fn pack(root: &Path) -> Result<()> {
    let images = root.join("target/images");
    let parts = images.join("parts");
    fs::create_dir_all(&parts).with_context(|| format!("making {}", parts.display()))?;
    let read = |name: &str| fs::read(root.join(name)).with_context(|| format!("reading {name}"));
    let requirements = read("crates/blackbox/requirements.txt")?;
    let script = read("crates/blackbox/python/module.py")?;
    let debian = format!("{RECIPE} {SUITE} {PACKAGES} {UNREAD}");
    let debian = kept(&parts, "debian", debian.as_bytes(), debian_layer)?;
    let wanted = [RECIPE.to_string().as_bytes(), &requirements].concat();
    let packages = kept(&parts, "packages", &wanted, |parts| packages_layer(root, parts))?;
    let (stamp, path) = (parts.join("packed.txt"), images.join("sdk-module.tar"));
    let packed = [digest(&debian), digest(&packages), digest(&script)].join(" ");
    if path.is_file() && fs::read_to_string(&stamp).is_ok_and(|have| have == packed) {
        say(&format!("image sdk-module: as it was, {}", path.display()));
        return Ok(());
    }
    let run = json!({
        "User": MODULE_USER,
        "Entrypoint": ["/usr/bin/python3", "-u", format!("/{SCRIPT}")],
        "Env": ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"],
        "WorkingDir": "/",
    });
    let own = tar_of(&[Entry { path: SCRIPT, mode: 0o755, content: &script }])?;
    let content = archive(REFERENCE, &run, &[debian, packages, own])?;
    fs::write(&path, &content).with_context(|| format!("writing {}", path.display()))?;
    fs::write(&stamp, packed).context("noting what was packed")?;
    say(&format!("image sdk-module: {} KiB, {}", content.len() / 1024, path.display()));
    Ok(())
}

/// The layer `name` made by `recipe`: from an earlier run, or by `make`.
fn kept(
    parts: &Path,
    name: &str,
    recipe: &[u8],
    make: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<Vec<u8>> {
    let key: String = digest(recipe).chars().skip("sha256:".len()).take(12).collect();
    let path = parts.join(format!("{name}-{key}.tar"));
    if !path.is_file() {
        let made = make(parts).with_context(|| format!("making the layer {name}"))?;
        fs::rename(&made, &path).with_context(|| format!("naming {}", path.display()))?;
    }
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Debian's Python and what it needs, unpacked without running any package's scripts.
fn debian_layer(parts: &Path) -> Result<PathBuf> {
    let fresh = parts.join("debian.new.tar");
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--variant=extract", "--skip=output/dev", "--format=tar"])
        .arg(format!("--include={PACKAGES}"))
        .arg(format!("--customize-hook={UNREAD}"))
        .arg(SUITE)
        .arg(&fresh)
        // All times in the layer.
        .env("SOURCE_DATE_EPOCH", "0"))?;
    Ok(fresh)
}

/// The SDK and what it depends on, as pip installs them.
fn packages_layer(root: &Path, parts: &Path) -> Result<PathBuf> {
    let folder = parts.join("packages.new");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("removing what an earlier run left")?;
    }
    run(Command::new(root.join("target/python-sdk/bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--no-compile", "--target"])
        .arg(&folder)
        .arg("--requirement")
        .arg(root.join("crates/blackbox/requirements.txt")))?;
    let mut found = Vec::new();
    collect(&folder, SITE, &mut found)?;
    found.sort();
    let entries: Vec<Entry<'_>> = found
        .iter()
        .map(|(path, content)| {
            let mode = if path.ends_with('/') { 0o755 } else { 0o644 };
            Entry { path, mode, content }
        })
        .collect();
    let fresh = parts.join("packages.new.tar");
    fs::write(&fresh, tar_of(&entries)?).context("writing the layer")?;
    fs::remove_dir_all(&folder).context("removing the folder of pip")?;
    Ok(fresh)
}

/// Everything below `folder`, folders with a slash at the end.
fn collect(folder: &Path, inside: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let list = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in list {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name that is no text")?;
        let path = format!("{inside}{name}");
        if entry.file_type()?.is_dir() {
            let below = format!("{path}/");
            collect(&entry.path(), &below, found)?;
            found.push((below, Vec::new()));
        } else {
            found.push((path, fs::read(entry.path())?));
        }
    }
    Ok(())
}
