//! The house's own tool. `cargo xtask help` lists what it does.
//!
//! It is small on purpose: it runs cargo, reads the tree, packs images, and starts things.
//! Everything with a rule worth testing lies in a module of its own.

mod bare;
mod cgroup2;
mod clock;
mod console;
mod fuzz;
mod gate;
mod image;
mod java;
mod node;
mod papers;
mod planted;
mod powercut;
mod tidy;
mod up;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask <command>

  up [ARGS…]      build everything, then run `selvedge up ARGS…`: hub, this machine as an
                  edge device, and the pipeline of containers
  test            everything the project checks; installs what the checks need (Debian, root)
  check           the quick gate: format, tidy, lints, unit and simulation tests, docs
  install         only what the tests need
  blackbox [ARGS…]  only the black-box tests, with what they need; ARGS are the test runner's
  tidy            only the rules about the tree
  papers          fill README's numbers in from what measured them
  build           release binaries of hub, runtime, monitor and modules
  image           pack the modules as OCI archives into target/images (reproducible)
  image sdk       pack the tests' module on the stock Azure SDK for Python (Debian, root)
  console         build the web console's files; --check compares them with the sources,
                  --browser tries them in Chromium against the built hub
  bare            `up` on a machine with nothing but a shell, in a virtual machine
  cgroup2         the engine's tests on a kernel with cgroup v2 alone, in a virtual machine
  planted         show that each planted fault is found, and in how many seeds
  powercut [ARGS…]  cut the power of the journal at --points N places (default a million)
                  from --from SEED on, with --jobs 1 on one core; prints where to go on
  fuzz [ARGS…]    feed the journal's reader with damaged segments for --seconds N (300), guided
                  by coverage; needs a C++ compiler
  sim [ARGS…]     run the simulator: --seed N, --seeds N, --hours H, …
  bench [ARGS…]   run the benchmarks: `all --write docs/benchmarks.md` (Debian, root; installs
                  the peers), or one section; --help lists them
  help            this text
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: Vec<String>) -> Result<()> {
    let command = if args.is_empty() { "help".to_owned() } else { args.remove(0) };
    match command.as_str() {
        "up" => up::up(&args),
        "test" => gate::test(),
        "install" => gate::install(),
        "blackbox" => black_box(&args),
        "check" => gate::check(),
        "tidy" => tidy::report(&root()),
        "papers" => papers::fill(),
        "build" => gate::build_release(),
        "image" if args == ["sdk"] => image::pack_sdk_module(&root()),
        "console" => console::run(&args),
        "image" => gate::build_release().and_then(|()| image::pack_all(&root())),
        "bare" => {
            gate::build_release().and_then(|()| image::pack_all(&root())).and_then(|()| bare::run())
        }
        "cgroup2" => cgroup2::run(),
        "planted" => planted::catch_all(),
        "powercut" => powercut::run(&args),
        "fuzz" => fuzz::run(&args),
        "sim" => gate::simulate(&args),
        "bench" => gate::bench(&args),
        "help" | "--help" | "-h" => {
            say(HELP);
            Ok(())
        }
        other => bail!("unknown command `{other}`; `cargo xtask help` lists them"),
    }
}

/// The black-box tests, after everything that they stand on.
fn black_box(args: &[String]) -> Result<()> {
    gate::install()?;
    gate::build_release()?;
    image::pack_all(&root())?;
    image::pack_sdk_module(&root())?;
    gate::black_box(args)
}

/// The folder that holds the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where release binaries lie.
fn release_dir() -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(gate::host()?).join("release"))
}

/// Prints one line for the person at the desk.
#[expect(clippy::print_stderr, reason = "this is the terminal of the tool")]
fn say(text: &str) {
    eprintln!("{text}");
}
