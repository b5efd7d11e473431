//! The engine's own tests on a kernel with cgroup v2 alone, in a virtual machine.
//!
//! Most machines that build Selvedge have cgroup v1 or the hybrid of both, most devices that
//! run it have v2. So Debian's kernel is booted in QEMU (without KVM, which machines in a cloud
//! seldom have) on a file system in memory with our test executables and a shell, and nothing
//! else. The executables are the ones of the ordinary tests, under the paths they were built at.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::gate::{self, output};
use crate::{root, say};

/// Debian packages of the emulator and of what packs its file system.
const DEBIAN_PACKAGES: &[(&str, &str)] =
    &[("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio")];
/// Its dependency is the newest kernel for virtual machines.
const KERNEL_META: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
/// Drivers that are modules in Debian's kernel, each before those that need it.
const DRIVERS: &[&str] = &["llc", "stp", "bridge", "veth", "overlay"];
/// Controllers that containers with limits need.
const CONTROLLERS: &str = "cpu memory pids";
/// Seconds until a machine that does not end is taken for hung; a quiet desk needs 30.
const PATIENCE_SECONDS: &str = "900";

/// Test executables (package, target), what of them runs, and how many tests that is at least.
const SUITES: &[(&str, &str, &str, usize)] = &[
    ("selvedge-monitor", "containers", "", 6),
    ("selvedge-monitor", "network", "", 7),
    ("selvedge-monitor", "unpack", "", 2),
    ("engine", "engine", "embedded", 14),
];

/// Boots the machine and runs every suite in it.
///
/// # Errors
/// If something cannot be fetched or built, if the machine hangs, or if a test fails.
pub(crate) fn run() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        say("   left out: the virtual machine needs an x86_64 machine");
        return Ok(());
    }
    gate::install_packages(DEBIAN_PACKAGES)?;
    let folder = root().join("target/vm");
    fs::create_dir_all(&folder).context("making target/vm")?;
    let fetch_both =
        || -> Result<_> { Ok((fetch(&folder, &kernel_package()?)?, fetch(&folder, BUSYBOX)?)) };
    let (kernel, busybox) = fetch_both().or_else(|_| {
        // The lists of packages are absent, or older than what the archive still has.
        gate::run(Command::new("apt-get").args(["update", "-qq"]))?;
        fetch_both()
    })?;
    let suites = build()?;
    let tree = folder.join("root");
    lay_out(&tree, &kernel, &busybox, &suites)?;
    let memory = folder.join("initrd.cpio");
    gate::run(
        Command::new("sh")
            .args(["-c", "find . | cpio --quiet --create --format newc --file \"$0\""])
            .arg(&memory)
            .current_dir(&tree),
    )?;
    let printed = boot(&folder, &kernel_image(&kernel)?, &memory)?;
    judge(&printed, &folder)
}

/// The package that `KERNEL_META` stands for today.
fn kernel_package() -> Result<String> {
    let depends = output("apt-cache", &["depends", KERNEL_META])?;
    depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .with_context(|| format!("{KERNEL_META} names no kernel; is `apt-get update` needed?"))
}

/// What `package` holds, unpacked under `folder` without being installed.
fn fetch(folder: &Path, package: &str) -> Result<PathBuf> {
    let unpacked = folder.join(package);
    if unpacked.join("whole").is_file() {
        return Ok(unpacked);
    }
    let download = folder.join(format!("{package}.download"));
    for stale in [&unpacked, &download] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("removing {}", stale.display()))?;
        }
    }
    fs::create_dir_all(&download).context("making a folder for a package")?;
    gate::run(
        Command::new("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(&download),
    )?;
    let archive = only_file(&download)?;
    gate::run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&unpacked))?;
    fs::write(unpacked.join("whole"), "").context("noting that a package is whole")?;
    Ok(unpacked)
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file.path()),
        _ => bail!("{} should hold one file", folder.display()),
    }
}

fn kernel_image(kernel: &Path) -> Result<PathBuf> {
    let boot = kernel.join("boot");
    let files = fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))?;
    for file in files {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("vmlinuz") {
            return Ok(file.path());
        }
    }
    bail!("{} holds no kernel", boot.display())
}

/// An executable of tests and where it runs.
struct Suite {
    executable: PathBuf,
    package: PathBuf,
    filter: &'static str,
}

/// Builds the tests of the workspace, as the quick gate does, and finds the suites among them.
fn build() -> Result<Vec<Suite>> {
    gate::run(
        Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "selvedge-monitor"])
            .current_dir(root()),
    )?;
    let done = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--quiet", "--workspace", "--exclude", "blackbox"])
        .args(["--message-format", "json"])
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(done.status.success(), "the tests do not build");
    let printed = String::from_utf8(done.stdout).context("cargo printed no UTF-8")?;
    let messages: Vec<Value> =
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    SUITES
        .iter()
        .map(|&(package, target, filter, _)| {
            let package = root().join("crates").join(package);
            let executable = messages.iter().find_map(|message| {
                let text = |at: &str| message.pointer(at).and_then(Value::as_str);
                let ours = text("/manifest_path") == package.join("Cargo.toml").to_str()
                    && text("/target/name") == Some(target)
                    && message.pointer("/profile/test") == Some(&Value::Bool(true));
                ours.then(|| text("/executable").map(PathBuf::from)).flatten()
            });
            let executable = executable.with_context(|| format!("cargo built no {target}"))?;
            Ok(Suite { executable, package, filter })
        })
        .collect()
}

/// Makes the machine's whole file system in `tree`.
fn lay_out(tree: &Path, kernel: &Path, busybox: &Path, suites: &[Suite]) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).context("removing the last machine's files")?;
    }
    for folder in ["bin", "etc", "lib", "var/tmp", "root"] {
        fs::create_dir_all(tree.join(folder)).context("making the machine's folders")?;
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::copy(busybox.join("bin/busybox"), tree.join("bin/busybox"))
        .context("taking the machine's shell")?;
    for driver in DRIVERS {
        let name = format!("{driver}.ko");
        let found = output("find", &[&kernel.display().to_string(), "-name", &name])?;
        let path = found.lines().next().with_context(|| format!("the kernel has no {name}"))?;
        fs::copy(path, tree.join("lib").join(&name)).context("taking a driver")?;
    }
    let mut script = INIT.replace("@DRIVERS@", &DRIVERS.join(" ")).replace("@WANTED@", CONTROLLERS);
    for suite in suites {
        let debug = suite.executable.parent().and_then(Path::parent).context("no target folder")?;
        for binary in [&suite.executable, &debug.join("selvedge-monitor")] {
            let inside = inside(tree, binary)?;
            fs::create_dir_all(inside.parent().unwrap_or(tree))?;
            gate::run(Command::new("strip").arg("-o").arg(&inside).arg(binary))?;
        }
        let package = inside(tree, &suite.package)?;
        if !package.exists() {
            fs::create_dir_all(&package)?;
            let from = suite.package.join(".");
            gate::run(Command::new("cp").arg("-r").arg(from).arg(&package))?;
        }
        writeln!(
            script,
            "cd {} && {} --test-threads=2 {}",
            suite.package.display(),
            suite.executable.display(),
            suite.filter,
        )?;
    }
    script.push_str("echo the machine ends\npoweroff -f\n");
    for (name, text) in [("init", SWITCH), ("init2", script.as_str())] {
        let path = tree.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Where `path` lies in the machine whose files are in `tree`.
fn inside(tree: &Path, path: &Path) -> Result<PathBuf> {
    Ok(tree.join(path.strip_prefix("/").context("a path that starts at the root")?))
}

/// The first program: `pivot_root`, which containers need, refuses the file system that the
/// kernel starts with, so everything moves to another.
const SWITCH: &str = "#!/bin/busybox sh
/bin/busybox mkdir /new
/bin/busybox mount -t tmpfs -o mode=755,size=80% root /new
for name in /*; do
  [ $name = /new ] || /bin/busybox cp -a $name /new/
done
/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
exec /bin/busybox switch_root /new /init2
";

/// The second program: a machine with cgroup v2, whose controllers are there for containers.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /tmp; mount -t tmpfs run /run
mount -t cgroup2 none /sys/fs/cgroup
for driver in @DRIVERS@; do insmod /lib/$driver.ko || echo \"no driver $driver\"; done
ip link set lo up
for wanted in @WANTED@; do
  grep -qw $wanted /sys/fs/cgroup/cgroup.controllers || { echo \"no controller $wanted\"; poweroff -f; }
done
";

/// Runs the machine to its end; what it printed.
fn boot(folder: &Path, kernel: &Path, memory: &Path) -> Result<String> {
    let console = folder.join("console.log");
    let printed = fs::File::create(&console).context("making the machine's console")?;
    let status = Command::new("timeout")
        .args([PATIENCE_SECONDS, "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(memory)
        .stdin(Stdio::null())
        .stdout(printed)
        .status()
        .context("starting the virtual machine")?;
    ensure!(
        status.success(),
        "the machine ended with {status} (124: it hung); its words: {}",
        console.display()
    );
    let bytes = fs::read(&console).context("reading the machine's console")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Every suite must have passed with at least its number of tests.
fn judge(printed: &str, folder: &Path) -> Result<()> {
    let passed: Vec<usize> = printed.lines().filter_map(passed_tests).collect();
    let fewest: Vec<usize> = SUITES.iter().map(|&(.., fewest)| fewest).collect();
    let good = passed.len() == fewest.len()
        && passed.iter().zip(&fewest).all(|(passed, fewest)| passed >= fewest)
        && printed.contains("the machine ends");
    if !good {
        let tail: Vec<&str> = printed.lines().rev().take(60).collect();
        for line in tail.iter().rev() {
            say(&format!("   | {line}"));
        }
        bail!(
            "on cgroup v2 {passed:?} tests passed of at least {fewest:?}; all words: {}",
            folder.join("console.log").display()
        );
    }
    say(&format!("   {} tests passed on cgroup v2", passed.iter().sum::<usize>()));
    Ok(())
}

/// How many tests a line of the test runner says have passed, if none failed.
fn passed_tests(line: &str) -> Option<usize> {
    let rest = line.trim().strip_prefix("test result: ok. ")?;
    rest.split_once(" passed").and_then(|(count, _)| count.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_green_line_of_the_runner_counts() {
        let check = |line: &str, expected: Option<usize>| assert_eq!(passed_tests(line), expected);
        check("test result: ok. 22 passed; 0 failed; 0 ignored", Some(22));
        check("test result: ok. 0 passed; 0 failed\r", Some(0));
        check("test result: FAILED. 8 passed; 14 failed", None);
        check("test a ... ok", None);
    }

    #[test]
    fn a_machine_that_says_too_little_is_red() {
        let folder = Path::new("/nowhere");
        let line = |count: usize| format!("test result: ok. {count} passed; 0 failed\n");
        let whole: String = SUITES.iter().map(|&(.., fewest)| line(fewest)).collect();
        judge(&format!("{whole}the machine ends\n"), folder).expect("all passed");
        judge(&whole, folder).expect_err("it did not end by itself");
        judge(&format!("{}the machine ends\n", line(6)), folder).expect_err("suites are missing");
        let fewer: String = SUITES.iter().map(|&(.., fewest)| line(fewest - 1)).collect();
        judge(&format!("{fewer}the machine ends\n"), folder).expect_err("tests are missing");
    }
}
