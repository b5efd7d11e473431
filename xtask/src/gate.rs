//! The gates: `check` at the desk, `test` everywhere.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bare, cgroup2, clock, console, fuzz, image, java, node, papers, planted, release_dir, root,
    say, tidy,
};

/// Packages that black-box tests use, from Debian's own archive.
const DEBIAN_PACKAGES: &[(&str, &str)] = &[
    ("python3", "python3"),
    ("strace", "strace"),
    ("mmdebstrap", "mmdebstrap"),
    ("ip", "iproute2"),
    ("chromium", "chromium"),
    ("c++", "g++"),
    ("git", "git"),
    ("curl", "curl"),
];

/// What the benchmarks measure beside us; only there.
const PEERS: &[(&str, &str)] =
    &[("mosquitto", "mosquitto"), ("runc", "runc"), ("dockerd", "docker.io"), ("nft", "nftables")];

/// Binaries that ship, built in release mode.
const SHIPPED: &[&str] =
    &["selvedge", "selvedge-edge", "selvedge-monitor", "host-sensor", "anomaly"];

/// The seeds of the whole gate; what they must have exercised at least is named in `sim`.
const SIMULATION: [&str; 3] = ["--seeds", "50", "--minima"];

/// Format, tidy, lints, unit and simulation tests, docs; stops at the first red.
pub(crate) fn check() -> Result<()> {
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("tidy", || tidy::report(&root()))?;
    step("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    step("unit and simulation tests", || {
        // The engine's tests run real containers with it.
        cargo(&["build", "--quiet", "--package", "selvedge-monitor"])?;
        cargo(&["test", "--workspace", "--exclude", "blackbox", "--quiet"])
    })?;
    step("docs", || {
        let mut command = Command::new(env!("CARGO"));
        command
            .args(["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings");
        run(command.current_dir(root()))
    })
}

/// Everything: the quick gate, then the built binaries against stock clients and containers.
pub(crate) fn test() -> Result<()> {
    step("what the tests need", install)?;
    check()?;
    step("containers on cgroup v2, in a virtual machine", cgroup2::run)?;
    step("planted faults", planted::catch_all)?;
    step("fuzzing", fuzz::in_gate)?;
    step("release build", build_release)?;
    step("simulation", || simulate(&SIMULATION.map(str::to_owned)))?;
    step("console: types, unit tests, built files", console::check)?;
    step("console in a browser", console::in_browser)?;
    step("module images", || image::pack_all(&root()))?;
    step("`up` on a machine with nothing, in a virtual machine", bare::run)?;
    step("image of a module on the stock SDK", || image::pack_sdk_module(&root()))?;
    step("black-box tests", || black_box(&[]))
}

/// The built binaries against stock clients and containers; `args` are the test runner's.
/// Packed images and what the tests need must be there.
pub(crate) fn black_box(args: &[String]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--package", "blackbox", "--", "--test-threads=1", "--nocapture"])
        .args(args)
        .env("SELVEDGE_BIN", release_dir()?)
        .env("SELVEDGE_NODE", node_program()?)
        .env("SELVEDGE_IMAGES", root().join("target/images"));
    run(command.current_dir(root()))
}

/// Builds what ships.
pub(crate) fn build_release() -> Result<()> {
    let mut args = vec!["build", "--release"];
    for package in SHIPPED {
        args.extend(["--package", package]);
    }
    cargo(&args)
}

/// Runs the simulator with `args`.
pub(crate) fn simulate(args: &[String]) -> Result<()> {
    // Release, because its dependencies are built for the binaries anyway.
    let mut command = vec!["run", "--release", "--quiet", "--package", "sim", "--"];
    let commit = output("git", &["-C", &root().display().to_string(), "rev-parse", "HEAD"]);
    // Of a tree without history no seeds can be drawn; whoever wants some is told by the simulator.
    let commit = commit.unwrap_or_default();
    command.extend(["--commit", commit.trim()]);
    command.extend(args.iter().map(String::as_str));
    cargo(&command)
}

/// Runs the benchmarks with `args` on release binaries, beside peers from Debian.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    if args.iter().any(|word| word == "all") {
        install_packages(PEERS)?;
    }
    build_release()?;
    cargo(&["build", "--release", "--package", "bench"])?;
    let mut command = Command::new(release_dir()?.join("selvedge-bench"));
    run(command.args(args).env("SELVEDGE_BIN", release_dir()?))?;
    // README says in numbers what the page says.
    if args.iter().any(|word| word == "--write") { papers::fill() } else { Ok(()) }
}

/// The standard output of `program`.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(done.status.success(), "{program} {} ended with {}", args.join(" "), done.status);
    String::from_utf8(done.stdout).with_context(|| format!("{program} printed no UTF-8"))
}

/// The target that is built for: this machine.
pub(crate) fn host() -> Result<String> {
    let told = output("rustc", &["-vV"]).context("asking rustc for the host")?;
    let triple = told.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV names no host")
}

/// Installs what the tests need, and what they bring along below `target`.
pub(crate) fn install() -> Result<()> {
    install_packages(DEBIAN_PACKAGES)?;
    install_packages(java::DEBIAN_PACKAGES)?;
    java::install()?;
    python_sdk()
}

/// Installs those of `packages` (program, Debian package) whose program is not there.
pub(crate) fn install_packages(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(program, _)| !on_path(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        ensure!(
            on_path("apt-get"),
            "the tests need {}; install them with your package manager",
            missing.join(", ")
        );
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    Ok(())
}

/// The program of Node, after the packages of the tests' clients are installed.
fn node_program() -> Result<OsString> {
    let folder = root().join("crates/blackbox/node");
    node::install(&folder)?;
    Ok(node::tool("node", &folder)?.get_program().to_owned())
}

/// The unmodified Azure SDK, in a virtual environment of its own under `target`.
fn python_sdk() -> Result<()> {
    let venv = root().join("target/python-sdk");
    let requirements = root().join("crates/blackbox/requirements.txt");
    let stamp = venv.join("installed.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    python_environment(&venv)?;
    run(Command::new(venv.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "-r"])
        .arg(&requirements))?;
    std::fs::write(&stamp, wanted).context("noting what was installed")
}

/// An empty virtual environment of Python in `folder`.
pub(crate) fn python_environment(folder: &Path) -> Result<()> {
    if run(Command::new("python3").args(["-m", "venv"]).arg(folder)).is_err() {
        run(Command::new("apt-get").args(["install", "-y", "-qq", "python3-venv"]))?;
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    say(&format!("── {name}"));
    let start = clock::now();
    work().with_context(|| format!("the step \"{name}\" is red"))?;
    say(&format!("   {} s", start.elapsed().as_secs()));
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    run(Command::new(env!("CARGO")).args(args).current_dir(root()))
}

/// Runs `command`; it must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = command.status().with_context(|| format!("starting {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}
