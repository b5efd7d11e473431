//! A virtual machine with Debian's kernel, cgroup v2 alone, and a file system in memory.
//!
//! Most machines that build Selvedge have cgroup v1 or the hybrid of both, most devices that
//! run it have v2. QEMU runs without KVM, which machines in a cloud seldom have. Besides what
//! a caller adds, the machine has a shell with the usual small programs, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::gate::{self, output};
use crate::{root, say};

/// Debian packages of the emulator and of what packs its file system.
const DEBIAN_PACKAGES: &[(&str, &str)] =
    &[("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("strip", "binutils")];
/// Its dependency is the newest kernel for virtual machines.
const KERNEL_META: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
/// Drivers that are modules in Debian's kernel, each before those that need it.
const DRIVERS: &[&str] = &["llc", "stp", "bridge", "veth", "overlay"];
/// Controllers that containers with limits need.
const CONTROLLERS: &str = "cpu memory pids";
/// Seconds until a machine that does not end is taken for hung; a quiet desk needs 30.
const PATIENCE_SECONDS: &str = "900";

/// Lines of the machine's words that are shown when something was red.
const LINES_SHOWN: usize = 60;

/// Folders that are the kernel's in the machine; what lies there cannot be given to it.
const KERNELS_OWN: &[&str] = &["/proc", "/sys", "/dev"];

/// Whether a machine can be made here: a part of the gate that is left out is not green.
fn obstacle(arch: &str, clone: &Path) -> Result<()> {
    ensure!(arch == "x86_64", "the virtual machine needs an x86_64 machine, this one is {arch}");
    ensure!(
        !KERNELS_OWN.iter().any(|own| clone.starts_with(own)),
        "the virtual machine cannot be given {}: that folder is its kernel's own",
        clone.display()
    );
    Ok(())
}

/// A path as one word of the machine's shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// A machine that is being furnished.
pub(crate) struct Machine {
    /// What it has in common with others, and what it leaves behind.
    folder: PathBuf,
    name: &'static str,
    /// The machine's root.
    tree: PathBuf,
    kernel: PathBuf,
}

impl Machine {
    /// A machine with shell and drivers, under `target/vm`.
    ///
    /// # Errors
    /// If Debian's packages cannot be fetched or hold something else.
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        obstacle(std::env::consts::ARCH, &root())?;
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
        let tree = folder.join(name);
        if tree.exists() {
            fs::remove_dir_all(&tree).context("removing the last machine's files")?;
        }
        for inner in ["bin", "etc", "lib", "var/tmp", "root", "opt"] {
            fs::create_dir_all(tree.join(inner)).context("making the machine's folders")?;
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
        fs::copy(busybox.join("bin/busybox"), tree.join("bin/busybox"))
            .context("taking the machine's shell")?;
        for driver in DRIVERS {
            let file = format!("{driver}.ko");
            let found = output("find", &[&kernel.display().to_string(), "-name", &file])?;
            let path = found.lines().next().with_context(|| format!("the kernel has no {file}"))?;
            fs::copy(path, tree.join("lib").join(&file)).context("taking a driver")?;
        }
        Ok(Self { folder, name, tree, kernel: kernel_image(&kernel)? })
    }

    /// Puts the program `from`, without its debug information, where `inside` says.
    ///
    /// # Errors
    /// If it cannot be read or stripped.
    pub(crate) fn add_program(&self, from: &Path, inside: &Path) -> Result<()> {
        let to = self.place(inside)?;
        gate::run(Command::new("strip").arg("-o").arg(&to).arg(from))
    }

    /// Puts the file or folder `from` where `inside` says, unless something is there.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub(crate) fn add(&self, from: &Path, inside: &Path) -> Result<()> {
        let to = self.place(inside)?;
        if to.exists() {
            return Ok(());
        }
        gate::run(Command::new("cp").arg("-r").arg(from).arg(&to))
    }

    /// Where `inside` lies under `tree`; its folder is there.
    fn place(&self, inside: &Path) -> Result<PathBuf> {
        let path =
            self.tree.join(inside.strip_prefix("/").context("a path that starts at the root")?);
        fs::create_dir_all(path.parent().unwrap_or(&self.tree)).context("making a folder")?;
        Ok(path)
    }

    /// Boots the machine, runs `script` in its shell, and gives all that it printed.
    ///
    /// # Errors
    /// If it hangs, or ends before the script did.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        let whole = format!(
            "{}{script}\necho \"{END}\"\npoweroff -f\n",
            INIT.replace("@DRIVERS@", &DRIVERS.join(" ")).replace("@WANTED@", CONTROLLERS)
        );
        for (name, text) in [("init", SWITCH), ("init2", whole.as_str())] {
            let path = self.tree.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let memory = self.folder.join(format!("{}.cpio", self.name));
        gate::run(
            Command::new("sh")
                .args([
                    "-c",
                    "find . -print0 | cpio --quiet --null --create --format newc --file \"$0\"",
                ])
                .arg(&memory)
                .current_dir(&self.tree),
        )?;
        let printed = boot(&self.kernel, &memory, &self.words())?;
        fs::remove_file(&memory).context("removing the machine's files")?;
        if !printed.contains(END) {
            Self::show(&printed);
            bail!("the machine ended before its script did; all words: {}", self.words().display());
        }
        Ok(printed)
    }

    /// The file with all that the machine printed.
    pub(crate) fn words(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Prints the last words of the machine.
    pub(crate) fn show(printed: &str) {
        let tail: Vec<&str> = printed.lines().rev().take(LINES_SHOWN).collect();
        for line in tail.iter().rev() {
            say(&format!("   | {line}"));
        }
    }
}

/// The last line of a script that was run to its end.
const END: &str = "the machine ends";

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

/// The first program: `pivot_root`, which containers need, refuses the file system that the
/// kernel starts with, so everything moves to another.
const SWITCH: &str = "#!/bin/busybox sh
/bin/busybox mkdir /new
/bin/busybox mount -t tmpfs -o mode=755,size=80% root /new
for name in /*; do
  [ \"$name\" = /new ] || /bin/busybox cp -a \"$name\" /new/
done
/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run
/bin/busybox chmod 1777 /new/tmp
exec /bin/busybox switch_root /new /init2
";

/// The second program: a machine with cgroup v2, whose controllers are there for containers.
/// Nothing is mounted over `/tmp` and `/run`, for the clone may lie there; they are in memory
/// like all the rest.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 none /sys/fs/cgroup
for driver in @DRIVERS@; do insmod /lib/$driver.ko || echo \"no driver $driver\"; done
ip link set lo up
for wanted in @WANTED@; do
  grep -qw $wanted /sys/fs/cgroup/cgroup.controllers || { echo \"no controller $wanted\"; poweroff -f; }
done
";

/// Runs the machine to its end; what it printed.
fn boot(kernel: &Path, memory: &Path, words: &Path) -> Result<String> {
    let printed = fs::File::create(words).context("making the machine's console")?;
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
        words.display()
    );
    let bytes = fs::read(words).context("reading the machine's console")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_here_is_an_error_and_not_left_out() {
        let check = |arch: &str, clone: &str, good: bool| {
            assert_eq!(obstacle(arch, Path::new(clone)).is_ok(), good, "{arch} {clone}");
        };
        check("x86_64", "/work", true);
        check("x86_64", "/tmp/a b", true);
        check("x86_64", "/dev/shm/clone", false);
        check("aarch64", "/work", false);
    }

    /// A mount over the folder that holds the clone would hide what the machine was given.
    #[test]
    fn nothing_is_mounted_where_a_clone_may_lie() {
        let mounted = [SWITCH, INIT].concat();
        let points: Vec<&str> = mounted
            .split(['\n', ';'])
            .filter(|line| line.contains("mount -t"))
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        assert!(points.len() > 4, "{points:?}");
        for point in points {
            let own = KERNELS_OWN.iter().any(|own| Path::new(point).starts_with(own));
            assert!(own || point == "/new", "{point} would hide a clone");
        }
    }

    #[test]
    fn paths_are_one_word_of_the_shell() {
        assert_eq!(quoted(Path::new("/a b")), "'/a b'");
        assert_eq!(quoted(Path::new("/it's")), "'/it'\\''s'");
    }
}
