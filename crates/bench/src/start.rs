//! Starting a container: the embedded engine beside `runc run` of the same bundle and Docker.
//!
//! All run the same static program on the host's network; it calls back as soon as it runs, so
//! that the end is the same moment for everybody. Rounds are interleaved.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engine::backend::Backend;
use engine::create_options::Policy;
use engine::embedded::{EmbeddedEngine, EmbeddedSettings};
use engine::runtime::{ImageArchive, ModuleSpec};
use serde_json::{Value, json};

use crate::calls::Calls;
use crate::device::{IMAGE, calling, folder, image};
use crate::docker::{Docker, FLAGS};
use crate::figures::Rounds;
use crate::report::{line, progress};
use crate::{clock, peers, targets};

/// Rounds that nobody counts: caches fill.
const WARM_UP: usize = 3;

/// What the rounds took, in milliseconds: until the call returned, until the program called.
#[derive(Debug, Default)]
struct Taken {
    returned: Rounds,
    runs: Rounds,
}

impl Taken {
    fn push(&mut self, begun: Instant, returned: Duration, called: Instant) {
        self.returned.push(millis(returned));
        self.runs.push(millis(called.saturating_duration_since(begun)));
    }
}

#[derive(Debug, Default)]
struct All {
    /// From the image to a container that could be started.
    create: Rounds,
    start: Taken,
    runc: Taken,
    docker_create: Rounds,
    docker: Taken,
}

/// Measures and tells. Needs root, `runc`, and `selvedge-monitor` in `SELVEDGE_BIN`; Docker if
/// it can be had.
pub(crate) async fn section(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    ensure!(nix::unistd::geteuid().is_root(), "containers need root");
    let folder = folder("s")?;
    let bench = Bench::open(folder.path())?;
    progress("start: starting dockerd");
    let docker = match Docker::start().await {
        Ok(docker) => docker.load(&bench.archive).await.map(|()| docker),
        Err(error) => Err(error),
    };
    let done = bench.all(rounds, docker.as_ref().ok()).await;
    for name in ["ours", "peer"] {
        // The first error counts.
        bench.engine.remove(name).ok();
    }
    bench.engine.leave();
    tell(rounds, &done?, docker.err());
    Ok(())
}

fn tell(rounds: usize, all: &All, no_docker: Option<anyhow::Error>) {
    let ratio = all.start.runs.over(&all.runc.runs);
    line("| what | returns after ms | program runs after ms | p95 | of runc |");
    line("|---|---|---|---|---|");
    let row = |name: &str, taken: &Taken| {
        let ratio = taken.runs.over(&all.runc.runs).text(2);
        let p95 = taken.runs.percentile(95);
        let (returned, runs) = (taken.returned.text(1), taken.runs.text(1));
        line(&format!("| {name} | {returned} | {runs} | {p95:.1} | {ratio} |"));
    };
    row("selvedge: start of a created container", &all.start);
    row("`runc run --detach` of a bundle", &all.runc);
    if no_docker.is_none() {
        row("Docker: start of a created container, by its API", &all.docker);
    }
    line(&format!("| selvedge: create from a stored image | {} | | | |", all.create.text(1)));
    match &no_docker {
        None => {
            let create = all.docker_create.text(1);
            line(&format!("| Docker: create from a stored image | {create} | | | |"));
        }
        Some(error) => line(&format!("| Docker | not measured: {error:#} | | | |")),
    }
    line(&format!(
        "\n{rounds} interleaved rounds after {WARM_UP} of warm-up; everywhere the same static \
         program on the host's network, which opens a TCP connection as its first act: that is \
         when it runs. \
         Selvedge's start is a call of its engine: it mounts overlayfs, starts the monitor, and \
         returns when the program runs with seccomp, logs and a durable record. \
         runc (a process per call) gets the configuration that our engine wrote over a plain \
         folder: no overlay, no seccomp filter, no logs. \
         Docker gets the same image by `docker load`, our OCI archive with the `manifest.json` \
         added that this version of Docker reads; it mounts overlayfs, has seccomp and logs, and \
         is asked over its Unix socket without the `docker` command line.\n\n\
         Peers: {}; {}; dockerd with {}.\n",
        peers::runc(),
        peers::docker(),
        FLAGS.join(" "),
    ));
    line(&targets::CONTAINER_START.verdict(ratio.median()));
}

struct Bench {
    engine: EmbeddedEngine,
    calls: Calls,
    archive: PathBuf,
    root: PathBuf,
    program: PathBuf,
    bundle: PathBuf,
    runc: PathBuf,
}

impl Bench {
    fn open(folder: &Path) -> Result<Self> {
        let monitor = blackbox::place::binary("selvedge-monitor")?;
        let root = folder.join("e");
        let engine = EmbeddedEngine::open(EmbeddedSettings {
            root: root.clone(),
            monitor: monitor.clone(),
            policy: Policy::default(),
            network: None,
        })?;
        let archive = image(folder.join("image.tar"))?;
        engine.import_image(&ImageArchive { path: archive.clone(), reference: None })?;
        let (bundle, runc) = (folder.join("bundle"), folder.join("runc"));
        let calls = Calls::listen()?;
        Ok(Self { engine, calls, archive, root, program: monitor, bundle, runc })
    }

    async fn all(&self, rounds: usize, docker: Option<&Docker>) -> Result<All> {
        let mut all = All::default();
        self.engine.create(&self.spec("peer"))?;
        self.bundle()?;
        for round in 0..rounds + WARM_UP {
            if round % 10 == 0 {
                progress(&format!("start: round {round} of {}", rounds + WARM_UP));
            }
            // What warms up is measured as well, and forgotten.
            let mut unused = All::default();
            let into = if round < WARM_UP { &mut unused } else { &mut all };
            self.ours_once(into)?;
            self.runc_once(round, into)?;
            if let Some(docker) = docker {
                self.docker_once(docker, &format!("bench-{round}"), into).await?;
            }
        }
        Ok(all)
    }

    fn ours_once(&self, all: &mut All) -> Result<()> {
        let begun = clock::now();
        self.engine.create(&self.spec("ours"))?;
        all.create.push(millis(begun.elapsed()));
        let begun = clock::now();
        self.engine.start("ours")?;
        let returned = begun.elapsed();
        all.start.push(begun, returned, self.calls.next()?.at);
        self.engine.stop("ours", Duration::ZERO)?;
        Ok(self.engine.remove("ours")?)
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

    fn runc_once(&self, round: usize, all: &mut All) -> Result<()> {
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
        let returned = begun.elapsed();
        ensure!(status.success(), "runc run ended with {status}");
        let call = self.calls.next();
        let status = runc().args(["delete", "--force", &name]).status()?;
        ensure!(status.success(), "runc delete ended with {status}");
        all.runc.push(begun, returned, call?.at);
        Ok(())
    }

    async fn docker_once(&self, docker: &Docker, name: &str, all: &mut All) -> Result<()> {
        let port = self.calls.port.to_string();
        let begun = clock::now();
        docker.create(name, IMAGE, &["dial", "127.0.0.1", &port]).await?;
        all.docker_create.push(millis(begun.elapsed()));
        let begun = clock::now();
        docker.begin(name).await?;
        let returned = begun.elapsed();
        all.docker.push(begun, returned, self.calls.next()?.at);
        docker.remove(name).await
    }

    fn spec(&self, name: &str) -> ModuleSpec {
        ModuleSpec {
            name: name.to_owned(),
            image: IMAGE.to_owned(),
            create_options: calling("127.0.0.1", self.calls.port, "host").to_string(),
            env: BTreeMap::new(),
            binds: Vec::new(),
            labels: BTreeMap::new(),
            aliases: Vec::new(),
            extra_hosts: BTreeMap::new(),
            digest: "bench".to_owned(),
        }
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
