//! Where things are: binaries, scratch folders, loopback addresses.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// The port that stock SDKs dial; they cannot be told another.
pub const MQTT_PORT: u16 = 8883;
/// The port that stock service SDKs dial; only root may listen there.
pub const HTTPS_PORT: u16 = 443;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder that was chosen instead of the one in the environment.
static CHOSEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Takes binaries from `folder` from now on; from the one in the environment if that is `None`.
/// For whoever compares two builds in one process.
pub fn choose_binaries(folder: Option<PathBuf>) {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = folder;
}

/// The built binary `name` in the folder that `cargo xtask test` names.
pub fn binary(name: &str) -> Result<PathBuf> {
    let chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let folder = chosen
        .or_else(|| std::env::var_os("SELVEDGE_BIN").map(PathBuf::from))
        .context("SELVEDGE_BIN is not set; run these tests with `cargo xtask test`")?;
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is not built; run `cargo xtask test`", path.display());
    Ok(path)
}

/// The image archive `name` in the folder that `cargo xtask test` names.
pub fn image(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("SELVEDGE_IMAGES")
        .context("SELVEDGE_IMAGES is not set; run these tests with `cargo xtask test`")?;
    let path = PathBuf::from(folder).join(format!("{name}.tar"));
    ensure!(path.is_file(), "{} is not packed; run `cargo xtask test`", path.display());
    Ok(path)
}

/// A loopback address that nobody uses at [`MQTT_PORT`]; another at every call.
pub fn free_address() -> Result<Ipv4Addr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = u16::try_from(std::process::id() % 0xF000).unwrap_or(0).to_be_bytes();
    for _ in 0..240 {
        let last = u8::try_from(2 + NEXT.fetch_add(1, Ordering::Relaxed) % 240)?;
        let address = Ipv4Addr::new(127, high.max(1), low, last);
        if TcpListener::bind((address, MQTT_PORT)).is_ok() {
            return Ok(address);
        }
    }
    bail!("no loopback address has port {MQTT_PORT} free")
}

/// A folder on a real disk. It is removed when the test has passed and kept otherwise.
#[derive(Debug)]
pub struct Scratch {
    folder: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// A fresh folder for `test`.
    pub fn new(test: &str) -> Result<Self> {
        let parent = root().join("target/blackbox");
        std::fs::create_dir_all(&parent)?;
        Self::inside(&parent.canonicalize()?, &format!("{test}-"))
    }

    /// A fresh folder whose path is short, because paths of Unix sockets are.
    pub fn short(prefix: &str) -> Result<Self> {
        Self::inside(Path::new("/var/tmp"), prefix)
    }

    fn inside(parent: &Path, prefix: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        let path = folder.path().to_owned();
        Ok(Self { folder: Some(folder), path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that the test has passed, so nothing need be kept.
    pub fn passed(mut self) -> Result<()> {
        self.folder.take().map_or(Ok(()), TempDir::close).context("removing the scratch folder")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            println!("logs and data are kept in {}", folder.keep().display());
        }
    }
}
