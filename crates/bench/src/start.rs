//! Starting a container: the embedded engine beside `runc run` of the same bundle.
//!
//! Both run the same static program with the configuration that the engine wrote; the engine
//! mounts overlayfs over one layer, runc finds a plain folder. Rounds are interleaved.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use engine::backend::Backend;
use engine::create_options::Policy;
use engine::embedded::{EmbeddedEngine, EmbeddedSettings};
use engine::image::archive::{ImageContent, LayerFile, layer, write_oci_archive};
use engine::runtime::{ImageArchive, ModuleSpec};
use serde_json::{Value, json};

use crate::clock;

/// The image that everybody runs.
const IMAGE: &str = "bench:1";
/// Rounds that nobody counts: caches fill.
const WARM_UP: usize = 3;

/// What the rounds took, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// From the image to a container that could be started.
    pub(crate) create: Vec<f64>,
    /// From there to its program.
    pub(crate) start: Vec<f64>,
    /// `runc run --detach` of a bundle that was made before.
    pub(crate) runc: Vec<f64>,
}

/// Runs `rounds` of each. Needs root, `runc`, and `selvedge-monitor` in `SELVEDGE_BIN`.
pub(crate) fn run(rounds: usize) -> Result<Rounds> {
    ensure!(nix::unistd::geteuid().is_root(), "containers need root");
    // Short: the folder of a container must fit a Unix socket's address.
    let folder = tempfile::Builder::new().prefix("sb").tempdir_in("/tmp")?;
    let bench = Bench::open(folder.path())?;
    let done = bench.all(rounds);
    for name in ["ours", "peer"] {
        // The first error counts.
        bench.engine.remove(name).ok();
    }
    bench.engine.leave();
    done
}

struct Bench {
    engine: EmbeddedEngine,
    root: PathBuf,
    program: PathBuf,
    bundle: PathBuf,
    runc: PathBuf,
}

impl Bench {
    fn open(folder: &Path) -> Result<Self> {
        let binaries = PathBuf::from(std::env::var_os("SELVEDGE_BIN").context("SELVEDGE_BIN")?);
        let monitor = binaries.join("selvedge-monitor");
        let root = folder.join("e");
        let engine = EmbeddedEngine::open(EmbeddedSettings {
            root: root.clone(),
            monitor: monitor.clone(),
            policy: Policy::default(),
            network: None,
        })?;
        let program = fs::read(&monitor).context("selvedge-monitor is not built")?;
        let image = ImageContent {
            reference: IMAGE.to_owned(),
            config: json!({"Entrypoint": ["/probe", "probe", "sleep"]}),
            layers: vec![layer(&[LayerFile { path: "probe", mode: 0o755, content: &program }])?],
        };
        let path = folder.join("image.tar");
        write_oci_archive(&image, fs::File::create(&path)?)?;
        engine.import_image(&ImageArchive { path, reference: None })?;
        let (bundle, runc) = (folder.join("bundle"), folder.join("runc"));
        Ok(Self { engine, root, program: monitor, bundle, runc })
    }

    fn all(&self, rounds: usize) -> Result<Rounds> {
        let mut all = Rounds::default();
        self.engine.create(&spec("peer"))?;
        self.bundle()?;
        for round in 0..rounds + WARM_UP {
            let begun = clock::now();
            self.engine.create(&spec("ours"))?;
            let create = begun.elapsed();
            let begun = clock::now();
            self.engine.start("ours")?;
            let start = begun.elapsed();
            self.engine.stop("ours", Duration::ZERO)?;
            self.engine.remove("ours")?;
            let runc = self.runc_once(round)?;
            if round >= WARM_UP {
                all.create.push(millis(create));
                all.start.push(millis(start));
                all.runc.push(millis(runc));
            }
        }
        Ok(all)
    }

    /// A bundle for runc: the engine's configuration over a plain folder, which is less work
    /// than the overlay that the engine mounts at each start.
    fn bundle(&self) -> Result<()> {
        let config = fs::read(self.root.join("containers/peer/config.json"))?;
        let mut config: Value = serde_json::from_slice(&config)?;
        let rootfs = self.bundle.join("rootfs");
        fs::create_dir_all(&rootfs)?;
        fs::copy(&self.program, rootfs.join("probe"))?;
        *config.pointer_mut("/root/path").context("config.json names no root")? = json!(rootfs);
        Ok(fs::write(self.bundle.join("config.json"), config.to_string())?)
    }

    fn runc_once(&self, round: usize) -> Result<Duration> {
        let name = format!("bench-{round}");
        let runc = || {
            let mut command = Command::new("runc");
            command.arg("--root").arg(&self.runc).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::inherit());
            command
        };
        let begun = clock::now();
        let mut run = runc();
        run.args(["run", "--detach", "--bundle"]).arg(&self.bundle).arg(&name);
        let status = run.status().context("starting runc (Debian package runc)")?;
        let took = begun.elapsed();
        ensure!(status.success(), "runc run ended with {status}");
        let status = runc().args(["delete", "--force", &name]).status()?;
        ensure!(status.success(), "runc delete ended with {status}");
        Ok(took)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn spec(name: &str) -> ModuleSpec {
    ModuleSpec {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        create_options: r#"{"HostConfig":{"NetworkMode":"host"}}"#.to_owned(),
        env: BTreeMap::new(),
        binds: Vec::new(),
        labels: BTreeMap::new(),
        aliases: Vec::new(),
        extra_hosts: BTreeMap::new(),
        digest: "bench".to_owned(),
    }
}
