//! The system calls that the compiler cannot check. The only unsafe code of this program.
#![expect(unsafe_code, reason = "fork, signal dispositions and closing foreign descriptors")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};

/// Forks a process that has exactly one thread. `true` in the child.
pub(crate) fn fork_child() -> nix::Result<bool> {
    // SAFETY: `one_thread` was asserted by the caller, so the child may do anything.
    Ok(matches!(unsafe { fork() }?, ForkResult::Child))
}

/// Ignores SIGPIPE, or gives it back its default.
pub(crate) fn set_sigpipe(handler: SigHandler) -> nix::Result<()> {
    // SAFETY: both handlers used here are constants of the kernel, no code of ours.
    unsafe { signal(Signal::SIGPIPE, handler) }.map(|_| ())
}

/// Closes every descriptor above `last` except `keep`.
pub(crate) fn close_above(last: RawFd, keep: RawFd) {
    let close = |from: RawFd, to: u32| {
        if let Ok(from) = u32::try_from(from)
            && from <= to
        {
            // SAFETY: called before this process opened anything of its own but `keep`.
            let _closed = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
    };
    close(last + 1, u32::try_from(keep).unwrap_or(0).saturating_sub(1));
    close(keep + 1, u32::MAX);
}

/// Sets the extended attribute `name` of an open file.
pub(crate) fn set_attribute(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: the name ends in a zero byte and lives across the call; the kernel reads exactly
    // `value.len()` bytes from `value`.
    let done = unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The error number of a raw system call with three plain arguments; 0 if it worked.
/// Only for the probe, which asks for what must be refused.
pub(crate) fn errno_of(number: libc::c_long, arguments: [u64; 3]) -> i32 {
    let [a, b, c] = arguments;
    // SAFETY: the probe passes constants and null pointers only.
    let result = unsafe { libc::syscall(number, a, b, c) };
    if result < 0 { nix::errno::Errno::last_raw() } else { 0 }
}
