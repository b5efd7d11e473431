//! Gives up everything that unpacking does not need.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::start::one_thread;
use crate::unpack::layer::LAYER_BYTES_MAX;

/// Longest computing time of one layer, in seconds.
const CPU_SECONDS_MAX: u64 = 1800;
/// Most memory, in bytes; a header of the archive cannot ask for more.
const MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Most open files; removing a folder holds one per level.
const FILES_MAX: u64 = 4096;
/// What root's files need: owners, modes, file capabilities, and with `SYS_ADMIN` overlayfs' own
/// attribute; the system calls that would make more of it are refused.
const KEPT: [Capability; 7] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SYS_ADMIN,
];
/// System calls of reading a descriptor, making files, and memory.
const CALLS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Confines this process for good. `false` when the kernel has no Landlock; the rest holds.
pub(crate) fn confine() -> Result<bool, String> {
    fn at<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
        move |error| format!("{what}: {error}")
    }
    assert!(one_thread(), "the unpacker has one thread");
    umask(Mode::empty());
    // Whoever started this one waits for it, so nobody wants what it would still make.
    set_pdeathsig(Signal::SIGKILL).map_err(at("parent"))?;
    let limits = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_CPU, CPU_SECONDS_MAX),
        (Resource::RLIMIT_AS, MEMORY_BYTES_MAX),
        (Resource::RLIMIT_FSIZE, LAYER_BYTES_MAX),
        (Resource::RLIMIT_NOFILE, FILES_MAX),
    ];
    for (resource, most) in limits {
        setrlimit(resource, most, most).map_err(at("limits"))?;
    }
    chroot(".").and_then(|()| chdir("/")).map_err(at("chroot"))?;
    set_no_new_privs().map_err(at("no_new_privs"))?;
    let landlock = landlock().map_err(at("landlock"))?;
    let kept: CapsHashSet = KEPT.into_iter().collect();
    for capability in caps::all() {
        if !kept.contains(&capability) {
            // One that this kernel does not know cannot be there.
            caps::drop(None, CapSet::Bounding, capability).ok();
        }
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(at("capabilities"))?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(at("capabilities"))?;
    apply_filter(&filter()?).map_err(at("system calls"))?;
    Ok(landlock)
}

/// Below the root, which is the target by now, files and folders may be made and removed.
fn landlock() -> Result<bool, String> {
    let root = PathFd::new("/").map_err(|error| error.to_string())?;
    restrict(root).map_err(|error| error.to_string())
}

fn restrict(root: PathFd) -> Result<bool, RulesetError> {
    let abi = ABI::V6;
    let allowed: BitFlags<AccessFs> = AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSym
        | AccessFs::MakeFifo
        | AccessFs::MakeChar
        | AccessFs::Refer;
    // An older kernel enforces what it knows of this.
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    let status = ruleset.add_rule(PathBeneath::new(root, allowed))?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

fn filter() -> Result<BpfProgram, String> {
    let words = |error: seccompiler::BackendError| format!("system calls: {error}");
    let rules: BTreeMap<i64, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().map_err(words)?;
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch).map_err(words)?;
    BpfProgram::try_from(filter).map_err(words)
}
